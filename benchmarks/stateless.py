"""A baseline after numpywren: stateless executors, a central queue, every value through the store.

    leaves -> [ queue ] -> worker: get the inputs, run, put the value, arrive at the children -> [ queue ] -> ...

One task is one unit of work, as in numpywren (Shankar et al., SoCC '20, arXiv 1810.09679): a worker takes a task from
the queue, reads all its inputs from the object store, runs it, writes its value to the object store, counts down the
children's missing inputs, and puts those that became ready into the queue. Nothing is kept from one task to the next.

It is meant to be a good one of its kind, better than the original if that was easy:

- The queue is a pipe of the kernel: no polling, no round trip to a service, no visibility timeout.
- A task costs three round trips at most: one batched `get`, one `put`, and one `incr` for all its fan-in children (with
  numpywren: one request per block, and one transaction per edge). A child with one parent needs no counter at all.
- Workers are processes started beforehand, with the DAG in memory before the first task is queued.
- ``tuned``: as numpywren's own best settings, a worker keeps its last few blocks (`cache_values`, numpywren's LRU cache
  of 5), and goes on with one of the tasks that it made ready instead of queueing it (`eager`). Every value is still
  written.

Ingest, codec, stores and fan-in records are Wukong's own, so that only the way of executing differs. There is no fault
tolerance here: a worker that dies ends the run.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import secrets
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Store, blob_size
from wukong.core.codec import Codec, dump_code
from wukong.core.dag import Dag, Graph, Literal, op_refs, run_op
from wukong.core.ingest import ingest
from wukong.core.names import Names

BLAS_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TUNED = {"cache_values": 5, "eager": True}
_TTL_S = 3_600.0
_STOP = 0xFFFFFFFF
_TASK = struct.Struct("<I")
_AT_ONCE = 1_024  # tasks in one write to the queue: up to 4 kB a pipe takes a write as a whole
_QUEUE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """One job, as every worker has it in memory."""

    job: str
    dag: Dag
    ops: Sequence[Any]
    cache_values: int
    eager: bool


@dataclass(slots=True)
class Done:
    """What the workers did, summed up.

    Attributes:
        tasks: tasks run.
        queue_operations: takes from and additions to the queue.
        busy_s: time inside tasks.
        wall_s: from the call to the last value.
        put_of: bytes written, by the first word of the tasks' keys.
    """

    tasks: int = 0
    queue_operations: int = 0
    busy_s: float = 0.0
    wall_s: float = 0.0
    put_of: dict[str, int] = field(default_factory=dict)


class Stateless:
    """The engine. `get` is its Dask scheduler function.

    Args:
        store: an open store; workers open it by its `spec`.
        workers: how many processes.
        cache_values: how many values a worker keeps beyond the task that needed them.
        eager: a worker goes on with one of the tasks that it made ready.
    """

    def __init__(self, store: Store, workers: int = 2, *, cache_values: int = 0, eager: bool = False) -> None:
        self.store = store
        self.cache_values, self.eager = cache_values, eager
        self.last = Done()
        capabilities = store.capabilities
        self._codec_options = {"sign_buffers": not capabilities.trusted, "compress": not capabilities.zero_copy}
        key = secrets.token_bytes(32)
        self._codec = Codec(key, **self._codec_options)
        context = multiprocessing.get_context("spawn")
        queue_out, self._queue = context.Pipe(duplex=False)
        fcntl.fcntl(self._queue.fileno(), fcntl.F_SETPIPE_SZ, _QUEUE_BYTES)
        self._workers: list[Any] = []
        self._lines: list[Connection] = []
        spec = store.spec()
        with _one_blas_thread(dict(store.environment())):
            for _ in range(workers):
                line, its_line = context.Pipe()
                its = (its_line, queue_out, self._queue, (spec.target, dict(spec.options)), key, self._codec_options)
                worker = context.Process(target=serve, args=its, daemon=True)
                worker.start()
                its_line.close()
                self._workers.append(worker)
                self._lines.append(line)
        queue_out.close()
        for line in self._lines:
            line.recv()

    def get(self, dsk: Any, keys: Any, **_: Any) -> Any:
        """Compute `keys` of a graph. Raises RuntimeError with the traceback if a task fails: then close this."""
        began = time.perf_counter()
        graph = ingest(dsk, keys)
        names = Names(secrets.token_hex(6))
        values = self._run(graph, names)
        by_key = {
            key: where.value if isinstance(where, Literal) else values[where] for key, where in graph.request.items()
        }
        self.last.wall_s = time.perf_counter() - began
        n = len(graph.ops)
        self.store.delete(
            [names.value(task) for task in range(n)]
            + [names.record(child) for child in range(n + 1)]
            + [names.object(i) for i in range(len(graph.objects))]
        )

        def nested(wanted: Any) -> Any:
            return tuple(map(nested, wanted)) if isinstance(wanted, list) else by_key[wanted]

        return nested(keys)

    def _run(self, graph: Graph, names: Names) -> dict[int, Any]:
        self.last = Done()
        if not graph.ops:
            return {}
        objects = {names.object(i): value for i, value in enumerate(graph.objects)}
        if objects:
            self.store.put({key: self._codec.encode_code(value, key) for key, value in objects.items()}, _TTL_S)
        program = Program(names.job, graph.dag, graph.ops, self.cache_values, self.eager)
        data, buffers = dump_code(program)
        for line in self._lines:
            line.send((data, [bytes(buffer) for buffer in buffers]))
        for line in self._lines:
            line.recv()
        enqueue(self._queue, graph.dag.leaves())
        self._until_done()
        enqueue(self._queue, [_STOP] * len(self._lines))
        kinds = [_first_word(key) for key in graph.keys]
        for line in self._lines:
            self._add(_received(line), kinds)
        places = [names.value(task) for task in graph.dag.outputs]
        blobs = self.store.get(places)
        return {
            task: self._codec.decode(blob, place)
            for task, place, blob in zip(graph.dag.outputs, places, blobs, strict=True)
            if blob is not None
        }

    def _until_done(self) -> None:
        """Wait until a worker says that all requested values are stored."""
        while True:
            for line in wait([*self._lines, *(worker.sentinel for worker in self._workers)]):
                if not isinstance(line, Connection):
                    raise RuntimeError("a worker of the baseline has ended")
                if _received(line) == "done":
                    return

    def _add(self, its: tuple[int, int, float, dict[int, int]], kinds: Sequence[str]) -> None:
        tasks, queue_operations, busy_s, put_of = its
        self.last.tasks += tasks
        self.last.queue_operations += queue_operations
        self.last.busy_s += busy_s
        for task, size in put_of.items():
            self.last.put_of[kinds[task]] = self.last.put_of.get(kinds[task], 0) + size

    def close(self) -> None:
        """End the workers. The store stays open."""
        with suppress(BrokenPipeError):  # after a task that failed the others still wait for more
            enqueue(self._queue, [_STOP] * len(self._workers))
        for line in self._lines:
            line.close()
        for worker in self._workers:
            worker.join(5)
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._queue.close()


def _received(line: Connection) -> Any:
    message = line.recv()
    if isinstance(message, tuple) and message[0] == "failed":
        raise RuntimeError(f"a task of the baseline failed:\n{message[1]}")
    return message


def _first_word(key: object) -> str:
    """``random`` of ``('random-4f0c...', 3, 0)``; the hash that ends most of Dask's names is cut off."""
    name = str(key[0] if isinstance(key, tuple) else key)
    return "-".join(part for part in name.split("-") if len(part) != 32) or name


