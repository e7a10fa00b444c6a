"""Many stores as one: every key has its place on one shard, found by rendezvous hashing.

A shard's score for a key is the key's 64-bit hash times an odd number made from the shard's name, modulo 2**64; the
highest score wins. So a key's place depends on the names alone, not on their order, and a new name takes its share
evenly from all others: 1 / n of the keys move. That takes one hash per key and one multiplication per shard.

A batch for one shard runs in the caller's thread. A batch for several shards runs in as many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Rent, Store, Tell
from wukong.backends.storage.at_once import CallsAtOnce
from wukong.backends.storage.layers.layer import environments, rent_of_all, start_all
from wukong.errors import ConfigError, StoreError

__all__ = ["Sharded"]

_MASK = (1 << 64) - 1
_SPEED_UP = 2.0

T = TypeVar("T")


class Sharded(Store):
    """Stores, each of which holds the values and the records of its share of the keys.

    Args:
        shards: the stores; closed with this one.
        names: a name for each, the same in every process and for ever, such as its address. No name twice.
        spec: opens this same store elsewhere; None: only its composer knows how.

    If shards fail, the others finish first. An error that is not retryable is then raised before one that is. A batch
    is atomic on one shard at most.

    Raises `ConfigError` if there is no shard, or not one name for each.
    """

    def __init__(self, shards: Sequence[Store], names: Sequence[str], *, spec: PluginSpec | None = None) -> None:
        if not shards:
            raise ConfigError("a sharded store needs one shard at least")
        if len(names) != len(shards) or len(set(names)) != len(names):
            raise ConfigError(f"{len(shards)} shards need {len(shards)} different names, not {', '.join(names)}")
        self.names = tuple(names)
        self.shards = tuple(shards)
        self.capabilities = _together([shard.capabilities for shard in self.shards])
        self._factors = [_hash(name.encode()) | 1 for name in self.names]
        self._spec = spec
        self._calls = CallsAtOnce()

    def shard_of(self, key: bytes) -> Store:
        """Return the store that holds what is under `key`."""
        return self.shards[self._place(key)]

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`. One round trip for each shard concerned, at the same time."""
        if len(keys) == 1:
            return self.shards[self._place(keys[0])].get(keys)
        return self._spread(keys, keys, lambda shard, part: shard.get(part))

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        if len(items) == 1:
            for key in items:
                self.shards[self._place(key)].put(items, ttl_s)
            return
        shares: dict[int, dict[bytes, Blob]] = {}
        for key, blob in items.items():
            shares.setdefault(self._place(key), {})[key] = blob
        self._calls.make([(self.shards[place].put, (share, ttl_s)) for place, share in shares.items()])

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        shares = self._shares(keys)
        self._calls.make([(self.shards[place].delete, ([keys[n] for n in share],)) for place, share in shares.items()])

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        return self.shards[self._place(key)].wait(key, timeout_s)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`. Arrivals at one record keep their order."""
        if len(arrivals) == 1:
            return self.shards[self._place(arrivals[0].record)].incr(arrivals, ttl_s)
        records = [arrival.record for arrival in arrivals]
        return self._spread(arrivals, records, lambda shard, part: shard.incr(part, ttl_s))

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`. All shards at the same time."""
        found: dict[bytes, int] = {}
        for part in self._calls.make([(shard.scan, (prefix,)) for shard in self.shards]):
            found.update(part)
        return found

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`. On all shards at the same time."""
        self._calls.make([(shard.renew, (prefix, ttl_s)) for shard in self.shards])

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`."""
        return self._spread(keys, keys, lambda shard, part: shard.take(part, begin, most_bytes))

    def spec(self) -> PluginSpec:
        """See `Store.spec`. Raises `StoreError` if none was given."""
        if self._spec is None:
            raise StoreError(
                f"the {len(self.shards)} shards {', '.join(self.names)} have no spec of their own",
                hint="whoever puts shards together says how they are opened elsewhere: Sharded(..., spec=...)",
            )
        return self._spec

    def start(self, tell: Tell) -> None:
        """Bring up every shard."""
        start_all(self.shards, tell)

    def rent(self) -> Rent | None:
        """Return what all shards cost together."""
        return rent_of_all(self.shards)

    def environment(self) -> Mapping[str, str]:
        """Return what the shards need, together."""
        return environments(self.shards)

    def advice(self) -> Sequence[str]:
        """Return the warnings about all shards."""
        return [line for shard in self.shards for line in shard.advice()]

    def evictions(self) -> Sequence[str]:
        """Return the warnings about servers of all shards that evict keys. Asks all at the same time."""
        return [line for lines in self._calls.make([(shard.evictions, ()) for shard in self.shards]) for line in lines]

    def close(self) -> None:
        """Close every shard; raise the first error when all have been tried."""
        self._calls.close()
        errors = []
        for shard in self.shards:
            try:
                shard.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.names)})"

    def _place(self, key: bytes) -> int:
        factors = self._factors
        if len(factors) == 1:
            return 0
        number = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
        scores = [number * factor & _MASK for factor in factors]
        return scores.index(max(scores))

    def _shares(self, keys: Sequence[bytes]) -> dict[int, list[int]]:
        """Return for each shard concerned the numbers of its keys."""
        if len(self.shards) == 1:
            return {0: list(range(len(keys)))} if keys else {}
        shares: dict[int, list[int]] = {}
        for n, place in enumerate(map(self._place, keys)):
            shares.setdefault(place, []).append(n)
        return shares

    def _spread(
        self, asked: Sequence[Any], keys: Sequence[bytes], verb: Callable[[Store, Sequence[Any]], list[T]]
    ) -> list[T]:
        """Ask each shard for its share; return all answers in the order of the questions."""
        shares = self._shares(keys)
        if len(shares) == 1:
            return verb(self.shards[next(iter(shares))], asked)
        calls = [(verb, (self.shards[place], [asked[n] for n in share])) for place, share in shares.items()]
        answers: list[Any] = [None] * len(asked)
        for share, part in zip(shares.values(), self._calls.make(calls), strict=True):
            for n, answer in zip(share, part, strict=True):
                answers[n] = answer
        return answers


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _together(all_of: Sequence[Capabilities]) -> Capabilities:
    """Return what shards can do together. The link of one executor bounds the bandwidth that more shards add."""
    rates = [each.bandwidth_bytes_per_s for each in all_of]
    return Capabilities(
        max_value_bytes=min(
            (each.max_value_bytes for each in all_of if each.max_value_bytes is not None), default=None
        ),
        wait_blocks=all(each.wait_blocks for each in all_of),
        round_trip_s=max(each.round_trip_s for each in all_of),
        bandwidth_bytes_per_s=min(sum(rates), _SPEED_UP * max(rates)),
        trusted=all(each.trusted for each in all_of),
        zero_copy=all(each.zero_copy for each in all_of),
        recovery_s=max(each.recovery_s for each in all_of),
        scans=all(each.scans for each in all_of),
        renews=all(each.renews for each in all_of),
        expires=all(each.expires for each in all_of),
        takes=all(each.takes for each in all_of),
    )
