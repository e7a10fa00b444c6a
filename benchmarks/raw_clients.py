"""Stores against the bare client libraries under them: large values, fan-in arrivals, small values.

Everything is measured in pairs on the same server, from one process, one call at a time; plug-in and raw client take
turns at being first. What raw means:

    redis       `redis.Redis`: SET and GET of the whole value on one server; EVALSHA of a script that does nothing
                but take and return as many bytes as the plug-in's `incr` does; SET with EX, GET
    memcached   `pymemcache`'s hash client: values cut into items of 1 MB, set and got all at once; what takes the
                place of a script is a `gets` and a `cas`
    local       a file beside the store's own: written, then mapped and read; for small values, LMDB itself
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from store_servers import Ground

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Arrival, Store

SIZES_MB = (1, 16, 64, 256)
_MB = 1_000_000
_ITEM_BYTES = 1_000_000
_SMALL_BYTES = 100
_TTL_S = 600
_BATCH = 100
_ECHO = "return ARGV[1]"
Pair = dict[str, list[float]]


class Raw:
    """The bare client library of one store, with which the plug-in's calls are compared."""

    def put(self, key: str, value: bytes) -> None:
        """Store a large value."""
        raise NotImplementedError

    def get(self, key: str) -> Any:
        """Fetch it whole, as one buffer."""
        raise NotImplementedError

    def put_small(self, key: str, value: bytes) -> None:
        """Store a small value with a time to live."""
        raise NotImplementedError

    def get_small(self, key: str) -> Any:
        """Fetch it."""
        raise NotImplementedError

    def arrive(self, key: str, n: int) -> None:
        """Do what `n` fan-in arrivals in one call must cost at least."""
        raise NotImplementedError

    def delete(self, key: str) -> None:
        """Delete a large value."""
        raise NotImplementedError

    def close(self) -> None:
        """Close connections."""


