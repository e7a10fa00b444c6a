"""The threads in which one executor runs tasks, one task in each: who has the walk, who runs what, who is idle.

    lane --task overstays--> keeps its task; an idle lane, or a new one, gets the gate, and with it the walk
    lane --task has ended--> still has the walk: goes on (every short task)
                         `-> another lane has it: hands its result in, takes the walk where it stands, or gets idle
    a task is to run alone -> the first lane, which is idle or about to be, runs it, and has the walk
    a request has ended (`wukong.core.io_threads`): the lane that has the walk takes it in, and is roused if it is idle

`gate` is free exactly while the walk stands at a task that runs, or at a pause while others run: whoever holds it owns
the walk, and may hand both to another thread. A lane belongs to its thread: so the name of "the current task", output,
locks and targets are right for tasks that run at once.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from wukong.core.cores import CoreShares
from wukong.core.effects import Came, Landed, Overstays, Run
from wukong.core.names import listed
from wukong.core.width import WAITS

_AGAIN_S = 0.001
_LOOK_S, _LOOK_ELSEWHERE_S, _STALE_S, _NEARLY = 0.0005, 0.01, 0.03, 0.8
_STACK_BYTES = 8 << 20
_TURNS_PER_S = 25.0
"""A thread that waits for the interpreter's lock looks for it 200 times a second, if it has a core each time."""


class TaskLane:
    """One thread that runs tasks.

    Attributes:
        number: 0 is the first lane of its executor.
        task: the one that runs here; None: none does. since: when it began.
        demand: the thread's, once it has begun.
        looked: for which task that was read last, when, what it said, and the rate since the look before; None: at a
            look it ran none.
        given: it has been given the gate, and has not noticed yet.
        due: it has been given this task to run, and has not begun.
    """

    __slots__ = ("demand", "due", "given", "looked", "number", "since", "task", "wake")

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.task: int | None = None
        self.since = 0.0
        self.wake = threading.Semaphore(0)
        self.given = False
        self.due: Run | None = None
        self.demand: Demand | None = None
        self.looked: tuple[int, float, float, int, float | None] | None = None

    def rate(self, window_s: float, *, late: bool = False) -> float | None:
        """Return how much of a core its task has had lately, or 1 if it wants one; None: that is not known yet.

        Of tasks too short for that, how much those have had that ran here since the look before. Looks at the thread
        no more often than once in `window_s`. `late`: a look of long ago will do if this task has run for nearly all
        the time since. Only the watcher calls it, while the threads live.
        """
        running, demand = self.task, self.demand
        if demand is None or running is None:
            self.looked = None
            return None
        now, before = time.perf_counter(), self.looked
        stale = before is not None and before[0] != running and now - before[1] > _STALE_S
        if before is None or (stale and not (late and now - self.since > _NEARLY * (now - before[1]))):
            self.looked = running, now, demand.had_s(), demand.turns(), None
            return None
        task, then, had_s, n, rate = before
        if now - then < (window_s if task == running else max(window_s, _LOOK_ELSEWHERE_S)):
            return rate if task == running else None
        has_s, turns = demand.had_s(), demand.turns()
        rate = (has_s - had_s) / (now - then)
        if rate < WAITS and (turns - n > max(1.0, _TURNS_PER_S * (now - then)) or not demand.sleeps()):
            rate = 1.0
        self.looked = running, now, has_s, turns, rate
        return rate


