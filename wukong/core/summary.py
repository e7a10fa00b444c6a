"""What a job did and cost, summed up for a person."""

from __future__ import annotations

from dataclasses import dataclass

_LEAST_WAIT_S = 0.1


@dataclass(slots=True)
class Summary:
    """What a job did and cost; printed as one line.

    Attributes:
        job: its id.
        status: ``running``, ``succeeded``, ``failed``, ``cancelled``, ``timed out`` or ``over budget``.
        tasks: tasks of the DAG. tasks_run: tasks run, repeats included. schedules: the DAG's static schedules (leaves).
        executors: invocations made. reported: how many of them have left an end report; what the others have done is
            taken from their last heartbeats.
        running: how many executors without an end report have begun.
        raised: runs of tasks that raised, as far as end reports tell. retried: of those, how many were run again.
        repeated: invocations made again. repeated_s: for how long their runs before are billed, as far as is known: one
            that is killed leaves no report. On a function twice as large as the smallest a second counts twice.
        restored: values computed again because the store had lost them.
        backed_up: how many were made again because they were slow, and ran twice at once. backups_first: how many of
            these ended in their second run first.
        put_bytes, got_bytes, operations, store_s, peak_held_bytes, busy_s: see `wukong.core.events.Report`.
        peak_store_bytes: the most that the job's large values (64 kB and more) took in the store at once.
        wall_s: from the call to the last value. ingest_s: of that, until the first invocation was made.
        proxied: invocations that the fan-out proxy has made. unproxied: those that it should have made, but their
            senders had to make themselves; `unproxied_why`: the first reason given.
        lanes: the most tasks that one executor ran at once.
        cores: the most that one function had. cpu_s: CPU time of all. core_s: what their cores could have given.
        overlapped: requests to the store that were under way while executors went on. refused: those that were made at
            once instead, for want of room.
        seat_wait_s: how long executors have waited for seats of limits and done nothing else. seat_wait_usd: what that
            has cost, of the bill.
        sizes: which tasks were to begin on larger functions than the smallest, a line for each size and reason.
        bill: what the invocations cost, or would have cost (`wukong.backends.faas.Bill`); None: nobody charges.
        requests: what requests to the store cost (`wukong.backends.storage.Spent`); None: nothing.
        rent: what the store's servers cost in `wall_s` (`wukong.backends.storage.Rented`); None: nothing that is known.
    """

    job: str
    status: str
    tasks: int
    tasks_run: int
    schedules: int
    executors: int
    reported: int
    repeated: int
    restored: int
    put_bytes: int
    got_bytes: int
    operations: int
    peak_held_bytes: int
    busy_s: float
    peak_store_bytes: int
    wall_s: float
    ingest_s: float
    store_s: float = 0.0
    proxied: int = 0
    unproxied: int = 0
    unproxied_why: str = ""
    bill: object = None
    rent: object = None
    requests: object = None
    running: int = 0
    raised: int = 0
    retried: int = 0
    lanes: int = 1
    backed_up: int = 0
    backups_first: int = 0
    cores: int = 1
    cpu_s: float = 0.0
    core_s: float = 0.0
    overlapped: int = 0
    refused: int = 0
    repeated_s: float = 0.0
    seat_wait_s: float = 0.0
    seat_wait_usd: float = 0.0
    sizes: tuple[str, ...] = ()

    @property
    def usd(self) -> float:
        """What the job has cost, in US dollars: its invocations, the store's servers meanwhile, and requests to it."""
        return sum(getattr(each, "usd", 0.0) for each in (self.bill, self.rent, self.requests))

    def __str__(self) -> str:
        run = "" if self.status == "succeeded" else f"{self.tasks_run} of "
        return (
            f"job {self.job} {self.status}: {run}{self.tasks} tasks{' run' if run else ''}, "
            f"{self.schedules} static schedules, {self.executors} executors"
            f"{f' ({self.repeated} invoked again{self._backups()})' if self.repeated else ''}, "
            f"{f'{self.restored} values computed again, ' if self.restored else ''}"
            f"{_bytes(self.put_bytes)} put, {_bytes(self.got_bytes)} got, {self.operations} store operations "
            f"({self.store_s:.3f} s), "
            f"{_bytes(self.peak_held_bytes)} held at most, {_bytes(self.peak_store_bytes)} stored at most, "
            f"{self.wall_s:.3f} s wall, {self.busy_s:.3f} s busy"
            f"{f', up to {self.lanes} tasks at once in an executor' if self.lanes > 1 else ''}"
            f"{self._cores() if self.core_s else ''}"
            f"{self._overlap() if self.overlapped or self.refused else ''}"
            f"{self._waits() if self.seat_wait_s >= _LEAST_WAIT_S else ''}"
            f"{''.join(f'; {each}' for each in self.sizes)}"
            f"{f'; {self.proxied} invocations by the proxy' if self.proxied else ''}"
            f"{self._past_the_proxy() if self.unproxied else ''}"
            f"{''.join(f'; {each}' for each in (self.bill, self.rent, self.requests) if each)}"
            f"{self._before() if self.bill and self.repeated_s else ''}"
        )

    def _before(self) -> str:
        return f"; {self.repeated_s:.3g} s of that, as estimated, before invocations were made again"

    def _cores(self) -> str:
        return f", cores {self.cpu_s / self.core_s:.0%} used{f' ({self.cores} a function)' if self.cores > 1 else ''}"

    def _overlap(self) -> str:
        refused = f" ({self.refused} more not, for want of room)" if self.refused else ""
        return f", {self.overlapped} store requests overlapped with work{refused}"

    def _waits(self) -> str:
        usd = f" (${self.seat_wait_usd:.4f})" if self.seat_wait_usd else ""
        return f", waited {self.seat_wait_s:.1f} s for limits{usd}"

    def _backups(self) -> str:
        return f", {self.backed_up} of them as backups, {self.backups_first} ended first" if self.backed_up else ""

    def _past_the_proxy(self) -> str:
        return f"; {self.unproxied} past the proxy, which did not make them ({self.unproxied_why})"


def peak(moved: list[tuple[float, int, int]]) -> int:
    """Return the most bytes that were stored at once. `moved`: (Unix time, task, bytes; negative: released) each."""
    highest = total = 0
    stored: set[int] = set()
    for _, task, size in sorted(moved):
        if (size > 0) == (task in stored):  # stored again, or released without ever having been stored
            continue
        stored ^= {task}
        total += size
        highest = max(highest, total)
    return highest


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
