"""The rules that trade work here against work elsewhere: when to split, what is large, how long to hold back.

Pure functions of numbers that the interpreter has measured. Rule 3 of the protocol: never wait longer than acting would
cost (ski rental: without knowing the future, at most twice the optimum).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of one job that its executors follow. None: derived from what is measured.

    Attributes:
        fan_out: ``patience`` (become one task, keep the others until keeping them costs more than an invocation) or
            ``eager`` (SoCC '20 section 4.2: become one, invoke executors for all others at once).
        patience_s: keep ready tasks at least this long before others are invoked for them, seconds.
        max_task_fanout: more invocations than this at once go through the fan-out proxy, if one is configured.
        large_object_bytes: a value of this size or more is large: it stays, its fan-ins come to it (clustering).
        delay_budget_s: how long a large value is held back (delayed I/O) before it is stored all the same.
        ride_bytes: a value up to this size rides inside the arrival at a fan-in.
        handover_s: what handing over one ready task costs besides the invocation, seconds.
        retries: how often a failing task is run again in place, unless its annotation says otherwise.
        lanes: how many tasks at most run at once in one executor, each in a thread of its own; ``auto``: as many as
            pay, see `wukong.core.width`.
        overlap: executors fetch values ahead of the tasks that need them, and write large ones behind, while tasks run.
        ttl_s: how long after it was written, or renewed by the client, a key of the job may vanish, seconds.
        heartbeat_s: seconds between two heartbeats of an executor.
        silence_s: how long an invocation may give no heartbeat before it is made again, if the platform cannot tell
            whether it still has it. A task that holds the interpreter's lock lets no heartbeat through.
        lease_s: a seat of a limit is free again if its holder, an executor, has not told for this long that it has it.
        limit_patience_s: how long an executor that has nothing else to do waits for a seat, seconds, before it leaves
            its task on record, to be invoked when a seat is free; None: two heartbeats, or four invocations.
        release: delete a large value from the store as soon as its last reader is done; costs an arrival a reader.
        backup: an invocation far slower than its peers is made once more while it runs: its tasks may run twice.
        backup_share: what that may cost, as a share of what the job has cost by then; None: there is no bound.
        orphan_s: how long the client may give no sign of life before executors stop.
        events: ``on``: executors record when each task ran and what they did besides; ``off``: only sums.
        store_patience_s: how long a store that does not answer is asked again, by client and executors, before that
            is an error.
        keep_failed: keep tasks that fail, with their inputs, so that a person can run them again.
        keep_failed_bytes: how many bytes of such inputs one executor keeps at most.
        resume_jobs: of how many jobs that failed last the values that are stored stay, so that another job goes on with
            them; 0: of none.
        resume_bytes: how many bytes of values an executor whose task fails stores besides for that.
    """

    fan_out: Literal["patience", "eager"] = "patience"
    patience_s: float | None = None
    max_task_fanout: int = 10
    large_object_bytes: int | None = None
    delay_budget_s: float | None = None
    ride_bytes: int = 16_384
    handover_s: float = 20e-6
    retries: int = 0
    lanes: int | Literal["auto"] = "auto"
    overlap: Literal["off", "on"] = "off"
    ttl_s: float = 3_600.0
    heartbeat_s: float = 1.0
    silence_s: float = 120.0
    lease_s: float = 30.0
    limit_patience_s: float | None = None
    release: bool = False
    backup: bool = False
    backup_share: float | None = None
    orphan_s: float = 60.0
    events: Literal["off", "on"] = "on"
    store_patience_s: float = 10.0
    keep_failed: bool = False
    keep_failed_bytes: int = 268_435_456
    resume_jobs: int = 1
    resume_bytes: int = 67_108_864


_MARGIN, _MARGIN_MOST_S = 0.1, 10.0


def margin_s(time_limit_s: float) -> float:
    """Return how long before its end an executor leaves, if the platform ends it after `time_limit_s`; seconds."""
    return min(_MARGIN_MOST_S, _MARGIN * time_limit_s)


PINNED = 1 << 62
"""The size of a value that cannot leave its executor: what cannot be pickled, or dies with its process."""