class RawRedis(Raw):
    def __init__(self, ground: Ground, store: Store) -> None:
        import redis

        self.client = redis.Redis(ground.servers[0].host, ground.servers[0].port)
        self.sha = self.client.script_load(_ECHO)
        self.asked_bytes, self.told_bytes = self._sizes_of_incr(ground, store)

    def _sizes_of_incr(self, ground: Ground, store: Store) -> tuple[int, int]:
        """Return how many bytes an `incr` of the plug-in sends and gets, as the servers count them."""
        n = 200
        arrive(store, "warm", 1)
        before = ground.seen()
        for i in range(n):
            arrive(store, f"size-{i}", 1)
        after = ground.seen()
        asking = ground.seen() - after
        used = after - before - asking
        return max(used.in_bytes // n, 0), max(used.out_bytes // n, 0)

    def put(self, key: str, value: bytes) -> None:
        self.client.set(key, value)

    def get(self, key: str) -> Any:
        return self.client.get(key)

    def put_small(self, key: str, value: bytes) -> None:
        self.client.set(key, value, ex=_TTL_S)

    def get_small(self, key: str) -> Any:
        return self.client.get(key)

    def arrive(self, key: str, n: int) -> None:
        framing = 100 + len(key)  # EVALSHA, its digest, the number of keys and the lengths of all these
        given, wanted = b"x" * max(1, self.told_bytes - 6), b"y" * max(0, self.asked_bytes - self.told_bytes - framing)
        if n == 1:
            self.client.evalsha(self.sha, 1, key, given, wanted)
            return
        with self.client.pipeline(transaction=False) as pipeline:
            for i in range(n):
                pipeline.evalsha(self.sha, 1, f"{key}-{i}", given, wanted)
            pipeline.execute()

    def delete(self, key: str) -> None:
        self.client.delete(key)

    def close(self) -> None:
        self.client.close()


class RawMemcached(Raw):
    def __init__(self, ground: Ground, store: Store) -> None:
        from pymemcache.client.hash import HashClient

        servers = [(server.host, server.port) for server in ground.servers]
        self.client = HashClient(servers, use_pooling=True, no_delay=True)
        self.keys: dict[str, list[str]] = {}

    def put(self, key: str, value: bytes) -> None:
        view = memoryview(value)
        items = {f"{key}-{at}": bytes(view[at : at + _ITEM_BYTES]) for at in range(0, max(len(value), 1), _ITEM_BYTES)}
        self.keys[key] = list(items)
        failed = self.client.set_many(items, noreply=False)
        assert not failed, failed

    def get(self, key: str) -> Any:
        found = self.client.get_many(self.keys[key])
        return b"".join(found[each] for each in self.keys[key])

    def put_small(self, key: str, value: bytes) -> None:
        self.client.set(key, value, expire=_TTL_S, noreply=False)

    def get_small(self, key: str) -> Any:
        return self.client.get(key)

    def arrive(self, key: str, n: int) -> None:
        for i in range(n):
            one = f"{key}-{i}"
            _, cas = self.client.gets(one)
            if cas is None:
                self.client.add(one, b"x" * 64, expire=_TTL_S, noreply=False)
            else:
                self.client.cas(one, b"x" * 64, cas, expire=_TTL_S, noreply=False)

    def delete(self, key: str) -> None:
        for each in self.keys.pop(key):
            self.client.delete(each, noreply=False)

    def close(self) -> None:
        self.client.close()


class RawLocal(Raw):
    def __init__(self, ground: Ground, store: Any) -> None:
        import lmdb

        self.folder = tempfile.TemporaryDirectory(prefix="wukong-raw-", dir=Path(store.path).parent)
        self.environment = lmdb.open(f"{self.folder.name}/lmdb", map_size=1 << 28, sync=False, metasync=False)

    def _path(self, key: str) -> str:
        return f"{self.folder.name}/{key}"

    def put(self, key: str, value: bytes) -> None:
        with open(self._path(key), "wb", buffering=0) as file:
            view = memoryview(value)
            while view:
                view = view[file.write(view) :]

    def get(self, key: str) -> Any:
        with open(self._path(key), "rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def put_small(self, key: str, value: bytes) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(key.encode(), value)

    def get_small(self, key: str) -> Any:
        with self.environment.begin() as transaction:
            return transaction.get(key.encode())

    def arrive(self, key: str, n: int) -> None:
        with self.environment.begin(write=True) as transaction:
            for i in range(n):
                name = f"{key}-{i}".encode()
                transaction.get(name)
                transaction.put(name, b"x" * 64)

    def delete(self, key: str) -> None:
        os.unlink(self._path(key))

    def close(self) -> None:
        self.environment.close()
        self.folder.cleanup()


RAW: dict[str, Callable[[Ground, Any], Raw]] = {"redis": RawRedis, "memcached": RawMemcached, "local": RawLocal}


def _whole(value: Any, size_bytes: int) -> None:
    """Read a byte of each page, so that a value that is mapped is really in memory."""
    view = memoryview(value)
    sum(view[::4096])
    assert view.nbytes == size_bytes


def arrive(store: Store, name: str, n: int) -> None:
    """Make `n` first arrivals at fan-ins of two, in one call."""
    store.incr([Arrival(b"bench/r/%b-%d" % (name.encode(), i), (0,), 2, b"0") for i in range(n)], _TTL_S)


@contextmanager
def opened(ground: Ground) -> Iterator[tuple[Store, Raw]]:
    """Yield the plug-in and the bare client library, both open."""
    with closing(load_storage(ground.storage)) as store, closing(RAW[ground.kind](ground, store)) as raw:
        yield store, raw


def timed(action: Callable[[], Any]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(grounds: list[Ground], sizes_mb: list[int], *, pairs: int, calls: int, until: float) -> dict[str, Any]:
    """Return, by store, seconds of each call: large values by size, and rounds of `calls` small calls each."""
    results: dict[str, Any] = {}
    for ground in grounds:
        print(f"  {ground.title}", file=sys.stderr, flush=True)
        with opened(ground) as (store, raw):
            large = {str(mb): _large(store, raw, mb, pairs, until) for mb in sizes_mb}
            results[ground.name] = {"title": ground.title, "large": large, "small": _small(store, raw, pairs, calls)}
    return results


def _large(store: Store, raw: Raw, size_mb: int, pairs: int, until: float) -> dict[str, Pair]:
    value = os.urandom(_MB) * size_mb
    key = b"bench/v/large"
    figures: dict[str, Pair] = {"put": {"plugin": [], "raw": []}, "get": {"plugin": [], "raw": []}}
    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]] = {
        "plugin": (
            lambda: store.put({key: value}, _TTL_S),
            lambda: store.get([key])[0],
            lambda: store.delete([key]),
        ),
        "raw": (
            lambda: raw.put("bench-large", value),
            lambda: raw.get("bench-large"),
            lambda: raw.delete("bench-large"),
        ),
    }
    for turn in range(-1, pairs):  # the first pair warms up
        if turn > 0 and time.monotonic() > until:
            break
        for side in ("plugin", "raw") if turn % 2 else ("raw", "plugin"):
            put, get, delete = calls[side]
            put_s, get_s = timed(put), timed(lambda get=get: _whole(get(), len(value)))  # type: ignore[misc]
            delete()
            if turn >= 0:
                figures["put"][side].append(put_s)
                figures["get"][side].append(get_s)
    spoken = ", ".join(
        f"{verb} {statistics.median(pair['plugin']):.4f} s, raw {statistics.median(pair['raw']):.4f} s"
        for verb, pair in figures.items()
    )
    print(f"    {size_mb} MB: {spoken}", file=sys.stderr, flush=True)
    return figures


def _small(store: Store, raw: Raw, pairs: int, calls: int) -> dict[str, Pair]:
    """Return the seconds of one call, on average over a round; one figure for each round."""
    value = os.urandom(_SMALL_BYTES)
    number = iter(range(1 << 60))
    store.put({b"bench/v/small": value}, _TTL_S)
    raw.put_small("bench-small", value)

    def every(action: Callable[[], Any], n: int) -> float:
        return timed(lambda: [action() for _ in range(n)]) / n  # type: ignore[func-returns-value]

    batches = max(1, calls // 20)
    actions: dict[str, tuple[Callable[[], Any], Callable[[], Any], int]] = {
        "incr": (
            lambda: arrive(store, f"one-{next(number)}", 1),
            lambda: raw.arrive(f"bench-one-{next(number)}", 1),
            calls,
        ),
        f"incr of {_BATCH}": (
            lambda: arrive(store, f"many-{next(number)}", _BATCH),
            lambda: raw.arrive(f"bench-many-{next(number)}", _BATCH),
            batches,
        ),
        "put": (
            lambda: store.put({b"bench/v/small": value}, _TTL_S),
            lambda: raw.put_small("bench-small", value),
            calls,
        ),
        "get": (lambda: store.get([b"bench/v/small"]), lambda: raw.get_small("bench-small"), calls),
    }
    figures: dict[str, Pair] = {}
    for name, (ours, theirs, n) in actions.items():
        pair: Pair = {"plugin": [], "raw": []}
        every(ours, max(1, n // 10)), every(theirs, max(1, n // 10))
        for turn in range(pairs):
            sides = [("plugin", ours), ("raw", theirs)]
            for side, action in reversed(sides) if turn % 2 else sides:
                pair[side].append(every(action, n))
        figures[name] = pair
        both = (statistics.median(pair[side]) * 1e6 for side in ("plugin", "raw"))
        print(f"    {name}: {', raw '.join(f'{us:.1f} us' for us in both)}", file=sys.stderr, flush=True)
    return figures
