"""How long a server may be silent, and which connections to it are still trusted: the same for all stores with servers.

A small operation is answered soon or not at all, so its bound is far below that of a large value, which may take its
time as long as it moves. What lies between (NAT, a firewall) forgets connections without a word, and so does a laptop
that slept: one that was idle for a while is not trusted any more, since opening another costs a round trip or two only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from wukong.core.time_left import time_left_s

__all__ = ["ANSWER_S", "LARGE_BYTES", "has_rested", "longest_s", "still_trusted"]

ANSWER_S = 5.0
"""How long a server may take to answer a small operation, unless told otherwise."""

LARGE_BYTES = 64 << 10
"""From here on moving it counts."""

_SLOWEST_BYTES_PER_S = 100e3
_LEAST_S = 0.05
_IDLE_S = 30.0
_REST_S = 1.0
_calendar_s: Callable[[], float] = time.time


def longest_s(answer_s: float, most_s: float, size_bytes: int = 0) -> float:
    """Return how long to wait for the answer to what so many bytes were sent for.

    Args:
        answer_s: how long a small operation may take.
        most_s: how long any may.
        size_bytes: what is sent; above `LARGE_BYTES` it is given time to get there, at 100 kB/s.
    """
    wait_s = min(answer_s, time_left_s())
    if size_bytes > LARGE_BYTES:
        wait_s = min(wait_s + size_bytes / _SLOWEST_BYTES_PER_S, time_left_s(moving=True))
    return max(_LEAST_S, wait_s) if wait_s < most_s else most_s


def still_trusted(used_s: float) -> bool:
    """Whether a connection that was last used then, by the calendar, may be used again.

    By the calendar, because other clocks stand still while a machine is suspended, or a function frozen.
    """
    return abs(_calendar_s() - used_s) < _IDLE_S


def has_rested(used_s: float) -> bool:
    """Whether so long ago that the server is asked for a sign of life before a large value is sent to it."""
    return abs(_calendar_s() - used_s) > _REST_S
