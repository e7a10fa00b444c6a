"""What executors report: plain data, summed up by the client."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from wukong.core.names import listed
from wukong.core.payload import Sent
from wukong.core.raised import Raised
from wukong.core.tally import Groups
from wukong.core.track import Track


@dataclass(slots=True)
class Report:
    """What one executor did.

    Attributes:
        tasks: tasks run, repeats included.
        invocations: executors that it started. sent: how.
        operations: store operations (round trips).
        put_bytes, got_bytes: bytes written to and read from the store. store_s: time spent on that. store_usd: what its
            requests cost, US dollars.
        peak_held_bytes: largest sum of the values it held at once (values of tasks shorter than 0.2 ms not counted).
        busy_s: time spent inside tasks, which may be more than `wall_s` if several run at once.
        wall_s: time from its first to its last line. billed_s: the same, times how many of the platform's smallest
            function the one that it ran on counts as; each further core that it used counts as one more function.
        waited_s: time spent holding large values back, and waiting for seats of limits. seat_wait_s: the latter, as far
            as it did nothing else meanwhile.
        restored: tasks run again because the store had lost their values.
        overlapped: requests to the store that were under way while it went on. refused: those that were made at once
            instead, for want of room.
        lanes: the most tasks that it ran at once.
        cores: of its function. cpu_s: CPU time that its process has had. core_s: what it could have had.
        latency_s: from the call of `invoke` to its first line, as far as two machines' clocks agree.
    """

    tasks: int = 0
    restored: int = 0
    invocations: int = 0
    sent: Sent = field(default_factory=Sent)
    operations: int = 0
    put_bytes: int = 0
    got_bytes: int = 0
    peak_held_bytes: int = 0
    busy_s: float = 0.0
    wall_s: float = 0.0
    billed_s: float = 0.0
    waited_s: float = 0.0
    seat_wait_s: float = 0.0
    store_s: float = 0.0
    latency_s: float = 0.0
    store_usd: float = 0.0
    lanes: int = 1
    cores: int = 1
    cpu_s: float = 0.0
    core_s: float = 0.0
    overlapped: int = 0
    refused: int = 0

    def add(self, other: Report) -> None:
        """Add another executor's figures; peaks and latencies take the larger."""
        for item in fields(self):
            mine, its = getattr(self, item.name), getattr(other, item.name)
            largest = item.name in ("peak_held_bytes", "latency_s", "lanes", "cores")
            setattr(self, item.name, max(mine, its) if largest else mine + its)


@dataclass(slots=True)
class End:
    """An executor's last word, and the keys it leaves for the client to delete.

    `report`: what it did. `stored`: tasks whose values it stored. `arrived`: fan-ins at which it has arrived.
    `track`: what it noted of its tasks and of its own time. `read` are the tasks whose readers' records it has touched.
    `moved` says of each large value that it stored or released: when, whose, and how many bytes (negative: released).
    `measured`: how many bytes of large values it moved, in how many seconds. `missing` is the key of a page or an
    object without which the executor could not go on. `locks` are the names of the locks that its tasks used.
    `failed` are the keys of what is kept of tasks that have failed. `finished`: this run has told the job's result.
    `attempt`: of which attempt at the invocation this run was. `runs`: other lanes of it still run tasks.
    """

    report: Report
    stored: list[int] = field(default_factory=list)
    arrived: list[int] = field(default_factory=list)
    track: Track | None = None
    read: list[int] = field(default_factory=list)
    moved: list[tuple[float, int, int]] = field(default_factory=list)
    missing: bytes | None = None
    measured: tuple[float, float] = (0.0, 0.0)
    locks: list[str] = field(default_factory=list)
    failed: list[bytes] = field(default_factory=list)
    finished: bool = False
    attempt: int = 0
    runs: bool = False


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that runs: its key, as text; for how many seconds it has run; in which lane."""

    key: str
    for_s: float = 0.0
    lane: int = 0


@dataclass(slots=True)
class Heartbeat:
    """A sign of life: `at`, in Unix time, `tasks` tasks had run.

    `running`: the tasks that were running, one in each lane at most, the one that had run for longest first.

    `sent`: of the invocations that this run has put on record, those with numbers below it were handed to the platform.
    `report`: what the executor has done so far, the time of running tasks included.
    `attempt`, `began`: which run of the invocation this is. If the platform delivers one attempt twice, its two runs
    differ in when they began.
    `left_s`: until the platform ends this run; None: it never does.
    `memory`: bytes in use, and the platform's limit, if that is nearly reached and use is growing; else None.
    `layers`: how many tasks of which layer have run, see `wukong.core.tally`.
    `locks`: tasks of it have taken locks, or wait for one.
    """

    at: float
    tasks: int
    running: tuple[RunningTask, ...] = ()
    sent: int = 0
    report: Report | None = None
    attempt: int = 0
    began: float = 0.0
    left_s: float | None = None
    memory: tuple[int, int] | None = None
    layers: Groups = ()
    locks: bool = False

    @property
    def named(self) -> str | None:
        """The keys of the tasks that were running, as `wukong.core.names.listed` has them."""
        return listed([each.key for each in self.running])


@dataclass(slots=True)
class Done:
    """A job's outcome, under its key ``done``.

    Attributes:
        inline: values of requested tasks that were small enough to travel here.
        apart: the inline values are blobs, each signed for its own place; if one cannot be read, the others still can.
        raised: why the job has failed; None: it succeeded.
    """

    inline: dict[int, object] = field(default_factory=dict)
    apart: bool = False
    raised: Raised | None = None
