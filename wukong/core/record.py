"""The record of a job: what every task and every executor did, and when, in columns.

    Track (each executor's, with its end report)  --\
    Heartbeat (of those that left no report)      ---+--> Record --> tables, report, trace, file
    Graph (keys and edges), the client's own story --/

Pure. All times are seconds since the job began, by the client's clock; an executor's row says how wrong its clock may
be (`wukong.core.clocks`). What is not known is None, or nan in a column: an executor that died has told what it did up
to its last heartbeat, and nobody knows which tasks it ran. A task is *ready* when the last of its inputs has been
computed, wherever that was.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite, nan
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from wukong.core.clocks import Ahead, Heard, aligned
from wukong.core.layers import layers_of
from wukong.core.names import Names, text_of
from wukong.core.on_core import OnCore
from wukong.core.tally import Groups
from wukong.core.track import KINDS, Spans, Track

if TYPE_CHECKING:
    import pandas

    from wukong.core.dag import Dag
    from wukong.core.invocation_tree import InvocationState

Table: TypeAlias = Literal["tasks", "executors", "spans"]

UNKNOWN = -1
"""A number of bytes that is not known."""


@dataclass(frozen=True, slots=True)
class Story:
    """Something that went wrong, and what became of it.

    Attributes:
        at_s: when the client heard of it, or when the task raised; None: not known.
        invocation, attempt: whose it is; None: nobody's.
        task: the key of the task, as text; None: none is known.
        what: one line. traceback: of a task that raised. hint: what to do about it.
        then: ``run again``, ``made again``, ``backed up``, ``failed the job`` or ``failed alone``.
        began_s: when the run of a task that raised began.
    """

    at_s: float | None
    invocation: str | None
    attempt: int
    task: str | None
    what: str
    traceback: str = ""
    hint: str = ""
    then: str = ""
    began_s: float | None = None


@dataclass(slots=True)
class ExecutorRow:
    """One invocation, as far as it is known.

    Attributes:
        invocation: its id. maker: that of the invocation that made it; None: the client did.
        attempt: which run of it left these figures.
        state: ``ended``; ``no word``: it has begun, and left no end report; ``not begun``: nothing was heard of it.
        invoked_s, began_s, ended_s: when it was called, began, and ended (of one without a report: None).
        heard_s: the time of its last sign of life.
        cold: the first invocation in its process.
        latency_s: from the call to its first line.
        n_tasks, busy_s: how many tasks it ran, and the time inside them. recorded: how many of them are in the record.
        cores, cpu_s: cores of the function, and the CPU time that its process had.
        function_bytes: memory of the function, if there are several sizes; 0: there is one, or it is not known.
        counted: if it left no report, how many tasks of each layer its last heartbeat told of, ``(a task, how many)``.
        operations, got_bytes, put_bytes, peak_held_bytes: see `wukong.core.events.Report`.
        sums: for each kind of span (`wukong.core.track.KINDS`): how many, seconds, bytes.
        on_core, held: see `wukong.core.track.Track`.
        clock_ahead_s, clock_error_s: by how much its clock was ahead of the client's, and how wrong that may be.
        spans: what it did besides running tasks, in seconds since the job began.
    """

    invocation: str
    maker: str | None
    attempt: int
    state: str
    invoked_s: float | None = None
    began_s: float | None = None
    ended_s: float | None = None
    heard_s: float | None = None
    cold: bool | None = None
    latency_s: float | None = None
    n_tasks: int = 0
    busy_s: float = 0.0
    cores: int = 1
    cpu_s: float = 0.0
    function_bytes: int = 0
    recorded: int = 0
    counted: Groups = ()
    operations: int = 0
    got_bytes: int = 0
    put_bytes: int = 0
    peak_held_bytes: int = 0
    sums: dict[str, tuple[int, float, int]] = field(default_factory=dict)
    on_core: dict[str, OnCore] = field(default_factory=dict)
    held: dict[int, bool] = field(default_factory=dict)
    clock_ahead_s: float | None = None
    clock_error_s: float | None = None
    spans: Spans = field(default_factory=Spans)


@dataclass(slots=True)
class Runs:
    """Column by column, one row for each run of a task that is known, in no particular order.

    Attributes:
        tasks: the task's number. executors: index of the executor. lanes: which of its lanes, from 0.
        begun, took: begin and duration, seconds.
        in_bytes: what was fetched from the store for it. out_bytes: what was stored of its value; if one executor ran
            the task twice, only its last row has that.
        value_bytes: size of its value, and memory_bytes: the most that the process used since the slow task
            before it; -1: not known.
    """

    tasks: array[int] = field(default_factory=lambda: array("i"))
    executors: array[int] = field(default_factory=lambda: array("i"))
    lanes: array[int] = field(default_factory=lambda: array("B"))
    begun: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("f"))
    in_bytes: array[int] = field(default_factory=lambda: array("q"))
    out_bytes: array[int] = field(default_factory=lambda: array("q"))
    value_bytes: array[int] = field(default_factory=lambda: array("q"))
    memory_bytes: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass
class JobRecord:
    """What a job did.

    Attributes:
        job, status: its id, and what became of it.
        began_at: Unix time of its begin, by the client's clock.
        wall_s, ingest_s: see `wukong.core.summary.Summary`.
        n_tasks: tasks of the DAG.
        keys: each task's key; None: this client does not have the graph (it took the job over).
        parents: each task's parents, as compressed sparse rows ``(pointers, tasks)``; None likewise.
        invocations, runs, stories: see there.
        summary, about: figures of the summary; versions and settings.
        left_out: how many tasks, and how many spans, executors kept only sums of.
    """

    job: str
    status: str
    began_at: float
    wall_s: float
    ingest_s: float
    n_tasks: int
    keys: Sequence[Hashable] | None = None
    parents: tuple[Sequence[int], Sequence[int]] | None = None
    invocations: list[ExecutorRow] = field(default_factory=list)
    runs: Runs = field(default_factory=Runs)
    stories: list[Story] = field(default_factory=list)
    summary: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[int, int] = (0, 0)

    def key(self, task: int) -> Hashable:
        """Return the key of a task; its number if the keys are not known."""
        return task if self.keys is None else self.keys[task]

    @cached_property
    def layers(self) -> tuple[list[str], array[int]]:
        """The names of the graph's layers (the keys' prefixes), and for each task which of them it is in."""
        return (["tasks"], array("i", [0]) * self.n_tasks) if self.keys is None else layers_of(self.keys)

    @cached_property
    def last_runs(self) -> array[int]:
        """For each task, the row in `runs` of the run of it that ended last; -1: none is known."""
        rows, ends = array("i", [-1]) * self.n_tasks, array("d", [-inf]) * self.n_tasks
        runs = self.runs
        for row, (task, begun, took) in enumerate(zip(runs.tasks, runs.begun, runs.took, strict=True)):
            if begun + took > ends[task]:
                rows[task], ends[task] = row, begun + took
        return rows

    @cached_property
    def ready_s(self) -> array[float]:
        """For each task, when the last of its inputs had been computed; nan: not known. A leaf was ready at 0."""
        if self.parents is None:
            return array("d", [nan]) * self.n_tasks
        pointers, flat = self.parents
        first_ends = array("d", [nan]) * self.n_tasks
        runs = self.runs
        for task, begun, took in zip(runs.tasks, runs.begun, runs.took, strict=True):
            if not begun + took >= first_ends[task]:
                first_ends[task] = begun + took
        ready = array("d", [0.0]) * self.n_tasks
        for task in range(self.n_tasks):
            for at in range(pointers[task], pointers[task + 1]):
                if not first_ends[flat[at]] <= ready[task]:
                    ready[task] = first_ends[flat[at]]  # nan, once it is there, stays
        return ready

    def columns(self, table: Table) -> dict[str, list[Any]]:
        """Return a table as plain columns; see `wukong.core.tables`. Raises ValueError if there is no such table."""
        from wukong.core import tables

        makers = {"tasks": tables.tasks, "executors": tables.executors, "spans": tables.spans}
        if table not in makers:
            raise ValueError(f"a record has no table {table!r}, but {', '.join(makers)}")
        return makers[table](self)

    def tasks(self) -> pandas.DataFrame:
        """Return all known runs of tasks, and the tasks of which none is known. Raises WukongError without pandas."""
        return self._frame("tasks")

    def executors(self) -> pandas.DataFrame:
        """Return one row for each invocation. Raises WukongError without pandas."""
        return self._frame("executors")

    def spans(self) -> pandas.DataFrame:
        """Return what executors did besides running tasks. Raises WukongError without pandas."""
        return self._frame("spans")

    def _frame(self, table: Table) -> pandas.DataFrame:
        from wukong.core import tables

        return tables.frame(self.columns(table))

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return the record as JSON, and write it to `path` if that is given; `load` reads it again."""
        from wukong.core import tables

        text = tables.to_json(self)
        if path is not None:
            Path(path).write_text(text, "utf-8")
        return text

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write the record as a Parquet file; `load` reads it again. Raises WukongError without pyarrow."""
        from wukong.core import tables

        tables.to_parquet(self, path)

    @staticmethod
    def load(path: str | PathLike[str]) -> JobRecord:
        """Read a record that `to_json` or `to_parquet` has written. Raises WukongError if it is none, and OSError."""
        from wukong.core import tables

        return tables.load(path)

    def unknown(self) -> list[int]:
        """Return the tasks of which no run is known: they have not run, or their executors could not tell."""
        return [task for task, row in enumerate(self.last_runs) if row < 0]

    def in_order(self) -> Iterator[tuple[Hashable, float, float, str]]:
        """Yield key, begin, end and invocation of each task's last run, in the order of their ends."""
        runs = self.runs
        rows = sorted((row for row in self.last_runs if row >= 0), key=lambda row: runs.begun[row] + runs.took[row])
        for row in rows:
            begun = runs.begun[row]
            invocation = self.invocations[runs.executors[row]].invocation
            yield self.key(runs.tasks[row]), begun, begun + runs.took[row], invocation


