"""How many tasks of which layer an executor has run, for its signs of life: small, however many tasks those were.

An executor does not know the graph's layers. It puts tasks together whose keys begin alike, and names each group by one
of its tasks: who has the graph knows of which layer that is. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

MOST_GROUPS = 48
_MOST_LOOKED_AT = 2_000
_TOKEN_LETTERS = 8

Groups: TypeAlias = tuple[tuple[int, int], ...]
"""Pairs ``(a task of the group, how many of the group have run)``, at most `MOST_GROUPS`: of more, the largest."""


class LayerTally:
    """Counts the tasks of one executor. One thread at a time.

    Args:
        keys: of each task, its Dask key.
    """

    def __init__(self, keys: Mapping[int, Hashable]) -> None:
        self._keys = keys
        self._first: dict[Hashable, int] = {}
        self._counts: Counter[Hashable] = Counter()

    def take(self, tasks: Sequence[int]) -> None:
        """Count more tasks. Of very many, some stand for all: looking at each takes the interpreter from the job."""
        step = max(1, len(tasks) // _MOST_LOOKED_AT)
        for at in range(0, len(tasks), step):
            task = tasks[at]
            head = beginning(self._keys.get(task))
            self._first.setdefault(head, task)
            self._counts[head] += min(step, len(tasks) - at)

    def groups(self) -> Groups:
        """Return what was counted up to now."""
        return tuple((self._first[head], n) for head, n in self._counts.most_common(MOST_GROUPS))


def beginning(key: Hashable) -> Hashable:
    """Return what keys of one layer have in common: what is first in a tuple; of text, its words without its token."""
    if isinstance(key, tuple):
        return key[0] if key else key
    if not isinstance(key, str):
        return None
    first, *words = key.split("-")
    kept = [first.rstrip("0123456789") or first]
    for word in words:
        if not word.isalpha() or (len(word) >= _TOKEN_LETTERS and not word.strip("abcdef")):
            break
        kept.append(word)
    return "-".join(kept)
