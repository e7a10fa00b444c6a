"""The static partition: which schedules a DAG has, and the pages they are shipped in.

SoCC '20 section 4.1 runs one depth-first search from each leaf; the *static schedule* of a leaf is all that it
reaches. Schedules overlap, so copying them is quadratic. Here a schedule is named by its leaf, and the DAG is stored
once, cut into *pages* of consecutive tasks. Tasks are numbered depth-first (`wukong.core.dag`), so what a schedule
walks through lies together, and an executor fetches the few pages that it walks into.

    leaf 0 --> 2 --> 6        schedule of 0: 0 2 6        page 0: tasks 0 1 2 3
    leaf 1 --'      /         schedule of 1: 1 2 6        page 1: tasks 4 5 6
    leaf 3 --> 5 --'          schedule of 3: 3 5 6        ...
    leaf 4 --'                schedule of 4: 4 5 6

Everything is linear in tasks + edges, and iterative.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from wukong.core.dag import Dag, Graph, Out, Page, op_refs


def starts(dag: Dag, *, eager: bool, priorities: Mapping[int, float] | None = None) -> list[array[int]]:
    """Return the start tasks of each first executor, the one to begin with first.

    There is one executor with all leaves, which splits as the work demands; ``eager``: one per leaf, as in the paper.
    Leaves come in depth-first order; if tasks have priorities, the leaves come first that the most urgent task needs.
    """
    leaves = dag.leaves()
    if priorities:
        urgency = _urgency(dag, priorities)
        leaves.sort(key=lambda leaf: -urgency[leaf])
    return [array("i", [leaf]) for leaf in leaves] if eager else [array("i", leaves)]


def _urgency(dag: Dag, priorities: Mapping[int, float]) -> list[float]:
    """Return for each task the highest priority among the tasks it reaches, itself included; without one it is 0."""
    urgency = [float(priorities.get(task, 0)) for task in range(len(dag))]
    for task in range(len(dag) - 1, -1, -1):
        for parent in dag.parents_of(task):
            urgency[parent] = max(urgency[parent], urgency[task])
    return urgency


def schedule(dag: Dag, leaf: int) -> list[int]:
    """Return the static schedule of a leaf: all tasks that it reaches, ascending (which is a topological order)."""
    seen = {leaf}
    stack = [leaf]
    while stack:
        for child in dag.children_of(stack.pop()):
            if child not in seen:
                seen.add(child)
                stack.append(child)
    return sorted(seen)


def pages(graph: Graph, page_tasks: int, kept: Mapping[int, bytes], *, release: bool = False) -> Iterator[Page]:
    """Cut a graph into pages of `page_tasks` tasks each; with `release`, they say who reads what.

    `kept` has the store keys of the objects (by their number in `Graph.objects`) that are not the job's own.
    """
    wanted = {task: member for member, task in enumerate(graph.dag.outputs)}
    n = len(graph.ops)
    for low in range(0, n, page_tasks):
        high = min(low + page_tasks, n)
        reads = tuple(_reads(graph.dag, task, wanted) for task in range(low, high)) if release else ()
        yield _page(graph, low, high, wanted, kept, reads)


def _reads(dag: Dag, task: int, wanted: Mapping[int, int]) -> Out:
    reads = []
    for parent in dag.parents_of(task):
        if parent not in wanted:
            first, end = dag.child_ptr[parent], dag.child_ptr[parent + 1]
            reads.append((parent, bisect_left(dag.children, task, first, end) - first, end - first))
    return tuple(reads)


def _page(
    graph: Graph, low: int, high: int, wanted: Mapping[int, int], kept: Mapping[int, bytes], reads: tuple[Out, ...]
) -> Page:
    dag, retries = graph.dag, graph.retries
    child_ptr, children, parent_ptr, parents = dag.child_ptr, dag.children, dag.parent_ptr, dag.parents
    out: list[Out] = []
    for task in range(low, high):
        edges = []
        for child in reversed(children[child_ptr[task] : child_ptr[task + 1]]):
            first, end = parent_ptr[child], parent_ptr[child + 1]
            of = end - first
            edges.append((child, of, 0 if of == 1 else bisect_left(parents, task, first, end) - first))
        if task in wanted:
            edges.insert(0, (dag.sink, len(wanted), wanted[task]))
        out.append(tuple(edges))
    objects = {}
    if kept:
        refs = {ref for task in range(low, high) for ref in op_refs(graph.ops[task]) if ref < 0}
        objects = {ref: kept[-1 - ref] for ref in refs if -1 - ref in kept}
    return Page(
        low,
        tuple(tuple(parents[parent_ptr[task] : parent_ptr[task + 1]]) for task in range(low, high)),
        tuple(out),
        tuple(graph.ops[low:high]),
        tuple(graph.keys[low:high]),
        {task: tries for task, tries in retries.items() if low <= task < high} if retries else {},
        objects,
        reads,
        frozenset(task for task in graph.exclusive if low <= task < high) if graph.exclusive else graph.exclusive,
        {task: size for task, size in graph.memory.items() if low <= task < high} if graph.memory else {},
        {task: each for task, each in graph.limits.items() if low <= task < high} if graph.limits else {},
    )
