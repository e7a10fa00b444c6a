"""How long the caller of this thread still waits, for whatever may block below it: a store, its servers' connections.

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
    """Return for how many seconds an answer is still waited for, 0 at least; ``inf``: for as long as it takes.

    `moving`: of a large value, of which some has moved just now.
    """
    until_s = LIMITS.end_s if moving else min(LIMITS.end_s, LIMITS.sign_s)
    return until_s if until_s == math.inf else max(0.0, until_s - time.monotonic())


@contextmanager
def limited(timeout_s: float | None) -> Iterator[None]:
    """Have nothing in here wait longer than this together; None: as long as it would. An outer limit still holds."""
    before_s = LIMITS.end_s
    if timeout_s is not None:
        LIMITS.end_s = min(before_s, time.monotonic() + timeout_s)
    try:
        yield
    finally:
        LIMITS.end_s = before_s


@contextmanager
def in_time(timeout_s: float | None, what: str, job: str | None = None) -> Iterator[None]:
    """Have `limited` time for what is in here. Raises JobTimeout that says `what` if it is over and the store away."""
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
