"""What all clients of this process have done together: for whoever wants to say so at the end (`counting`).

Nothing is kept of a job but its figures, and nothing at all unless somebody counts.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from wukong.core.job import Job


@dataclass(slots=True)
class Tally:
    """Figures of jobs.

    Attributes:
        jobs: how many were started.
        backends: how many of them on which backend and store.
        tasks: in those that have ended.
        usd: what those cost, as far as is known; None: nobody charges.
        rates: on which prices that stands.
    """

    jobs: int = 0
    backends: Counter[str] = field(default_factory=Counter)
    tasks: int = 0
    usd: float | None = None
    rates: str = ""
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def begin(self, backend: str) -> None:
        """A job begins there."""
        with self._lock:
            self.jobs += 1
            self.backends[backend] += 1

    def end(self, job: Job) -> None:
        """A job has ended, and its reports are in."""
        summary = job.summary(0.0)
        with self._lock:
            self.tasks += summary.tasks
            for each in (summary.bill, summary.rent):
                usd = getattr(each, "usd", None)
                if usd is not None:
                    self.usd = (self.usd or 0.0) + usd
                    self.rates = self.rates or str(getattr(each, "rates", ""))


_tally: Tally | None = None


def counting() -> Tally:
    """Count from now on; return what is counted."""
    global _tally
    _tally = Tally()
    return _tally


def current() -> Tally | None:
    """Return what is counted; None: nobody counts."""
    return _tally
