"""A store that is held to its contract: what a plug-in answers is checked once, for all that build on it.

What breaks the contract is a `StoreError` that names the plug-in and the promise; otherwise it would show as another
error somewhere above, where it tells nothing. Costs a good half of a microsecond a call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from wukong.backends.storage import Arrival, Blob, Buffer, Outcome
from wukong.backends.storage.layers.layer import Layer
from wukong.errors import StoreError, WukongError

__all__ = ["Checked"]

T = TypeVar("T")
_VALUES = {bytes, bytearray, memoryview, type(None)}


class Checked(Layer):
    """A store whose answers are checked: how many, of which types, and which exceptions."""

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        values: Any = self._asked("get", self.inner.get, keys)
        try:
            if len(values) == len(keys) and _VALUES.issuperset(map(type, values)):
                return values if type(values) is list else list(values)
        except TypeError:
            self._broken(f"get answered {type(values).__name__}, not a list")
        if len(values) != len(keys):
            self._broken(f"get answered {len(values)} of {len(keys)}")
        wrong = next(value for value in values if type(value) not in _VALUES)
        self._broken(f"get answered {type(wrong).__name__}, neither bytes nor None")

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        self._asked("put", self.inner.put, items, ttl_s)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self._asked("delete", self.inner.delete, keys)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        value = self._asked("wait", self.inner.wait, key, timeout_s)
        if type(value) not in _VALUES:
            self._broken(f"wait answered {type(value).__name__}, neither bytes nor None")
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        try:
            outcomes: Any = self.inner.incr(arrivals, ttl_s)
        except (WukongError, ValueError, MemoryError):  # ValueError: an arrival contradicts
            raise
        except Exception as error:
            self._escaped("incr", error)
        try:
            n = len(outcomes)
        except TypeError:
            self._broken(f"incr answered {type(outcomes).__name__}, not a list")
        if n != len(arrivals):
            self._broken(f"incr answered {n} of {len(arrivals)}")
        for outcome in outcomes:
            if type(outcome) is not Outcome:
                self._broken(f"incr answered {type(outcome).__name__}, not an Outcome")
            if outcome.claimed and not (outcome.complete and _VALUES.issuperset(map(type, outcome.values))):
                self._broken("incr answered a claim of a set that is not complete, or with values that are no bytes")
        return outcomes if type(outcomes) is list else list(outcomes)

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`."""
        found = self._asked("scan", self.inner.scan, prefix)
        if not isinstance(found, Mapping):
            self._broken(f"scan answered {type(found).__name__}, not a mapping of keys and sizes")
        return found

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`."""
        self._asked("renew", self.inner.renew, prefix, ttl_s)

    def _asked(self, verb: str, call: Callable[..., T], *arguments: Any) -> T:
        try:
            return call(*arguments)
        except (WukongError, MemoryError):
            raise
        except Exception as error:
            self._escaped(verb, error)

    def _escaped(self, verb: str, error: Exception) -> NoReturn:
        self._broken(f"{verb} raised {type(error).__name__}: {error}", error)

    def _broken(self, what: str, error: Exception | None = None) -> NoReturn:
        kind = type(self.inner)
        raise StoreError(
            f"the store plug-in {kind.__module__}:{kind.__qualname__} broke its contract: {what}",
            hint="its author has to mend this; wukong.testing.storage.StoreTests finds it",
        ) from error
