"""A store whose answers are checked against the contract, once for all that build on it.

See `wukong.backends.contract`. Costs a good half of a microsecond a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wukong.backends.contract import Contract
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Rent, Store, Tell
from wukong.backends.storage.layers.layer import Layer
from wukong.errors import StoreError

__all__ = ["Checked"]

_VALUES = {bytes, bytearray, memoryview, type(None)}


class Checked(Layer):
    """A store whose answers are checked: their number, their types, and the exceptions that it raises."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._contract = Contract(inner, "store", StoreError, "wukong.testing.storage.StoreTests")
        self._asked, self._broken = self._contract.asked, self._contract.broken

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

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`."""
        values = self._asked("take", self.inner.take, keys, begin, most_bytes)
        if not isinstance(values, list) or len(values) != len(keys):
            self._broken(f"take answered {values!r:.60}, not a list of {len(keys)}")
        return values

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        value = self._asked("wait", self.inner.wait, key, timeout_s)
        if type(value) not in _VALUES:
            self._broken(f"wait answered {type(value).__name__}, neither bytes nor None")
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        # ValueError: an arrival contradicts
        outcomes: Any = self._asked("incr", self.inner.incr, arrivals, ttl_s, passing=(ValueError,))
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

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        return self._contract.spec(self.inner.spec)

    def environment(self) -> Mapping[str, str]:
        """See `Store.environment`."""
        return self._contract.environment(self.inner.environment)

    def start(self, tell: Tell) -> None:
        """See `Store.start`."""
        self._asked("start", self.inner.start, tell)

    def rent(self) -> Rent | None:
        """See `Store.rent`."""
        rent = self._asked("rent", self.inner.rent)
        if rent is not None and not isinstance(rent, Rent):
            self._broken(f"rent answered {type(rent).__name__}, neither a Rent nor None")
        return rent
