"""The job, as the client sees it: ship, invoke, wait on one key, collect, and leave nothing behind.

    Graph -> pages, objects -> store          (a small DAG travels inside the payload instead)
    start tasks -> invocation records -> invoke
    wait for the key "done" -> values
    walk the tree of invocations -> reports, keys to delete

Nobody schedules here. The client watches: an invocation that the platform reports dead is invoked again under its own
id, which repeats nothing that counts (rule 2), up to a limit; then the job fails with that invocation's story.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from wukong.core.codec import Codec, user_modules_by_value
from wukong.core.dag import Graph, Literal
from wukong.core.effects import Blob, Buffer, blob_size, joined
from wukong.core.events import Done, End, Heartbeat, Ran, Report
from wukong.core.ingest import Kept
from wukong.core.names import Names
from wukong.core.order import PAYLOAD, Envelope, Order, Send, StorePort
from wukong.core.partition import pages, starts
from wukong.core.policy import Costs, Policy
from wukong.errors import InvocationFailed, JobCancelled, JobTimeout, ValueLost, WukongError

ATTEMPTS = 3
_FIRST_SLICE_S = 0.02
_LAST_SLICE_S = 0.2
_SETTLE_S = 2.0
_DELETE_BATCH = 2_000


class FailurePort(Protocol):
    """A failure as the platform reports it; the contract is `wukong.backends.faas.Failure`."""

    @property
    def invocation(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def task(self) -> str | None: ...


class KeptValue(Kept):
    """A literal that stands for a value kept in the store by an earlier job."""

    __slots__ = ("key", "place")

    def __init__(self, key: bytes) -> None:
        self.key = key


@dataclass(frozen=True, slots=True)
class Plan:
    """How a job is shipped.

    Attributes:
        payload_inline_bytes: a DAG up to this size travels inside the invocations.
        page_tasks: tasks in one page.
    """

    payload_inline_bytes: int = 131_072
    page_tasks: int = 512


@dataclass(slots=True)
class Summary:
    """What a job did and cost; printed as one line.

    Attributes:
        job: its id.
        tasks: tasks of the DAG. schedules: its static schedules (leaves).
        executors: invocations made. reported: of those, how many have reported.
        repeated: invocations made again. store_bytes etc.: see `wukong.core.events.Report`.
        wall_s: from the call to the last value. ingest_s: of that, until the first invocation was made.
    """

    job: str
    tasks: int
    schedules: int
    executors: int
    reported: int
    repeated: int
    put_bytes: int
    got_bytes: int
    operations: int
    peak_held_bytes: int
    busy_s: float
    wall_s: float
    ingest_s: float

    def __str__(self) -> str:
        return (
            f"job {self.job}: {self.tasks} tasks, {self.schedules} static schedules, {self.executors} executors"
            f"{f' ({self.repeated} invoked again)' if self.repeated else ''}, "
            f"{_bytes(self.put_bytes)} put, {_bytes(self.got_bytes)} got, {self.operations} store operations, "
            f"{_bytes(self.peak_held_bytes)} held at most, {self.wall_s:.3f} s wall, {self.busy_s:.3f} s busy"
        )


class Job:
    """One run of one graph. Made by the client; use from one thread at a time, except `cancel` and `summary`.

    Args:
        graph: what to run.
        envelope: where store and FaaS are, for the payloads; without an order.
        store, codec: the client's own.
        policy, costs, plan: settings.
        send: makes the sender of invocations for this job.
        failures: returns the failures that the platform has reported for this job since the last call.
        stop: stops all invocations of this job on the platform.
        stream: every requested value is stored as soon as it is there, so that it can be had before the job's end.
    """

    def __init__(
        self,
        graph: Graph,
        envelope: Envelope,
        store: StorePort,
        codec: Codec,
        policy: Policy,
        costs: Costs,
        plan: Plan,
        send: Callable[[Names], Send],
        failures: Callable[[str], Sequence[FailurePort]],
        stop: Callable[[str], None],
        *,
        stream: bool = False,
    ) -> None:
        self.id = secrets.token_hex(6)
        self.graph = graph
        self.names = Names(self.id)
        self.policy = policy
        self.kept: set[int] = set()
        self.stream = stream
        self.inputs: list[Any] = []
        self.ended = False
        self._envelope, self._store, self._codec = envelope, store, codec
        self._costs, self._plan = costs, plan
        self._send = send(self.names)
        self._failures, self._stop = failures, stop
        self._roots: list[str] = []
        self._calls: list[tuple[str, bytes]] = []
        self._pages: list[Blob] = []
        self._attempts: Counter[str] = Counter()
        self._began = time.perf_counter()
        self._ingest_s = 0.0
        self._wall_s = 0.0
        self._cancelled = threading.Event()
        self._settled = threading.Event()
        self._report = Report()
        self._reported = 0
        self._executors = 0
        self.ran: list[Ran] = []

    # --- ship

    def ship(self) -> None:
        """Put into the store what executors need: objects, the DAG's pages, the first invocations' records."""
        graph, plan, names = self.graph, self._plan, self.names
        n = len(graph.ops)
        items: dict[bytes, Blob] = {
            names.object(i): self._codec.encode_code(value, names.object(i))
            for i, value in enumerate(graph.objects)
            if not isinstance(value, Kept)
        }
        kept = {i: value.key for i, value in enumerate(graph.objects) if isinstance(value, KeptValue)}
        with user_modules_by_value():
            for index, page in enumerate(pages(graph, plan.page_tasks, kept)):
                self._pages.append(self._codec.encode_code(page, names.page(index)))
        inside: dict[int, bytes] = {}
        if sum(map(blob_size, self._pages)) <= plan.payload_inline_bytes:
            inside = {index: bytes(joined(page)) for index, page in enumerate(self._pages)}
        else:
            items.update((names.page(index), page) for index, page in enumerate(self._pages))
        firsts = starts(graph.dag, eager=self.policy.fan_out == "eager")
        costs = self._costs.invoke_s, self._costs.round_trip_s, self._costs.bandwidth_bytes_per_s
        order = Order(self.id, "", (), n, plan.page_tasks, self.policy, costs, inside, stream=self.stream)
        for i, start in enumerate(firsts):
            mine = replace(order, invocation=str(i), start=start, alone=len(firsts) == 1, sent_at=time.time())
            payload = bytes(joined(self._codec.encode(replace(self._envelope, order=mine), PAYLOAD)))
            items[names.invocation(mine.invocation)] = payload
            self._calls.append((mine.invocation, payload))
        self._roots = [invocation for invocation, _ in self._calls]
        self._store.put(items, self.policy.ttl_s)

    def code(self) -> Iterator[bytes]:
        """Yield the serialised code of the pages, until the job is invoked."""
        for page in self._pages:
            yield bytes(page if not isinstance(page, tuple) else page[1])

    def invoke(self) -> None:
        """Make the first invocations."""
        self._pages.clear()
        self._ingest_s = time.perf_counter() - self._began
        calls, self._calls = self._calls, []
        self._send(calls)

    # --- wait and collect

    def result(self, timeout_s: float | None = None, tick: Callable[[Job], None] | None = None) -> dict[Hashable, Any]:
        """Wait for the end and return the requested values by key. `tick` is called now and then meanwhile.

        Raises the task's own exception where one failed, JobCancelled, JobTimeout (the job goes on), InvocationFailed.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        slice_s = _FIRST_SLICE_S
        while True:
            left_s = slice_s if until is None else max(0.0, min(slice_s, until - time.monotonic()))
            blob = self._store.wait(self.names.done, left_s)
            if blob is not None:
                inline, stored = self.outcome(blob)
                return self._collect(inline, stored)
            if until is not None and time.monotonic() >= until:
                raise JobTimeout("no result within the time given", job=self.id)
            self.tend()
            if tick is not None:
                tick(self)
            slice_s = min(slice_s * 1.5, _LAST_SLICE_S)

    def tend(self) -> None:
        """Look after a running job: invoke again what has died. Raises JobCancelled, InvocationFailed."""
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled", job=self.id)
        for failure in self._failures(self.id):
            self._recover(failure)

    def outcome(self, blob: Buffer) -> tuple[dict[int, Any], list[int]]:
        """Return what the blob under ``done`` says: values by task, and the requested tasks whose values are stored.

        Raises the exception of the task that failed.
        """
        done: Done = self._codec.decode(blob, self.names.done)
        self._wall_s = time.perf_counter() - self._began
        self.ended = True
        if done.error is not None:
            self._stop(self.names.label(""))
            raise with_remote(done.error, done.traceback, done.failed)
        return done.inline, [task for task in self.graph.dag.outputs if task not in done.inline]

    def _recover(self, failure: FailurePort) -> None:
        """The platform says that an invocation died: invoke it again, or give up and say why."""
        invocation = failure.invocation.partition("/")[2]
        self._attempts[invocation] += 1
        payload = self._store.get([self.names.invocation(invocation)])[0]
        if payload is None:
            return  # it ended after all and its record is gone with the job
        if self._attempts[invocation] >= ATTEMPTS:
            self._stop(self.names.label(""))
            raise InvocationFailed(
                f"invocation {invocation} failed {self._attempts[invocation]} times, "
                f"the last time: {failure.reason}: {failure.detail}",
                job=self.id,
                task=failure.task,
                hint="see the output of the task above; `wukong doctor` checks the backend",
            )
        envelope: Envelope = self._codec.decode(payload, PAYLOAD)
        assert envelope.order is not None
        again = replace(envelope, order=replace(envelope.order, careful=True, sent_at=time.time()))
        self._send([(invocation, bytes(joined(self._codec.encode(again, PAYLOAD))))])

    def _collect(self, inline: dict[int, Any], stored: Sequence[int]) -> dict[Hashable, Any]:
        keys = [self.names.value(task) for task in stored]
        fetched = dict(inline)
        for task, key, blob in zip(stored, keys, self._store.get(keys) if keys else (), strict=True):
            if blob is None:
                raise ValueLost("a result is not in the store any more", job=self.id, task=str(self.graph.keys[task]))
            fetched[task] = self._codec.decode(blob, key)
        return {
            key: where.value if isinstance(where, Literal) else fetched[where]
            for key, where in self.graph.request.items()
        }

    def cancel(self) -> None:
        """Stop the job and its executors. The waiting thread gets JobCancelled."""
        if self.ended:
            return
        self._cancelled.set()
        self._stop(self.names.label(""))

    # --- afterwards

    def progress(self) -> int:
        """Return how many tasks the executors had run when they last said so."""
        names = self.names
        total = 0
        for invocation, end in self._walk():
            if end is not None:
                total += end.report.tasks
            elif (blob := self._store.get([names.heartbeat(invocation)])[0]) is not None:
                beat: Heartbeat = self._codec.decode(blob, names.heartbeat(invocation))
                total += beat.tasks
        return total

    def _walk(self) -> Iterable[tuple[str, End | None]]:
        """Walk the tree of invocations, level by level: each with its end report, if it has ended."""
        level = list(self._roots)
        names = self.names
        while level:
            keys = [key for invocation in level for key in (names.n_offloads(invocation), names.end(invocation))]
            blobs = self._store.get(keys)
            below: list[str] = []
            for i, invocation in enumerate(level):
                made, end = blobs[2 * i], blobs[2 * i + 1]
                if made is not None:
                    n = self._codec.decode(made, keys[2 * i])
                    below.extend(f"{invocation}.{k}" for k in range(n))
                yield invocation, None if end is None else self._codec.decode(end, keys[2 * i + 1])
            level = below

    def settle(self) -> None:
        """Take in the executors' reports and delete every key of the job, except the values that are kept."""
        self.ended = True
        until = time.monotonic() + (_SETTLE_S if not self._cancelled.is_set() else 0.0)
        pause_s = 0.001
        while True:
            seen = list(self._walk())
            if all(end is not None for _, end in seen) or time.monotonic() >= until:
                break
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.1)
        names = self.names
        keys = [names.done, *map(names.page, range(-(-len(self.graph.ops) // self._plan.page_tasks)))]
        keys += [names.object(i) for i, value in enumerate(self.graph.objects) if not isinstance(value, Kept)]
        complete = not self._attempts
        for invocation, end in seen:
            keys += [f(invocation) for f in (names.invocation, names.n_offloads, names.end, names.heartbeat)]
            if end is None:
                complete = False
                continue
            self._report.add(end.report)
            self._reported += 1
            self.ran.extend(end.ran)
            keys += [names.value(task) for task in end.stored if task not in self.kept]
            keys += [names.record(child) for child in set(end.arrived)]
        if not complete:  # somebody died without a report: whatever the job may have written goes
            keys += [names.value(task) for task in range(len(self.graph.ops)) if task not in self.kept]
            keys += [names.record(child) for child in range(len(self.graph.ops) + 1)]
        self._executors = len(seen)
        for at in range(0, len(keys), _DELETE_BATCH):
            self._store.delete(keys[at : at + _DELETE_BATCH])
        self._settled.set()

    def summary(self, timeout_s: float = 5.0) -> Summary:
        """Return what the job did and cost, waiting a moment for the executors' last reports."""
        self._settled.wait(timeout_s)
        report = self._report
        return Summary(
            job=self.id,
            tasks=len(self.graph.ops),
            schedules=len(self.graph.dag.leaves()),
            executors=self._executors,
            reported=self._reported,
            repeated=sum(self._attempts.values()),
            put_bytes=report.put_bytes,
            got_bytes=report.got_bytes,
            operations=report.operations,
            peak_held_bytes=report.peak_held_bytes,
            busy_s=report.busy_s,
            wall_s=self._wall_s,
            ingest_s=self._ingest_s,
        )


class RemoteTraceback(Exception):
    """The traceback of a task's exception, as text, where it was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def with_remote(error: BaseException, text: str, task: str | None) -> BaseException:
    """Return a task's exception with its remote traceback as its cause, and a note that names the task."""
    if text:
        error.__cause__ = RemoteTraceback(text)
    if task is not None and not isinstance(error, WukongError):
        error.add_note(f"raised by task {task}")
    return error


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
