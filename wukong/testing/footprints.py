"""What a step of a simulated job touches, and so which steps commute: what exploring all orders need not repeat.

    a step --Tracked--> Footprint;   two footprints --apart--> either order leads to the same state

Steps of two executors commute if neither writes what the other reads or writes. What is shared is the store (values,
records, words), the queue for a place, the watcher's looks and the order of the platform's reports.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["Footprint", "Tracked", "TrackedSet", "Tracker"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Footprint:
    """What was read and written.

    Attributes:
        reads, writes: names, with what kind of thing they name.
        everything: it commutes with nothing.
    """

    __slots__ = ("everything", "reads", "writes")

    def __init__(self) -> None:
        self.reads: set[Any] = set()
        self.writes: set[Any] = set()
        self.everything = False

    def add(self, other: Footprint) -> None:
        """Add what another one touched."""
        self.reads |= other.reads
        self.writes |= other.writes
        self.everything |= other.everything

    def apart(self, other: Footprint) -> bool:
        """Whether two steps with these footprints commute."""
        return not (
            self.everything
            or other.everything
            or not self.writes.isdisjoint(other.writes)
            or not self.writes.isdisjoint(other.reads)
            or not self.reads.isdisjoint(other.writes)
        )


class Tracker:
    """Holds the footprint of the step that is under way."""

    __slots__ = ("footprint",)

    def __init__(self) -> None:
        self.footprint = Footprint()


class Tracked(dict[K, V]):
    """A mapping that notes what is asked of it by key. To go through all of it leaves no trace."""

    def __init__(self, kind: str, tracker: Tracker, known: Mapping[K, V] = {}) -> None:
        super().__init__(known)
        self._kind, self._tracker = kind, tracker

    def __getitem__(self, key: K) -> V:
        self._tracker.footprint.reads.add((self._kind, key))
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._tracker.footprint.reads.add((self._kind, key))
        return super().__contains__(key)

    def get(self, key: K, default: Any = None) -> Any:
        self._tracker.footprint.reads.add((self._kind, key))
        return super().get(key, default)

    def __setitem__(self, key: K, value: V) -> None:
        self._tracker.footprint.writes.add((self._kind, key))
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        self._tracker.footprint.writes.add((self._kind, key))
        super().__delitem__(key)

    def pop(self, key: K, default: Any = None) -> Any:
        self._tracker.footprint.writes.add((self._kind, key))
        return super().pop(key, default)

    def update(self, items: Mapping[K, V]) -> None:  # type: ignore[override]
        self._tracker.footprint.writes.update((self._kind, key) for key in items)
        super().update(items)


class TrackedSet(set[K]):
    """A set that notes what is asked of it."""

    def __init__(self, kind: str, tracker: Tracker, known: Iterable[K] = ()) -> None:
        super().__init__(known)
        self._kind, self._tracker = kind, tracker

    def __contains__(self, item: object) -> bool:
        self._tracker.footprint.reads.add((self._kind, item))
        return super().__contains__(item)

    def add(self, item: K) -> None:
        self._tracker.footprint.writes.add((self._kind, item))
        super().add(item)
