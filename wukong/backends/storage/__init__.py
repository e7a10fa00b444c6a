"""The store contract: what an intermediate store must offer so that executors can schedule each other through it.

Small, synchronous, on opaque bytes, batch-first. A store knows no tasks, no pickles, no jobs. `Store` is the whole
contract; a plug-in is a subclass registered under the entry point group ``wukong.storage``. The suite that proves a
plug-in is `wukong.testing.storage.StoreTests`.

Three rules hold for every method:

- A missing key is `None`, which no stored value is (``b""`` is a value).
- Every method may be called from several threads at once.
- Vendor exceptions do not escape: they become `StoreUnavailable` (trying again may work), `StoreFull`, or `StoreError`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from wukong.backends.spec import PluginSpec
from wukong.core.storage import Arrival, Blob, Buffer, FanInRecord, Notes, Outcome, arrive, blob_size, joined
from wukong.core.time_left import time_left_s
from wukong.errors import ConfigError, StoreError

__all__ = [
    "Arrival",
    "Blob",
    "Buffer",
    "Capabilities",
    "FanInRecord",
    "Notes",
    "Outcome",
    "Rent",
    "Rented",
    "Spent",
    "Store",
    "Tell",
    "arrive",
    "blob_size",
    "joined",
    "time_left_s",
]

Tell: TypeAlias = Callable[[str, int, int], None]
"""Progress for a person: ``tell(what, done, of)``."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do. The core respects these; the conformance suite reads them.

    Attributes:
        max_value_bytes: largest value that one `put` takes; None: no limit of its own.
        wait_blocks: `wait` blocks in the store and wakes at once; False: it polls.
        round_trip_s: typical time of a small operation, seconds. A first guess; executors measure.
        bandwidth_bytes_per_s: typical rate at which one executor moves a large value, finite. A first guess.
        trusted: nobody but this user can write to the store, so that the raw buffers of large values need no
            digest of their own (the pickled part is always signed).
        zero_copy: `get` may return views of shared memory instead of copies.
        recovery_s: how long the store takes to replace a lost server, if it does that by itself: clients and executors
            wait this much longer for it.
        expires: a key is missing soon after its time to live is over; False: it may stay for ever, and fill the store.
        scans: the store can list its keys (`Store.scan`), so that keys of dead clients can be found and deleted.
        renews: the store can set times to live anew (`Store.renew`), so that keys need not outlive their client.
        leaves: deleting a key costs money, and letting it expire does not: when a job is over, its keys are left to
            expire.
        takes: the store can tell what it deletes (`Store.take`), so that deleting chunks takes one round trip less.
    """

    max_value_bytes: int | None = None
    wait_blocks: bool = False
    round_trip_s: float = 0.001
    bandwidth_bytes_per_s: float = 100e6
    trusted: bool = False
    zero_copy: bool = False
    recovery_s: float = 0.0
    scans: bool = False
    renews: bool = False
    takes: bool = False
    expires: bool = True
    leaves: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError if what is declared cannot be."""
        if not 0.0 < self.bandwidth_bytes_per_s < math.inf:
            rate = self.bandwidth_bytes_per_s
            raise ConfigError(f"bandwidth_bytes_per_s must be finite and more than 0, and is {rate}")
        if not 0.0 <= self.round_trip_s < math.inf:
            raise ConfigError(f"round_trip_s must be finite and at least 0, and is {self.round_trip_s}")


@dataclass(frozen=True, slots=True)
class Rent:
    """What a store's servers cost.

    Attributes:
        usd_per_s: US dollars per second, for as long as they run.
        what: what costs that, in a few words: ``3 Redis nodes on AWS Fargate``.
        rates: the prices behind `usd_per_s`: place and date, or that they were configured.
    """

    usd_per_s: float
    what: str
    rates: str

    def over(self, wall_s: float) -> Rented:
        """Return the cost of `wall_s` seconds."""
        return Rented(self.what, wall_s, self.usd_per_s * wall_s, self.rates)


@dataclass(frozen=True, slots=True)
class Rented:
    """What a store's servers cost during a job: `usd` US dollars for `wall_s` seconds."""

    what: str
    wall_s: float
    usd: float
    rates: str

    def __str__(self) -> str:
        return f"{self.what} for {self.wall_s:.3f} s, ${self.usd:.6g} ({self.rates})"


@dataclass(frozen=True, slots=True)
class Spent:
    """What requests to a store have cost: `usd` US dollars for `what`, at `rates`: place and date, or as configured."""

    usd: float
    what: str
    rates: str

    def more(self, usd: float) -> Spent:
        """Return the same with `usd` US dollars more; negative: less."""
        return Spent(self.usd + usd, self.what, self.rates)

    def __str__(self) -> str:
        return f"{self.what}, ${self.usd:.6g} ({self.rates})"


