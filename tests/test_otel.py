"""A job as OpenTelemetry's spans, read back from the SDK's own exporter."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from waiting import wait

import wukong
from wukong.client.job import ClientJob
from wukong.core.record import JobRecord
from wukong.report.otel import emit


def step(x: int) -> int:
    return x + 1


def fails(*_: object) -> None:
    raise ValueError("on purpose")


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False, fan_out="eager") as one:
        yield one


@pytest.fixture(scope="module")
def job(client: wukong.Client) -> ClientJob:
    graph = {("step", i): (step, i) for i in range(8)} | {"sum": (sum, [("step", i) for i in range(8)])}
    client.get(graph, "sum")
    assert client.last_job is not None
    return client.last_job


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def test_a_job_its_executors_and_its_tasks_are_nested_in_the_callers_trace(
    job: ClientJob, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with provider.get_tracer("test").start_as_current_span("caller") as caller:
        told = job.spans(provider)
    spans = exporter.get_finished_spans()
    executors = {span.context.span_id: span for span in named(spans, "executor")}
    assert Counter(span.name for span in spans) == {
        "caller": 1, "job": 1, "executor": len(job.record.invocations), "step": 8, "sum": 1
    }  # fmt: skip
    assert told == format(caller.get_span_context().trace_id, "032x")
    assert {span.context.trace_id for span in spans} == {caller.get_span_context().trace_id}
    [whole] = named(spans, "job")
    assert whole.parent == caller.get_span_context() and whole.status.is_ok
    assert whole.attributes["wukong.job.id"] == job.id and whole.attributes["wukong.job.tasks"] == 9
    for span in executors.values():
        assert span.parent.span_id in {whole.context.span_id, *executors}
        assert span.kind is trace.SpanKind.SERVER and span.attributes["faas.invocation_id"]
        assert whole.start_time <= span.start_time <= span.end_time
    for span in [*named(spans, "step"), *named(spans, "sum")]:
        executor = executors[span.parent.span_id]
        assert executor.start_time <= span.start_time <= span.end_time <= executor.end_time + 1_000


def test_a_fan_ins_inputs_are_links(job: ClientJob, provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    job.spans(provider)
    spans = exporter.get_finished_spans()
    [total] = named(spans, "sum")
    assert {link.context.span_id for link in total.links} == {span.context.span_id for span in named(spans, "step")}
    assert total.attributes["wukong.task.inputs"] == 8
    assert not any(span.links for span in named(spans, "step"))


def test_errors_are_recorded_where_they_happened(
    client: wukong.Client, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        client.get({"a": (step, 1), "bad": (fails, "a")}, "bad", retries=1)
    client.last_job.spans(provider)
    spans = exporter.get_finished_spans()
    [bad], [whole] = named(spans, "bad"), named(spans, "job")
    for span in (bad, whole):
        assert not span.status.is_ok and span.status.description == "ValueError: on purpose"
        assert span.attributes["error.type"] == "ValueError"
    assert [event.name for event in bad.events] == ["exception", "exception"]
    for event, then in zip(bad.events, ("run again", "failed the job"), strict=True):
        assert event.attributes["exception.type"] == "ValueError"
        assert "in fails" in event.attributes["exception.stacktrace"]
        assert event.attributes["wukong.then"] == then
        assert bad.start_time <= event.timestamp <= bad.end_time
    assert len(bad.links) == 1


def test_one_future_that_fails_is_an_error_of_its_task_alone(
    client: wukong.Client, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    futures = client.map(lambda n: 1 // n, [0, 1], key=["zero", "one"], pure=False)
    wukong.wait(futures)
    job = client.last_job
    wait(lambda: {job.record.key(task) for task in job.record.runs.tasks} == {"zero", "one"}, "its executors have told")
    job.spans(provider)
    spans = exporter.get_finished_spans()
    [zero], [one] = named(spans, "zero"), named(spans, "one")
    assert not zero.status.is_ok and zero.attributes["error.type"] == "ZeroDivisionError"
    assert one.status.is_ok and not one.events


def test_with_the_setting_each_job_is_handed_over_in_the_trace_it_was_started_in(
    monkeypatch: pytest.MonkeyPatch, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    with wukong.Client(progress=False, opentelemetry=True) as client:
        with provider.get_tracer("test").start_as_current_span("caller") as caller:
            client.get({"a": (step, 1)}, "a")
            client.submit(step, 2).result()
        wait(lambda: len(named(exporter.get_finished_spans(), "job")) == 2, "both are there")
    jobs = named(exporter.get_finished_spans(), "job")
    assert [span.parent for span in jobs] == [caller.get_span_context()] * 2


def test_nothing_is_made_if_nobody_records_it_and_no_tasks_if_none_are_wanted(
    job: ClientJob, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    assert job.spans() is None, "no SDK is set up"
    assert job.spans(TracerProvider(sampler=ALWAYS_OFF)) is None
    job.spans(provider, tasks=False)
    assert {span.name for span in exporter.get_finished_spans()} == {"job", "executor"}


class Bounded(SpanProcessor):
    """A processor as the SDK's for batches, whose exporter is slow: what does not fit into its queue is dropped."""

    def __init__(self) -> None:
        self.queue: list[ReadableSpan] = []
        self.sent = 0

    def on_end(self, span: ReadableSpan) -> None:
        if len(self.queue) < 2_048:
            self.queue.append(span)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.sent += len(self.queue)
        self.queue.clear()
        return True


def test_no_queue_overflows_with_many_tasks(job: ClientJob) -> None:
    n = 6_000
    record = JobRecord("job", "succeeded", time.time(), 1.0, 0.0, n, keys=[f"task-{i}" for i in range(n)])
    record.invocations = job.record.invocations[:1]
    runs = record.runs
    for column, values in (
        (runs.tasks, range(n)), (runs.executors, [0] * n), (runs.lanes, [0] * n),
        (runs.begun, [0.1] * n), (runs.took, [0.1] * n),
        (runs.in_bytes, [0] * n), (runs.out_bytes, [0] * n), (runs.value_bytes, [-1] * n), (runs.memory_bytes, [-1] * n)
    ):  # fmt: skip
        column.extend(values)
    provider = TracerProvider()
    processor = Bounded()
    provider.add_span_processor(processor)
    emit(record, tracer_provider=provider)
    assert processor.sent == n + 2


def test_without_the_package_that_is_said(job: ClientJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(wukong.errors.WukongError, match=r"wukong-serverless\[otel\]"):
        job.spans()
