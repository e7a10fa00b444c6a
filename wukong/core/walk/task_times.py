"""How long a task takes here, without what other executors would not save.

    a wait for a core             others compute on all of this machine's: whoever takes a task over waits, too
    publishing, handing over      is done between two tasks, and takes the longer the more is handed over

If these counted, whoever waits would hand tasks over, and so would let all others wait even longer.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from wukong.core.effects import CoreWaits, Effect, Effects, Now


class TaskTimes:
    """See the module's docstring.

    Args:
        measured: waits are asked for; else nobody wants to know how long tasks take.

    Attributes:
        n_tasks: how many tasks have run since the last check.
    """

    def __init__(self, *, measured: bool) -> None:
        self.measured = measured
        self.n_tasks = 0
        self._since = self._waited_s = 0.0

    def begin(self, now: float) -> None:
        """Begin with the first task, or anew."""
        self._since, self.n_tasks = now, 0

    def task_s(self, now: float) -> Generator[Effect, Any, float]:
        """Return how long a task has taken since the last check, on average, seconds."""
        before_s = self._waited_s
        if self.measured:
            self._waited_s = yield CoreWaits()
        return max(0.0, now - self._since - (self._waited_s - before_s)) / max(1, self.n_tasks)

    def checked(self, now: float, *, alone: bool) -> Effects:
        """Note that the check is over, which began at `now`. `alone`: no task has run meanwhile."""
        if self.measured and alone:
            self._waited_s = yield CoreWaits()
            now = yield Now()
        self.begin(now)

    def rested(self, since: float) -> Generator[Effect, Any, float]:
        """Leave out what was done since then, when nothing was left to run. Returns what time it is."""
        now: float = yield Now()
        self._since += max(0.0, now - max(since, self._since))
        return now
