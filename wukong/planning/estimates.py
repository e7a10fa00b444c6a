"""How long each task of a graph will take and how large its value will be, and how sure that is.

sizes      the collections' metadata, else learned, else guessed: as large as the inputs
durations  learned from tasks of the same kind with inputs of the same size; else scaled, in proportion to the
           inputs, from what was learned of other sizes; else guessed, from the bytes that the task reads and makes
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from wukong.core.dag import Graph, Op
from wukong.core.layers import layers_of, unnumbered
from wukong.core.sizes import size_bytes
from wukong.planning.kinds import Kinds
from wukong.planning.learned import Kind, Lesson, bucket_of
from wukong.planning.terms import RunTaught

Basis: TypeAlias = Literal["learned", "scaled", "guess"]

MOST_RUNS = 20_000
_SAMPLED, _SAMPLED_IN_ALL = 100, 500
_GUESS_S = 0.001
_GUESS_BYTES_PER_S = 500e6
_GUESS_BYTES, _LEAST_BYTES = 16_384, 64
FRAME_BYTES = 30
"""What a value takes besides itself, wherever it goes."""
_SPREADS: Mapping[Basis, float] = {"learned": 1.15, "scaled": 2.0, "guess": 10.0}
_FIRST_SPREAD = 1.3
_SIZE_SPREADS: Mapping[Basis, float] = {"learned": 1.1, "scaled": 2.0, "guess": 4.0}
_KNOWN: Basis = "learned"
_FAR, _APART, _STEEPEST = 16.0, math.log(4.0), 3.0
_TELLING_BYTES = 1_000_000
_HELD = 0.5
_ORDER: Sequence[Basis] = ("learned", "scaled", "guess")


@dataclass(slots=True)
class TaskPrefix:
    """The tasks with one key prefix.

    Attributes:
        name: the prefix. tasks: how many.
        seconds: of one, the mean. size_bytes: of one's value, the mean.
        usd: what the time inside all of them costs together; None: nobody charges.
        basis, size_basis: what the least certain of them rests on; a size from metadata counts as learned.
    """

    name: str
    tasks: int = 0
    seconds: float = 0.0
    size_bytes: float = 0.0
    basis: Basis = "learned"
    size_basis: Basis = "learned"
    usd: float | None = None


@dataclass(slots=True)
class Estimates:
    """By task: seconds, which part of them on a core, bytes, and by which factor each may be off. By layer: sums.

    `work`: the bytes of each task's inputs, or of its value if it has none; 0: not known. `held`: whether each holds
    the interpreter's lock while it computes; None: not known.
    """

    on_core: array[float] = field(default_factory=lambda: array("d"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    spreads: array[float] = field(default_factory=lambda: array("d"))
    sizes: array[float] = field(default_factory=lambda: array("d"))
    size_spreads: array[float] = field(default_factory=lambda: array("d"))
    work: array[float] = field(default_factory=lambda: array("d"))
    held: list[bool | None] = field(default_factory=list)
    layers: list[TaskPrefix] = field(default_factory=list)

    def durations(self, end: int, speed: float = 1.0) -> list[float]:
        """Return the tasks' durations at the low end (-1), as expected (0) or at the high end (1), seconds.

        `speed`: how much of a core they have, of what they had; it changes nothing for the part in which they sleep.
        """
        figures = zip(self.seconds, self.spreads, self.on_core, strict=True)
        return [s * spread**end * (on_core / speed + 1.0 - on_core) for s, spread, on_core in figures]

    @property
    def part_on_core(self) -> float:
        """Which part of the time of all tasks is on a core."""
        whole_s = sum(self.seconds)
        on_s = sum(s * on_core for s, on_core in zip(self.seconds, self.on_core, strict=True))
        return on_s / whole_s if whole_s > 0 else 1.0

    def values(self, end: int) -> list[int]:
        """Return the sizes of their values likewise, bytes."""
        return [FRAME_BYTES + int(s * spread**end) for s, spread in zip(self.sizes, self.size_spreads, strict=True)]


def estimate(
    graph: Graph,
    metadata: Callable[[Hashable], int | None],
    lessons_of: Callable[[Iterable[Kind]], Mapping[Kind, Sequence[Lesson]]],
) -> Estimates:
    """Estimate every task.

    Args:
        graph: what is to run.
        metadata: returns the size of a key's value in bytes, if the collections say so, else None.
        lessons_of: see `wukong.planning.learned.Learned.lessons`.
    """
    found = Estimates()
    dag, kinds = graph.dag, list(map(Kinds(graph).__getitem__, range(len(graph.dag))))
    lessons = lessons_of(dict.fromkeys(kinds))
    names, of = layers_of(graph.keys)
    found.layers = [TaskPrefix(name) for name in names]
    objects = [size_bytes(each) for each in graph.objects]
    for task, kind in enumerate(kinds):
        told = metadata(graph.keys[task])
        reads = sum(found.sizes[parent] for parent in dag.parents_of(task))
        reads += sum(objects[-1 - ref] for ref in _refs(graph.ops[task]) if ref < 0)
        work = reads or told or 0.0
        alike = lessons.get(kind, ())
        lesson = _nearest(alike, work)
        scaled = None if lesson is None else _scale(alike, lesson, work)
        seconds, basis, spread = _duration(lesson, scaled, told or reads)
        size, size_basis = _size(lesson, scaled, reads) if told is None else (float(told), _KNOWN)
        size_spread = _SIZE_SPREADS[size_basis] if told is None else 1.0
        found.work.append(work)
        found.seconds.append(seconds)
        found.on_core.append(1.0 if lesson is None else lesson.on_core)
        found.held.append(_holds(lesson, alike))
        found.spreads.append(spread)
        found.sizes.append(size)
        found.size_spreads.append(size_spread)
        layer = found.layers[of[task]]
        layer.tasks += 1
        layer.seconds += (seconds - layer.seconds) / layer.tasks
        layer.size_bytes += (size - layer.size_bytes) / layer.tasks
        layer.basis = max(layer.basis, basis, key=_ORDER.index)
        layer.size_basis = max(layer.size_basis, size_basis, key=_ORDER.index)
    return found


def _refs(op: Op) -> Sequence[int]:
    if len(op) == 2:
        return op[1]  # type: ignore[no-any-return]
    return [ref for _, ref in op[2]] if len(op) == 3 else op[2] if op else ()


def _nearest(lessons: Sequence[Lesson], work: float) -> Lesson | None:
    """Return the lesson of the tasks whose inputs are nearest in size; of unknown sizes, the latest."""
    known = [each for each in lessons if each.in_bytes >= 1]
    if not known or not work:
        return lessons[0] if lessons else None
    return min(known, key=lambda each: abs(bucket_of(each.in_bytes) - bucket_of(work)))


def _holds(nearest: Lesson | None, alike: Sequence[Lesson]) -> bool | None:
    """Return whether tasks of a kind hold the interpreter's lock, by the nearest lesson or the latest that knows it."""
    known = [each.held for each in (nearest, *alike) if each is not None and each.held is not None]
    return known[0] > _HELD if known else None