class Demand:
    """What one thread wants of the cores. If the system does not tell, the thread counts as computing all the time."""

    def __init__(self, ident: int, native_id: int) -> None:
        self._clock = time.pthread_getcpuclockid(ident) if hasattr(time, "pthread_getcpuclockid") else None
        self._file = self._turns = -1
        with suppress(OSError):
            self._file = os.open(f"/proc/self/task/{native_id}/stat", os.O_RDONLY | os.O_CLOEXEC)
            self._turns = os.open(f"/proc/self/task/{native_id}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def had_s(self) -> float:
        """Return the seconds of CPU that it has had."""
        return time.perf_counter() if self._clock is None else time.clock_gettime(self._clock)

    def sleeps(self) -> bool:
        """Whether it sleeps or waits, but not for a core: a thread that waits for a core uses as little CPU time."""
        with suppress(OSError):
            return self._file < 0 or os.pread(self._file, 200, 0).rpartition(b")")[2][1:2] != b"R"
        return True

    def turns(self) -> int:
        """Return how often it has got a core: seldom if it sleeps, often if it waits for the interpreter's lock."""
        with suppress(OSError, ValueError, IndexError):
            return 0 if self._turns < 0 else int(os.pread(self._turns, 100, 0).split()[2])
        return 0

    def waited_s(self) -> float:
        """Return for how long it has waited for a core, seconds."""
        with suppress(OSError, ValueError, IndexError):
            return 0.0 if self._turns < 0 else int(os.pread(self._turns, 100, 0).split()[1]) / 1e9
        return 0.0

    def close(self) -> None:
        """Close the files that it looks at."""
        for descriptor in (self._file, self._turns):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._turns = -1


@dataclass(frozen=True, slots=True)
class LaneResult:
    """What a lane hands in: what it ran; the value, None if the task has `failed`; when it began and ended, seconds."""

    lane: int
    run: Run
    value: Any
    failed: bool
    began: float
    ended: float


@dataclass(frozen=True, slots=True, eq=False)
class RequestResult:
    """A request that has ended.

    `take_in`: whoever has the walk calls it, once. It takes what has come into the cache, and returns what the walk is
    told; or raises what went wrong.
    """

    take_in: Callable[[], Came]


Result: TypeAlias = LaneResult | RequestResult


class LaneThreads:
    """The lanes of one executor.

    Args:
        live: what another lane than the first does once it has the gate, until it has nothing more to do.
        cores: those of the function.
        watched: the lanes' demand for cores is read.

    Attributes:
        gate: see the module's docstring.
        at: the lane that has, or had last, the walk.
        landed: what has ended, in other lanes or of requests, and the walk does not know yet. Anybody may append.
        broken: an error for whoever has the walk, or comes to have it; None: all is well.
        over: the walk has ended. raised: with this.
        shares: the lanes' shares of the cores.
    """

    def __init__(self, live: Callable[[TaskLane], None], *, cores: int = 1, watched: bool = False) -> None:
        self._live, self._watched = live, watched
        self.shares = CoreShares(cores)
        self.gate = threading.Lock()
        self.first = self.at = TaskLane()
        self.landed: list[Result] = []
        self.broken: Exception | None = None
        self.over = False
        self.raised: BaseException | None = None
        self._waits: dict[TaskLane, float] = {}
        self._waited_s = 0.0
        self._all: dict[int, TaskLane] = {}
        self._lanes: list[TaskLane] = []
        self._idle: list[TaskLane] = []
        self._threads: list[threading.Thread] = []

    # --- what runs where

    def enter(self, lane: TaskLane) -> None:
        """Note that the calling thread is this lane's."""
        if lane is not self.first:
            self.shares.enter()
        if self._watched and lane.demand is None:
            lane.demand = Demand(threading.get_ident(), threading.get_native_id())
            self._waits[lane] = lane.demand.waited_s()  # in a process that has run others, the thread has waited before
        self._all[threading.get_ident()] = lane
        self._lanes.append(lane)

    def rates(self, *, late: bool = False) -> list[float] | None:
        """Return `TaskLane.rate` of all tasks that were looked at before; None: that of the walking lane was not.

        A thread that waits for the interpreter's lock looks for a while as if it slept: if another computes, the look
        at the walking lane takes longer. The others are looked at seldom while they sleep, for a look costs CPU time.
        `late`: of the walking lane, see there.
        """
        others = [lane for lane in list(self._all.values()) if lane is not self.at and lane.task is not None]
        known = [None if lane.looked is None else lane.looked[4] for lane in others]
        compute = any(rate is not None and rate >= WAITS for rate in known)
        at = self.at.rate(_LOOK_ELSEWHERE_S if compute else _LOOK_S, late=late)
        if at is None:
            return None
        rests_s = _LOOK_ELSEWHERE_S if compute or at >= WAITS else _STALE_S
        windows = [_LOOK_ELSEWHERE_S if rate is None else rests_s for rate in known]
        rates = [lane.rate(window_s) for lane, window_s in zip(others, windows, strict=True)]
        return [at, *(rate for rate in rates if rate is not None)]

    def computing(self) -> int:
        """Return how many running tasks do not wait, as far as that is known. Only the watcher calls it."""
        rates = [lane.rate(_LOOK_ELSEWHERE_S) for lane in list(self._all.values()) if lane.task is not None]
        return sum(rate is None or rate >= WAITS for rate in rates)

    def waited_s(self) -> float:
        """Return for how long its lanes have waited for a core, seconds: the mean of those that did something.

        Only whoever has the walk calls it.
        """
        busy = [lane for lane in self._lanes if lane is self.at or lane.task is not None]
        waits = {lane: max(self._waits[lane], lane.demand.waited_s()) for lane in busy if lane.demand is not None}
        since_s = sum(waited_s - self._waits[lane] for lane, waited_s in waits.items())
        self._waits.update(waits)
        self._waited_s += since_s / max(1, len(waits))
        return self._waited_s

    def running(self) -> list[tuple[int, float, int]]:
        """Return the tasks that run, since when, and in which lane, the one that has run for longest first."""
        lanes = [(lane.since, lane.task, lane.number) for lane in list(self._all.values())]
        return [(task, since, number) for since, task, number in sorted(lanes, key=_since) if task is not None]

    def task(self) -> int | None:
        """Return the calling thread's task; in a thread that a task has started, the only task that runs, or None."""
        lane = self._all.get(threading.get_ident())
        if lane is not None:
            return lane.task
        running = self.running()
        return running[0][0] if len(running) == 1 else None

    def named(self, name: Callable[[int], str]) -> str | None:
        """Return the name of the calling thread's task; in a thread that is no lane, of all tasks that run."""
        lane = self._all.get(threading.get_ident())
        if lane is not None:
            return None if lane.task is None else name(lane.task)
        return listed([name(task) for task, *_ in self.running()])

    # --- the gate goes round

    def hand_over(self, most: int) -> bool:
        """Give the gate, which the caller holds, to an idle lane or a new one of `most`. False: there is none."""
        self.shares.share(most)
        if self._idle:
            self._give(self._idle[-1])
            return True
        lane = TaskLane(len(self._threads) + 1)
        thread = threading.Thread(target=self._run, args=(lane,), name="wukong-lane", daemon=True)
        try:
            _start(thread)
        except RuntimeError:  # the system has no thread left: this executor goes on with its lanes
            return False
        self._threads.append(thread)
        return True

    def _run(self, lane: TaskLane) -> None:
        try:
            self._live(lane)
        finally:
            self._all.pop(threading.get_ident(), None)

    def _give(self, lane: TaskLane) -> None:
        """Give the gate, which the caller holds, to an idle lane."""
        self._idle.remove(lane)
        lane.given = True
        lane.wake.release()

    def give_first(self, run: Run) -> None:
        """Have the first lane run this task, at which the walk stands, and nobody else's runs. The caller is to wait.

        The first lane is idle; or its own task has ended, and it waits for the gate in order to hear that.
        """
        first = self.first
        first.task, first.since, first.due, self.at = run.task, time.perf_counter(), run, first
        if first in self._idle:
            self._idle.remove(first)
            first.wake.release()

    def let_go(self) -> None:
        """Let go of the gate where the walk stands."""
        self.gate.release()
        self.rouse()

    def rouse(self) -> None:
        """Have the lane that has the walk take in what has landed, if it is idle. Any thread may call this.

        Whoever has landed something calls it, and whoever lets go of the gate while a lane is idle: so of two that come
        at once, the later one finds both the gate free and what has landed.
        """
        while self.landed and self.at in self._idle and self.gate.acquire(blocking=False):
            if self.landed and self.at in self._idle and not self.over:
                return self._give(self.at)
            self.gate.release()
            if self.over:
                return

    def wait(self, lane: TaskLane, timeout_s: float | None = None) -> bool | None:
        """Let go of the gate and be idle, until there is something to do or the time is over.

        Returns with the gate: True, to go on with the walk, for something has landed at a pause, or in place of a lane
        whose task overstays, or to run what is `due`; False, for the time is over and nobody has taken the walk.
        Returns without it: None, for the walk has ended.
        """
        self.shares.enter()
        self._idle.append(lane)
        self.let_go()
        while not lane.wake.acquire(timeout=timeout_s):
            if self.gate.acquire(blocking=False):  # so nobody is giving it to this lane
                if self.at is lane and lane.due is None and not self.over:
                    self._idle.remove(lane)
                    return False
                self.let_go()
            timeout_s = _AGAIN_S if self.at is lane and not self.over else None
            if self.over:
                break
        given, lane.given = lane.given, False
        if not self.over and lane.due is not None:
            self.gate.acquire()
            given = True
        if not self.over:
            return True
        if given:  # meanwhile, by whoever did not know yet
            self.gate.release()
        return None

    def end(self, raised: BaseException | None = None) -> None:
        """End the walk, by this error or well: wake idle lanes. The caller holds the gate, and loses it."""
        self.give_up(raised)
        self.gate.release()

    def give_up(self, raised: BaseException | None) -> None:
        """Have no lane go on: all end with the tasks that they run."""
        self.over, self.raised = True, self.raised or raised
        for lane in self._idle:
            lane.wake.release()

    def holds(self, lane: TaskLane) -> bool:
        """Whether a lane that has stopped still has the gate: it neither runs a task nor is idle."""
        return lane.task is None and lane not in self._idle

    def join(self) -> None:
        """Wait until no task runs in any lane."""
        for thread in self._threads:
            thread.join()
        for lane in self._lanes:
            if lane.demand is not None:
                lane.demand.close()
        self.shares.end()


def _since(each: tuple[float, int | None, int]) -> float:
    return each[0]


def _start(thread: threading.Thread) -> None:
    """Start a thread in which tasks may recurse about as deep as in the first one."""
    unbounded = resource.getrlimit(resource.RLIMIT_STACK)[0] == resource.RLIM_INFINITY
    before = threading.stack_size()
    if not unbounded or before:  # the system gives each thread what the first one has; or somebody has chosen
        return thread.start()
    threading.stack_size(_STACK_BYTES)  # glibc: 2 MB, if the first one's stack has no limit
    try:
        thread.start()
    finally:
        threading.stack_size(before)


def told(landed: list[LaneResult], came: list[Came], now: float) -> Landed:
    """Return what the walk is told of these tasks and requests."""
    failed = tuple(each.run.task for each in landed if each.failed)
    return Landed(now, tuple(each.run.task for each in landed if not each.failed), failed, tuple(came))


def overstays() -> Overstays:
    """Return what the walk is told if a running task overstays now."""
    return Overstays(time.perf_counter())
