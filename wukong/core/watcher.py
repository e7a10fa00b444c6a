"""The watcher: the thread of an executor that looks after a task which runs long.

It looks at a new task after `patience`, then more and more seldom. If the task runs longer than that, it gives the walk
to another lane, or carries out what `wukong.core.invocation.Execution.overdue` asks for. Every `heartbeat_s` it gives a
sign of life. It touches the walk only while it holds the gate (`wukong.core.lanes`). The thread that walks raises its
errors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from wukong.core import task_context
from wukong.core.effects import Effects
from wukong.core.events import Report
from wukong.core.invocation import Execution
from wukong.core.lanes import LaneThreads, TaskLane
from wukong.core.limits import MemoryGauge
from wukong.core.more_cores import MoreCores, TogetherClock
from wukong.core.policy import SWITCH_S, Policy
from wukong.core.walk import Walk
from wukong.core.width import Width
from wukong.errors import Throttled

_WATCH_S = 0.001
_WATCH_LAST_S = 0.05
_GAUGE_S = 0.01
_FIRST_LOOK_S = 0.004
_UNDECIDED, _TOGETHER_S = 4.0, 0.016
_THREAD_S, _THREAD_PAUSE_S = 10.0, 0.05


class Watcher:
    """See the module's docstring.

    Args:
        execution, lanes: of the executor.
        policy: when to look, and how often to give signs of life.
        carry_out: carries out effects.
        report: where it notes the most tasks that ran at once.
        gauge: how full this process's memory is; None: the platform does not end it for that.
        width: how many lanes pay; None: as many as the policy says.
        kind: which kind a task is of.

    Attributes:
        more: the cores that the executor uses besides its function's.
    """

    def __init__(
        self,
        execution: Execution,
        lanes: LaneThreads,
        policy: Policy,
        carry_out: Callable[[Effects], None],
        *,
        report: Report,
        gauge: MemoryGauge | None,
        width: Width | None,
        kind: Callable[[int], str],
    ) -> None:
        self._execution, self._lanes, self._policy = execution, lanes, policy
        self._carry_out, self._report = carry_out, report
        self._gauge, self._width, self._kind = gauge, width, kind
        self._undecided, self._announced = False, set[int]()
        self._waited: tuple[tuple[TaskLane, float] | None, float] = (None, 0.0)
        self.more, self._together = MoreCores(task_context.use_cores() if width is not None else None), TogetherClock()
        self._full, self._began = False, (time.perf_counter(), time.process_time())
        self._ended = threading.Event()
        self._thread = threading.current_thread()

    def start(self, walk: Walk) -> None:
        """Begin. If the system has no thread left, wait until an executor ends. Raises Throttled."""
        until_s = time.monotonic() + _THREAD_S
        while True:
            watcher = threading.Thread(target=self._watch, args=(walk,), name="wukong-watcher", daemon=True)
            try:
                watcher.start()
            except RuntimeError as error:
                if time.monotonic() >= until_s:
                    hint = "raise the limit of processes (ulimit -u, the container's pids), or lower max_slots"
                    raise Throttled(f"no thread could be started within {_THREAD_S:g} s: {error}", hint=hint) from error
                time.sleep(_THREAD_PAUSE_S)
            else:
                self._thread = watcher
                return

    def wants(self, n_ran: int) -> int:
        """Return how many cores that nobody uses are for lanes of this executor rather than for others.

        `n_ran`: how many tasks have run. See `wukong.core.width.Width.wants`.
        """
        width, walk = self._width, self._execution.walk
        if width is None or walk is None or self._full or walk.frontier.exclusive:
            return 0
        began, had_s = self._began
        if self._may_use(width, walk) <= self.more.used:
            return 0
        beyond = self.more.bound() - self.more.used
        return width.wants(beyond, n_ran, time.perf_counter() - began, time.process_time() - had_s)

    def _may_use(self, width: Width, walk: Walk) -> int:
        """Return on how many cores besides the function's its lanes may compute."""
        used, ready = self.more.used if walk.lanes.away else 0, walk.frontier.ready
        n_ready, kind = len(ready) - (self._lanes.at.task is None), self._kind(ready[-1]) if ready else None
        return width.may_use(n_ready, used, self.more.bound() - used, kind)

    @property
    def apart(self) -> bool:
        """Whether tasks of several lanes are not known to have waited for each other, though that was looked for."""
        return self._width is not None and not self._width.locked

    @property
    def busy(self) -> bool:
        """Whether no task has been seen asleep, though that was looked for."""
        return self._width is not None and not self._width.slept

    @property
    def held(self) -> dict[int, bool]:
        """For one task of each kind of which that is known, whether its kind has held the interpreter's lock."""
        return {} if self._width is None else dict(list(self._width.held.values()))

    def end(self) -> None:
        """Look no more: the walk has ended. `join` waits until it has."""
        self._ended.set()

    def join(self) -> None:
        """Return when it has ended."""
        self._thread.join()

    def _watch(self, walk: Walk) -> None:
        """Be the watcher. It looks at a new task after `patience`, then ever more seldom while the task lasts."""
        beat_at = time.monotonic() + self._policy.heartbeat_s
        lanes, seen = self._lanes, None
        pause_s = first_s = walk.patience_s
        warned = False
        while not self._sleep(min(max(pause_s, _WATCH_S), self._policy.heartbeat_s)):
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + self._policy.heartbeat_s  # beats that were missed are not made up for
                self.beat()
            elif not warned and time.perf_counter() >= walk.leaving.deadline:
                warned = True
                self.beat()
            task = lanes.at.task
            if not self._execution.order.attempt and self._announced:  # else each task is announced as it begins
                running = {each for each, *_ in lanes.running()}
                if running and not self._announced <= running:
                    self._announce()  # so that no task is blamed that has ended
            if self._width is not None:
                at_once = self._width.at_once(1 + len(walk.lanes.away))
                self._together.look(at_once, self._kinds() if at_once > 1 else {})
                if self.more.used:
                    self.more.needs(0 if self._width.locked else lanes.computing() - self._width.cores)
            first_s = walk.patience_s
            if walk.lanes.most > 1 or self._width is not None:
                first_s = min(first_s, SWITCH_S if walk.lanes.most > 1 or self._undecided else _FIRST_LOOK_S)
            pause_s = min(pause_s * 2, _WATCH_LAST_S) if task == seen is not None and not self._undecided else first_s
            seen = task
            if task is not None and walk.lanes.most > 1:
                try:
                    lanes.shares.find()
                except Exception as error:  # raised by the walking thread, once its task is done
                    lanes.broken = error
            rests = task is None and walk.lanes.away and time.perf_counter() >= walk.leaving.deadline
            if (task is not None or rests) and lanes.gate.acquire(blocking=False) and not self._looked(walk):
                lanes.let_go()

    def _looked(self, walk: Walk) -> bool:
        """Look at the running task, with the gate. Returns whether the gate was handed to another lane."""
        lanes, now = self._lanes, time.perf_counter()
        lane = lanes.at
        try:
            if self._ended.is_set() or lanes.over or lanes.broken is not None:
                return False
            if lane.task is None:
                if walk.lanes.away and now >= walk.leaving.deadline:
                    self._carry_out(self._execution.overdue(0.0, now))
                return False
            elapsed_s = now - lane.since
            waited_s = self._waited_s(lane)
            self._undecided = self._width is not None and self._measures(self._width, walk, elapsed_s)
            if self._undecided or elapsed_s < min(walk.patience_s, SWITCH_S if walk.lanes.spare else walk.patience_s):
                return False
            if lane.task not in self._announced:
                self._announce()
            if walk.lanes.spare and self._lanes.broken is None:
                before = self._report.lanes
                self._report.lanes = max(before, len(walk.lanes.away) + 2)  # whoever gets the walk may end it at once
                if self._width is not None and not self._width.locked:
                    n = len(walk.lanes.away) + 2 - self._width.n_waiting
                    self.more.take(max(self.more.used, min(n - self._width.cores, self.more.bound())))
                if lanes.hand_over(walk.lanes.most):
                    return True
                self._report.lanes = before
            if elapsed_s >= walk.patience_s:
                self._carry_out(self._execution.overdue(elapsed_s, now, waited_s))
        except Exception as error:  # raised by the walking thread, once its task is done
            self._lanes.broken = error
        return False

    def _waited_s(self, lane: TaskLane) -> float:
        """Return for how long a lane's task has waited for a core since the first look at it, seconds."""
        if lane.demand is None:
            return 0.0
        waited_s = lane.demand.waited_s()
        if self._waited[0] != (lane, lane.since):  # a task may run again, in another lane
            self._waited = (lane, lane.since), waited_s
        return waited_s - self._waited[1]

    def _announce(self) -> None:
        self._announced = {task for task, *_ in self._lanes.running()}
        task_context.announce()

    def _measures(self, width: Width, walk: Walk, elapsed_s: float) -> bool:
        """Have as many lanes as pay, no more while memory is half full. Returns whether that is not known by now."""
        more, has = self._may_use(width, walk), 1 + len(walk.lanes.away)
        rates = self._lanes.rates(late=more == 1)  # a task that holds the lock at times leaves some to one more
        if rates is not None:
            most = width.look(
                rates,
                self._together.told,
                more,
                self._kinds() if len(rates) > 1 else (),
            )
            if width.locked:
                self.more.take(0)
            self._full = False
            if most > has and self._gauge is not None:
                self._gauge.urgent()
                self._full = self._gauge.half
                most = has if self._full else most
            walk.lanes.most = most
        elif has == 1 and not width.n_waiting and more <= self.more.used:
            walk.lanes.most = min(walk.lanes.most, width.cores)  # the kind of task before is no guide to this one
        if rates is None or width.unsure:
            return elapsed_s < max(_UNDECIDED * walk.patience_s, 0.0 if has == 1 else _TOGETHER_S)
        return False

    def _kinds(self) -> dict[str, int]:
        """Return the kinds of the running tasks, with one of each."""
        return {self._kind(task): task for task, *_ in self._lanes.running()}

    def _sleep(self, pause_s: float) -> bool:
        """Sleep; return whether the walk has ended. If memory runs short meanwhile, give a sign of life at once."""
        gauge = self._gauge
        if gauge is None or pause_s < _WATCH_LAST_S:  # memory is looked at for tasks that last
            return self._ended.wait(pause_s)
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            if gauge.urgent():
                self.beat()
            if self._ended.wait(min(left_s, _GAUGE_S) if gauge.half else left_s):
                return True
        return False

    def beat(self) -> None:
        """Give a sign of life, and look for the client's. Without one, stop when the running task has ended."""
        try:
            self._carry_out(self._execution.beat())
        except Exception as error:  # of the store, whatever its kind: raised by the walking thread, which says so
            self._lanes.broken = error
