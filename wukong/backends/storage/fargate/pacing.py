"""How often nodes are looked at, and how many are spoken to at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["at_once", "pauses"]

T = TypeVar("T")

_AT_ONCE = 8
_PAUSES_S = (0.1, 2.0)


def pauses() -> Iterator[float]:
    """Yield, without end, how long to wait before the next look, seconds."""
    pause_s = _PAUSES_S[0]
    while True:
        yield pause_s
        pause_s = min(_PAUSES_S[1], pause_s * 1.5)


def at_once(function: Callable[[T], None], items: Sequence[T]) -> None:
    """Call `function` for each item, several at a time. Raises the first error when the calls under way have ended."""
    if len(items) < 2:
        for item in items:
            function(item)
        return
    pool = ThreadPoolExecutor(min(_AT_ONCE, len(items)), thread_name_prefix="wukong-fargate")
    try:
        for _ in pool.map(function, items):
            pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
