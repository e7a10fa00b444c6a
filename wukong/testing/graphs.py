"""Small DAGs for tests of the protocol: the shapes that matter written out, and random ones from a seed.

Structure only: no callables, no keys. All are culled and numbered depth-first, as `wukong.core.dag` promises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from random import Random

from wukong.core.dag import Dag

__all__ = [
    "chain",
    "depth_first",
    "every_dag",
    "fan_out_fan_in",
    "layered",
    "random_dag",
    "tree_reduction",
]


def depth_first(parents: Mapping[int, Iterable[int]] | Sequence[Iterable[int]], outputs: Sequence[int]) -> Dag:
    """Return the DAG of what `outputs` need, renumbered in depth-first order from them. Iterative.

    `parents` names each task's parents; the numbers in it are names only. Raises ValueError if there is a cycle.
    """
    number: dict[int, int] = {}
    rows: list[list[int]] = []
    for output in outputs:
        stack = [output]
        while stack:
            task = stack[-1]
            state = number.get(task)
            if state is None:
                number[task] = -1
                for parent in sorted(parents[task], reverse=True):
                    if number.get(parent) == -1:
                        raise ValueError(f"tasks {parent} and {task} are on a cycle")
                    if parent not in number:
                        stack.append(parent)
                continue
            stack.pop()
            if state == -1:
                number[task] = len(rows)
                rows.append(sorted({number[parent] for parent in parents[task]}))
    return Dag.from_parents(rows, [number[output] for output in outputs])


def chain(n: int) -> Dag:
    """One task after another."""
    return Dag.from_parents([[task - 1] if task else [] for task in range(n)], [n - 1])


def tree_reduction(n_leaves: int) -> Dag:
    """Pairs of values are reduced to one until one is left."""
    parents: dict[int, tuple[int, ...]] = dict.fromkeys(range(n_leaves), ())
    level = list(range(n_leaves))
    while len(level) > 1:
        above = []
        for pair in zip(level[::2], level[1::2], strict=False):
            parents[len(parents)] = pair
            above.append(len(parents) - 1)
        level = [*above, *([level[-1]] if len(level) % 2 else [])]
    return depth_first(parents, level)


def fan_out_fan_in(width: int) -> Dag:
    """One task, `width` children, and one task that needs them all."""
    parents: dict[int, Sequence[int]] = {0: ()} | {1 + i: (0,) for i in range(width)}
    return depth_first(parents | {width + 1: range(1, width + 1)}, [width + 1])


def layered(n_layers: int, width: int) -> Dag:
    """Layers of tasks, each of which needs the whole layer before."""
    parents = [
        range((layer - 1) * width, layer * width) if layer else () for layer in range(n_layers) for _ in range(width)
    ]
    return depth_first(parents, range((n_layers - 1) * width, n_layers * width))


def every_dag(n: int, most_outputs: int = 2) -> Iterator[Dag]:
    """Yield every DAG of `n` tasks of which up to `most_outputs` are requested, one of all that are isomorphic."""
    pairs = list(combinations(range(n), 2))
    seen = set()
    for chosen in range(1 << len(pairs)):
        edges = [pair for i, pair in enumerate(pairs) if chosen >> i & 1]
        ends = {*range(n)}.difference(parent for parent, _ in edges)
        for extra in range(most_outputs - len(ends) + 1):
            for more in combinations([task for task in range(n) if task not in ends], extra):
                outputs = sorted([*ends, *more])
                kind = _canonical(n, edges, outputs)
                if kind not in seen:
                    seen.add(kind)
                    parents = [[parent for parent, child in edges if child == task] for task in range(n)]
                    yield depth_first(parents, outputs)


def _canonical(n: int, edges: Sequence[tuple[int, int]], outputs: Sequence[int]) -> tuple[tuple[object, ...], ...]:
    """What is the same for two DAGs if and only if they are isomorphic, what is requested included."""
    return min(
        (tuple(sorted((at[a], at[b]) for a, b in edges)), tuple(sorted(at[task] for task in outputs)))
        for at in permutations(range(n))
    )


def random_dag(rng: Random, max_tasks: int = 14) -> Dag:
    """A small DAG: a chain, a tree, layers, or edges at random; what is requested is random too (at least one task)."""
    n = rng.randint(1, max_tasks)
    shape = rng.randrange(6)
    rows: list[list[int]]
    if shape == 0:
        rows = [[task - 1] if task else [] for task in range(n)]
    elif shape == 1:
        rows = [
            [] if task < n // 2 else sorted({2 * (task - n // 2), 2 * (task - n // 2) + 1} & {*range(task)})
            for task in range(n)
        ]
    elif shape == 2:
        width = rng.randint(1, 4)
        rows = [
            [*range((task // width - 1) * width, task // width * width)] if task >= width else [] for task in range(n)
        ]
    elif shape == 3:
        rows = [[rng.randrange(task)] if task else [] for task in range(n - 1)] + [[*range(n - 1)]]
    else:
        dense = rng.choice((1, 2, 2, 3, 5))
        leafy = rng.choice((0.0, 0.2, 0.5))
        near = rng.choice((3, n))
        rows = [
            []
            if not task or rng.random() < leafy
            else sorted({rng.randrange(max(0, task - near), task) for _ in range(rng.randint(1, dense))})
            for task in range(n)
        ]
    ends = set(range(n)).difference(*rows)
    wanted = rng.randrange(4)
    if wanted == 0:
        outputs = [rng.choice(sorted(ends))]
    elif wanted == 1:
        outputs = list(range(n))
    elif wanted == 2:
        outputs = sorted(ends)
    else:
        outputs = sorted(ends | {task for task in range(n) if rng.random() < 0.3})
    rng.shuffle(outputs)
    return depth_first(rows, outputs)
