"""A record in Chrome's trace format, which https://ui.perfetto.dev and chrome://tracing open.

Executors are threads of one process, and each further lane of one is another; tasks and what an executor does besides
are complete events (``X``), failures instant ones (``i``); an arrow (``s``, ``f``) leads from each hand-over to the
executor that it has started. What is not known is not drawn; an executor that left no word is named so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from wukong.core.names import text_of
from wukong.core.record import UNKNOWN, JobRecord
from wukong.core.track import KINDS, MOST_LANES
from wukong.report.beside import rows

_PID = 1
_CLIENT = 0


def chrome_trace(record: JobRecord) -> dict[str, Any]:
    """Return the trace. `ts` and `dur` are microseconds since the job began."""
    about = {"job": record.job, "status": record.status, "began_at": record.began_at}
    return {"traceEvents": list(_events(record)), "displayTimeUnit": "ms", "otherData": about}


def to_text(record: JobRecord) -> str:
    """Return the trace as JSON."""
    return json.dumps(chrome_trace(record), separators=(",", ":"), default=str, allow_nan=False)


def _events(record: JobRecord) -> Iterator[dict[str, Any]]:
    yield _name("process_name", _CLIENT, f"job {record.job} ({record.status})")
    yield _name("thread_name", _CLIENT, "client")
    yield _span("job", "client", _CLIENT, 0.0, record.wall_s, {"tasks": record.n_tasks})
    threads, named, beside = {}, set[int](), rows(record)
    for tid, row in enumerate(record.invocations, start=_CLIENT + 1):
        threads[row.invocation] = tid
        mark = "" if row.state == "ended" else f" ({row.state})"
        yield _name("thread_name", tid, f"executor {row.invocation}{mark}")
        yield _order(tid, tid, 0)
        if row.invoked_s is not None and row.began_s is not None:
            start = {"cold": row.cold, "attempt": row.attempt, "clock_error_s": row.clock_error_s}
            yield _span("start", "start", tid, row.invoked_s, row.began_s - row.invoked_s, start)
            arrow = {"pid": _PID, "cat": "invoke", "name": "invoke", "id": tid}
            made_by = _CLIENT if row.attempt else threads.get(row.maker or "", _CLIENT)
            yield {**arrow, "ph": "s", "tid": made_by, "ts": _us(row.invoked_s)}
            yield {**arrow, "ph": "f", "bp": "e", "tid": tid, "ts": _us(row.began_s)}
        spans, places = row.spans, beside[tid - _CLIENT - 1]
        columns = zip(spans.kinds, spans.begun, spans.took, spans.size_bytes, places, strict=True)
        for kind, begun, took, size, place in columns:
            at = tid + place * (len(record.invocations) + 1)
            if place and at not in named:
                named.add(at)
                yield _name("thread_name", at, f"executor {row.invocation}, beside its tasks")
                yield _order(at, tid, place)
            yield _span(KINDS[kind], "executor", at, begun, took, {"bytes": size} if size else {})
    names, layer_of = record.layers
    runs = record.runs
    for at, task in enumerate(runs.tasks):
        args = {"key": text_of(record.key(task)), "in_bytes": runs.in_bytes[at], "out_bytes": runs.out_bytes[at]}
        if runs.value_bytes[at] != UNKNOWN:
            args["value_bytes"] = runs.value_bytes[at]
        tid = first = runs.executors[at] + _CLIENT + 1
        if lane := runs.lanes[at]:
            tid = first + lane * (len(record.invocations) + 1)
            if tid not in named:
                named.add(tid)
                yield _name("thread_name", tid, f"executor {record.invocations[first - 1].invocation}, lane {lane}")
                yield _order(tid, first, lane)
        yield _span(names[layer_of[task]], "task", tid, runs.begun[at], runs.took[at], args)
    for story in record.stories:
        if story.at_s is not None:
            told = {"task": story.task, "what": story.what, "then": story.then}
            where = {"pid": _PID, "tid": threads.get(story.invocation or "", _CLIENT), "ts": _us(story.at_s)}
            yield {"ph": "i", "s": "t", "cat": "failure", "name": story.what[:80], "args": told, **where}


def _name(what: str, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": _PID, "tid": tid, "name": what, "args": {"name": name}}


def _order(tid: int, executor: int, lane: int) -> dict[str, Any]:
    at = executor * (MOST_LANES + 1) + lane
    return {"ph": "M", "pid": _PID, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": at}}


def _span(name: str, category: str, tid: int, begun: float, took: float, args: dict[str, Any]) -> dict[str, Any]:
    at = {"pid": _PID, "tid": tid, "ts": _us(begun), "dur": _us(max(0.0, took))}
    return {"ph": "X", "cat": category, "name": name, **at, "args": args}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)
