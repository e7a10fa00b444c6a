"""What about a memcached server endangers jobs, read from its ``stats``. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

__all__ = ["advice", "evictions"]

_OLDEST = (1, 6)
_SMALL_MEMORY_BYTES = 256 << 20
_FULL = 0.8
_MIB = 1 << 20


def advice(name: str, stats: Mapping[str, str], settings: Mapping[str, str], item_bytes: int) -> Iterator[str]:
    """Yield one line for each danger, ``"what is the matter -> what to do"``.

    Args:
        name: the server's name in messages.
        stats: its answer to ``stats``.
        settings: its answer to ``stats settings``. What a server does not report counts as no danger.
        item_bytes: the largest item that Wukong will store there.
    """
    server = f"memcached at {name}"
    version = tuple(map(int, re.findall(r"\d+", stats.get("version", ""))[:2]))
    if version and version < _OLDEST:
        yield f"{server} is of version {stats['version']} -> use 1.6 or newer: deleting reads every value before that"
    if settings.get("cas_enabled") == "no":
        yield f"{server} cannot swap records, so no fan-in works -> start it without -C (--disable-cas)"
    evicts = settings.get("evictions") == "on"
    if evicts:
        yield (
            f"{server} evicts values and fan-ins when its memory is full, and they are computed again"
            " -> start it with -M, so that it refuses instead, and with enough memory (-m)"
        )
    yield from evictions(name, stats)
    used_bytes, limit_bytes = _number(stats, "bytes"), _number(stats, "limit_maxbytes")
    if limit_bytes and used_bytes >= _FULL * limit_bytes:
        yield (
            f"{server} is full: {used_bytes / _MIB:,.0f} of {limit_bytes / _MIB:,.0f} MiB are taken"
            " -> give it more memory (-m), or add servers"
        )
    elif 0 < limit_bytes < _SMALL_MEMORY_BYTES:
        yield f"{server} has only {limit_bytes / _MIB:,.0f} MiB of memory -> give it more: -m 4096, say"
    taken_bytes = _number(settings, "item_size_max")
    if 0 < taken_bytes < item_bytes:
        yield (
            f"{server} takes items of {taken_bytes:,} bytes, and will be given some of {item_bytes:,}"
            f" -> set item_bytes to {taken_bytes}, or start it with -I {item_bytes}"
        )
    connections, most = _number(stats, "curr_connections"), _number(stats, "max_connections")
    if turned_away := max(_number(stats, "rejected_connections"), _number(stats, "listen_disabled_num")):
        yield f"{server} has turned connections away, {turned_away:,} times -> let it take more (-c), now {most:,}"
    elif most and connections >= _FULL * most:
        yield f"{server} has {connections:,} of at most {most:,} connections -> let it take more (-c)"


def evictions(name: str, stats: Mapping[str, str]) -> Iterator[str]:
    """Yield warnings about a server that has evicted items to make room, in the form of `advice`."""
    if evicted := _number(stats, "evictions"):
        yield (
            f"memcached at {name} has evicted {evicted:,} items since it was started"
            " -> give it more memory (-m), or add servers"
        )


def _number(given: Mapping[str, str], key: str) -> int:
    text = given.get(key, "")
    return int(text) if text.isdecimal() else 0
