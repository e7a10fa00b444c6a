"""How many lanes pay, from how much the running lanes want a core (``lanes: auto``).

    what the tasks do                       lanes
    sleep, or wait for a network            up to `MOST_WAITING`: a lane is far cheaper than a function
    compute, at the same time               one more, up to the function's cores
    compute, and together get one core      one (the interpreter's lock); the rest is for other executors

Pure: rates in, a number out. A rate says how much of a core a lane has had, or would have taken.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST_WAITING = 16
WAITS = 0.1
_FULL, _TOGETHER = 0.8, 0.6


class Width:
    """How many lanes one executor has.

    Args:
        cores: those of the function.

    Attributes:
        most: how many tasks may run at once.
        locked: tasks that computed at once have had one core together.
    """

    def __init__(self, cores: int) -> None:
        self.cores = max(1, cores)
        self.most = 1
        self.locked = False

    def look(self, rates: Sequence[float]) -> int:
        """Take in what the running lanes have had since the last look, one rate each. Returns `most`."""
        computing = [rate for rate in rates if rate >= WAITS]
        n, n_waiting = len(computing), len(rates) - len(computing)
        if not n:
            self.most = MOST_WAITING
            return self.most
        if n > 1 and sum(computing) < 1 + _TOGETHER * (min(n, self.cores) - 1):
            self.locked = True
        wanted = 1 if self.locked else n + 1 if sum(computing) >= _FULL * n else n
        self.most = min(self.cores, wanted) + n_waiting
        return self.most
