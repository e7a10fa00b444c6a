"""The interpreter's lock of each executor, on a virtual clock: tasks that hold it compute one after the other.

Really they take turns of some milliseconds. Together they take as long either way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from wukong.planning.model_executor import ModelExecutor


class LockWork(NamedTuple):
    """A task, for how long it computes, and for how long it sleeps besides, seconds."""

    task: int
    core_s: float
    idle_s: float

    @property
    def computing(self) -> LockWork:
        """It, until it lets go of the lock."""
        return self._replace(idle_s=0.0)


class LockTurns:
    """Whose turn it is. `held`: whether each task holds the lock; None: it does not, as far as is known."""

    def __init__(self, held: Sequence[bool | None] | None = None) -> None:
        self.held = held
        self._queues: dict[ModelExecutor, deque[LockWork]] = {}

    def ahead_s(self, executor: ModelExecutor, task: int) -> float:
        """Return how long the tasks compute whose turn comes before that of this one, which has begun; seconds."""
        queue = self._queues.get(executor, ())
        return (
            sum(each.core_s for each in takewhile(lambda each: each.task != task, queue)) if self._holds(task) else 0.0
        )

    def take(self, executor: ModelExecutor, task: int, core_s: float, idle_s: float) -> LockWork | None:
        """Begin a task, which computes and then sleeps. Returns what begins on a core now; None: its turn comes."""
        if not self._holds(task):
            return LockWork(task, core_s, idle_s)
        queue = self._queues.setdefault(executor, deque())
        queue.append(LockWork(task, core_s, idle_s))
        return queue[0].computing if len(queue) == 1 else None

    def give(self, executor: ModelExecutor, task: int) -> tuple[float, LockWork | None]:
        """End what a task computes. Returns for how long it sleeps yet, seconds, and what begins on a core now.

        If the task has no lock, or has given it up before, it sleeps no more.
        """
        queue = self._queues.get(executor)
        if not queue or queue[0].task != task:
            return 0.0, None
        idle_s = queue.popleft().idle_s
        return idle_s, queue[0].computing if queue else None

    def _holds(self, task: int) -> bool:
        return self.held is not None and self.held[task] is True
