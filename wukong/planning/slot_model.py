"""How many executors run at once, on a virtual clock, and the cores that no other function uses, for lanes.

Executors decide as the real ones do (`wukong.core.width`), by which part of its time each task is on a core, and by
whether tasks wait for each other, for the interpreter's lock. Of which that is not known, they do not, so an executor
keeps tasks that a real one may hand on after it has tried.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

from wukong.core.effects import Pause, Run
from wukong.core.policy import SWITCH_S
from wukong.core.width import WAITS, Together, Width
from wukong.planning.model_executor import ModelExecutor

_LOOK_S = 0.005
"""How often the watcher finds out whether running tasks want a core."""


class SlotModel:
    """The slots of a platform: which executors have one, and which wait for one.

    Args:
        n: how many there are; None: as many as are wanted.
        gives_way: an executor that waits leaves its slot to another one, of as many at most as there are slots.
        spare: what its lanes use of the cores that no other function uses, which count as slots; None: nothing.

    Attributes:
        active: how many executors have one.
        queue: those that wait for one.
    """

    def __init__(self, n: int | None, *, gives_way: bool, spare: SpareCores | None) -> None:
        self._n, self._gives_way, self.spare = n, gives_way, spare
        self.active = 0
        self.queue: deque[ModelExecutor] = deque()
        self._waiting: set[ModelExecutor] = set()

    def free(self) -> int | None:
        """Return how many more executors would begin at once; None: there is no bound."""
        return None if self._n is None else max(0, self._idle() - len(self.queue))

    def free_for(self, executor: ModelExecutor, n_ran: int, lived_s: float) -> int | None:
        """Return how many of those an executor that has run `n_ran` tasks does not want for its lanes."""
        free = self.free()
        if free is None or self.spare is None:
            return free
        return max(0, free - self.spare.wants(executor, free, n_ran, lived_s))

    def next(self) -> ModelExecutor | None:
        """Return the next executor that may begin, out of the queue; None: none may."""
        return self.queue.popleft() if self.queue and (self._n is None or self._idle() > 0) else None

    def another_lane(self, executor: ModelExecutor, now: float) -> bool:
        """Whether another lane is to take the walk from the running task, which has run for long enough."""
        if self.spare is None:
            return bool(executor.walk.lanes.spare)
        return self.spare.look(executor, 0 if self._n is None else self._idle() - len(self.queue), now)

    def stands(self, executor: ModelExecutor) -> None:
        """Note at which effect an executor stands, or that it has ended."""
        if self.spare is not None and (executor.done or isinstance(executor.effect, Run | Pause)):
            self.spare.settle(executor)
        waits = self._gives_way and isinstance(executor.effect, Pause)
        (self._waiting.add if waits else self._waiting.discard)(executor)

    def _idle(self) -> int:
        assert self._n is not None
        return self._n + min(len(self._waiting), self._n) - self.active - (self.spare.used() if self.spare else 0)


class SpareCores:
    """Which executor uses how many cores besides its function's, and how many lanes it has.

    Args:
        most: how many one executor uses at most.
        own: those of each function.
        on_core: which part of its time each task is on a core; None: all of it.
        held: whether each holds the interpreter's lock meanwhile; None: not known.
    """

    def __init__(
        self, most: int, own: int, on_core: Sequence[float] | None, held: Sequence[bool | None] | None = None
    ) -> None:
        self._most, self._own, self._on_core, self._held = most, own, on_core, held
        self._widths: dict[ModelExecutor, Width] = {}
        self._used: Counter[ModelExecutor] = Counter()
        self._looked: dict[ModelExecutor, float] = {}

    def used(self) -> int:
        """Return how many cores all executors use besides their functions'."""
        return self._used.total()

    def look_at(self, executor: ModelExecutor, now: float) -> float:
        """Return when to `look`, if a task has begun and others are ready."""
        return max(now + SWITCH_S, self._looked.setdefault(executor, now) + _LOOK_S)

    def look(self, executor: ModelExecutor, idle: int, now: float) -> bool:
        """Have as many lanes as pay while a task runs, and their cores. Returns whether another one takes the walk.

        `idle`: how many cores nobody uses.
        """
        self._looked[executor] = now
        width, walk, tasks = self._width(executor), executor.walk, _running(executor)
        rates = [1.0 if self._on_core is None else self._on_core[task] for task in tasks]
        bound = self._may_use(executor, idle)
        most = width.look(rates, self._together(tasks, rates), bound)
        walk.lanes.most = max(most, len(tasks))  # those that run go on
        if width.locked:
            self._used[executor] = 0
        if not walk.lanes.spare:
            return False
        computing = len(tasks) + 1 - width.n_waiting
        self._used[executor] = max(self._used[executor], min(computing - self._own, bound))
        return True

    def _together(self, tasks: Sequence[int], rates: Sequence[float]) -> Together | None:
        """Return what tasks that run at once have of the cores: those that hold the lock have one."""
        if len(tasks) < 2:
            return None
        held = self._held
        n = sum(rate >= WAITS and held[task] is True for task, rate in zip(tasks, rates, strict=True)) if held else 0
        return Together(len(tasks) - max(0, n - 1), math.inf if n > 1 else 0.0)

    def settle(self, executor: ModelExecutor) -> None:
        """Have it give back the cores that its lanes do not need now."""
        width = self._width(executor)
        needed = 0 if width.locked else max(0, len(_running(executor)) - width.n_waiting - self._own)
        self._used[executor] = min(self._used[executor], needed)

    def wants(self, executor: ModelExecutor, idle: int, n_ran: int, lived_s: float) -> int:
        """Return how many of the idle cores are for lanes of this executor rather than for others."""
        if executor.walk.frontier.exclusive:
            return 0
        if self._may_use(executor, idle) <= self._used[executor]:
            return 0
        beyond = self._bound(executor, idle) - self._used[executor]
        return self._width(executor).wants(beyond, n_ran, lived_s, lived_s)

    def _width(self, executor: ModelExecutor) -> Width:
        return self._widths.setdefault(executor, Width(self._own))

    def _may_use(self, executor: ModelExecutor, idle: int) -> int:
        used, n_ready = self._used[executor], len(executor.walk.frontier.ready) - (executor.busy is None)
        return self._width(executor).may_use(n_ready, used, self._bound(executor, idle) - used)

    def _bound(self, executor: ModelExecutor, idle: int) -> int:
        return min(self._most, self._used[executor] + idle)


def _running(executor: ModelExecutor) -> list[int]:
    """Return the tasks that run, or are about to."""
    at = executor.busy or executor.effect
    return [*executor.away, *([at.task] if isinstance(at, Run) else [])]
