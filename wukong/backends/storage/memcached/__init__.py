"""The store `memcached`: one or many memcached servers, over which keys, values and their chunks are spread.

    MemcachedStore = Chunked(Sharded([MemcachedShard(h1), MemcachedShard(h2), ...]))

A value of up to 1 MB is stored as one item. A chunked value takes two more round trips to write, and one more to read.

The servers know nothing of each other. They keep everything in memory, and have no passwords. A server that has no room
left either refuses to store (`-M`) or evicts the least recently used items. A job notices every loss: a value is
missing, or a fan-in begins anew, and the job computes again what it needs.

Stored values are signed. So somebody who can write to these servers could replace values, but no executor would
unpickle them.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import TypeVar

from wukong.backends.spec import PluginSpec
from wukong.backends.storage.addresses import above_zero, certificates, host_and_port
from wukong.backends.storage.layers.chunked import Chunked
from wukong.backends.storage.layers.layer import Layer
from wukong.backends.storage.layers.sharded import Sharded
from wukong.backends.storage.memcached.advice import advice
from wukong.backends.storage.memcached.connection import BACKEND, MemcachedPool
from wukong.backends.storage.memcached.names import MemcachedNames
from wukong.backends.storage.memcached.shard import ITEM_HEAD_BYTES, MemcachedShard
from wukong.backends.storage.silence import ANSWER_S
from wukong.errors import ConfigError, StoreUnavailable

__all__ = ["MemcachedStore"]

T = TypeVar("T")

_PORT = 11211
_ITEM_BYTES = 1 << 20
_SMALLEST_ITEM_BYTES = 65_536 + ITEM_HEAD_BYTES
_CHUNK_ITEM_BYTES = 512 << 10
"""Up to this size a server keeps an item in one piece of memory. A larger item needs several pieces at once: the server
may then answer "out of memory during read" although it has room for the pieces, or could make room."""

_WHOLE_ITEM_BYTES = 1 << 20
"""A larger value is faster to write and read in chunks, over all servers at once."""

_FORMS = 'forms: memcached://host1:11211,host2:11211, or {"name": "memcached", "endpoints": ["host1:11211", ...]}'


class MemcachedStore(Layer):
    """The store `memcached`.

    Args:
        url: ``memcached://host1:11211,host2:11211``.
        endpoints: instead of a URL: ``"host:port"``, ``"host"`` or ``"[ipv6]:port"``.
        tls: speak TLS.
        ca_file: PEM file of the authorities to trust besides the system's. Functions need no such file.
        ca_data: the same as text.
        connect_timeout_s: how long connecting may take.
        timeout_s: how long a server may be silent while a large value moves.
        answer_timeout_s: how long a server may take to answer a small operation.
        item_bytes: the largest item that the servers take (their ``-I``). None: ask the servers, here and now.
        prefix: what all keys on the servers begin with.

    Raises `ConfigError` for invalid options, `StoreUnavailable` if a server has to be asked and is away.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        endpoints: Sequence[str] | None = None,
        tls: bool = False,
        ca_file: str | None = None,
        ca_data: str | None = None,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 10.0,
        answer_timeout_s: float = ANSWER_S,
        item_bytes: int | None = None,
        prefix: str = "wukong:",
    ) -> None:
        servers = _servers(url, endpoints)
        above_zero(BACKEND, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s, answer_timeout_s=answer_timeout_s)
        if item_bytes is not None and item_bytes < _SMALLEST_ITEM_BYTES:
            raise _wrong(f"item_bytes is {item_bytes:,}; it is a size from {_SMALLEST_ITEM_BYTES:,} up")
        if not tls and (ca_file or ca_data):
            raise _wrong("certificates are for TLS, which is not on", "tls: true")
        if ca_file is not None:
            ca_data = certificates(ca_file, BACKEND)
        context = _tls_context(ca_data) if tls else None
        names = MemcachedNames(prefix)
        pools = [
            MemcachedPool(
                host,
                port,
                timeout_s=timeout_s,
                connect_timeout_s=connect_timeout_s,
                answer_timeout_s=answer_timeout_s,
                tls=context,
            )
            for host, port in servers
        ]
        if item_bytes is None:
            item_bytes = _asked_item_bytes([MemcachedShard(pool, names, _ITEM_BYTES) for pool in pools])
        self.item_bytes = item_bytes
        self.shards = [MemcachedShard(pool, names, item_bytes) for pool in pools]
        endpoints = [pool.name for pool in pools]
        options = {
            "endpoints": endpoints,
            "tls": tls,
            "ca_data": ca_data,
            "connect_timeout_s": connect_timeout_s,
            "timeout_s": timeout_s,
            "answer_timeout_s": answer_timeout_s,
            "item_bytes": item_bytes,
            "prefix": prefix,
        }
        self._spec = PluginSpec(f"{__name__}:{type(self).__name__}", options)
        chunk_bytes, whole_bytes = (
            min(item_bytes, most_bytes) - ITEM_HEAD_BYTES for most_bytes in (_CHUNK_ITEM_BYTES, _WHOLE_ITEM_BYTES)
        )
        super().__init__(Chunked(Sharded(self.shards, endpoints), chunk_bytes=chunk_bytes, from_bytes=whole_bytes))

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        return self._spec

    def advice(self) -> Sequence[str]:
        """See `Store.advice`. Asks every server; one `StoreUnavailable` names all that do not answer."""
        said = _of_each(self.shards, lambda shard: (shard.name, shard.stats(), shard.stats("settings")))
        return [line for name, stats, settings in said for line in advice(name, stats, settings, self.item_bytes)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(shard.name for shard in self.shards)})"


