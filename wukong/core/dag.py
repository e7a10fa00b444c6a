"""The DAG: structure in compact arrays, what each task does kept apart from it.

Model: tasks are the integers ``0 .. n-1``, numbered in one depth-first topological order (every parent has a smaller
number than its children, and what is computed together lies together). `Dag` holds the edges as compressed sparse
rows, children and parents both. A `Graph` adds what each task does (`Op`) and what it is called.

    ops[t]   what task t does; its inputs are named by number (a task) or by -1-i (object i: a large literal)
    out[t]   where the value of t goes: ``(child, of, member)`` for each child; `of` is how many parents the child
             has, `member` which of them t is. The job's own fan-in, which collects the requested outputs, is
             one more child, number n (the *sink*).

Invariants: parents[t] < t; a task without parents is a *leaf*; every task reaches the sink (the graph is culled).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

Out: TypeAlias = tuple[tuple[int, int, int], ...]

Op: TypeAlias = tuple[Any, ...]
"""What a task does, in the smallest form that fits; the length tells which.

``(func, refs)``: call with these inputs, in order.
``(func, args, holes)``: call with `args`, the inputs put into the positions that `holes` (position, ref) names.
``(node, keys, refs, constants)``: call ``node`` with a mapping of keys to inputs (refs by position) and constants.
"""


Limits: TypeAlias = tuple[tuple[str, int], ...]
"""For each limit of a task, by name, how many such tasks may run at once in the whole job; ascending by name."""


@dataclass(frozen=True, slots=True)
class Dag:
    """The structure of a job: edges as compressed sparse rows, and which tasks are requested.

    Attributes:
        parent_ptr, parents: task t's parents are ``parents[parent_ptr[t]:parent_ptr[t + 1]]``, ascending, unique.
        child_ptr, children: likewise its children.
        outputs: the requested tasks, unique, in the order of the request.
    """

    parent_ptr: array[int]
    parents: array[int]
    child_ptr: array[int]
    children: array[int]
    outputs: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.parent_ptr) - 1

    @property
    def n_edges(self) -> int:
        """Number of edges between tasks."""
        return len(self.parents)

    @property
    def sink(self) -> int:
        """The number that stands for the job's own fan-in."""
        return len(self)

    def parents_of(self, task: int) -> array[int]:
        """Return the parents of a task, ascending."""
        return self.parents[self.parent_ptr[task] : self.parent_ptr[task + 1]]

    def children_of(self, task: int) -> array[int]:
        """Return the children of a task, ascending."""
        return self.children[self.child_ptr[task] : self.child_ptr[task + 1]]

    def leaves(self) -> list[int]:
        """Return the tasks without parents, ascending, which is depth-first order."""
        return [task for task, (low, high) in enumerate(pairwise(self.parent_ptr)) if low == high]

    @classmethod
    def from_parents(cls, parents: Sequence[Sequence[int]], outputs: Sequence[int]) -> Dag:
        """Build the structure from each task's parents (ascending and unique, each smaller than the task)."""
        n = len(parents)
        parent_ptr = array("q", bytes(8 * (n + 1)))
        flat = array("i")
        n_children = array("i", bytes(4 * n))
        total = 0
        for task, row in enumerate(parents):
            flat.extend(row)
            total += len(row)
            parent_ptr[task + 1] = total
            for parent in row:
                n_children[parent] += 1
        child_ptr = array("q", bytes(8 * (n + 1)))
        total = 0
        for task in range(n):
            total += n_children[task]
            child_ptr[task + 1] = total
        children = array("i", bytes(4 * total))
        place = child_ptr[:-1]
        for task, row in enumerate(parents):
            for parent in row:
                at = place[parent]
                children[at] = task
                place[parent] = at + 1
        return cls(parent_ptr, flat, child_ptr, children, tuple(dict.fromkeys(outputs)))


@dataclass(frozen=True, slots=True)
class Graph:
    """A job's DAG with its meaning.

    Attributes:
        dag: the structure.
        keys: the Dask key of each task.
        ops: what each task does.
        objects: large literals and kept values; ``-1 - i`` in an op stands for object i.
        retries: how often to run a task again in place, for the tasks annotated so.
        priorities: the higher, the sooner, for the tasks annotated so.
        exclusive: the tasks that run only if no other does in their process.
        by_process: Dask by itself has processes run a part of it, not threads.
        memory: bytes that a task needs, for the tasks annotated so, and for those of which earlier jobs have taught it.
        learned: the latter.
        keeps: the tasks annotated so that their values be kept beyond the job: under which name, or True.
        keeping: what executors are told of the values that they are to keep, see `wukong.core.kept`.
        limits: of the tasks annotated so.
        request: for each requested key in order, a task, or a `Literal` if nothing has to be run.
    """

    dag: Dag
    keys: list[Hashable]
    ops: list[Op]
    objects: list[Any]
    request: dict[Hashable, int | Literal]
    retries: dict[int, int] = field(default_factory=dict)
    priorities: dict[int, float] = field(default_factory=dict)
    exclusive: frozenset[int] = frozenset()
    memory: dict[int, int] = field(default_factory=dict)
    keeps: dict[int, Any] = field(default_factory=dict)
    keeping: dict[int, Any] = field(default_factory=dict)
    learned: set[int] = field(default_factory=set)
    by_process: bool = False
    limits: dict[int, Limits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Literal:
    """A requested value that the graph itself contains."""

    value: Any


@dataclass(frozen=True, slots=True)
class Page:
    """A run of consecutive tasks as an executor fetches it: ``first .. first + len(out) - 1``.

    Attributes:
        first: number of the first task.
        parents: each task's parents.
        out: each task's children, nearest (smallest number) last, so that pushing them in order pops it first.
        ops: what each task does.
        keys: each task's Dask key.
        retries, exclusive, memory, limits: as in `Graph`, for the tasks of this page.
        objects: store keys of those objects of its ops that are not the job's own.
        reads: for each task and each of its parents that is not requested: ``(parent, which of the parent's children
            this is, how many children the parent has)``. Empty unless values are released.
    """

    first: int
    parents: tuple[tuple[int, ...], ...]
    out: tuple[Out, ...]
    ops: tuple[Op, ...]
    keys: tuple[Hashable, ...]
    retries: dict[int, int] = field(default_factory=dict)
    objects: dict[int, bytes] = field(default_factory=dict)
    reads: tuple[Out, ...] = ()
    exclusive: frozenset[int] = frozenset()
    memory: dict[int, int] = field(default_factory=dict)
    limits: dict[int, Limits] = field(default_factory=dict)


def run_op(op: Op, value_of: Callable[[int], Any]) -> Any:
    """Run an op; `value_of` looks up its inputs. Whatever the user's function raises passes through."""
    shape = len(op)
    if shape == 2:
        return op[0](*map(value_of, op[1]))
    if shape == 3:
        func, args, holes = op
        args = list(args)
        for position, ref in holes:
            args[position] = value_of(ref)
        return func(*args)
    node, keys, refs, constants = op
    return node(dict(zip(keys, map(value_of, refs), strict=True)) | constants)


def op_refs(op: Op) -> Iterator[int]:
    """Yield the inputs of an op: tasks (>= 0) and objects (< 0), repeats included."""
    if len(op) == 3:
        return (ref for _, ref in op[2])
    return iter(op[1] if len(op) == 2 else op[2])
