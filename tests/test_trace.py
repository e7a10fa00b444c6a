"""The trace of a job is in Chrome's trace format: every event has what its phase asks for, and nothing overlaps."""

import json
from collections import defaultdict

import pytest
from waiting import wait

import wukong

# The Trace Event Format: what each phase has to have besides `ph`, `pid`, `tid` and `name`.
NEEDED = {"X": {"ts", "dur"}, "M": {"args"}, "i": {"ts", "s"}, "s": {"ts", "id"}, "f": {"ts", "id", "bp"}}
NAMES = {"process_name": "name", "thread_name": "name", "thread_sort_index": "sort_index"}


def step(x):
    return x + 1


def fails(_):
    raise ValueError("on purpose </script>")


@pytest.fixture(scope="module")
def job():
    with wukong.Client(progress=False, fan_out="eager") as client:
        futures = client.map(step, range(8)) + client.map(fails, range(1))
        wait(lambda: all(future.status != "pending" for future in futures), "all are done")
        graph = {("step", i): (step, i) for i in range(8)} | {"sum": (sum, [("step", i) for i in range(8)])}
        client.get(graph, "sum")
        yield client.last_job


@pytest.fixture(scope="module")
def trace(job, tmp_path_factory):
    return json.loads(job.trace(tmp_path_factory.mktemp("trace") / "job.json").read_text())


def test_every_event_has_what_the_format_asks_for(trace):
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert event.keys() >= {"ph", "pid", "tid", "name"} | NEEDED[event["ph"]], event
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0, event
        if event["ph"] == "M":
            assert NAMES[event["name"]] in event["args"]
    threads = {event["tid"] for event in trace["traceEvents"]}
    assert threads == {e["tid"] for e in trace["traceEvents"] if e["name"] == "thread_name"}


def test_every_task_is_drawn_once_on_its_executor(job, trace):
    tasks = [event for event in trace["traceEvents"] if event.get("cat") == "task"]
    assert sorted(event["name"] for event in tasks) == ["step"] * 8 + ["sum"]
    named = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {named[event["tid"]] for event in tasks} <= {f"executor {r.invocation}" for r in job.record.invocations}
    arrows = [event for event in trace["traceEvents"] if event.get("cat") == "invoke"]
    assert sum(e["ph"] == "s" for e in arrows) == sum(e["ph"] == "f" for e in arrows) == len(job.record.invocations)


def test_what_one_executor_does_is_drawn_side_by_side_or_nested(trace):
    by_thread = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            by_thread[event["tid"]].append((event["ts"], -event["dur"], event["name"]))
    slack_us = 2.0  # of the rounding of durations
    for events in by_thread.values():
        open_until = []
        for ts, negative, name in sorted(events):
            while open_until and open_until[-1] <= ts + slack_us:
                open_until.pop()
            assert not open_until or ts - negative <= open_until[-1] + slack_us, name
            open_until.append(ts - negative)