def _servers(url: str | None, endpoints: Sequence[str] | None) -> list[tuple[str, int]]:
    if (url is None) == (endpoints is None):
        raise _wrong("the servers are named by a url or as endpoints, one of the two", _FORMS)
    if url is not None:
        scheme, separator, rest = url.partition("://")
        if scheme != "memcached" or not separator:
            raise _wrong("the URL does not begin with memcached://", _FORMS)
        if "@" in rest:
            raise _wrong("memcached knows no user and no password", "keep its port to your own network, or use redis")
        if any(character in rest.removesuffix("/") for character in "/?#"):
            raise _wrong(f"the URL names more than servers: {url!r}", f"options go into a mapping; {_FORMS}")
        endpoints = rest.removesuffix("/").split(",")
    servers = [_server(text.strip()) for text in endpoints or ()]
    if not servers:
        raise _wrong("no memcached server is named", _FORMS)
    for n, (host, port) in enumerate(servers):
        if (host, port) in servers[:n]:
            raise _wrong(f"the memcached server {host}:{port} is named twice", "a shard is named once")
    return servers


def _server(text: str) -> tuple[str, int]:
    found = host_and_port(text, _PORT)
    if found is None:
        raise _wrong(f"{text!r} is not the address of a memcached server", _FORMS)
    return found


def _asked_item_bytes(shards: Sequence[MemcachedShard]) -> int:
    """Return the largest item that all servers take; a server that does not say counts with memcached's default."""
    try:
        said = _of_each(shards, lambda shard: (shard.name, shard.stats("settings").get("item_size_max", "")))
        found = {name: int(text) if text.isdecimal() else _ITEM_BYTES for name, text in said}
        for name, item_bytes in found.items():
            if item_bytes < _SMALLEST_ITEM_BYTES:
                hint = f"start it with -I {_SMALLEST_ITEM_BYTES} or more"
                raise _wrong(f"memcached at {name} takes items of {item_bytes:,} bytes only", hint)
    except BaseException:
        for shard in shards:
            shard.close()
        raise
    return min(found.values())


def _of_each(shards: Sequence[MemcachedShard], ask: Callable[[MemcachedShard], T]) -> list[T]:
    """Ask every server; raise one `StoreUnavailable` which names all that do not answer."""
    answers: list[T] = []
    away: list[StoreUnavailable] = []
    for shard in shards:
        try:
            answers.append(ask(shard))
        except StoreUnavailable as error:
            away.append(error)
    if away:
        text = "; ".join(error.message for error in away)
        raise StoreUnavailable(text, backend=BACKEND, hint=away[0].hint) from away[0]
    return answers


def _tls_context(ca_data: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_data is not None:
        try:
            context.load_verify_locations(cadata=ca_data)
        except (ssl.SSLError, ValueError) as error:
            raise _wrong(f"the certificates to trust cannot be read: {error}", "ca_data is text in PEM form") from error
    return context


def _wrong(what: str, hint: str | None = None) -> ConfigError:
    return ConfigError(what, backend=BACKEND, hint=hint)
