"""Lazy iterators as values: bags pass them from task to task.

While an iterator stays in its executor it is left as it is; if it can be pickled (a `map` over a list), also when it
leaves. One that cannot, such as a generator, is read out when it has to leave, and an iterator over its items takes its
place. Only the builtin kinds are read out: an object that is an iterator and more (a file, a reader, a class of the
user's) would lose what else it is.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from types import GeneratorType
from typing import Any

from wukong.core.sizes import size_bytes
from wukong.errors import CodecError

logger = logging.getLogger(__name__)

_KINDS = frozenset(
    {GeneratorType, map, zip, filter, enumerate, reversed, type(iter(int, 1))}
    | {kind for kind in vars(itertools).values() if isinstance(kind, type) and issubclass(kind, Iterator)}
)
_CONTAINERS = frozenset({list, tuple, dict})
MOST_BYTES = 1 << 30
"""What an iterator may give when it is read out."""
_REFERENCE_BYTES = 8
_SAMPLE = 1_024
_LONG_S = 10.0


def holds_lazy(value: Any) -> bool:
    """Whether `value` is a lazy iterator, or has one inside its lists, tuples and dicts."""
    seen: set[int] = set()
    left = [value]
    while left:  # without recursion: a value may be nested deeper than that goes
        value = left.pop()
        kind = type(value)
        if _is_lazy(kind):
            return True
        if kind in _CONTAINERS and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if kind is dict else value)
    return False


def _is_lazy(kind: type) -> bool:
    return kind in _KINDS or (kind.__name__ == "_MapChunk" and kind.__module__ == "dask.bag.core")


def read_out(value: Any, name: str) -> Any:
    """Return `value` with each lazy iterator in it replaced by one over its items; `name` is the value's, for errors.

    Raises CodecError for an iterator that gives too much, and whatever an iterator itself raises.
    """
    return _Reader(name).settled(value)


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self._done: dict[int, Any] = {}
        self._keep: list[Any] = []  # an id is one object's for as long as that lives

    def settled(self, value: Any) -> Any:
        kind = type(value)
        if not _is_lazy(kind) and not (kind in _CONTAINERS and holds_lazy(value)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._keep.append(value)
        new: Any
        if kind is dict:
            new = self._done[id(value)] = {}
            new.update((key, self.settled(each)) for key, each in value.items())
        elif kind is list:
            new = self._done[id(value)] = []
            new.extend(map(self.settled, value))
        else:
            new = tuple(map(self.settled, value)) if kind is tuple else iter(self._items(value))
            self._done[id(value)] = new
        return new

    def _items(self, lazy: Iterator[Any]) -> list[Any]:
        items: list[Any] = []
        sampled_bytes = n_sampled = 0
        since, told = time.monotonic(), False
        for item in lazy:
            items.append(self.settled(item))
            n = len(items)
            if n & (n - 1) and n % _SAMPLE:
                continue
            n_sampled += 1
            sampled_bytes += size_bytes(item) + _REFERENCE_BYTES
            if n * sampled_bytes > MOST_BYTES * n_sampled:
                raise CodecError(
                    f"the {type(lazy).__name__} that this task gives cannot be read out, as it has to be to leave its "
                    f"executor: after {n:,} items, of about {MOST_BYTES:,} bytes, it has not ended",
                    task=self._name,
                    hint="return what it gives as a list or an array, or consume it in the task that makes it",
                )
            if not told and time.monotonic() - since > _LONG_S:
                told = True
                logger.warning("%s: a %s is being read out, %d items so far", self._name, type(lazy).__name__, n)
        return items