@dataclass(frozen=True, slots=True)
class Seen:
    """The client's side of what it was told.

    Attributes:
        names: the job's.
        machine: see `wukong.core.host.ExecutorHost`.
        heard_at: when it saw the end report or the last heartbeat of each invocation, in Unix time.
    """

    names: Names
    machine: bytes
    heard_at: Mapping[str, float]


def record_of(record: JobRecord, states: Sequence[InvocationState], seen: Seen, dag: Dag | None) -> None:
    """Fill a job's record, which has the client's own part, from what its executors have left.

    Args:
        states: of all its invocations, a maker before those that it made.
        dag: its structure, if this client has it.
    """
    names = seen.names
    if dag is not None:
        record.parents = dag.parent_ptr, dag.parents
    clocks = aligned({state.invocation: heard for state in states if (heard := _heard(state, seen))})
    tasks_out = spans_out = 0
    for index, state in enumerate(states):
        ahead = clocks.get(state.invocation)
        maker = names.maker(state.invocation)
        row = _row(state, maker, ahead, clocks.get(maker or ""), record.began_at)
        record.invocations.append(row)
        track = None if state.end is None else state.end.track
        if track is not None and ahead is not None:
            zero_s = track.unix_s - ahead.by_s - record.began_at - track.zero_s
            _take(record, index, row, track, zero_s)
            tasks_out, spans_out = tasks_out + track.tasks_left_out, spans_out + track.spans_left_out
    record.left_out = tasks_out, spans_out
    record.stories.sort(key=lambda story: inf if story.at_s is None else story.at_s)


