"""What about a Redis server endangers jobs, read from its ``INFO``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = ["advice", "evictions", "said"]

_OLDEST = (6, 2)
_FULL = 0.8
_MIB = 1 << 20


def said(info: bytes) -> dict[str, str]:
    """Return a server's answer to ``INFO`` by name."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, separator, value in lines if separator}


def advice(
    name: str, info: Mapping[str, str], *, guarded: bool, clustered: bool = False, tells: bool = True
) -> Iterator[str]:
    """Yield one line for each danger, ``"what is the matter -> what to do"``.

    Args:
        name: the server's name in messages.
        info: its answer, see `said`. What a server does not report counts as no danger.
        guarded: the server wants a password, or cannot be reached from another machine.
        clustered: the store takes the server for one of a Redis Cluster.
        tells: it tells clients of writes to keys.
    """
    server = f"the Redis server {name}"
    version = tuple(map(int, re.findall(r"\d+", info.get("valkey_version", info.get("redis_version", "")))[:2]))
    if version and version < _OLDEST:
        yield f"{server} is of version {info['redis_version']} -> use 6.2 or newer, or Valkey"
    if info.get("cluster_enabled") == "1" and not clustered:
        yield (
            f"{server} is part of a Redis Cluster, which sends clients from one node to another"
            " -> say so: redis://...?cluster=true, or the option cluster=True"
        )
    if info.get("role") == "slave":
        yield f"{server} is a replica, and refuses to be written to -> name the server that it follows"
    yield from evictions(name, info)
    limit_bytes, used_bytes = _number(info, "maxmemory"), _number(info, "used_memory")
    if limit_bytes and used_bytes >= _FULL * limit_bytes:
        yield (
            f"{server} is full: {used_bytes / _MIB:,.0f} of {limit_bytes / _MIB:,.0f} MiB are taken"
            " -> raise its maxmemory, or add servers"
        )
    clients, most = _number(info, "connected_clients"), _number(info, "maxclients")
    if most and clients >= _FULL * most:
        yield f"{server} has {clients:,} of at most {most:,} connections -> raise its maxclients"
    if refused := _number(info, "rejected_connections"):
        yield f"{server} has turned connections away, {refused:,} times -> raise its maxclients, now {most:,}"
    if not tells:
        yield (
            f"{server} tells nobody of keys that are written (CLIENT TRACKING is refused): who waits for one asks for "
            "it again and again, at last 50 times a second, and has it up to 20 ms later"
            " -> grant the user +client|tracking +client|caching, if the server has them"
        )
    if not guarded:
        yield (
            f"{server} lets in everybody who reaches it, to read and to delete"
            " -> set a password (requirepass), and give it in WUKONG_REDIS_PASSWORD"
        )


def evictions(name: str, info: Mapping[str, str]) -> Iterator[str]:
    """Yield warnings about a server that evicts keys to make room, in the form of `advice`."""
    server = f"the Redis server {name}"
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and _number(info, "maxmemory"):
        yield (
            f"{server} evicts values and fan-ins when its memory is full (maxmemory-policy {policy})"
            " -> set maxmemory-policy noeviction, so that it refuses instead"
        )
    if evicted := _number(info, "evicted_keys"):
        yield f"{server} has evicted {evicted:,} keys since it was started -> raise its maxmemory, or add servers"


def _number(info: Mapping[str, str], key: str) -> int:
    text = info.get(key, "")
    return int(text) if text.isdecimal() else 0
