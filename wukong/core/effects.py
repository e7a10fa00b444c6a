"""What an executor asks of the world, and the answers: the closed vocabulary of the protocol.

`wukong.core.invocation` and `wukong.core.walk` yield effects and never perform one. An interpreter
(`wukong.core.executor` for real, `wukong.testing.simulator` for exploring) carries each out and sends its answer back
in, or throws in what was raised. Tasks are integers.

A store knows bytes, not tasks: an interpreter translates `Arrive` to `wukong.core.storage.Arrival`, and the store's
`Outcome` to `Arrived`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wukong.core.dag import Limits

# --- Effects. Each names tasks; the comment behind `->` is the interpreter's answer.


@dataclass(frozen=True, slots=True)
class Now:
    """Read the clock. -> float, seconds."""


@dataclass(frozen=True, slots=True)
class LoadPage:
    """Fetch the page that holds a task. -> `wukong.core.dag.Page`."""

    task: int


@dataclass(frozen=True, slots=True)
class Get:
    """Fetch the values of these tasks into the cache. -> tuple of those that the store does not have."""

    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Run a task; afterwards drop `last_use` from the cache. -> float, the clock after it, seconds; or `Failed`.

    The answer may come before the task has ended, as `Overstays` or `Landed`: then the task goes on in its lane, and
    the walk in another one.
    """

    task: int
    last_use: Sequence[int]


@dataclass(frozen=True, slots=True)
class Size:
    """Tell how large cached values are. -> tuple of int, bytes."""

    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """Store the values of these tasks (`requested`: by the client). -> None, once every reader sees them."""

    tasks: tuple[int, ...]
    requested: bool = False


@dataclass(frozen=True, slots=True)
class Arrive:
    """One arrival at the fan-in `child`; the values of `carry` ride along. See `wukong.core.storage.Arrival`."""

    child: int
    members: tuple[int, ...]
    of: int
    carry: tuple[int, ...]
    only_if_last: bool = False


def claimant(arrive: Arrive) -> bytes:
    """Return in whose name an executor arrives: that of the lowest member it brings, not its own.

    If the claimant dies, whoever does its work again must get the claim. That need not be an invocation of the same
    id: a re-run may hand over a task that the first run had done itself. But whoever runs that task brings the same
    member, and nobody else does.
    """
    return b"%d" % min(arrive.members)


@dataclass(frozen=True, slots=True)
class Arrived:
    """The answer to one `Arrive`, see `Outcome`; the values of the tasks `carried` rode in, and are in the cache."""

    complete: bool
    claimed: bool
    carried: tuple[int, ...] = ()
    give_way: bool = False


@dataclass(frozen=True, slots=True)
class Incr:
    """Record arrivals at fan-ins, in one round trip. -> tuple of `Arrived`, one each."""

    arrivals: tuple[Arrive, ...]


@dataclass(frozen=True, slots=True)
class FetchAhead:
    """Begin to fetch values that tasks will need. -> bool: whether it has begun; if not, there is no memory for it.

    It ends some time later with `Came`, whose answer are the tasks whose values the store does not have. The other
    values are in the cache from then on.
    """

    tasks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriteBehind:
    """Begin to store the values of `put`, and then to record arrivals. -> bool: as for `FetchAhead`.

    The interpreter carries such requests out in the order in which they were begun: rule 1. Each ends some time later
    with `Came`, whose answer is one `Arrived` for each arrival. `requested`: as in `Put`. `shared`: those of `put` that
    a task may read here meanwhile; it may also change one, if no other task here reads it.
    """

    put: tuple[int, ...]
    arrivals: tuple[Arrive, ...] = ()
    requested: bool = False
    shared: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Came:
    """A request has ended; its class says what the `answer` is."""

    request: FetchAhead | WriteBehind
    answer: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class TakeIn:
    """Take in the requests that have ended; `wait`: until at least one has. -> tuple of `Came`."""

    wait: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget these cached values. -> None."""

    tasks: Sequence[int]


@dataclass(frozen=True, slots=True)
class Slots:
    """Ask how many further invocations would start at once. -> int, or None if no bound is known."""


@dataclass(frozen=True, slots=True)
class CoreWaits:
    """Ask for how long the lanes that computed have waited for a core since the walk began. -> seconds, their mean."""


@dataclass(frozen=True, slots=True)
class TakeSeats:
    """Take one seat of each of these limits, or none. -> the name of one that has no seat left; None: all are taken.

    Throws `Stopped` in if the job is not wanted any more.
    """

    limits: Limits


@dataclass(frozen=True, slots=True)
class GiveSeats:
    """Give one seat of each of these limits back. -> None."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class FreeSeats:
    """Ask how many more tasks of these limits could begin now. -> int; it may be another number a moment later."""

    limits: Limits


