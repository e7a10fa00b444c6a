"""Cores that several executors share evenly, on a virtual clock: as a fair scheduler shares those of one machine.

Of n works under way on k cores each advances min(1, k / n) seconds in a second. So works end in the order of what was
`served` to each of them when they began, plus what they take: one heap, however often that rate changes.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

What = TypeVar("What")


class CoreWait:
    """For how long one executor's works on cores that others share have waited, seconds; those at once count once.

    Attributes:
        noted_s: what that was when it was noted.
    """

    def __init__(self) -> None:
        self.noted_s = 0.0
        self._n, self._at, self._served_s, self._waited_s = 0, 0.0, 0.0, 0.0

    def change(self, by: int, cores: Cores[Any], now: float) -> None:
        """Begin (1) or end (-1) a work on these cores."""
        self.waited_s(cores, now)
        self._n += by

    def waited_s(self, cores: Cores[Any], now: float) -> float:
        """Return for how long they have waited up to now."""
        served_s = cores.served_s(now)
        if self._n:
            self._waited_s += max(0.0, now - self._at - (served_s - self._served_s))
        self._at, self._served_s = now, served_s
        return self._waited_s


class Cores(Generic[What]):
    """`n` cores that works share. A part of them may be somebody else's, so `n` need not be whole."""

    def __init__(self, n: float) -> None:
        self.n = n
        self._works: list[tuple[float, int, What]] = []
        self._served = self._at = 0.0
        self._count = 0

    def begin(self, what: What, work_s: float, now: float) -> None:
        """Begin a work that takes `work_s` seconds of one core."""
        self._advance(now)
        self._count += 1
        heappush(self._works, (self._served + work_s, self._count, what))

    def due(self) -> float | None:
        """Return when the next work ends, if nothing changes; None: none is under way."""
        if not self._works:
            return None
        return self._at + max(0.0, self._works[0][0] - self._served) / self._rate()

    def end(self) -> What:
        """Take out the work that is due."""
        due = self.due()
        assert due is not None
        self._advance(due)
        return heappop(self._works)[2]

    def stretch(self) -> float:
        """Return how much longer a work takes than alone, with those that are under way now."""
        return max(1.0, len(self._works) / self.n)

    def served_s(self, now: float) -> float:
        """Return what was served up to now to a work that has been under way all the time that any was, seconds."""
        self._advance(now)
        return self._served

    def _rate(self) -> float:
        return min(1.0, self.n / len(self._works))

    def _advance(self, now: float) -> None:
        if self._works and now > self._at:
            self._served += (now - self._at) * self._rate()
        self._at = max(self._at, now)
