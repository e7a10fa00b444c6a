"""How long a server may be silent, and which connections to it are still trusted: the same for all stores with servers.

A server answers a small operation soon or not at all, so its bound is far below that of a large value, which may take
long while it moves. NAT, firewalls and sleeping laptops drop connections without notice. So a connection that was idle
for a while is not trusted any more: to open another costs only a round trip or two.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from wukong.core.time_left import time_left_s

__all__ = ["ANSWER_S", "LARGE_BYTES", "has_rested", "longest_s", "still_trusted"]

ANSWER_S = 5.0
"""How long a server may take to answer a small operation, unless told otherwise."""

LARGE_BYTES = 64 << 10
"""A value larger than this gets extra time to move."""

_SLOWEST_BYTES_PER_S = 100e3
_LEAST_S = 0.05
_IDLE_S = 30.0
_REST_S = 1.0
_calendar_s: Callable[[], float] = time.time


def longest_s(answer_s: float, most_s: float, size_bytes: int = 0) -> float:
    """Return how long to wait for the answer to a request of `size_bytes`, seconds.

    Args:
        answer_s: how long a small operation may take.
        most_s: how long any operation may take.
        size_bytes: size of the request; above `LARGE_BYTES` it gets time to travel, at 100 kB/s.
    """
    wait_s = min(answer_s, time_left_s())
    if size_bytes > LARGE_BYTES:
        wait_s = min(wait_s + size_bytes / _SLOWEST_BYTES_PER_S, time_left_s(moving=True))
    return max(_LEAST_S, wait_s) if wait_s < most_s else most_s


def still_trusted(used_s: float) -> bool:
    """Return whether a connection that was last used at `used_s`, Unix time, may be used again.

    Unix time, because other clocks stand still while a machine is suspended, or a function frozen.
    """
    return abs(_calendar_s() - used_s) < _IDLE_S


def has_rested(used_s: float) -> bool:
    """Return whether a connection has been idle for long: then it is tested before it sends a large value."""
    return abs(_calendar_s() - used_s) > _REST_S
