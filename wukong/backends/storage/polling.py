"""Waiting for a key by polling, for servers that send no notice of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from wukong.backends.storage import Buffer

__all__ = ["polled"]

_POLL_S = (0.001, 0.02)
_now_s: Callable[[], float] = time.monotonic
_sleep: Callable[[float], None] = time.sleep


def polled(look: Callable[[], Buffer | None], timeout_s: float, poll_s: tuple[float, float] = _POLL_S) -> Buffer | None:
    """Return what `look` finds; None if it finds nothing in time.

    Calls `look` at once, after 1 ms, then ever more rarely, at last every 20 ms; or as `poll_s` says, seconds.
    """
    start_s = _now_s()
    while True:
        value = look()
        elapsed_s = _now_s() - start_s
        if value is not None or elapsed_s >= timeout_s:
            return value
        _sleep(min(max(elapsed_s / 10, poll_s[0]), poll_s[1], timeout_s - elapsed_s))
