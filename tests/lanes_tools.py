"""Executors in this process, and tasks that meet."""

import threading
from types import SimpleNamespace

from wukong.core import task_context
from wukong.core.codec import Codec
from wukong.core.executor import Executor
from wukong.core.host import ExecutorHost
from wukong.core.ingest import ingest
from wukong.core.names import Names
from wukong.core.partition import pages, starts
from wukong.core.payload import Envelope, Order, Sent
from wukong.core.policy import Policy
from wukong.core.storage import joined

NAMES = Names("job")
WAIT_S = 60.0
MET = SimpleNamespace(barrier=None, event=None, seen=[])


def executor_of(
    store, graph, keys, *, attempt=0, cores=1, gauge=None, invocation="0", first=None, time_limit_s=None, **policy
):
    """Return an executor of a job, and what returns the job's outcome: values by key, or what was raised.

    `first`: keys of the tasks that it starts with; None: it is alone with the job. It has two lanes unless told.
    """
    codec = Codec(b"k" * 32, sign_buffers=False)
    store.put({NAMES.alive: b"1"})
    job = ingest(graph, keys)
    how = Policy(**{"patience_s": 0.0, "lanes": 2, **policy})
    shipped = {i: bytes(joined(codec.encode(page, NAMES.page(i)))) for i, page in enumerate(pages(job, 512, {}))}
    alone = first is None
    start = tuple(starts(job.dag, eager=False)[0] if alone else map(job.keys.index, first))
    costs = (0.1, 0.1, 1e6)
    order = Order("job", invocation, start, len(job.dag), 512, how, costs, shipped, attempt=attempt, alone=alone)
    envelope = Envelope(("", {}), ("", {}), False, False, order)
    at = {"free_slots": lambda: 0, "cores": cores, "gauge": gauge, "time_limit_s": time_limit_s}
    host = ExecutorHost(store=store, codec=codec, send=lambda _: Sent(0), **at)
    executor = Executor(envelope, host)

    def outcome():
        done = codec.decode(store.get([NAMES.done])[0], NAMES.done)
        if done.raised is not None:
            raise done.raised.error()
        stored = [task for task in job.dag.outputs if task not in done.inline]
        blobs = store.get([NAMES.value(task) for task in stored])
        there = {task: codec.decode(blob, NAMES.value(task)) for task, blob in zip(stored, blobs, strict=True)}
        return {job.keys[task]: value for task, value in {**done.inline, **there}.items()}

    return executor, outcome


def carried_out(store, graph, keys, **how):
    """Run a job in one executor, and return its values by key."""
    executor, outcome = executor_of(store, graph, keys, **how)
    executor.execute()
    return outcome()


def meet(*values):
    """Wait until as many tasks run at once as the barrier needs."""
    MET.barrier.wait(WAIT_S)
    return threading.get_ident()


def meet_by_name(*values):
    MET.barrier.wait(WAIT_S)
    name = task_context.task()
    MET.barrier.wait(WAIT_S)
    return name