@dataclass(frozen=True, slots=True)
class KeepSeats:
    """Tell that the seats which this executor has are still taken. -> bool: it has lost none."""


@dataclass(frozen=True, slots=True)
class Part:
    """Ready tasks that are handed to a new invocation; the values of `inline` travel in its payload.

    `size`: which of the platform's sizes of function it runs on, counted from 0. `parked`: the limits for a seat of
    which it waits on record, until the client invokes it; (): its maker does.
    """

    invocation: str
    tasks: tuple[int, ...]
    inline: tuple[int, ...] = ()
    size: int = 0
    parked: Limits = ()


@dataclass(frozen=True, slots=True)
class Record:
    """Write the invocation records of these parts, and how many this attempt has made: `n`, with these. -> None.

    Without parts: put on record that this run stores what others need.
    """

    parts: tuple[Part, ...]
    n: int


@dataclass(frozen=True, slots=True)
class Invoke:
    """Start the recorded invocations. -> None, when the platform has accepted them."""

    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Let some seconds pass. -> float, the clock after them; or `Landed`, as soon as a task or a request ends.

    `seconds` is infinite only if a task runs in another lane, or a request is under way.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Finish:
    """Tell the client that every requested value is there: those of `inline` in the cache, the rest stored. -> None."""

    inline: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell the client that the job has failed: a task raised, or an input is lost. -> None."""

    task: int
    lost: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer to `Run` if the task raised; the interpreter keeps the exception for `Abort`."""


# --- Answers to `Run` and `Pause` in a walk of several lanes, or with requests under way.


@dataclass(frozen=True, slots=True)
class Overstays:
    """The running task takes long, and another lane has taken the walk over; `now`: the clock."""

    now: float


@dataclass(frozen=True, slots=True)
class Landed:
    """Tasks have ended in other lanes, or requests have. The task of the present `Run` may be among those tasks.

    If it is not, it goes on in its lane, and another lane has taken the walk over.

    Attributes:
        now: the clock, seconds.
        tasks: those that have ended well; their values are in the cache.
        failed: those that have raised.
        came: the requests that have ended.
    """

    now: float
    tasks: tuple[int, ...]
    failed: tuple[int, ...] = ()
    came: tuple[Came, ...] = ()


# --- What an invocation asks for around its walk.


@dataclass(frozen=True, slots=True)
class Read:
    """Read what is under these keys. -> for each key a value, or None if there is none.

    The client's sign of life comes as bytes, an invocation's record as its `Order`, anything else decoded.
    """

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete values and records. -> None."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Unpack:
    """Prepare this process for the job's tasks, and cache the values in the payload. -> the tasks of those values."""


@dataclass(frozen=True, slots=True)
class Watched:
    """Carry out the effects of a walk. -> None; what they raise is thrown in.

    Meanwhile a watcher gives signs of life, and looks at tasks that take long; it has ended when this is answered. The
    walk's effects are not handed through by `yield from`: that costs a tenth of what an executor spends on a tiny task.
    """

    walk: Generator[Effect, Any, None] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Beat:
    """Give a sign of life. -> None."""


@dataclass(frozen=True, slots=True)
class LeaveWord:
    """Write the end report. -> None."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Tell the client that the job has failed, by an error that no task has raised. -> None."""

    error: Exception


class Missing(Exception):
    """Thrown in: a page or an object is not in the store. The client can ship it again; `key` is its key."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.key = key


class Stopped(Exception):
    """Thrown in: the job is not wanted any more, or its client has fallen silent."""


Effect: TypeAlias = (
    Now
    | LoadPage
    | Get
    | Run
    | Size
    | Put
    | Incr
    | FetchAhead
    | WriteBehind
    | TakeIn
    | Drop
    | Slots
    | CoreWaits
    | TakeSeats
    | GiveSeats
    | FreeSeats
    | KeepSeats
    | Record
    | Invoke
    | Pause
    | Finish
    | Abort
    | Read
    | Delete
    | Unpack
    | Watched
    | Beat
    | LeaveWord
    | Fail
)
Effects: TypeAlias = Generator[Effect, Any, None]