@dataclass(frozen=True, slots=True)
class _Scaled:
    """How a task of another size differs from what was learned: by these factors, and so uncertain."""

    seconds: float
    out_bytes: float
    spread: float
    basis: Basis


def _scale(lessons: Sequence[Lesson], lesson: Lesson, work: float) -> _Scaled | None:
    """Return how a task with `work` bytes to work on differs from what `lesson`, the nearest, tells of.

    None: it does not, or nobody knows. If tasks of two sizes have run, time and value grow by the power that the two
    show; if tasks of one size, in proportion. If the sizes differ by more than `_FAR`, this is a guess, as uncertain as
    the square root of that factor. Then a large task is not expected to take longer than a small one and the reading of
    the rest: most of what a small one takes does not depend on its inputs.
    """
    if not work or lesson.in_bytes < 1 or bucket_of(lesson.in_bytes) == bucket_of(work):
        return None
    factor = work / lesson.in_bytes
    known = [each for each in lessons if each.in_bytes >= 1]
    other = max(known, key=lambda each: abs(bucket_of(each.in_bytes) - bucket_of(lesson.in_bytes)))
    apart = math.log(other.in_bytes / lesson.in_bytes)
    if abs(apart) >= _APART:
        power = _power(other.seconds, lesson.seconds, apart)
        out = _power(other.out_bytes, lesson.out_bytes, apart) if min(other.out_bytes, lesson.out_bytes) > 0 else 1.0
    else:
        power = out = 1.0
    far = max(factor, 1 / factor)
    spread = _SPREADS["scaled"] if far <= _FAR else max(_SPREADS["guess"], math.sqrt(far))
    longer = factor**power
    if factor > _FAR and lesson.in_bytes < _TELLING_BYTES:
        longer = min(longer, 1 + (work - lesson.in_bytes) / _GUESS_BYTES_PER_S / max(1e-6, lesson.seconds))
    return _Scaled(longer, factor**out, spread, "scaled" if far <= _FAR else "guess")


def _power(other: float, this: float, apart: float) -> float:
    return min(_STEEPEST, max(0.0, math.log(max(1e-9, other) / max(1e-9, this)) / apart))


def _duration(lesson: Lesson | None, scaled: _Scaled | None, moved: float) -> tuple[float, Basis, float]:
    if lesson is None:
        return _GUESS_S + moved / _GUESS_BYTES_PER_S, "guess", _SPREADS["guess"]
    if scaled is not None:
        return lesson.seconds * scaled.seconds, scaled.basis, scaled.spread
    least = _FIRST_SPREAD if lesson.jobs == 1 else _SPREADS["learned"]
    return lesson.seconds, "learned", max(least, lesson.spread**2)


