"""One Redis server, or one Redis Cluster, as a store: every call is one round trip.

    of a server         of a cluster
    <prefix>v<key>      <prefix>v{:<key>}   a value, a plain string
    <prefix>r<key>      <prefix>r{:<key>}   a fan-in's record, a hash (`scripts`)

A cluster keeps names with the same text in braces on one server, and takes no command for keys on several.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import redis
from redis.exceptions import NoScriptError

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Store
from wukong.backends.storage.polling import polled
from wukong.backends.storage.redis.advice import advice, evictions, said
from wukong.backends.storage.redis.cluster import ClusterRequest, RedisCluster
from wukong.backends.storage.redis.errors import damaged, is_damage, is_refused, refuses_to_tell
from wukong.backends.storage.redis.reply import MOST_VALUES, Values
from wukong.backends.storage.redis.request import RedisRequest
from wukong.backends.storage.redis.scripts import ARRIVE, CALL_KEYS, TAKE, LuaScript, arrive_calls, outcomes, sized
from wukong.backends.storage.redis.server import RedisNode
from wukong.errors import StoreError

__all__ = ["RedisShard"]

logger = logging.getLogger(__name__)

_KEYS_PER_COMMAND = 10_000
_SCAN_KEYS = 2_000
_MOST_LOADS = 3


class Servers(Protocol):
    """What a shard asks: one server (`RedisNode`), or those of a cluster (`RedisCluster`), with requests of its own."""

    name: str

    def request(self) -> RedisRequest | ClusterRequest: ...

    def ask(self, request: Any) -> list[Any]: ...

    def ask_values(self, request: Any) -> list[Values]: ...

    def watch(self, key: bytes, timeout_s: float) -> bytes | None: ...

    def servers(self) -> Sequence[RedisNode]: ...

    def failure(self, error: Exception) -> StoreError: ...

    def close(self) -> None: ...


class RedisShard(Store):
    """The values and records on one server, or in one cluster.

    Args:
        server: the server or cluster.
        prefix: what all keys there begin with.
        spec: opens the store that this shard is a part of elsewhere.
    """

    capabilities = Capabilities(
        max_value_bytes=512 << 20,
        wait_blocks=True,
        round_trip_s=0.0005,
        bandwidth_bytes_per_s=250e6,
        scans=True,
        renews=True,
        takes=True,
    )

    def __init__(self, server: Servers, prefix: bytes, spec: PluginSpec) -> None:
        clustered = isinstance(server, RedisCluster)
        opening, self._end = (b"{:", b"}") if clustered else (b"", b"")
        self._server = server
        self._both_kinds = _literal(prefix) + b"[vr]" + opening
        self._values = prefix + b"v" + opening
        self._records = prefix + b"r" + opening
        self._most_values, self._most_keys = (1, 1) if clustered else (_KEYS_PER_COMMAND, CALL_KEYS)
        self._spec = spec
        self._polls = False

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        before, behind, request = self._values, self._end, self._server.request()
        for portion in sized(keys, self._most_values):
            request.add(b"MGET", *[before + key + behind for key in portion])
        if 0 < len(keys) <= MOST_VALUES:
            replies = self._checked(self._server.ask_values(request))
        else:
            replies = self._ask(request)
        return replies[0] if len(replies) == 1 else [value for reply in replies for value in reply]

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        before, behind, ttl_ms, request = self._values, self._end, _milliseconds(ttl_s), self._server.request()
        for key, blob in items.items():
            request.add_set(before + key + behind, blob, ttl_ms)
        self._ask(request)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        request = self._server.request()
        for portion in sized(keys, self._most_keys):
            request.add(b"UNLINK", *self._both(portion))
        self._ask(request)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        if timeout_s <= 0:
            return self.get([key])[0]
        if self._polls:
            return polled(lambda: self.get([key])[0], timeout_s)
        try:
            return self._server.watch(self._values + key + self._end, timeout_s)
        except StoreError as error:
            if refuses_to_tell(error.__cause__):
                self._polls = True
                logger.info("keys are waited for by asking again and again: %s", error.message)
                return self.wait(key, timeout_s)
            if not isinstance(error.__cause__, redis.ResponseError) or not is_damage(error.__cause__):
                raise
            raise damaged(self._server.name, "value", key, error.__cause__) from error

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`. A batch of up to 1,000 small arrivals is one call of a script, and is atomic."""
        try:
            around = self._records, self._end
            answers = self._run(ARRIVE, arrive_calls(arrivals, around, _milliseconds(ttl_s), self._most_keys))
        except StoreError as error:
            if not isinstance(error.__cause__, redis.ResponseError) or not is_damage(error.__cause__):
                raise
            if len(arrivals) > 1:  # arrivals may be repeated, so repeat them one by one to find the damaged record
                return [outcome for arrival in arrivals for outcome in self.incr([arrival], ttl_s)]
            raise damaged(self._server.name, "record of the fan-in", arrivals[0].record, error.__cause__) from error
        return outcomes(answers, arrivals)

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`. The server looks at all its keys, some thousand at a time, and serves others in between."""
        found: dict[bytes, int] = {}
        for names in self._named(prefix):
            request = self._server.request()
            for name in names:
                request.add(b"STRLEN", name)
            for name, size_bytes in zip(names, self._server.ask(request), strict=True):
                key = name[len(self._values) : len(name) - len(self._end)]
                found[key] = max(found.get(key, 0), size_bytes if isinstance(size_bytes, int) else 0)  # a record: none
        return found

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`. The server looks at all its keys, as for `scan`."""
        ttl_ms = _milliseconds(ttl_s)
        for names in self._named(prefix):
            request = self._server.request()
            for name in names:
                request.add(b"PEXPIRE", name, ttl_ms)
            self._ask(request)

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`. Atomic for some thousand keys."""
        calls = ((self._both(portion), [begin, most_bytes]) for portion in sized(keys, self._most_keys))
        return self._run(TAKE, calls)

    def is_in_cluster(self) -> bool:
        """Return whether the server says that it is one of a cluster. Raises as `get`."""
        return any(self._said(node, b"cluster").get("cluster_enabled") == "1" for node in self._server.servers())

    def advice(self) -> list[str]:
        """See `Store.advice`. Of a server that refuses this user `INFO`, only whether it tells of writes to keys."""
        clustered = isinstance(self._server, RedisCluster)
        return [
            line
            for node in self._server.servers()
            for line in advice(
                node.name, self._said(node), guarded=node.guarded, clustered=clustered, tells=node.tells()
            )
        ]

    def evictions(self) -> list[str]:
        """See `Store.evictions`. Nothing about a server that refuses this user `INFO`."""
        return [line for each in self._server.servers() for line in evictions(each.name, self._said(each))]

    def _said(self, node: RedisNode, *section: bytes) -> dict[str, str]:
        """Return a server's `INFO`, or a section of it; empty if the server refuses it to this user."""
        request = node.request()
        request.add(b"INFO", *section)
        (info,) = replies = node.ask(request)
        if isinstance(info, redis.ResponseError) and is_refused(info):
            return {}
        self._checked(replies)
        return said(info)

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        return self._spec

    def close(self) -> None:
        """See `Store.close`."""
        self._server.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._server.name})"

    def _named(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the server's own names of all values and records whose keys begin with `prefix`, in portions."""
        pattern = self._both_kinds + _literal(prefix) + b"*"
        for node in self._server.servers():
            cursor = b"0"
            while True:
                request = node.request()
                request.add(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_KEYS)
                [(cursor, names)] = self._checked(node.ask(request))
                if names:
                    yield names
                if int(cursor) == 0:
                    break

    def _both(self, keys: Sequence[bytes]) -> list[bytes]:
        """Names of the values under these keys, then those of the records."""
        return [before + key + self._end for before in (self._values, self._records) for key in keys]

    def _run(self, script: LuaScript, calls: Iterable[tuple[list[bytes], list[Any]]]) -> list[Any]:
        """Call a script once for each pair of keys and arguments; return what all calls return, as one list."""
        packed = [(b"EVALSHA", script.sha, len(keys), *keys, *arguments) for keys, arguments in calls]
        if not packed:
            return []
        replies: list[Any] = [None] * len(packed)
        wanted: Sequence[int] = range(len(packed))
        for loads in range(_MOST_LOADS + 1):
            request = self._server.request()
            for n in wanted:
                request.add(*packed[n])
            for n, answer in zip(wanted, self._server.ask(request), strict=True):
                replies[n] = answer
            wanted = [n for n in wanted if isinstance(replies[n], NoScriptError)]
            if not wanted or loads == _MOST_LOADS:
                break
            for node in self._server.servers():
                load = node.request()
                load.add(b"SCRIPT", b"LOAD", script.source)
                self._checked(node.ask(load))
        self._checked(replies)
        return replies[0] if len(replies) == 1 else [answer for reply in replies for answer in reply]

    def _ask(self, request: RedisRequest | ClusterRequest) -> list[Any]:
        """Return the replies to a request. Raises what went wrong with the first command that failed."""
        if not request.n_commands:
            return []
        return self._checked(self._server.ask(request))

    def _checked(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise self._server.failure(reply) from reply
        return replies


def _literal(text: bytes) -> bytes:
    """Return a pattern that only this text matches."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)


def _milliseconds(ttl_s: float | None) -> int | None:
    return None if ttl_s is None else max(1, math.ceil(ttl_s * 1000))
