"""One memcached server as a store: values up to the size of an item, and records. None of them is safe from eviction.

A server that has no memory left evicts the least recently used items. So a stored value may be missing at any time; it
is then missing as if it had never been there, and never replaced by another.

memcached keeps flags with each value for its clients; here they hold the value's first four bytes. So manifests of
chunked values can be found without reading values.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pymemcache.exceptions import MemcacheUnknownCommandError

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Store
from wukong.backends.storage.fanin import FanIn
from wukong.backends.storage.memcached.advice import evictions
from wukong.backends.storage.memcached.connection import BACKEND, MemcachedConnection, MemcachedPool, storing
from wukong.backends.storage.memcached.incr import Batch
from wukong.backends.storage.memcached.names import MemcachedNames
from wukong.backends.storage.polling import polled
from wukong.errors import StoreError, StoreFull, StoreUnavailable

__all__ = ["ITEM_HEAD_BYTES", "MemcachedShard"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

ITEM_HEAD_BYTES = 512  # what an item takes besides its value: up to 250 for the key, some 60 for the rest
_MONTH_S = 30 * 24 * 3_600
_LAST_S = 2**31 - 1
_TURNS = 400
_RENEWED_AT_ONCE = 1_000
_FULL_PAUSES_S = (0.02, 0.04, 0.08, 0.16, 0.32)
"""Even a server that evicts can lack room for a moment: while all its memory for items of one size is being written."""

_RIDERS_LIVE = 2
"""The time to live of values that rode in arrivals, as a multiple of their record's."""

_PAUSE_S = (0.000_5, 0.1)
_sleep: Callable[[float], None] = time.sleep
_unix_s: Callable[[], float] = time.time


