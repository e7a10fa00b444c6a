"""A record as OpenTelemetry spans, through whatever tracer provider the program has set up. The extra `otel`.

    job            one span, in the caller's trace if there is one
      executor     one for each invocation that has begun, in that of its maker; the FaaS conventions' attributes
        task       one for each run of a task; its inputs are links, since a fan-in has many and one parent is allowed

Spans are named for what they are (``job``, ``executor``, the layer of a task); ids and keys are attributes, `faas.*`,
`exception.*` and `error.type` where the semantic conventions have a name, else `wukong.*`. What went wrong is
an event ``exception``, and the status is ERROR if that was final. Spans are made once the job is over, with its own
times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from wukong.core.names import text_of
from wukong.core.record import UNKNOWN, ExecutorRow, JobRecord, Story
from wukong.errors import WukongError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

_AT_ONCE = 1_000
"""How many spans are made before the exporter is asked to send them: its queue has room for 2,048 by default."""
_MOST_LINKS = 128
"""What the SDK keeps by default."""
_BETWEEN = frozenset({"run again", "made again"})
_FLUSH_MS = 30_000


def current() -> Any:
    """Return the caller's context, in whose trace the spans of a job belong. Raises WukongError without the extra."""
    return _api()[1].get_current()


def emit(
    record: JobRecord,
    *,
    tracer_provider: TracerProvider | None = None,
    context: Context | None = None,
    tasks: bool = True,
) -> str | None:
    """Make the spans of a job; return the id of their trace, in hexadecimal; None: nobody records it.

    Args:
        record: of the job.
        tracer_provider: None: the program's.
        context: its current span becomes the job's parent; None: the caller's.
        tasks: False: only the job's span and those of its executors.

    Raises WukongError if the package `opentelemetry-api` is not installed.
    """
    trace, _ = _api()
    provider = trace.get_tracer_provider() if tracer_provider is None else tracer_provider
    tracer = provider.get_tracer("wukong", _version())
    maker = _Spans(trace, tracer, record, getattr(provider, "force_flush", None))
    return maker.make(context, tasks=tasks)


