"""The threads in which one executor runs tasks, one task in each: who has the walk, who runs what, who is idle.

    lane --task overstays--> keeps its task; an idle lane, or a new one, gets the gate, and with it the walk
    lane --task has ended--> still has the walk: goes on (every short task)
                         `-> another lane has it: hands its result in, takes the walk where it stands, or gets idle

`gate` is free exactly while the walk stands at a task that runs, or at a pause while others run: whoever holds it owns
the walk, and may hand both to another thread. A lane belongs to its thread: so the name of "the current task", output,
locks and targets are right for tasks that run at once.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wukong.core.effects import Landed, Overstays, Run

_AGAIN_S = 0.001


class TaskLane:
    """One thread that runs tasks.

    Attributes:
        task: the one that runs here; None: none does. since: when it began.
        announced: the task that was announced last.
    """

    __slots__ = ("announced", "since", "task", "thread", "wake")

    def __init__(self) -> None:
        self.task: int | None = None
        self.since = 0.0
        self.announced: int | None = None
        self.wake = threading.Semaphore(0)
        self.thread: threading.Thread | None = None


@dataclass(frozen=True, slots=True)
class LaneResult:
    """What a lane hands in: what it ran, the value or None if the task has `failed`, when it began and ended."""

    run: Run
    value: Any
    failed: bool
    began: float
    ended: float


class LaneThreads:
    """The lanes of one executor.

    Args:
        live: what another lane than the first does once it has the gate, until it has nothing more to do.

    Attributes:
        gate: see the module's docstring.
        at: the lane that has, or had last, the walk.
        landed: what has ended in other lanes, and the walk does not know yet.
        over: the walk has ended. raised: with this.
    """

    def __init__(self, live: Callable[[TaskLane], None]) -> None:
        self._live = live
        self.gate = threading.Lock()
        self.first = self.at = TaskLane()
        self.landed: list[LaneResult] = []
        self.over = False
        self.raised: BaseException | None = None
        self._all: dict[int, TaskLane] = {}
        self._idle: list[TaskLane] = []
        self._threads: list[threading.Thread] = []
        self._shared: Callable[[], None] | None = None

    # --- what runs where

    def enter(self, lane: TaskLane) -> None:
        """The calling thread is this lane's."""
        self._all[threading.get_ident()] = lane

    def running(self) -> list[tuple[int, float]]:
        """Return the tasks that run, and since when, the one that has run for longest first."""
        lanes = [(lane.since, lane.task) for lane in list(self._all.values())]
        return [(task, since) for since, task in sorted(lanes, key=lambda each: each[0]) if task is not None]

    def task(self) -> int | None:
        """Return the task of the calling thread; in one that a task has started: the only one that runs, or None."""
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
        return ", ".join(name(task) for task, _ in self.running()) or None

    # --- the gate goes round

    def hand_over(self, most: int) -> bool:
        """Give the gate, which the caller holds, to an idle lane or a new one of `most`. False: there is none."""
        if self._idle:
            self._idle.pop().wake.release()
            return True
        if self._shared is None:
            self._shared = shared_cores(most)
        lane = TaskLane()
        thread = threading.Thread(target=self._run, args=(lane,), name="wukong-lane", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left: this executor does with what it has
            return False
        self._threads.append(thread)
        return True

    def _run(self, lane: TaskLane) -> None:
        self.enter(lane)
        try:
            self._live(lane)
        finally:
            self._all.pop(threading.get_ident(), None)

    def wait(self, lane: TaskLane, timeout_s: float | None = None) -> bool | None:
        """Let go of the gate and be idle, until there is something to do or the time is over.

        Returns with the gate: True, to go on with the walk in place of a lane whose task overstays; False, for the time
        is over and nobody has taken the walk. Returns without it: None, for the walk has ended.
        """
        self._idle.append(lane)
        self.gate.release()
        while not lane.wake.acquire(timeout=timeout_s):
            if self.gate.acquire(blocking=False):  # so nobody is giving it to this lane
                if self.at is lane and not self.over:
                    self._idle.remove(lane)
                    return False
                self.gate.release()
            timeout_s = _AGAIN_S if self.at is lane and not self.over else None
            if self.over:
                return None
        return None if self.over else True

    def end(self, raised: BaseException | None = None) -> None:
        """The walk has ended, by this error or well: wake whoever is idle. The caller holds the gate, and loses it."""
        self.give_up(raised)
        self.gate.release()

    def give_up(self, raised: BaseException | None) -> None:
        """No lane is to go on: all end with the tasks that they run."""
        self.over, self.raised = True, self.raised or raised
        for lane in self._idle:
            lane.wake.release()

    def holds(self, lane: TaskLane) -> bool:
        """Whether a lane that has got no further has the gate: it neither runs a task nor is idle."""
        return lane.task is None and lane not in self._idle

    def join(self) -> None:
        """Wait until no task runs in any lane."""
        for thread in self._threads:
            thread.join()
        if self._shared is not None:
            self._shared()


def shared_cores(lanes: int) -> Callable[[], None]:
    """Have the threads of NumPy's libraries share the cores with this many lanes; return what undoes that.

    Nothing is done if nobody here has imported such a library, or if `threadpoolctl`, which knows them, is missing.
    """
    if "numpy" not in sys.modules:
        return lambda: None
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError:
        return lambda: None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = threadpool_limits(limits=max(1, cores // lanes))
    return limits.restore_original_limits  # type: ignore[no-any-return]


def told(landed: list[LaneResult], now: float) -> Landed:
    """Return what the walk is told of these."""
    failed = tuple(each.run.task for each in landed if each.failed)
    return Landed(now, tuple(each.run.task for each in landed if not each.failed), failed)


def overstays() -> Overstays:
    """Return what the walk is told if a running task overstays now."""
    return Overstays(time.perf_counter())