def _heard(state: InvocationState, seen: Seen) -> Heard | None:
    track = None if state.end is None else state.end.track
    at = seen.heard_at.get(state.invocation)
    if track is not None:
        maker = seen.names.maker(state.invocation) if track.attempt == 0 else None
        told = () if at is None else ((track.unix_s + track.end_s - track.zero_s, at),)
        same = bool(track.machine) and track.machine == seen.machine
        return Heard(maker, track.sent_s, track.unix_s, told, same)
    if state.beat is not None and state.beat.began:
        told = () if at is None else ((state.beat.at, at),)
        return Heard("?", -inf, state.beat.began, told)  # its call is in its payload only
    return None


def _row(
    state: InvocationState, maker: str | None, ahead: Ahead | None, makers: Ahead | None, began_at: float
) -> ExecutorRow:
    end, beat = state.end, state.beat
    row = ExecutorRow(state.invocation, maker, state.attempts, "not begun" if beat is None else "no word")
    if ahead is not None:
        row.clock_ahead_s = ahead.by_s
        row.clock_error_s = ahead.error_s if isfinite(ahead.error_s) else None
    shift = began_at + (0.0 if ahead is None else ahead.by_s)
    report = None if end is None else end.report
    if end is not None:
        row.state = "ended"
        if (track := end.track) is not None:
            row.attempt, row.cold, row.sums, row.on_core = track.attempt, track.cold, track.sums, track.on_core
            row.function_bytes, row.held = track.function_bytes, track.held
            by_client = track.attempt or makers is None
            row.invoked_s = track.sent_s - began_at - (0.0 if by_client or makers is None else makers.by_s)
            row.began_s = track.unix_s - shift
            row.ended_s = row.heard_s = row.began_s + track.end_s - track.zero_s
            row.latency_s = max(0.0, row.began_s - row.invoked_s)
    elif beat is not None:
        row.attempt, row.heard_s, report, row.counted = beat.attempt, beat.at - shift, beat.report, beat.layers
        row.began_s = beat.began - shift if beat.began else None
    if report is not None:
        row.n_tasks, row.busy_s, row.operations = report.tasks, report.busy_s, report.operations
        row.cores, row.cpu_s = report.cores, report.cpu_s
        row.got_bytes, row.put_bytes, row.peak_held_bytes = report.got_bytes, report.put_bytes, report.peak_held_bytes
    return row