class _Spans:
    """Makes the spans of one record. `flush`: has the exporter send what it has; None: it cannot be asked."""

    def __init__(self, trace: Any, tracer: Any, record: JobRecord, flush: Any) -> None:
        self._trace, self._tracer, self._record, self._flush = trace, tracer, record, flush
        self._n = 0
        self._stories: dict[tuple[str | None, str | None], list[Story]] = defaultdict(list)
        for story in record.stories:
            self._stories[story.invocation, story.task].append(story)

    def make(self, context: Context | None, *, tasks: bool) -> str | None:
        record = self._record
        # A job that was taken over has begun before this client knew of it.
        began_s = min([0.0, *(row.began_s for row in record.invocations if row.began_s is not None)])
        job = self._start("job", began_s, context, self._trace.SpanKind.INTERNAL, _of_job(record))
        if not job.is_recording():  # not sampled, or there is no SDK
            return None
        contexts = self._executors(self._trace.set_span_in_context(job, context))
        if tasks:
            self._tasks(contexts, self._trace.set_span_in_context(job, context))
        for stories in self._stories.values():  # those of no span of their own
            for story in stories:
                self._event(job, story, final=False)
        if record.status not in ("running", "succeeded"):
            why = next((story for story in record.stories if story.then == "failed the job"), None)
            self._failed(job, record.status if why is None else why.what, _kind(why))
        job.end(self._at(record.wall_s))
        self._send(0)
        return str(self._trace.format_trace_id(job.get_span_context().trace_id))

    def _executors(self, job: Context) -> dict[int, Context]:
        """Make a span for each executor that has begun; return the contexts of these spans by their index."""
        contexts: dict[int, Context] = {}
        index = {row.invocation: at for at, row in enumerate(self._record.invocations)}
        for at, row in enumerate(self._record.invocations):
            if row.began_s is None:
                continue
            parent = contexts.get(index.get(row.maker or "", -1), job)
            span = self._start("executor", row.began_s, parent, self._trace.SpanKind.SERVER, _of_executor(row))
            contexts[at] = self._trace.set_span_in_context(span, parent)
            for story in self._stories.pop((row.invocation, None), ()):
                self._event(span, story, final=False)
            if row.state != "ended":
                self._failed(span, "it has left no end report")
            end_s = row.ended_s if row.ended_s is not None else row.heard_s
            span.end(self._at(row.began_s if end_s is None else max(row.began_s, end_s)))
        return contexts

    def _tasks(self, executors: Mapping[int, Context], job: Context) -> None:
        """Make a span for each run of a task, inputs first, and for each that has failed without."""
        record, runs = self._record, self._record.runs
        names, layer_of = record.layers
        done: dict[int, Any] = {}
        for row in sorted(range(len(runs)), key=lambda row: (runs.tasks[row], runs.begun[row])):
            task, at = runs.tasks[row], runs.executors[row]
            links, n_inputs = self._links(task, done)
            of = {**_of_run(record, row, names[layer_of[task]]), "wukong.task.inputs": n_inputs}
            span = self._start(names[layer_of[task]], runs.begun[row], executors.get(at, job), None, of, links=links)
            stories = self._stories.pop((record.invocations[at].invocation, of["wukong.task.key"]), ())
            for story in stories:
                self._event(span, story, final=story.then not in _BETWEEN)
            span.end(self._at(runs.begun[row] + runs.took[row]))
            done[task] = span.get_span_context()
        self._unfinished(executors, done)

    def _unfinished(self, executors: Mapping[int, Context], done: Mapping[int, Any]) -> None:
        """Make a span for each task that has ended a job: none of its runs has come to an end."""
        record = self._record
        numbers = {} if record.keys is None else {text_of(key): task for task, key in enumerate(record.keys)}
        names, layer_of = record.layers
        index = {row.invocation: at for at, row in enumerate(record.invocations)}
        for invocation, key in list(self._stories):
            task, executor = numbers.get(key or ""), executors.get(index.get(invocation or "", -1))
            if task is None or executor is None:
                continue
            stories = self._stories.pop((invocation, key))
            ends = [story.at_s for story in stories if story.at_s is not None] or [0.0]
            begins = [story.began_s for story in stories if story.began_s is not None] or ends
            links, n_inputs = self._links(task, done)
            layer = names[layer_of[task]]
            of: dict[str, Any] = {"wukong.job.id": record.job, "wukong.task.key": key, "wukong.task.layer": layer}
            of["wukong.task.inputs"] = n_inputs
            span = self._start(layer, min(begins), executor, None, of, links=links)
            for story in stories:
                self._event(span, story, final=story.then not in _BETWEEN)
            span.end(self._at(max(ends)))

    def _links(self, task: int, done: Mapping[int, Any]) -> tuple[list[Any], int]:
        """Return links to the spans of a task's inputs, as many as are kept, and how many inputs it has."""
        if self._record.parents is None:
            return [], 0
        pointers, flat = self._record.parents
        parents = flat[pointers[task] : pointers[task + 1]]
        known = [done[parent] for parent in parents[:_MOST_LINKS] if parent in done]
        return [self._trace.Link(each) for each in known], len(parents)

    def _start(
        self, name: str, at_s: float, context: Context | None, kind: Any, attributes: Mapping[str, Any], links: Any = ()
    ) -> Span:
        self._send(_AT_ONCE)
        kind = self._trace.SpanKind.INTERNAL if kind is None else kind
        known = {key: value for key, value in attributes.items() if value is not None}
        at = self._at(at_s)
        started: Span = self._tracer.start_span(
            name, context=context, kind=kind, attributes=known, links=links, start_time=at
        )
        return started

    def _send(self, after: int) -> None:
        """Have what was made exported, once that is more than `after` spans."""
        self._n += 1
        if self._n > after and self._flush is not None:
            self._n = 0
            self._flush(_FLUSH_MS)

    def _event(self, span: Span, story: Story, *, final: bool) -> None:
        kind = _kind(story)
        told = {
            "exception.type": kind or "InvocationFailed",
            "exception.message": story.what.removeprefix(f"{kind}: "),
            "exception.stacktrace": story.traceback,
            "wukong.then": story.then,
            "wukong.task.key": story.task,
        }
        at = None if story.at_s is None else self._at(story.at_s)
        span.add_event("exception", {key: value for key, value in told.items() if value}, at)
        if final:
            self._failed(span, story.what, kind)

    def _failed(self, span: Span, why: str, kind: str | None = None) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, why))
        if kind is not None:
            span.set_attribute("error.type", kind)

    def _at(self, at_s: float) -> int:
        """Return a time of the job in nanoseconds since 1970."""
        return int((self._record.began_at + at_s) * 1e9)


