"""A tree reduction for jobs to run: every function imports this file, and so nothing of the tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def add(a: int, b: int) -> int:
    return a + b


def tree(n: int = 16, add: Callable[[int, int], int] = add) -> tuple[dict[Any, Any], Any, int]:
    """Return a graph, its last key and the right answer."""
    graph: dict[Any, Any] = {("t", 0, i): (add, i, i) for i in range(n)}
    level, width = 0, n
    while width > 1:
        width //= 2
        level += 1
        pairs = [(("t", level - 1, 2 * i), ("t", level - 1, 2 * i + 1)) for i in range(width)]
        graph.update({("t", level, i): (add, *pair) for i, pair in enumerate(pairs)})
    return graph, ("t", level, 0), n * (n - 1)
