"""A client's job, with what shows it to a person."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wukong.client.layer_counts import LayerCounts
from wukong.client.notebook import card
from wukong.core.job import Job
from wukong.core.layers import edges_of, layers_of
from wukong.errors import JobError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import TracerProvider

    from wukong.client.resuming import Asked, AskedFutures
    from wukong.core.dag import Graph
    from wukong.core.invocation_tree import InvocationState
    from wukong.core.record import JobRecord
    from wukong.core.remains import JobRemains
    from wukong.planning.drawing import Drawing
    from wukong.planning.plan import Plan

logger = logging.getLogger("wukong")

_ESTIMATE_S, _LAYER_S = 20e-6, 0.5e-6
_WORTH = 0.02


class ClientJob(Job):
    """See `wukong.core.job.Job`.

    Attributes:
        plan: that was made of it before it was started; None: none.
        link: returns that of its client's dashboard; None: there is none.
        expects: returns what the tasks of a graph should take together, seconds; None: that is not known.
        asked: how it was asked for, until it has succeeded; None: nobody can ask so again.
        before: what it goes on with. also: the ids of those jobs. resumed_by: the job that goes on with this one.
        held: set once its client has what it has left, if anything.
    """

    link: Callable[[], str | None] = staticmethod(lambda: None)
    expects: Callable[[Graph], float | None] = staticmethod(lambda graph: None)
    plan: Plan | None = None
    asked: Asked | AskedFutures | None = None
    before: JobRemains | None = None
    also: tuple[str, ...] = ()
    resumed_by: ClientJob | None = None
    _work: tuple[float | None] | None = None
    _counts: LayerCounts | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = threading.Event()

    def work_s(self, elapsed_s: float) -> float | None:
        """Return what all its tasks should take together, seconds, by what earlier jobs have taught.

        None: that is not known, or after a wait of `elapsed_s` seconds it is not worth working out yet.
        """
        graph = self.graph
        if self._work is None and graph is not None and len(graph.dag) * _ESTIMATE_S < _WORTH * elapsed_s:
            self._work = (self.expects(graph),)
        return None if self._work is None else self._work[0]

    def by_layer(self, elapsed_s: float) -> Mapping[str, tuple[int, int]]:
        """Return how many tasks of each layer have been run, as far as executors have told, and how many there are.

        Empty: this client does not have the graph, or nobody has waited for long (`elapsed_s`, seconds).
        """
        graph = self.graph
        if graph is None:
            return {}
        if self._counts is None:
            if len(graph.dag) * _LAYER_S > _WORTH * elapsed_s:
                return {}
            self._counts = LayerCounts(graph.keys)
        return self._counts.told(self.heard())

    @property
    def record(self) -> JobRecord:
        """See `wukong.core.job.Job.record`. The plan, if there was one, is in its `about`."""
        record = super().record
        if self.plan is not None and "plan" not in record.about:
            record.about = {**record.about, "plan": self.plan.to_json()}
        return record

    @property
    def settled(self) -> bool:
        """Whether nothing more will be known of it."""
        return self._settled.is_set()

    def heard(self) -> Sequence[InvocationState]:
        """Return what was heard last of its invocations: the same object until something new is heard."""
        return () if self._watch is None else self._watch.seen

    def trace(self, path: str | PathLike[str]) -> Path:
        """Write what ran when as a trace in Chrome's format, which https://ui.perfetto.dev opens; return its path."""
        from wukong.report.trace import to_text

        Path(path).write_text(to_text(self.record), "utf-8")
        return Path(path)

    def spans(
        self,
        tracer_provider: TracerProvider | None = None,
        context: Context | None = None,
        *,
        tasks: bool = True,
    ) -> str | None:
        """Hand the job to OpenTelemetry: a span for it, for each executor and for each task; return the trace's id.

        Args:
            tracer_provider: None: the one that the program has set up.
            context: in whose trace the job belongs; None: the caller's current one.
            tasks: False: no spans of tasks.

        None: the trace is not recorded. Raises WukongError without the extra `otel`. See `wukong.report.otel`.
        """
        from wukong.report.otel import emit

        return emit(self.record, tracer_provider=tracer_provider, context=context, tasks=tasks)

    def draw(self) -> Drawing:
        """Return a picture of the job's graph, one box for each layer, with what is known of how long its tasks took.

        Raises JobError if this client has taken the job over, and does not have its graph.
        """
        from wukong.planning.drawing import Box, draw
        from wukong.planning.plan import seconds

        graph = self.graph
        if graph is None:
            raise JobError("only the client that started this job has its graph", job=self.id)
        names, of = layers_of(graph.keys)
        tasks, runs, busy_s = [0] * len(names), [0] * len(names), [0.0] * len(names)
        for layer in of:
            tasks[layer] += 1
        record = self.record
        for task, took_s in zip(record.runs.tasks, record.runs.took, strict=True):
            runs[of[task]] += 1
            busy_s[of[task]] += took_s
        boxes = [
            Box(name, [f"{n:,} task{'s' * (n != 1)}", f"{seconds(busy / ran)} each" if ran else "not run"])
            for name, n, ran, busy in zip(names, tasks, runs, busy_s, strict=True)
        ]
        return draw(boxes, edges_of((graph.dag.parent_ptr, graph.dag.parents), of))

    def report(self, path: str | PathLike[str]) -> Path:
        """Write a page that any browser opens from disk: the bill, the timeline, the layers, failures; return its path.

        The page needs no network. Of a job that runs, it shows what is known so far.
        """
        from wukong.report.page import to_html

        Path(path).write_text(to_html(self.record), "utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        summary = self.summary(timeout_s=0.0)
        rows = [
            ("status", summary.status),
            ("tasks run", f"{summary.tasks_run:,} of {summary.tasks:,}"),
            ("executors", f"{summary.executors:,}"),
            ("wall time", f"{summary.wall_s:.3f} s"),
            ("inside tasks", f"{summary.busy_s:.3f} s"),
            *([("bill", summary.bill)] if summary.bill else []),
            ("more", "job.report('job.html'), job.record, job.trace('job.json')"),
        ]
        return card(f"job {self.id}", rows, self.link())


def hand_spans(job: Job, context: Any) -> None:
    """Hand a job to OpenTelemetry, in the trace of this context; a job does not fail for that."""
    from wukong.report.otel import emit

    try:
        emit(job.record, context=context)
    except Exception as error:  # whatever an exporter does
        logger.warning("job %s: its spans cannot be handed over: %s", job.id, error)


def keep_record(job: Job, folder: str) -> None:
    """Write a job's record into a folder; a job does not fail for that."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        job.record.to_json(Path(folder, f"{job.id}.json"))
    except OSError as error:
        logger.warning("job %s: its record cannot be kept in %s: %s", job.id, folder, error)
