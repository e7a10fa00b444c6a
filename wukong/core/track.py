"""What one executor notes while it works, in columns: which task ran when, and what it did in between.

    Recorder    in the function: four list appends for each task, folded into arrays now and then
    Track       what travels with the end report; the client puts all of them together (`wukong.core.record`)

Pure: times come from the executor, by a clock of its own; `Track.unix_s` says what time it was at the clock's
`Track.zero_s`. An executor keeps `MOST_TASKS` tasks and `MOST_SPANS` spans; of more it keeps only sums. Size and memory
are known only of tasks that the executor takes for slow.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import Any, Literal

from wukong.core.effects import FreeSeats, Get, GiveSeats, Incr, Invoke, Pause, Put, Read, Record, TakeSeats, Unpack
from wukong.core.on_core import CoreClocks, OnCore
from wukong.core.raised import Raised

KINDS = ("open", "look", "import", "page", "get", "put", "arrive", "hand over", "wait", "end")
"""What an executor does besides running tasks.

``open``: from the function's first line to the executor's. ``look``: is the job wanted, and what have earlier runs
done. ``import``: the user's modules, and values in the payload. ``page``: a page of the DAG. ``arrive``: at fan-ins.
``hand over``: recording and making invocations. ``wait``: for what others compute, and for seats of limits.
``end``: the outcome, or the end report.
"""

SPAN_KINDS: Mapping[type, str] = {
    Read: "look",
    Unpack: "import",
    Get: "get",
    Put: "put",
    Incr: "arrive",
    Record: "hand over",
    Invoke: "hand over",
    Pause: "wait",
    TakeSeats: "wait",
    GiveSeats: "wait",
    FreeSeats: "wait",
}
"""The kind of span that carrying out an effect is."""

MOST_TASKS = 1_000_000
MOST_SPANS = 20_000
MOST_RAISED = 100
MOST_LANES = 255
"""A lane of a higher number is recorded as this one."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task that raised.

    Attributes:
        task: its number. begun_s, ended_s: when, by the executor's clock.
        kind, message, traceback: what it raised, as text.
        again: it was run again.
    """

    task: int
    begun_s: float
    ended_s: float
    kind: str
    message: str
    traceback: str
    again: bool


@dataclass(slots=True)
class Spans:
    """Column by column: an index into `KINDS`, begin by the executor's clock, duration, and how many bytes moved."""

    kinds: array[int] = field(default_factory=lambda: array("b"))
    begun: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("f"))
    size_bytes: array[int] = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class Track:
    """What one run of an invocation did.

    Attributes:
        attempt: which run of its invocation this is. cold, machine: see `wukong.core.host.ExecutorHost`.
        sent_s: Unix time of the call, by the clock of who made it. unix_s: Unix time at `zero_s`, by the clock here.
        zero_s, end_s: the run's begin, and when this was written, on the clock that all times below are of.
        tasks, lanes, begun, took: the tasks that ran, in order: number, in which lane, begin, duration.
        sized, sizes, memory: of the slow tasks: number, bytes of the value, the most bytes that the process had in use
            since the one before (0: not known).
        stored, stored_bytes: the tasks whose values were stored, and the values' sizes.
        spans: what it did besides.
        sums: for each kind of span: how many, seconds, bytes; those that are not kept included.
        on_core: for each kind, and ``run`` for the tasks with the walk: what the lanes' threads, and those that carry
            out their requests, had of the cores, as `wukong.core.on_core.OnCore`. Empty: not known, as if lanes have
            waited for each other and slept. If they have only waited for each other, that is waiting for a core.
        tasks_left_out, spans_left_out: how many are not kept.
        raised: the runs of tasks that raised.
        function_bytes: memory of the function, if there are several sizes; 0: there is one.
        held: for one task of each kind of which that is known, whether tasks of its kind hold the interpreter's lock
            while they compute: whether those that ran at once have waited for each other.
    """

    attempt: int
    cold: bool
    machine: bytes
    sent_s: float
    unix_s: float
    zero_s: float
    end_s: float = 0.0
    tasks: array[int] = field(default_factory=lambda: array("i"))
    lanes: array[int] = field(default_factory=lambda: array("B"))
    begun: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("f"))
    sized: array[int] = field(default_factory=lambda: array("i"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    memory: array[int] = field(default_factory=lambda: array("q"))
    stored: array[int] = field(default_factory=lambda: array("i"))
    stored_bytes: array[int] = field(default_factory=lambda: array("q"))
    spans: Spans = field(default_factory=Spans)
    sums: dict[str, tuple[int, float, int]] = field(default_factory=dict)
    on_core: dict[str, OnCore] = field(default_factory=dict)
    tasks_left_out: int = 0
    spans_left_out: int = 0
    raised: list[Attempt] = field(default_factory=list)
    function_bytes: int = 0
    held: dict[int, bool] = field(default_factory=dict)


class Recorder:
    """Note what an executor does. Only `fold` may be called by two threads, one at a time.

    Args:
        track: what to fill; times are by the clock that its `zero_s` is of.
        level: ``off``: count only.
        clock: those of the threads that walk; None: they are not asked.

    Attributes:
        ran, lanes, began, ended: what `fold` has not taken in yet. Whoever runs a task appends to all, `ended` last.
        n_tasks, busy_s: the sum over all tasks, as of the last `fold`.
        moved_bytes: what was read from and written to the store; `wukong.core.values.Values` counts it.
    """

    __slots__ = (
        "_aside",
        "_clock",
        "_level",
        "_waiting",
        "began",
        "busy_s",
        "ended",
        "lanes",
        "moved_bytes",
        "n_tasks",
        "ran",
        "track",
    )

    def __init__(self, track: Track, level: Literal["off", "on"], clock: CoreClocks | None = None) -> None:
        self.track, self._level, self._clock = track, level, clock
        self._aside = 0.0, 0.0, 0.0
        self.ran: list[int] = []
        self.lanes: list[int] = []
        self.began: list[float] = []
        self.ended: list[float] = []
        self._waiting: list[tuple[int, float, float, int]] = []
        self.n_tasks = self.moved_bytes = 0
        self.busy_s = 0.0

    def fold(self) -> Sequence[int]:
        """Take in what was appended up to now, and return these tasks. More may go on being appended meanwhile."""
        n, track = len(self.ended), self.track
        ran, lanes, began, ended = self.ran[:n], self.lanes[:n], array("d", self.began[:n]), self.ended[:n]
        del self.ran[:n], self.lanes[:n], self.began[:n], self.ended[:n]
        took = array("f", map(sub, ended, began))
        self.n_tasks += n
        self.busy_s += sum(took)
        if self._level == "on":
            room = max(0, MOST_TASKS - len(track.tasks))
            track.tasks_left_out += max(0, n - room)
            track.tasks.extend(ran[:room])
            track.lanes.extend([min(lane, MOST_LANES) for lane in lanes[:room]] if any(lanes) else lanes[:room])
            track.begun.extend(began[:room])
            track.took.extend(took[:room])
        self._fold_spans()
        return ran

    def _fold_spans(self) -> None:
        n, sums, spans = len(self._waiting), self.track.sums, self.track.spans
        waiting = self._waiting[:n]
        del self._waiting[:n]
        for kind, begun, took_s, size in waiting:
            count, seconds, size_bytes = sums.get(KINDS[kind], (0, 0.0, 0))
            sums[KINDS[kind]] = count + 1, seconds + took_s, size_bytes + size
            if len(spans.kinds) >= MOST_SPANS:
                self.track.spans_left_out += 1
                continue
            spans.kinds.append(kind)
            spans.begun.append(begun)
            spans.took.append(took_s)
            spans.size_bytes.append(size)

    def span(self, kind: str, begun: float, ended: float, size_bytes: int = 0) -> None:
        """Note what was done between two times."""
        if self._level == "on":
            self._waiting.append((KINDS.index(kind), begun, ended - begun, size_bytes))

    def timed(self, kind: str, handler: Callable[[Any], Any], clock: Callable[[], float]) -> Callable[[Any], Any]:
        """Return `handler`, each of whose calls is a span of this kind."""
        if self._level == "off":
            return handler
        note, number = self._waiting.append, KINDS.index(kind)

        def timed(effect: Any) -> Any:
            before, begun, had = self.moved_bytes, clock(), self.on_core()
            try:
                return handler(effect)
            finally:
                note((number, begun, clock() - begun, self.moved_bytes - before))
                self.aside(kind, had)

        return timed

    def on_core(self) -> OnCore | None:
        """Return what the calling thread's clock says; None: it says nothing, or the thread is none that walks."""
        return None if self._clock is None else self._clock.read()

    def begin_lane(self) -> None:
        """Note that the calling thread walks, too, and runs tasks."""
        if self._clock is not None:
            self._clock.begin()

    def aside(self, kind: str, since: OnCore | None) -> None:
        """Count for this kind of span, and not for tasks, what the walking thread has had of the cores since then."""
        if since is None or (now := self.on_core()) is None:
            return
        self._aside = _sum(self._aside, self.beside(kind, since, now))

    def beside(self, kind: str, since: OnCore, now: OnCore) -> OnCore:
        """Note what a thread has had of the cores for this kind, between two readings of its clock; return it."""
        more = now[0] - since[0], now[1] - since[1], now[2] - since[2]
        self.track.on_core[kind] = _sum(self.track.on_core.get(kind, (0.0, 0.0, 0.0)), more)
        return more

    def settle(self, *, apart: bool, busy: bool = False) -> None:
        """Note what tasks have had of the cores up to now.

        `apart`: they have not waited for each other. `busy`: none has slept, so that one has waited while it had none.
        """
        had = None if self._clock is None or self.on_core() is None else self._clock.had()
        if not (apart or busy) or had is None:
            self.track.on_core.clear()
        else:
            ran, waited, in_system = (max(0.0, had[i] - self._aside[i]) for i in range(3))
            waited = waited if apart else max(waited, self.busy_s - ran)
            self.track.on_core["run"] = ran, waited, in_system

    def slow(self, task: int, size_bytes: int, memory_bytes: int) -> None:
        """Note how large a task's value is, and the most memory in use since the last such call."""
        if self._level == "on" and len(self.track.sized) < MOST_TASKS:
            self.track.sized.append(task)
            self.track.sizes.append(size_bytes)
            self.track.memory.append(memory_bytes)

    def stored(self, task: int, size_bytes: int) -> None:
        """Note that a value was stored."""
        if self._level == "on" and len(self.track.stored) < MOST_TASKS:
            self.track.stored.append(task)
            self.track.stored_bytes.append(size_bytes)

    def failed(self, task: int, begun: float, ended: float, raised: Raised, *, again: bool) -> None:
        """Note that a task has raised; `again`: it is run once more."""
        if len(self.track.raised) < MOST_RAISED:
            told = raised.kind, raised.message, raised.traceback
            self.track.raised.append(Attempt(task, begun, ended, *told, again))


def _sum(one: OnCore, other: OnCore) -> OnCore:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
