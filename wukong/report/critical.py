"""The critical path of a job that has run: the chain of tasks that ended last, and what each of them waited for.

From the task that ended last, back to the input of it that was ready last, and so on to a leaf. Between the end of one
and the begin of the next lies a gap, which is split by what the executor of the next was doing meanwhile:

    client      until the first invocation was made
    start       from the call of an executor to its first line
    other tasks the executor was busy with other tasks
    store       it was getting or putting values
    rest        arriving, handing over, walking, and what the record does not tell
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from wukong.core.record import JobRecord
from wukong.core.track import KINDS

_STORE = frozenset(KINDS.index(kind) for kind in ("page", "get", "put"))


@dataclass(slots=True)
class Step:
    """A task on the path: its number, its row in the record's runs, when it was ready, and what it then waited for."""

    task: int
    row: int
    ready_s: float
    waited: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Path:
    """The steps, the first task first. `sums` are all seconds of the job by kind: ``run``, the gaps', and ``collect``,
    from the last task's end to the job's. `bound_s`: the longest chain of task durations, which no schedule can beat.
    """

    steps: list[Step] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    bound_s: float = 0.0


def critical_path(record: JobRecord) -> Path:
    """Return the critical path; empty if the graph or its runs are not known."""
    if record.parents is None or not len(record.runs):
        return Path()
    runs, (pointers, flat) = record.runs, record.parents
    rows, ends = [-1] * record.n_tasks, [inf] * record.n_tasks
    for row, (task, begun, took) in enumerate(zip(runs.tasks, runs.begun, runs.took, strict=True)):
        if begun + took < ends[task]:
            rows[task], ends[task] = row, begun + took
    longest = [0.0] * record.n_tasks
    for task in range(record.n_tasks):
        inputs = flat[pointers[task] : pointers[task + 1]]
        before = max((longest[each] for each in inputs), default=0.0)
        longest[task] = before + (runs.took[rows[task]] if rows[task] >= 0 else 0.0)
    task = max((each for each in range(record.n_tasks) if rows[each] >= 0), key=ends.__getitem__)
    steps: list[Step] = []
    sums: defaultdict[str, float] = defaultdict(float)
    sums["collect"] = max(0.0, record.wall_s - ends[task])
    busy = _Busy(record)
    while True:
        inputs = [each for each in flat[pointers[task] : pointers[task + 1]] if rows[each] >= 0]
        needed = max(inputs, key=ends.__getitem__) if inputs else None
        ready = 0.0 if needed is None else ends[needed]
        step = Step(task, rows[task], ready, busy.split(rows[task], ready))
        steps.append(step)
        sums["run"] += runs.took[rows[task]]
        for kind, seconds in step.waited.items():
            sums[kind] += seconds
        if needed is None:
            break
        task = needed
    return Path(steps[::-1], dict(sums), max(longest))


class _Busy:
    """What executors were doing at a time."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record
        self._index = {row.invocation: index for index, row in enumerate(record.invocations)}
        tasks: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for executor, begun, took in zip(record.runs.executors, record.runs.begun, record.runs.took, strict=True):
            tasks[executor].append((begun, took))
        self._tasks = {executor: sorted(found) for executor, found in tasks.items()}
        self._store: dict[int, list[tuple[float, float]]] = {}

    def _moves(self, index: int) -> list[tuple[float, float]]:
        if index not in self._store:
            spans = self._record.invocations[index].spans
            rows = zip(spans.kinds, spans.begun, spans.took, strict=True)
            self._store[index] = sorted((begun, took) for kind, begun, took in rows if kind in _STORE)
        return self._store[index]

    def split(self, row: int, ready_s: float) -> dict[str, float]:
        """Return what a task waited for, from when it was ready until it began."""
        record, runs = self._record, self._record.runs
        begun = runs.begun[row]
        found: defaultdict[str, float] = defaultdict(float)
        if ready_s == 0.0:
            found["client"] = min(record.ingest_s, begun)
            ready_s = found["client"]
        index: int | None = runs.executors[row]
        high = begun
        while index is not None and high > ready_s:  # before its executor was called, its maker had the task
            executor = record.invocations[index]
            low = max(ready_s, executor.began_s or 0.0)
            left = max(0.0, high - low)
            for kind, seconds in (
                ("other tasks", _overlap(self._tasks.get(index, ()), low, high)),
                ("store", _overlap(self._moves(index), low, high)),
                ("rest", left),
            ):
                part = min(left, seconds)
                found[kind] += part
                left -= part
            called_s = ready_s if executor.invoked_s is None else max(ready_s, executor.invoked_s)
            found["start"] += max(0.0, min(low, high) - called_s)
            high = min(high, called_s)
            index = self._index.get(executor.maker or "") if executor.attempt == 0 else None
        found["rest"] += max(0.0, high - ready_s)
        return {kind: seconds for kind, seconds in found.items() if seconds > 0}


def _overlap(spans: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Return for how long spans, in order and one after the other, fall between two times."""
    first = max(0, bisect_left(spans, (low, 0.0)) - 1)
    total = 0.0
    for at in range(first, len(spans)):
        begun, took = spans[at]
        if begun >= high:
            break
        total += max(0.0, min(begun + took, high) - max(begun, low))
    return total


_ADVICE: dict[str, str] = {
    "client": "Preparing the graph here took {s:.3g} s: use fewer, larger tasks, or persist what is used again.",
    "start": "Starting executors took {s:.3g} s of the path: use warm functions, a smaller package, or longer tasks.",
    "other tasks": "Ready tasks waited {s:.3g} s for executors that ran other tasks: let more executors run at once "
    "(max_slots, the account's concurrency), or lower patience_s.",
    "store": "Values moved for {s:.3g} s of the path: use more servers for the store, larger functions, or chunks that "
    "fit the work better.",
    "rest": "Coordination took {s:.3g} s of the path: larger tasks have less of it.",
    "collect": "The client took {s:.3g} s to collect the results: reduce them in the graph, or persist them.",
}
_INSIDE = "{s:.3g} s of the critical path are inside tasks of the layer {name}: make them faster, or split them."
_WORTH = 0.1


def advice(record: JobRecord, path: Path) -> list[str]:
    """Return what would shorten the job, what helps most first."""
    if not path.steps:
        return []
    total = sum(path.sums.values()) or 1.0
    names, layer_of = record.layers
    by_layer: defaultdict[str, float] = defaultdict(float)
    for step in path.steps:
        by_layer[names[layer_of[step.task]]] += record.runs.took[step.row]
    weighed = [(seconds, _INSIDE.format(s=seconds, name=name)) for name, seconds in by_layer.items()]
    weighed += [(s, _ADVICE[kind].format(s=s)) for kind, s in path.sums.items() if kind in _ADVICE]
    return [text for seconds, text in sorted(weighed, reverse=True) if seconds >= _WORTH * total]