class Store(ABC):
    """An intermediate store. See the module's docstring for what holds for all methods."""

    CONTRACT: ClassVar[int] = 1
    """The version of this contract. A plug-in sets the one that it was written for; a plug-in that sets none has 1."""

    capabilities: Capabilities = Capabilities()

    @abstractmethod
    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """Return the value of each key, in the order of `keys`; None if there is none. One round trip.

        A writable buffer is the caller's own: nobody else sees what the caller writes to it. Tasks write into their
        inputs, so a read-only buffer costs a copy.
        """

    @abstractmethod
    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """Store every item, replacing what was there. When this returns, every reader sees all of them.

        Each item becomes visible as a whole or not at all. `ttl_s` seconds after the last write a key may vanish;
        None: it stays until deleted. Raises `StoreError` for a value above `Capabilities.max_value_bytes`, of which
        nothing becomes visible; `StoreFull` if there is no room.
        """

    @abstractmethod
    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete the values *and* the records under these keys. Missing ones are no error."""

    @abstractmethod
    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """Return the value of `key` as soon as there is one; None when `timeout_s` seconds have passed without."""

    @abstractmethod
    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """Record arrivals at fan-ins; return one `Outcome` each, in order.

        Each arrival is atomic by itself, also against other processes. Of all the calls that take part in completing
        a set, exactly one claimant is told ``claimed``; if the same claimant asks again it is told so again, with
        the same values. A member that has arrived before changes nothing. An arrival ``only_if_last`` that is not the
        last is noted, see `Arrival` and `Outcome.give_way`. The batch as a whole need not be atomic. A store that may
        lose values may hand over fewer values than rode in, but never another record's. `ttl_s` seconds after the
        last call that changed it a record may vanish, as a whole; a call that changes nothing renews nothing.

        Raises ValueError if an arrival contradicts itself or the record (no member, one outside ``range(of)``,
        another ``of``); that arrival then changes nothing.
        """

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """Return the keys that begin with `prefix` and hold a value or a record, each with its approximate size, bytes.

        For listing and cleaning up; only if `capabilities.scans` is true. The scan may take long. It returns every key
        that exists during the whole scan; a key that is written or deleted meanwhile may be in it or not. Keys of more
        than 200 bytes, or not of printable ASCII, may be left out. The size of a record may be 0.

        Raises StoreError if the store cannot.
        """
        raise StoreError(
            "this store cannot list its keys", hint="what nobody deletes goes when its time to live is over"
        )

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """Let every value and record whose key begins with `prefix` live for `ttl_s` seconds from now.

        Only if `capabilities.renews` is true. A client calls this a few times in every `ttl_s` for all its keys, so
        it may take as long as `scan`. Keys that `scan` may leave out may be left out here as well.

        Raises StoreError if the store cannot.
        """
        raise StoreError(
            "this store cannot set times to live anew", hint="what nobody deletes goes when its own is over"
        )

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """Do as `delete`; return for each key its value, if that began with `begin` and was at most `most_bytes` long.

        For any other key None. Only if `capabilities.takes` is true. One round trip. By this `layers.Chunked` learns
        which chunks to delete, without reading large values.

        Raises StoreError if the store cannot.
        """
        raise StoreError("this store cannot tell what it deletes", hint="read the values before")

    @classmethod
    def visited(cls, **options: object) -> Sequence[Store]:
        """Open the stores that these options mean for a command that lists and cleans up; start nothing.

        By default that is one store, opened as always. If opening a store of this kind creates it, the existing ones
        are meant instead: those that other processes have open on this machine.
        """
        return [cls(**options)]

    @classmethod
    def sweep(cls, older_than_s: float, *, dry_run: bool) -> Mapping[str, int]:
        """Remove stores on this machine whose owners have died, at least `older_than_s` seconds ago.

        Returns their places and the size of each in bytes. `dry_run`: remove nothing. For stores that have an owner.
        """
        return {}

    @abstractmethod
    def spec(self) -> PluginSpec:
        """Return how an executor opens this same store from inside a function. No secret: it travels in payloads."""

    def start(self, tell: Tell) -> None:
        """Bring up the store's servers, if it has any. The client calls this once, before all else; executors never do.

        It may call `tell` to report progress. If it raises (`StoreError`, `ConfigError`, an interrupt), it has stopped
        what it had started; otherwise `close` stops it.
        """
        return None

    def rent(self) -> Rent | None:
        """Return what the servers cost that the store has brought up or found running; None if it does not know."""
        return None

    def spent(self) -> Spent | None:
        """Return what the requests that were made through this object have cost so far; None: requests cost nothing.

        Executors report their part, and a job's summary has the sum. Called often: it asks nobody.
        """
        return None

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that a function must have for `spec` to open: passwords and the like.

        They reach functions through the platform's own configuration (`wukong.backends.faas.FaaS.configure`).
        """
        return {}

    def advice(self) -> Sequence[str]:
        """Return warnings about servers or settings that endanger jobs; for ``wukong doctor``.

        One line each, ``"what is the matter -> what to do"``. Raises `StoreUnavailable` if a server cannot be reached.
        """
        return ()

    def evictions(self) -> Sequence[str]:
        """Return warnings about servers that evict keys to make room, one line each as in `advice`.

        The client asks when it opens the store, to warn, and when a job fails because stored values are missing. A
        server that does not report evictions is left out. Raises as `advice`.
        """
        return ()

    def close(self) -> None:
        """Close all connections. The owner of an embedded store removes it. Closing twice is no error."""
