"""A store that is given some time to come back."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Store
from wukong.backends.storage.layers.layer import Layer
from wukong.core.time_left import LIMITS, time_left_s
from wukong.errors import ConfigError, Retryable, StoreUnavailable

__all__ = ["Patient"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LAST_PAUSE_S = 2.0
_LONG_S = 1.0
_LATE_S = 2.0
_MOST_WAITS = 1_024
_now_s: Callable[[], float] = time.monotonic
_sleep: Callable[[float], None] = time.sleep


class Patient(Layer):
    """A store whose operations are repeated for a while when they fail with an error that is `Retryable`.

    All of a store's operations are idempotent, so repeating one is safe even if only its answer was lost. Pauses
    begin with 50 ms and double up to 2 s. Each is cut short at random by up to a half, so that executors do not all
    come back at the same moment after an outage. An operation raises the last error `patience_s` after its first try
    began, or earlier if the caller's own time is over. A store that reads `wukong.core.time_left` is not silent for
    longer than that. If a large value was on its way, the time counts from when some of it last moved.

    `wait` returns None when its time is over, even during an outage, and never before; a silent store may make it two
    seconds late. A caller that waits in short slices gets the error of an outage as well: waits for one key count as
    one operation until the store has answered one of them.

    Args:
        inner: the store inside.
        patience_s: how long a store may be away, seconds; 0: raise every error at once.
        aloud: warn, once per `patience_s`, when a store has been away for more than a second.
    """

    def __init__(self, inner: Store, patience_s: float, *, aloud: bool = False) -> None:
        if not patience_s >= 0:
            raise ConfigError(f"patience_s is {patience_s!r}; seconds are not negative")
        super().__init__(inner)
        self.capabilities = replace(inner.capabilities, takes=False)  # no second try can return what the first one took
        self._patience_s = patience_s
        self._aloud = aloud
        self._warned_s = -math.inf
        self._waits: dict[bytes, tuple[float, float]] = {}

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        return self._patiently(lambda: self.inner.get(keys))

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        self._patiently(lambda: self.inner.put(items, ttl_s))

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self._patiently(lambda: self.inner.delete(keys))

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        return self._patiently(lambda: self.inner.incr(arrivals, ttl_s))

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`."""
        return self._patiently(lambda: self.inner.scan(prefix))

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`."""
        self._patiently(lambda: self.inner.renew(prefix, ttl_s))

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`, and the class."""
        since_s = _now_s()
        until_s = since_s + timeout_s
        outage: _Outage | None = None
        left_s = timeout_s
        while True:
            before_s = LIMITS.sign_s
            if self._patience_s:
                LIMITS.sign_s = min(until_s + _LATE_S, since_s + self._patience_s)
            try:
                value = self.inner.wait(key, left_s)
            except Retryable as error:
                failed = error
            else:
                if self._waits:
                    self._waits.pop(key, None)
                return value
            finally:
                LIMITS.sign_s = before_s
            if outage is None:
                since_s = self._away_since(key, since_s)
                outage = _Outage(self._patience_s, since_s)
            try:
                pause_s = self._pause_s(outage, failed)
            except Retryable:
                self._waits.pop(key, None)
                raise
            self._note(key, since_s)
            left_s = until_s - _now_s()
            if left_s <= 0:
                return None
            _sleep(min(pause_s, left_s))
            left_s = max(0.0, until_s - _now_s())

    def _patiently(self, operation: Callable[[], T]) -> T:
        outage: _Outage | None = None
        since_s = _now_s()
        while True:
            before_s = LIMITS.sign_s
            if self._patience_s:
                LIMITS.sign_s = since_s + self._patience_s
            try:
                return operation()
            except Retryable as error:
                if outage is None:
                    since_s = _last_sign_s(error, since_s)
                    outage = _Outage(self._patience_s, since_s)
                failed = error
            finally:
                LIMITS.sign_s = before_s
            _sleep(self._pause_s(outage, failed))

    def _pause_s(self, outage: _Outage, error: Retryable) -> float:
        pause_s = outage.pause_s(error)
        now_s = _now_s()
        if self._aloud and now_s - outage.since_s > _LONG_S and now_s - self._warned_s > self._patience_s:
            self._warned_s = now_s
            logger.warning(
                "the store has been away for %.0f s, and is waited for %.0f s more: %s",
                now_s - outage.since_s,
                outage.since_s + self._patience_s - now_s,
                error.message,
            )
        return pause_s

    def _away_since(self, key: bytes, began_s: float) -> float:
        """When waiting for this key first failed; `began_s`, if that was too long ago to be the same outage."""
        since_s, last_s = self._waits.get(key, (began_s, began_s))
        return since_s if began_s - last_s <= self._patience_s else began_s

    def _note(self, key: bytes, since_s: float) -> None:
        if len(self._waits) >= _MOST_WAITS:  # of keys that nobody waits for any more
            self._waits.clear()
        self._waits[key] = (since_s, _now_s())


def _last_sign_s(error: Retryable, began_s: float) -> float:
    """Return when the store last answered: when the operation began, unless the error knows better."""
    silent_s = error.silent_s if isinstance(error, StoreUnavailable) else None
    return began_s if silent_s is None else max(began_s, _now_s() - silent_s)


class _Outage:
    """One operation that keeps failing, since `since_s`."""

    def __init__(self, patience_s: float, since_s: float) -> None:
        self.since_s = since_s
        self._patience_s = patience_s
        self._next_s = _FIRST_PAUSE_S
        self._failures = 0

    def pause_s(self, error: Retryable) -> float:
        """Return how long to pause before the next attempt; raise the error if `patience_s` is over."""
        self._failures += 1
        now_s = _now_s()
        left_s = min(self.since_s + self._patience_s - now_s, time_left_s())
        if left_s <= 0:
            times = "once" if self._failures == 1 else f"{self._failures} times"
            error.add_note(f"The store was tried {times} in {now_s - self.since_s:.2g} s.")
            raise error
        if self._failures == 1:
            logger.info("trying again for %.1f s: %s", left_s, error)
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, _LAST_PAUSE_S)
        return min(pause_s, left_s)
