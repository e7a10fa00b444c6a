"""How long this thread's caller still waits: whatever may block below it asks (a store, its servers' connections).

    with in_time(5.0, ...):     result(timeout=5): whatever is asked in here, there is an answer or JobTimeout by then
        store.get(keys)         `Patient`: a sign of life within store_patience_s, counted from the first try
            time_left_s()       a server's connection waits no longer than that for an answer

Two limits, because a large value that moves may take longer than any patience, but not longer than its caller gave.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from wukong.errors import JobTimeout, StoreUnavailable

__all__ = ["LIMITS", "in_time", "limited", "time_left_s"]


class _Limits(threading.local):
    """By `time.monotonic`.

    Attributes:
        end_s: nobody waits longer than this.
        sign_s: nor longer than this for a sign of life.
    """

    end_s: float = math.inf
    sign_s: float = math.inf


LIMITS = _Limits()
"""Those of this thread. Whoever changes them puts them back."""


def time_left_s(*, moving: bool = False) -> float:
    """Return how many seconds to wait for an answer, 0 at least; ``inf``: as long as it takes.

    `moving`: the answer is a large value, and some of it has moved just now.
    """
    until_s = LIMITS.end_s if moving else min(LIMITS.end_s, LIMITS.sign_s)
    return until_s if until_s == math.inf else max(0.0, until_s - time.monotonic())


@contextmanager
def limited(timeout_s: float | None) -> Iterator[None]:
    """Limit the waits of the block to `timeout_s` in all; None: no limit of its own. An outer limit still holds."""
    before_s = LIMITS.end_s
    if timeout_s is not None:
        LIMITS.end_s = min(before_s, time.monotonic() + timeout_s)
    try:
        yield
    finally:
        LIMITS.end_s = before_s


@contextmanager
def in_time(timeout_s: float | None, what: str, job: str | None = None) -> Iterator[None]:
    """As `limited`. Raises JobTimeout, which says `what`, if the time is over and the store does not answer."""
    if timeout_s is None:
        yield
        return
    until_s = time.monotonic() + timeout_s
    try:
        with limited(timeout_s):
            yield
    except StoreUnavailable as error:
        if time.monotonic() < until_s:
            raise
        raise JobTimeout(f"{what} within the time given: {error.message}", job=job, backend=error.backend) from error