UNKNOWN_BYTES = 1 << 28
"""What requests to the store, and what waits for seats, may hold if the function's memory is not known."""

_PINNED_BUDGET_S = 300.0

_TELLING_BYTES = 1_000_000
_GUESSED_BYTES, _RECALLED_BYTES, _MOST_BYTES = 8e6, 64e6, 1e9
_KEPT = 0.5
_RISES = 0.25
_FORGET, _LEAST_PART = 1 / 16, 0.1

SWITCH_S = 0.001
"""If a task, or a request to the store, takes longer than this, seconds, another thread pays."""

_HALF_LIFE_S, _MOST_OFF = 7 * 86_400.0, 1_000.0
START_S = 0.002
"""What an executor costs besides its invocation, seconds: backends are opened, pages fetched, values stored."""


@dataclass(slots=True)
class Costs:
    """What moving things costs here: first guesses from the plug-ins' declarations, then measurements.

    The rate is all bytes by all seconds, not a mean of rates: so it says what a value takes on average, and a few quick
    transfers of a job that moved little do not outweigh many slow ones. It is by wall clock, also while a thread waits
    for a core, since how long a value has been held back is by that clock, too.

    Attributes:
        invoke_s: time from `invoke` to the function's first line, seconds.
        round_trip_s: time of one small store operation, seconds.
        bandwidth_bytes_per_s: rate at which a large value is stored or fetched.
        declared_bytes_per_s: that rate as the store's plug-in declares it.
        known_bytes: of how many bytes it is the rate; the more, the less another transfer changes it.
        n_taught: how many jobs have measured it.
        measured: large values that moved here: bytes; and seconds, with what it takes to make them bytes and back.
        fetched_bytes: how large the values are that are fetched here: of late the largest one; 0: none was.
    """

    invoke_s: float
    round_trip_s: float
    bandwidth_bytes_per_s: float
    declared_bytes_per_s: float = 0.0
    known_bytes: float = _GUESSED_BYTES
    n_taught: int = field(default=0, init=False)
    measured: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    fetched_bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.declared_bytes_per_s = self.declared_bytes_per_s or self.bandwidth_bytes_per_s

    @property
    def told(self) -> tuple[float, ...]:
        """What an executor begins with: the arguments from which it makes its own."""
        rates = self.bandwidth_bytes_per_s, self.declared_bytes_per_s
        return self.invoke_s, self.round_trip_s, *rates, self.known_bytes

    def learn(self, measured: Iterable[tuple[float, float]]) -> None:
        """Take in what a job's executors have `measured`. What was known before counts half from then on.

        A job in which nothing large moved tells nothing; then a little of what was learned is forgotten. Otherwise one
        bad moment of a store would be believed for ever: after it no large value moves, so nothing is measured.
        """
        sums = list(measured)
        size_bytes, took_s = sum(size for size, _ in sums), sum(took_s for _, took_s in sums)
        if size_bytes > 0:
            self.n_taught += 1
            self.known_bytes = max(_GUESSED_BYTES, _KEPT * self.known_bytes)
            part = min(1.0, _RISES * self.known_bytes / size_bytes) if self._faster(size_bytes, took_s) else 1.0
            self._weigh(part * size_bytes, part * took_s)
        else:
            self.bandwidth_bytes_per_s *= (self.declared_bytes_per_s / self.bandwidth_bytes_per_s) ** _FORGET

    def _faster(self, size_bytes: float, took_s: float) -> bool:
        return size_bytes > self.bandwidth_bytes_per_s * took_s

    def begin(self, bytes_per_s: float, age_s: float) -> None:
        """Begin with a rate that was found out `age_s` ago, the nearer to the declared one the longer ago that is.

        Does nothing if the rate is not the declared one any more, or if that number is no rate.
        """
        if not 0.0 < bytes_per_s < math.inf or self.bandwidth_bytes_per_s != self.declared_bytes_per_s:
            return
        off = min(_MOST_OFF, max(1 / _MOST_OFF, bytes_per_s / self.declared_bytes_per_s))
        self.bandwidth_bytes_per_s *= off ** (0.5 ** (max(0.0, age_s) / _HALF_LIFE_S))
        self.known_bytes = _RECALLED_BYTES

    def moved(self, size_bytes: int, duration_s: float, *, read: bool = False) -> None:
        """Learn from a transfer, if it was large enough to tell.

        `read`: the transfer came from the store. It counts as no faster than the store is declared to be, since a store
        may hand out memory that costs nothing until it is touched.
        """
        if size_bytes < _TELLING_BYTES:
            return
        took_s = max(duration_s - self.round_trip_s, _LEAST_PART * duration_s, 1e-6)
        if read:
            took_s = max(took_s, size_bytes / self.declared_bytes_per_s)
        self.measured = self.measured[0] + size_bytes, self.measured[1] + took_s
        self._weigh(size_bytes, took_s)

    def _weigh(self, size_bytes: float, took_s: float) -> None:
        known_bytes = self.known_bytes + size_bytes
        self.bandwidth_bytes_per_s = known_bytes / (self.known_bytes / self.bandwidth_bytes_per_s + took_s)
        self.known_bytes = min(known_bytes, _MOST_BYTES)

    def fetched(self, sizes: Sequence[int]) -> None:
        """Note that values of these sizes, bytes, were fetched at once."""
        if sizes:
            self.fetched_bytes = max(self.fetched_bytes // 2, *sizes)

    def overlaps(self, size_bytes: float) -> bool:
        """Whether to have another thread make a request that moves so much: it takes longer than a thread costs."""
        return self.round_trip_s + size_bytes / self.bandwidth_bytes_per_s >= SWITCH_S

    def fetches_ahead(self, policy: Policy) -> bool:
        """Whether to have another thread fetch a value. Nobody knows its size, but a small one would have ridden."""
        return self.overlaps(self.fetched_bytes or policy.ride_bytes)

    def patience(self, policy: Policy) -> float:
        """Seconds for which keeping ready tasks is cheaper than invoking others for them."""
        if policy.fan_out == "eager":
            return 0.0
        return self.invoke_s + START_S if policy.patience_s is None else policy.patience_s

    def large(self, policy: Policy) -> float:
        """Size in bytes from which moving a value costs more than an invocation."""
        if policy.large_object_bytes is not None:
            return policy.large_object_bytes
        return max(65_536.0, (self.invoke_s + START_S) * self.bandwidth_bytes_per_s)

    def move_s(self, size_bytes: float) -> float:
        """Seconds to store a value of this size here and fetch it there."""
        return 2 * (self.round_trip_s + size_bytes / self.bandwidth_bytes_per_s)

    def delay_budget(self, policy: Policy, size_bytes: float) -> float:
        """Seconds for which holding a value of this size back is no dearer than moving it.

        A pinned value is held until its fan-in comes to it. If two of them wait for each other, that has to end: after
        this time the executor tries to store one, and the error says what is wrong.
        """
        if size_bytes >= PINNED:
            return _PINNED_BUDGET_S
        return self.move_s(size_bytes) if policy.delay_budget_s is None else policy.delay_budget_s


def parts(
    n_ready: int, task_s: float, patience_s: float, handover_s: float, free: int, *, busy: bool, lanes: int = 1
) -> int:
    """Return into how many *further* executors `n_ready` ready tasks should be split; 0: keep them.

    Args:
        n_ready: how many tasks are ready here.
        task_s: how long one of them is expected to take, seconds.
        patience_s: what an invocation costs, seconds.
        handover_s: what handing over one task costs besides, seconds.
        free: how many invocations would start at once.
        busy: this executor is in the middle of a task, so that it need not keep a share for itself at once.
        lanes: how many tasks an executor runs at once.

    Each part holds at least `patience_s` worth of work. Long tasks go one to a part, or one to each of its lanes.
    """
    gain_s = task_s - handover_s
    if n_ready < (1 if busy else 2) or free < 1 or gain_s <= 0 or n_ready * gain_s < patience_s:
        return 0
    smallest = max(1, int(-(-patience_s // gain_s)))
    shares = n_ready // smallest if smallest >= lanes else -(-n_ready // lanes)
    return max(0, min(free, shares if busy else shares - 1))
