"""What all jobs of a client did and cost together; and the accounts of all clients of this process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

from wukong.backends.faas import Bill
from wukong.backends.storage import Rented, Spent
from wukong.core.job import Job
from wukong.core.summary import Summary


@dataclass(slots=True)
class Total:
    """What the jobs of a client did and cost; printed as one line.

    Attributes:
        jobs: how many there were, by status (`wukong.core.summary.Summary`).
        tasks: tasks run. executors: invocations made.
        wall_s: the sum of the jobs' times, also of jobs that ran at the same time. busy_s: time inside tasks.
        gb_seconds: what the invocations used. rates: the prices.
        usd: what invocations, the store's servers, and requests to the store cost, in US dollars.
    """

    jobs: Counter[str] = field(default_factory=Counter)
    tasks: int = 0
    executors: int = 0
    wall_s: float = 0.0
    busy_s: float = 0.0
    gb_seconds: float = 0.0
    usd: float = 0.0
    rates: str = ""

    def add(self, summary: Summary) -> None:
        """Add one job."""
        self.jobs[summary.status] += 1
        self.tasks += summary.tasks_run
        self.executors += summary.executors
        self.wall_s += summary.wall_s
        self.busy_s += summary.busy_s
        if isinstance(summary.bill, Bill):
            self.gb_seconds += summary.bill.gb_seconds
            self.usd += summary.bill.usd
            self.rates = summary.bill.rates
        for each in (summary.rent, summary.requests):
            if isinstance(each, Rented | Spent):
                self.usd += each.usd

    def __add__(self, other: Total) -> Total:
        both = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return Total(**{**both, "rates": self.rates or other.rates})

    def __str__(self) -> str:
        count = self.jobs.total()
        told = ", ".join(f"{n} {status}" for status, n in self.jobs.items() if status != "succeeded")
        return (
            f"{count} job{'' if count == 1 else 's'}{f' ({told})' if told else ''}, {self.tasks} tasks, "
            f"{self.wall_s:.3f} s, {self.busy_s:.3f} s busy, ${self.usd:.6g}{f' ({self.rates})' if self.rates else ''}"
        )


class Accounts:
    """The jobs of one client. Of a job that is settled only its figures stay. Any thread may call.

    Attributes:
        backends: on which backends they run, for a person.
    """

    def __init__(self, backends: str) -> None:
        self.backends = backends
        self._lock = threading.Lock()
        self._open: set[Job] = set()
        self._past = Total()

    def open(self, job: Job) -> None:
        """Begin to count a job."""
        job.when_settled = self._close
        with self._lock:
            self._open.add(job)

    def _close(self, job: Job) -> None:
        summary = job.summary(timeout_s=0.0)
        with self._lock:
            if job in self._open:
                self._open.remove(job)
                self._past.add(summary)

    def total(self) -> Total:
        """Return the sum up to now: over the jobs that have ended, and what is known of those that run."""
        with self._lock:
            running = list(self._open)
            total = replace(self._past, jobs=Counter(self._past.jobs))
        for job in running:
            total.add(job.summary(timeout_s=0.0))
        return total


_counted: list[Accounts] | None = None


@contextmanager
def counting() -> Iterator[list[Accounts]]:
    """Within the block, note the accounts of all clients that this process makes; yield them, as they come."""
    global _counted
    before, made = _counted, list[Accounts]()
    _counted = made
    try:
        yield made
    finally:
        _counted = before


def accounts(backends: str) -> Accounts:
    """Return the accounts of a new client."""
    made = Accounts(backends)
    if _counted is not None:
        _counted.append(made)
    return made