def _kind(story: Story | None) -> str | None:
    """Return the class of what a task raised; None: it is no exception of a task's."""
    return None if story is None or not story.traceback else story.what.partition(": ")[0]


def _of_job(record: JobRecord) -> dict[str, Any]:
    said = record.summary
    bill = said.get("bill") or {}
    return {
        "wukong.job.id": record.job,
        "wukong.job.status": record.status,
        "wukong.job.tasks": record.n_tasks,
        "wukong.job.executors": len(record.invocations),
        "wukong.job.backends": record.about.get("backends"),
        "wukong.job.put_bytes": said.get("put_bytes"),
        "wukong.job.got_bytes": said.get("got_bytes"),
        "wukong.job.busy_s": said.get("busy_s"),
        "wukong.job.usd": bill.get("usd") if isinstance(bill, Mapping) else None,
    }


def _of_executor(row: ExecutorRow) -> dict[str, Any]:
    found = {
        "faas.invocation_id": row.invocation,
        "faas.coldstart": row.cold,
        "faas.trigger": "other",
        "wukong.executor.state": row.state,
        "wukong.executor.attempt": row.attempt,
        "wukong.executor.tasks": row.n_tasks,
        "wukong.executor.latency_s": row.latency_s,
        "wukong.executor.busy_s": row.busy_s,
        "wukong.executor.got_bytes": row.got_bytes,
        "wukong.executor.put_bytes": row.put_bytes,
        "wukong.executor.peak_held_bytes": row.peak_held_bytes,
        "wukong.executor.clock_error_s": row.clock_error_s,
    }
    return found | {f"wukong.executor.{kind.replace(' ', '_')}_s": sums[1] for kind, sums in row.sums.items()}


def _of_run(record: JobRecord, row: int, layer: str) -> dict[str, Any]:
    runs = record.runs
    return {
        "wukong.job.id": record.job,
        "wukong.task.key": text_of(record.key(runs.tasks[row])),
        "wukong.task.layer": layer,
        "wukong.task.in_bytes": runs.in_bytes[row],
        "wukong.task.out_bytes": runs.out_bytes[row],
        **dict(_sizes(runs.value_bytes[row], runs.memory_bytes[row])),
    }


def _sizes(value_bytes: int, memory_bytes: int) -> Iterator[tuple[str, int]]:
    if value_bytes != UNKNOWN:
        yield "wukong.task.value_bytes", value_bytes
    if memory_bytes != UNKNOWN:
        yield "process.memory.usage", memory_bytes


def _api() -> tuple[Any, Any]:
    try:
        from opentelemetry import context, trace
    except ImportError as error:
        hint = "pip install 'wukong-serverless[otel]', and an SDK that exports: opentelemetry-sdk"
        raise WukongError("spans are made through opentelemetry-api, which is not installed", hint=hint) from error
    return trace, context


def _version() -> str:
    try:
        return version("wukong-serverless")
    except PackageNotFoundError:
        return ""