def _size(lesson: Lesson | None, scaled: _Scaled | None, reads: float) -> tuple[float, Basis]:
    if lesson is None:
        return max(reads, _GUESS_BYTES), "guess"
    if lesson.out_bytes < 0:  # its size is not known, for it took no time: so it is small
        return min(max(reads, _LEAST_BYTES), _GUESS_BYTES), "guess"
    if scaled is not None:
        return lesson.out_bytes * scaled.out_bytes, scaled.basis
    return lesson.out_bytes, "learned"


def lessons_from(
    graph: Graph, runs: Iterable[RunTaught], sizes: Mapping[int, int], held: Iterable[tuple[int, bool]] = ()
) -> list[tuple[Kind, Lesson]]:
    """Return what a job has taught: means by kind and size of the inputs, from a sample of each collection's tasks.

    It is called while the client's next job may be under way, so that it must not take long.

    Args:
        graph: what has run.
        runs: those of its tasks, or some of them. sizes: of values, in bytes, by task, as far as they are known.
        held: what each executor has found out: a task, and whether tasks of its kind hold the interpreter's lock.
    """
    kinds = Kinds(graph)
    told: defaultdict[Kind, list[bool]] = defaultdict(list)
    for task, holds in held:
        told[kinds[task]].append(holds)
    sums: dict[tuple[Kind, int], _Sum] = {}
    for task, own_s, share, whole_s in _sample(graph, runs):
        size, work = sizes.get(task, -1), work_of(graph, task, sizes)
        each = sums.setdefault((kinds[task], bucket_of(work)), _Sum())
        each.tasks, each.seconds, each.in_bytes = each.tasks + 1, each.seconds + own_s, each.in_bytes + work
        each.on_core_s += own_s * share
        each.whole_s += max(own_s, whole_s)
        if size >= 0:
            each.sized, each.out_bytes = each.sized + 1, each.out_bytes + size
    return [(kind, each.lesson(told.get(kind, ()))) for (kind, _), each in sums.items()]


def held_in(graph: Graph, told: Iterable[tuple[int, bool]]) -> list[bool | None]:
    """Return for each task whether most executors of a job have `told` that its kind holds the interpreter's lock."""
    kinds, balance = Kinds(graph), defaultdict[Kind, int](int)
    for task, holds in told:
        balance[kinds[task]] += 1 if holds else -1
    return [balance[kind] > 0 if kind in balance else None for kind in map(kinds.__getitem__, range(len(graph.dag)))]


def work_of(graph: Graph, task: int, sizes: Mapping[int, int]) -> int:
    """Return the bytes of a task's inputs, or of its value if it has none; 0: not known.

    `sizes`: of values, by task, as far as they are known.
    """
    parents = graph.dag.parents_of(task)
    if not all(parent in sizes for parent in parents):  # of a short task: then nothing may be scaled by it
        return 0
    reads = sum(sizes[parent] for parent in parents)
    reads += sum(size_bytes(graph.objects[-1 - ref]) for ref in _refs(graph.ops[task]) if ref < 0)
    return reads or max(0, sizes.get(task, 0))


def _sample(graph: Graph, runs: Iterable[RunTaught]) -> list[RunTaught]:
    """Choose some runs of each collection. Of keys that are text, the first word stands for the collection."""
    found: defaultdict[Hashable, list[RunTaught]] = defaultdict(list)
    for run in runs:
        key = graph.keys[run[0]]
        head = key[0] if isinstance(key, tuple) and key else key
        if head is key and isinstance(key, str):
            head = unnumbered(key.partition("-")[0])
        found[head].append(run)
    chosen = [run for alike in found.values() for run in alike[:: -(-len(alike) // _SAMPLED)]]
    return chosen[:: max(1, -(-len(chosen) // _SAMPLED_IN_ALL))]


@dataclass(slots=True)
class _Sum:
    tasks: int = 0
    seconds: float = 0.0
    on_core_s: float = 0.0
    whole_s: float = 0.0
    in_bytes: float = 0.0
    sized: int = 0
    out_bytes: float = 0.0

    def lesson(self, held: Sequence[bool]) -> Lesson:
        out_bytes = self.out_bytes / self.sized if self.sized else -1.0
        on_core = self.on_core_s / self.seconds if self.seconds > 0 else 1.0
        spread = math.sqrt(self.whole_s / self.seconds) if self.seconds > 0 else 1.0
        seconds, in_bytes = self.seconds / self.tasks, self.in_bytes / self.tasks
        holds = sum(held) / len(held) if held else None
        return Lesson(seconds, spread, in_bytes, out_bytes, 1, self.tasks, on_core, holds)
