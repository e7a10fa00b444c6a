"""What all jobs of a deployment share: the store, and what the client's two backends can be asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from wukong.core.codec import Codec
from wukong.core.lock import Locks
from wukong.core.lost import FailurePort
from wukong.core.names import Names
from wukong.core.payload import Envelope, Send
from wukong.core.policy import Costs
from wukong.core.shipment import ShippingPlan
from wukong.core.storage import StorePort


class SpentPort(Protocol):
    """What requests to a store have cost, US dollars."""

    @property
    def usd(self) -> float:
        """US dollars."""
        ...

    def more(self, usd: float) -> object:
        """Return the same with `usd` US dollars more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all jobs of a deployment share.

    Attributes:
        envelope: returns where store, FaaS and proxy are now, for the payloads; without an order.
        store, codec: the client's own.
        costs: what moving things costs, as far as is known.
        plan: how jobs are shipped.
        send: makes the sender of invocations for a job.
        failures: returns the failures that the platform has reported for a job since the last call.
        stop: stops, on the platform, the invocations whose labels begin with a prefix.
        bill: returns the cost of a number of invocations, of the requests that they count as, and of the seconds that
            they are billed for together.
        known: returns which of these invocations, by their labels, the platform still has; None: it cannot tell.
        shares_files: functions see the client's files.
        locks: those that the client's jobs use.
        rent: returns what the store costs in a number of seconds; None: nothing that is known.
        spent: returns what the client's requests to the store have cost so far (`wukong.backends.storage.Spent`); None:
            requests cost nothing.
        listed: returns the keys in the store that begin with a prefix; None: the store cannot list them, or that would
            cost more than it is worth to a job that nothing happened to (False).
        backends: their names, for a `repr`.
        leaves: what jobs leave in the store is not deleted: its time to live ends, which costs less.
        evictions: returns which servers of the store drop what they were given, one line each.
        about: returns the settings and versions, for the job's record.
        machine: what machines with the client's system clock have in common with it.
        sizes: returns the memory of each size of function, bytes, the smallest first; (): there is one.
        limit_s: returns after how long the platform ends a run, seconds; None: it never does.
    """

    envelope: Callable[[], Envelope]
    store: StorePort
    codec: Codec
    costs: Costs
    plan: ShippingPlan
    send: Callable[[Names], Send]
    failures: Callable[[str], Sequence[FailurePort]]
    stop: Callable[[str], None]
    bill: Callable[[int, int, float], object] = lambda invocations, requests, wall_s: None
    rent: Callable[[float], object] = lambda wall_s: None
    spent: Callable[[], SpentPort | None] = lambda: None
    known: Callable[[Sequence[str]], Collection[str] | None] = lambda labels: None
    shares_files: bool = False
    listed: Callable[[bytes, bool], Iterable[bytes] | None] = lambda prefix, harmed: None
    backends: str = ""
    locks: Locks = field(default_factory=Locks)
    leaves: bool = False
    evictions: Callable[[], Sequence[str]] = tuple
    about: Callable[[], Mapping[str, Any]] = dict
    machine: bytes = b""
    sizes: Callable[[], Sequence[int]] = tuple
    limit_s: Callable[[], float | None] = lambda: None