@contextmanager
def _one_blas_thread(more: dict[str, str]) -> Iterator[None]:
    """Give processes started in this block one BLAS thread each, as Wukong's executors have."""
    before = {name: os.environ.get(name) for name in (*BLAS_VARIABLES, *more)}
    os.environ.update(more)
    for name in BLAS_VARIABLES:
        os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def enqueue(queue: Connection, tasks: Sequence[int]) -> None:
    """Put tasks into the queue. It holds 262,144; a process that puts more waits."""
    for at in range(0, len(tasks), _AT_ONCE):
        os.write(queue.fileno(), b"".join(map(_TASK.pack, tasks[at : at + _AT_ONCE])))


# --- a worker


def serve(
    line: Connection,
    queue: Connection,
    into_queue: Connection,
    address: tuple[str, dict[str, Any]],
    key: bytes,
    codec_options: dict[str, bool],
) -> None:
    """Be a worker: run one job after the other until the line closes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store: Store = PluginSpec(*address).open()
    codec = Codec(key, **codec_options)
    line.send("up")
    while True:
        try:
            data, buffers = line.recv()
        except EOFError:
            break
        program: Program = pickle.loads(data, buffers=buffers)
        line.send("ready")
        try:
            line.send(_Worker(program, store, codec, line, into_queue).run(queue))
        except BaseException as error:
            import traceback

            line.send(("failed", traceback.format_exc()))
            if not isinstance(error, Exception):
                raise
    store.close()


def _end_with_parent() -> None:
    """End with the parent: a worker that waits at the queue holds its other end too, and would never see it close."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Worker:
    def __init__(self, program: Program, store: Store, codec: Codec, line: Connection, queue: Connection) -> None:
        self.dag, self.ops, self.eager = program.dag, program.ops, program.eager
        self.names = Names(program.job)
        self.store, self.codec, self.line, self.queue = store, codec, line, queue
        self.cache: OrderedDict[int, Any] = OrderedDict()
        self.cache_values = program.cache_values
        self.requested = {task: member for member, task in enumerate(program.dag.outputs)}
        self.n_tasks = self.queue_operations = 0
        self.busy_s = 0.0
        self.put_of: dict[int, int] = {}

    def run(self, queue: Connection) -> tuple[int, int, float, dict[int, int]]:
        """Take tasks from the queue until told to stop; return what was done."""
        descriptor = queue.fileno()
        while True:
            (task,) = _TASK.unpack(os.read(descriptor, _TASK.size))
            self.queue_operations += 1
            if task == _STOP:
                return self.n_tasks, self.queue_operations, self.busy_s, self.put_of
            going_on: int | None = task
            while going_on is not None:
                going_on = self._step(going_on)

    def _step(self, task: int) -> int | None:
        """Do one task; return the one to go on with."""
        op = self.ops[task]
        inputs = self._inputs(list(dict.fromkeys(op_refs(op))))
        begun = time.perf_counter()
        value = run_op(op, inputs.__getitem__)
        self.busy_s += time.perf_counter() - begun
        self.n_tasks += 1
        place = self.names.value(task)
        blob = self.codec.encode(value, place)
        self.put_of[task] = blob_size(blob)
        self.store.put({place: blob}, _TTL_S)
        self._keep(task, value)
        ready = self._arrive(task)
        going_on = ready.pop(0) if ready and self.eager else None
        if ready:
            self.queue_operations += 1
            enqueue(self.queue, ready)
        return going_on

    def _inputs(self, refs: list[int]) -> dict[int, Any]:
        cache = self.cache
        here = {ref: cache[ref] for ref in refs if ref in cache}
        for ref in here:
            cache.move_to_end(ref)
        missing = [ref for ref in refs if ref not in here]
        if missing:
            places = [self.names.value(ref) if ref >= 0 else self.names.object(-1 - ref) for ref in missing]
            for ref, place, blob in zip(missing, places, self.store.get(places), strict=True):
                if blob is None:
                    raise RuntimeError(f"{place!r} is not in the store")
                here[ref] = self.codec.decode(blob, place)
                self._keep(ref, here[ref])
        return here

    def _keep(self, ref: int, value: Any) -> None:
        if self.cache_values:
            self.cache[ref] = value
            if len(self.cache) > self.cache_values:
                self.cache.popitem(last=False)

    def _arrive(self, task: int) -> list[int]:
        """Count down the children's missing inputs; return those that are ready."""
        dag, names = self.dag, self.names
        ready: list[int] = []
        fan_ins: list[int] = []
        arrivals: list[Arrival] = []
        for child in dag.children_of(task):
            parents = dag.parents_of(child)
            if len(parents) == 1:
                ready.append(child)
            else:
                fan_ins.append(child)
                arrivals.append(Arrival(names.record(child), (parents.index(task),), len(parents), b"%d" % task))
        if task in self.requested:
            fan_ins.append(dag.sink)
            members = (self.requested[task],)
            arrivals.append(Arrival(names.record(dag.sink), members, len(self.requested), b"%d" % task))
        if arrivals:
            for child, outcome in zip(fan_ins, self.store.incr(arrivals, _TTL_S), strict=True):
                if outcome.claimed and child == dag.sink:
                    self.line.send("done")
                elif outcome.claimed:
                    ready.append(child)
        return ready