class MemcachedShard(Store):
    """One server.

    Args:
        pool: its connections; closed with this store.
        names: the server's names for our keys.
        item_bytes: the largest item that the server takes, key included.
    """

    def __init__(self, pool: MemcachedPool, names: MemcachedNames, item_bytes: int) -> None:
        self._pool = pool
        self._names = names
        self.capabilities = Capabilities(
            max_value_bytes=item_bytes - ITEM_HEAD_BYTES,
            round_trip_s=0.000_5,
            bandwidth_bytes_per_s=100e6,
            scans=True,
            renews=True,
            takes=True,
        )

    @property
    def name(self) -> str:
        """``"host:port"``."""
        return self._pool.name

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        if not keys:
            return []
        names = [self._names.value(key) for key in keys]
        found = self._pool.call(lambda connection: connection.found(list(dict.fromkeys(names))))
        return [found.get(name) for name in names]

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`. If it raises, some of the items are stored, some are missing."""
        if not items:
            return
        exptime = _exptime(ttl_s)

        def work(connection: MemcachedConnection) -> list[bytes]:
            return connection.ask(
                storing(b"set", self._names.value(key), exptime, parts, _flags(parts))
                for key, blob in items.items()
                for parts in [blob if isinstance(blob, tuple) else (blob,)]
            )

        if any(line != b"STORED" for line in self._with_room(work)):
            raise StoreError(f"memcached at {self.name} has not stored what it was given", backend=BACKEND)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`. Two round trips for some 1,000 keys: one to see which are records, one to delete."""
        names = [self._names.value(key) for key in keys]
        self._pool.call(lambda connection: self._delete(connection, names, keys))

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`.

        On a server of version 1.6 or newer, this reads no other values, and deletes a value only if it has not changed
        since. An older server has to return every value, and a value that is put at the same moment is deleted unseen.
        """
        names = [self._names.value(key) for key in keys]
        taken: dict[bytes, bytes] = {}

        def work(connection: MemcachedConnection) -> None:
            try:
                _take(connection, names, begin, most_bytes, taken)
                self._delete(connection, [], keys)
            except MemcacheUnknownCommandError:
                found = connection.found(names)
                taken.update((name, bytes(value)) for name, value in found.items() if len(value) <= most_bytes)
                self._delete(connection, names, keys)

        self._pool.call(work)
        values = [taken.get(name) for name in names]
        return [value if value and value.startswith(begin) and len(value) <= most_bytes else None for value in values]

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        return polled(lambda: self.get((key,))[0], timeout_s)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`. By compare-and-swap: two round trips if nobody else arrives at the same moment.

        Raises `StoreUnavailable` if other writers were faster every time, for some 20 seconds.
        """
        life_s = math.inf if ttl_s is None else ttl_s
        now_s = _unix_s()
        batch = Batch(arrivals, now_s + life_s, now_s + _RIDERS_LIVE * life_s)
        for turn in range(_TURNS):
            if not batch.n_open:
                return batch.outcomes()
            if turn:
                _sleep(random.uniform(0, min(_PAUSE_S[1], _PAUSE_S[0] * 2**turn)))
            self._with_room(lambda connection: batch.turn(_Cells(connection, self._names, life_s, self)))
        if not batch.n_open:
            return batch.outcomes()
        raise StoreUnavailable(
            f"{batch.n_open} fan-ins at memcached {self.name} could not be written: others came first {_TURNS} times",
            backend=BACKEND,
            hint="very many executors arrive at one fan-in at the same time: give the graph a tree of smaller ones",
        )

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`. The server (1.4.31 or newer) lists all its items, for one client at a time."""
        found: dict[bytes, int] = {}
        for _, key, size_bytes in self._items(prefix):
            found[key] = max(size_bytes, found.get(key, 0))
        return found

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`. Renews values that rode in arrivals too; they still outlive their records."""
        names = [name for name, _, _ in self._items(prefix)]
        exptime, riders_exptime = _exptime(ttl_s), _exptime(_RIDERS_LIVE * ttl_s)

        def work(connection: MemcachedConnection, portion: Sequence[bytes]) -> None:
            _, riders = self._records(connection, [name for name in portion if self._names.is_record(name)])
            connection.ask([b"touch %b %d\r\n" % (name, riders_exptime) for name in riders])
            connection.ask([b"touch %b %d\r\n" % (name, exptime) for name in portion])

        for at in range(0, len(names), _RENEWED_AT_ONCE):
            self._pool.call(partial(work, portion=names[at : at + _RENEWED_AT_ONCE]))

    def _items(self, prefix: bytes) -> list[tuple[bytes, bytes, int]]:
        """Return the name, the key and the size of each value and record whose key begins with `prefix`."""

        def work(connection: MemcachedConnection) -> list[tuple[bytes, bytes, int]]:
            return [
                (name, key, size_bytes)
                for name, size_bytes in connection.items()
                if (key := self._names.key(name)) is not None and key.startswith(prefix)
            ]

        try:
            return self._pool.call(work)
        except StoreUnavailable:
            raise
        except StoreError as error:
            text = f"memcached at {self.name} does not list its keys: {error.message}"
            hint = "it has to be 1.4.31 or newer, and run without -o no_lru_crawler"
            raise StoreError(text, backend=BACKEND, hint=hint) from error

    def stats(self, *what: str) -> dict[str, str]:
        """Return the server's answer to ``stats``, or ``stats settings``."""
        found = self._pool.call(lambda connection: connection.stats(*what))
        return {_text(key): _text(value) for key, value in found.items()}

    def evictions(self) -> list[str]:
        """See `Store.evictions`. Warns only if the server has evicted: that it may is normal for memcached."""
        return list(evictions(self.name, self.stats()))

    def _with_room(self, work: Callable[[MemcachedConnection], T]) -> T:
        """Do work that needs memory on the server; retry if there is none. Raises `StoreFull` if that does not help."""
        for pause_s in _FULL_PAUSES_S:
            try:
                return self._pool.call(work)
            except StoreFull:
                _sleep(random.uniform(0.5, 1.5) * pause_s)
        return self._pool.call(work)

    def _delete(self, connection: MemcachedConnection, names: Sequence[bytes], keys: Sequence[bytes]) -> None:
        """Delete the items of these names, the records under these keys, and the values that rode in their arrivals."""
        records, riders = self._records(connection, [self._names.record(key) for key in keys])
        connection.ask([b"delete %b\r\n" % name for name in (*names, *records, *riders)])

    def _records(self, connection: MemcachedConnection, names: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return which of these records exist, and the names of all values that rode in their arrivals."""
        riders: list[bytes] = []
        records = connection.found(names)
        for name, raw in records.items():
            try:
                riders += map(self._names.rider, FanIn.unpack(bytes(raw), name).riders())
            except StoreError as error:  # its values beside it stay until their time to live is over
                logger.warning("what rode in arrivals is known in part only: %s", error.message)
        return list(records), riders

    def spec(self) -> PluginSpec:
        """Raise `StoreError`: a shard is opened only as a part of a `MemcachedStore`."""
        raise StoreError("one memcached server alone is opened by no spec", backend=BACKEND)

    def close(self) -> None:
        """See `Store.close`."""
        self._pool.close()


class _Cells:
    """Records and riders over one connection; see `wukong.backends.storage.memcached.incr.Cells`."""

    def __init__(
        self, connection: MemcachedConnection, names: MemcachedNames, life_s: float, shard: MemcachedShard
    ) -> None:
        self._connection = connection
        self._names = names
        self._exptime = _exptime(life_s)
        self._riders_exptime = _exptime(_RIDERS_LIVE * life_s)
        self._shard = shard

    def records(self, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        names = {self._names.record(key): key for key in keys}
        found = self._connection.versions(list(names))
        if any(version == b"0" for _, version in found.values()):
            text = f"memcached at {self._shard.name} cannot swap records: it was started with -C (--disable-cas)"
            raise StoreError(text, backend=BACKEND, hint="start it without")
        return {names[name]: record for name, record in found.items()}

    def swap(self, records: Sequence[tuple[bytes, bytes, bytes | None]]) -> list[bool]:
        lines = self._connection.ask(
            storing(b"add", self._names.record(key), self._exptime, (raw,))
            if version is None
            else storing(b"cas", self._names.record(key), self._exptime, (raw,), cas=version)
            for key, raw, version in records
        )
        return [line == b"STORED" for line in lines]

    def add(self, riders: Sequence[tuple[bytes, bytes]]) -> list[bool]:
        limit_bytes = self._shard.capabilities.max_value_bytes or 0
        largest_bytes = max(len(value) for _, value in riders)
        if largest_bytes > limit_bytes:
            text = f"a value of {largest_bytes:,} bytes cannot ride in an arrival at memcached {self._shard.name}"
            raise StoreError(text, backend=BACKEND, hint=f"set ride_bytes to no more than {limit_bytes}")
        lines = self._connection.ask(
            storing(b"add", self._names.rider(name), self._riders_exptime, (value,)) for name, value in riders
        )
        return [line == b"STORED" for line in lines]

    def touch(self, names: Sequence[bytes]) -> None:
        self._connection.ask([b"touch %b %d\r\n" % (self._names.rider(name), self._riders_exptime) for name in names])

    def riders(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        by_name = {self._names.rider(name): name for name in names}
        return {by_name[name]: bytes(value) for name, value in self._connection.found(list(by_name)).items()}

    def drop(self, names: Sequence[bytes]) -> None:
        self._connection.ask([b"delete %b\r\n" % self._names.rider(name) for name in names])


def _take(
    connection: MemcachedConnection, names: Sequence[bytes], magic: bytes, most_bytes: int, taken: dict[bytes, bytes]
) -> None:
    """Delete values; add those that may be manifests to `taken`, before they are deleted."""
    while names:
        lines = connection.ask([b"mg %b f s c\r\n" % name for name in names])  # flags, size and version, no value
        there = {name: _answered(line) for name, line in zip(names, lines, strict=True) if line[:2] != b"EN"}
        versions = {name: given[b"c"] for name, given in there.items()}
        for name, (value, version) in connection.versions(
            [name for name, given in there.items() if _may_begin(given, magic, most_bytes)]
        ).items():
            taken[name], versions[name] = value, version
        lines = connection.ask([b"md %b C%b\r\n" % each for each in versions.items()])
        names = [name for name, line in zip(versions, lines, strict=True) if line[:2] == b"EX"]  # replaced meanwhile


def _exptime(ttl_s: float | None) -> int:
    """Return a time to live in memcached's form: whole seconds from now up to 30 days, beyond that a Unix time.

    It is one second longer than asked for: memcached's clock ticks once a second, and the first tick may come at once.
    """
    if ttl_s is None or not ttl_s < _LAST_S:
        return 0
    seconds = max(0, math.ceil(ttl_s)) + 1
    if seconds <= _MONTH_S:
        return seconds
    at_s = math.ceil(_unix_s()) + seconds
    return at_s if at_s <= _LAST_S else 0


def _flags(parts: Sequence[Buffer]) -> int:
    """Return the first four bytes of a value as a number."""
    begin = b""
    for part in parts:
        view = memoryview(part)
        if view.nbytes:
            begin += view.cast("B")[: 4 - len(begin)]
        if len(begin) == 4:
            break
    return int.from_bytes(begin.ljust(4, b"\0"), "big")


def _answered(line: bytes) -> dict[bytes, bytes]:
    """Return the fields of a meta command's answer, by the letter of their flag."""
    return {token[:1]: token[1:] for token in line.split()[1:]}


def _may_begin(given: Mapping[bytes, bytes], magic: bytes, most_bytes: int) -> bool:
    """Return whether a value may begin with `magic`, by its flags and its size."""
    begin = int(given[b"f"]).to_bytes(4, "big")
    return int(given[b"s"]) <= most_bytes and begin.startswith(magic[:4])


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
