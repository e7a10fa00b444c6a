"""What each executor of a planned job would do, and when: the record that the job would leave, before it has run.

The virtual clock notes it on its way (`Outline`); of that comes a `JobRecord` of the status ``planned``, for the page
that shows what jobs have done.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wukong.core.dag import Graph
from wukong.core.effects import Effect, Finish, LeaveWord, LoadPage
from wukong.core.record import UNKNOWN, ExecutorRow, JobRecord, Runs
from wukong.core.track import KINDS, MOST_SPANS, SPAN_KINDS, Spans

PLANNED = "planned"
"""The status of a record that a plan has made: nothing of it has happened."""

_KIND: Mapping[type, str] = {**SPAN_KINDS, LoadPage: "page", LeaveWord: "end", Finish: "end"}


@dataclass(slots=True)
class Outline:
    """What a virtual clock has noted, in its seconds. `rows` are by invocation."""

    rows: dict[str, ExecutorRow] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    _index: dict[str, int] = field(default_factory=dict)

    def called(self, invocation: str, now_s: float) -> None:
        """Note that an invocation was made."""
        self._index[invocation] = len(self.rows)
        self.rows[invocation] = ExecutorRow(
            invocation, invocation.rpartition(".")[0] or None, 0, PLANNED, invoked_s=now_s, cold=False
        )

    def began(self, invocation: str, now_s: float) -> None:
        """Note that it began."""
        self.rows[invocation].began_s = now_s

    def ended(self, invocation: str, now_s: float) -> None:
        """Note that it ended."""
        self.rows[invocation].ended_s = self.rows[invocation].heard_s = now_s

    def runs_task(self, invocation: str, task: int, now_s: float, took_s: float, size_bytes: int) -> None:
        """Note that a task begins."""
        row, runs = self.rows[invocation], self.runs
        row.n_tasks, row.recorded, row.busy_s = row.n_tasks + 1, row.recorded + 1, row.busy_s + took_s
        runs.tasks.append(task)
        runs.executors.append(self._index[invocation])
        runs.lanes.append(0)
        runs.begun.append(now_s)
        runs.took.append(took_s)
        runs.value_bytes.append(size_bytes)

    def does(self, invocation: str, effect: Effect, now_s: float, took_s: float) -> None:
        """Note what an executor does besides, if it takes any time."""
        kind = _KIND.get(type(effect))
        if kind is None or not 0 < took_s < float("inf"):
            return
        row = self.rows[invocation]
        n, spent_s, size_bytes = row.sums.get(kind, (0, 0.0, 0))
        row.sums[kind] = n + 1, spent_s + took_s, size_bytes
        if len(row.spans.kinds) < MOST_SPANS:
            _span(row.spans, KINDS.index(kind), now_s, took_s)

    def record(
        self, graph: Graph, wall_s: float, before_s: float, summary: Mapping[str, Any], about: Mapping[str, Any]
    ) -> JobRecord:
        """Return the record. `before_s`: what the client does before the first invocation; then the clock begins."""
        rows, runs, n = list(self.rows.values()), self.runs, len(self.runs)
        for row in rows:
            for name in ("invoked_s", "began_s", "ended_s", "heard_s"):
                at_s = getattr(row, name)
                setattr(row, name, None if at_s is None else at_s + before_s)
            row.spans.begun = _later(row.spans.begun, before_s)
        runs.begun = _later(runs.begun, before_s)
        runs.in_bytes, runs.out_bytes = (array("q", [0]) * n for _ in range(2))
        runs.memory_bytes = array("q", [UNKNOWN]) * n
        dag = graph.dag
        parents = dag.parent_ptr, dag.parents
        whole = JobRecord("", PLANNED, 0.0, wall_s, before_s, len(dag), graph.keys, parents, rows, runs)
        whole.summary, whole.about = summary, about
        return whole


def _span(spans: Spans, kind: int, begun: float, took: float) -> None:
    spans.kinds.append(kind)
    spans.begun.append(begun)
    spans.took.append(took)
    spans.size_bytes.append(0)


def _later(times: Sequence[float], by_s: float) -> array[float]:
    return array("d", [at_s + by_s for at_s in times])
