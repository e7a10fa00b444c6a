"""Counts of a store's use: calls, keys, bytes, time and errors of each verb."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from threading import get_ident
from typing import Any, TypeVar

from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Store, blob_size
from wukong.backends.storage.layers.layer import Layer

__all__ = ["Metered", "Usage", "VerbUsage"]

T = TypeVar("T")
_now_s: Callable[[], float] = time.perf_counter


@dataclass(frozen=True, slots=True)
class VerbUsage:
    """What one verb was used for.

    Attributes:
        calls: how often it was called, failed calls included.
        keys: how many keys, items or arrivals it was given.
        written_bytes: total size of the values given to it, riding values included.
        read_bytes: total size of the values it returned, riding values included.
        busy_s: seconds spent in it, summed over all threads.
        errors: calls that raised.
    """

    calls: int = 0
    keys: int = 0
    written_bytes: int = 0
    read_bytes: int = 0
    busy_s: float = 0.0
    errors: int = 0

    def __add__(self, other: VerbUsage) -> VerbUsage:
        return VerbUsage(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, other: VerbUsage) -> VerbUsage:
        return VerbUsage(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of a store, verb by verb. The difference of two is the use in between."""

    get: VerbUsage = field(default_factory=VerbUsage)
    put: VerbUsage = field(default_factory=VerbUsage)
    delete: VerbUsage = field(default_factory=VerbUsage)
    wait: VerbUsage = field(default_factory=VerbUsage)
    incr: VerbUsage = field(default_factory=VerbUsage)

    @property
    def total(self) -> VerbUsage:
        """All verbs together."""
        return self.get + self.put + self.delete + self.wait + self.incr

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))


_VERBS = tuple(each.name for each in fields(Usage))


class Metered(Layer):
    """A store that counts its calls. Costs about a microsecond a call.

    Every thread has a tally of its own, so no thread waits for another and no count is lost. `usage` adds the tallies
    up; it may see a call that is just ending half counted. A new thread goes on with the tally of an ended thread that
    had its identifier, so there are never more tallies than threads at a time.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._tallies: dict[int, dict[str, list[Any]]] = {}

    def usage(self) -> Usage:
        """Return what was counted since the store was opened."""
        tallies = list(self._tallies.values())
        return Usage(*(sum((VerbUsage(*tally[verb]) for tally in tallies), start=VerbUsage()) for verb in _VERBS))

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        tally, values = self._timed("get", len(keys), 0, self.inner.get, keys)
        tally[3] += _sizes(values)
        return values

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        self._timed("put", len(items), _sizes(items.values()), self.inner.put, items, ttl_s)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self._timed("delete", len(keys), 0, self.inner.delete, keys)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        tally, value = self._timed("wait", 1, 0, self.inner.wait, key, timeout_s)
        tally[3] += _sizes((value,))
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        written_bytes = sum(len(arrival.value) for arrival in arrivals if arrival.value is not None)
        tally, outcomes = self._timed("incr", len(arrivals), written_bytes, self.inner.incr, arrivals, ttl_s)
        tally[3] += sum(len(value) for outcome in outcomes for value in outcome.values)
        return outcomes

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`. Counted as `delete`."""
        tally, values = self._timed("delete", len(keys), 0, self.inner.take, keys, begin, most_bytes)
        tally[3] += _sizes(values)
        return values

    def _timed(
        self, verb: str, keys: int, written_bytes: int, call: Callable[..., T], *arguments: Any
    ) -> tuple[list[Any], T]:
        tallies = self._tallies.get(get_ident())
        if tallies is None:
            tallies = self._tallies.setdefault(get_ident(), {name: [0, 0, 0, 0, 0.0, 0] for name in _VERBS})
        tally = tallies[verb]
        tally[0] += 1
        tally[1] += keys
        tally[2] += written_bytes
        begun_s = _now_s()
        try:
            return tally, call(*arguments)
        except BaseException:
            tally[5] += 1
            raise
        finally:
            tally[4] += _now_s() - begun_s


def _sizes(blobs: Iterable[Blob | None]) -> int:
    size_bytes = 0
    for blob in blobs:
        if type(blob) is bytes:
            size_bytes += len(blob)
        elif blob is not None:
            size_bytes += blob_size(blob)
    return size_bytes
