"""The layers of a graph: tasks whose keys have one prefix, as a person names them.

Dask's own keys have a prefix. Keys by hand often are a name and a number, which Dask takes for a prefix each: of more
than `_MANY` prefixes, those that differ by such a number only are one layer.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from dask.utils import key_split

_MANY = 200


def unnumbered(prefix: str) -> str:
    """Return a prefix without the number at its end; one that is nothing but a number stays."""
    return prefix.rstrip("0123456789").rstrip("-_. ") or prefix


def layers_of(keys: Iterable[Hashable]) -> tuple[list[str], array[int]]:
    """Return the names of the layers, in the order in which they come, and for each key the index of its layer."""
    index: dict[str, int] = {}
    heads: dict[Hashable, int] = {}
    of = array("i")
    for key in keys:
        head = key[0] if isinstance(key, tuple) and key else key
        number = heads.get(head)
        if number is None:
            number = heads[head] = index.setdefault(str(key_split(head)), len(index))
        of.append(number)
    if len(index) > _MANY:
        merged: dict[str, int] = {}
        new = [merged.setdefault(unnumbered(name), len(merged)) for name in index]
        return list(merged), array("i", [new[number] for number in of])
    return list(index), of


def edges_of(parents: tuple[Sequence[int], Sequence[int]], of: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return how many edges lead from tasks of one layer to tasks of another, or of the same: ``(from, to, n)``.

    `parents` of each task, as compressed sparse rows ``(pointers, tasks)``; `of`: each task's layer.
    """
    pointers, tasks = parents
    counts: Counter[tuple[int, int]] = Counter()
    for task, layer in enumerate(of):
        counts.update((of[parent], layer) for parent in tasks[pointers[task] : pointers[task + 1]])
    return [(start, end, n) for (start, end), n in counts.items()]