def _take(record: JobRecord, index: int, row: ExecutorRow, track: Track, zero_s: float) -> None:
    """Add an executor's columns to the record; `zero_s`: what to add to its clock."""
    runs, n = record.runs, len(track.tasks)
    first = len(runs)
    row.recorded = n
    runs.tasks.extend(track.tasks)
    runs.executors.extend(array("i", [index]) * n)
    runs.lanes.extend(track.lanes)
    runs.begun.extend(array("d", [begun + zero_s for begun in track.begun]))
    runs.took.extend(track.took)
    for column, filler in (
        (runs.in_bytes, 0),
        (runs.out_bytes, 0),
        (runs.value_bytes, UNKNOWN),
        (runs.memory_bytes, UNKNOWN),
    ):
        column.extend(array("q", [filler]) * n)
    row.spans = Spans(
        track.spans.kinds,
        array("d", [begun + zero_s for begun in track.spans.begun]),
        track.spans.took,
        track.spans.size_bytes,
    )
    if track.sized or track.stored:
        where = {task: first + i for i, task in enumerate(track.tasks)}
        for task, size, memory in zip(track.sized, track.sizes, track.memory, strict=True):
            if (at := where.get(task)) is not None:
                runs.value_bytes[at] = size
                runs.memory_bytes[at] = memory or UNKNOWN
        for task, size in zip(track.stored, track.stored_bytes, strict=True):
            if (at := where.get(task)) is not None:
                runs.out_bytes[at] = size
    _fetched(track, runs, first)
    for each in track.raised:
        key, what = text_of(record.key(each.task)), f"{each.kind}: {each.message}"
        at_s, then = each.ended_s + zero_s, "run again" if each.again else "failed alone"
        if not each.again:  # if that has ended the job, the client has heard of it as well
            told = [it for it in record.stories if (it.invocation, it.task, it.what) == (None, key, what)]
            if told:
                then = told[0].then
                record.stories.remove(told[0])
        record.stories.append(
            Story(
                at_s, row.invocation, track.attempt, key, what, each.traceback, then=then, began_s=each.begun_s + zero_s
            )
        )


def _fetched(track: Track, runs: Runs, first: int) -> None:
    """Count each fetch from the store for the task that was running, or that ran next."""
    get = KINDS.index("get")
    spans = track.spans
    at, n = 0, len(track.tasks)
    for begun, size in sorted(
        (begun, size)
        for kind, begun, size in zip(spans.kinds, spans.begun, spans.size_bytes, strict=True)
        if kind == get and size
    ):
        while at < n and track.begun[at] + track.took[at] <= begun:
            at += 1
        if at < n:
            runs.in_bytes[first + at] += size
