"""Which tasks of a job begin on which of the platform's sizes of function, and why; for a person."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

from wukong.core.dag import Graph
from wukong.core.layers import layers_of


def sizes_told(graph: Graph, sizes: Sequence[int]) -> tuple[str, ...]:
    """Return a line for each size but the smallest and each reason: ``3 layers (40 tasks) on 3,538 MB: learned``.

    `sizes`: memory of each, bytes, the smallest first.
    """
    if not graph.memory or len(sizes) < 2:
        return ()
    _, layer_of = layers_of(graph.keys)
    found: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for task, need in graph.memory.items():
        size = sizes[min(bisect_left(sizes, need), len(sizes) - 1)]
        if size > sizes[0]:
            found[size, "learned" if task in graph.learned else "annotated"].append(layer_of[task])
    return tuple(
        f"{_several(len(set(layers)), 'layer')} ({_several(len(layers), 'task')}) on {size >> 20:,} MB: {why}"
        for (size, why), layers in sorted(found.items())
    )


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"
