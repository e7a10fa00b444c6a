"""How much memory tasks need: what jobs tell of it, and on which size of function the next job's tasks begin.

    a job has settled -> needs_from -> Learned -> begin_on -> Graph.memory -> what an annotation says, too

What counts first is what has happened on functions of a size: tasks have run to their end there, or were too large for
it. The most that their process had in use tells of the sizes between, and of those that no task has tried. If a size is
too small after all, the task runs again on the next larger one, as without any of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from wukong.core.dag import Graph
from wukong.core.noted import Noted, Taught
from wukong.planning.estimates import estimate, work_of
from wukong.planning.kinds import Kinds
from wukong.planning.learned import Kind, Lesson, MemoryLesson, bucket_of
from wukong.planning.terms import undisturbed

_MARGIN, _MARGIN_BYTES = 1.25, 64 << 20
"""How much more a function has than tasks had in use before, if none of them has run on one of its size.

Measured: of seven kinds of tasks in eight jobs, most of what a later job had in use above the first was what a process
keeps once it has run others (54 to 83 MB, on 70 to 523). This holds six of them. The seventh kept values of others.
"""
_NEAR, _MOST_RUNS = 1, 2_000


def needs_from(graph: Graph, taught: Taught) -> list[tuple[Kind, MemoryLesson]]:
    """Return what a job tells of its tasks' memory, by kind and size of the inputs; nothing, if there is one size.

    It is called while the client's next job may be under way, so that it must not take long.
    """
    if not any(each.function_bytes for each in taught.executors):
        return []
    kinds, sums = Kinds(graph), dict[tuple[Kind, int], _Sum]()

    def of(task: int) -> _Sum:
        key = kinds[task], bucket_of(work_of(graph, task, taught.sizes))
        return sums.setdefault(key, _Sum())

    for executor, task in _sampled(_with_own_peaks(taught)):
        each = of(task)
        each.ran[executor.function_bytes] += 1
        each.peak_bytes = max(each.peak_bytes, executor.memory.get(task, 0))
    for task, function_bytes in taught.outgrown:
        of(task).ended[function_bytes] += 1
    # What is learned last counts if sizes are not known: that of most tasks.
    ordered = sorted(sums.items(), key=lambda each: each[1].ran.total())
    return [(kind, each.need(bucket)) for (kind, bucket), each in ordered]


def _with_own_peaks(taught: Taught) -> list[Noted]:
    """Return the executors, each with the peaks only of runs beside which no other ran in the same process.

    The peak is the process's: of tasks side by side, the first to end has that of all.
    """
    pairs = zip(taught.executors, undisturbed(taught).executors, strict=True)
    return [
        replace(each, memory={task: each.memory[task] for task in calm.tasks if task in each.memory})
        if each.begun
        else each
        for each, calm in pairs
    ]


def _sampled(executors: Sequence[Noted]) -> Iterable[tuple[Noted, int]]:
    """Choose some runs of tasks: of those on the smallest functions, and of all others, which are fewer."""
    smallest = min(each.function_bytes for each in executors if each.function_bytes)
    for small in (True, False):
        mine = [each for each in executors if each.function_bytes and (each.function_bytes == smallest) is small]
        step = max(1, -(-sum(len(each.tasks) for each in mine) // _MOST_RUNS))
        yield from islice(((each, task) for each in mine for task in each.tasks), 0, None, step)


@dataclass(slots=True)
class _Sum:
    """By memory of a function: how many tasks ran on it, and how many were too large for it."""

    ran: Counter[int] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    peak_bytes: int = 0

    def need(self, bucket: int) -> MemoryLesson:
        """What holds for most of the tasks: the one of many that needs more is run again."""
        outgrown = [
            size
            for size, n in self.ended.items()
            if n >= sum(ran for smaller, ran in self.ran.items() if smaller <= size)
        ]
        outgrew_bytes = max(outgrown, default=0)
        held = [size for size, n in self.ran.items() if size > outgrew_bytes and n > self.ended[size]]
        return MemoryLesson(bucket, outgrew_bytes, self.peak_bytes, min(held, default=0))


def begin_on(need: MemoryLesson, sizes: Sequence[int]) -> int:
    """Return on which size of function such tasks begin: memory in bytes, one of `sizes`, the smallest first."""
    if not need.outgrew_bytes and not need.peak_bytes:  # too short to be measured, as most of what follows large tasks
        return sizes[0]
    for size in sizes:
        held = need.held_bytes and size >= need.held_bytes
        fits = need.peak_bytes and size >= _MARGIN * need.peak_bytes + _MARGIN_BYTES
        untold = not need.held_bytes and not need.peak_bytes
        if size > need.outgrew_bytes and (held or fits or untold):
            return size
    return sizes[-1]


def learned_memory(
    graph: Graph,
    sizes: Sequence[int],
    needs_of: Callable[[Iterable[Kind]], Mapping[Kind, Sequence[MemoryLesson]]],
    lessons_of: Callable[[Iterable[Kind]], Mapping[Kind, Sequence[Lesson]]],
) -> dict[int, int]:
    """Return the bytes that tasks are to have, for those that begin on a larger function than the smallest.

    Args:
        graph: what is to run. Tasks that are annotated are left as they are.
        sizes: memory of each size of function, bytes, the smallest first.
        needs_of, lessons_of: see `wukong.planning.learned.Learned`.
    """
    known = Kinds(graph)
    kinds = [known[task] for task in range(len(graph.dag))]
    firsts: dict[Kind, Mapping[int, int]] = {
        kind: {need.bucket: begin_on(need, sizes) for need in needs}
        for kind, needs in needs_of(dict.fromkeys(kinds)).items()
    }
    firsts = {kind: each for kind, each in firsts.items() if max(each.values()) > sizes[0]}
    if not firsts:
        return {}
    found = estimate(graph, _no_metadata, lessons_of)
    chosen = {}
    for task, kind in enumerate(kinds):
        if kind in firsts and task not in graph.memory:
            size = _first(firsts[kind], bucket_of(found.work[task]))
            if size > sizes[0]:
                chosen[task] = size
    return chosen


def _first(by_bucket: Mapping[int, int], bucket: int) -> int:
    """Return where tasks with inputs of this size begin, by what is known of the nearest size that is not larger.

    0: nothing is known, since smaller inputs than those that were seen may need less. Of inputs of unknown size, what
    was learned last counts.
    """
    if not bucket:
        return next(iter(by_bucket.values()))
    return by_bucket.get(max((each for each in by_bucket if each <= bucket + _NEAR), default=-1), 0)


def _no_metadata(key: Hashable) -> None:
    return None
