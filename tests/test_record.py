"""The record of a job says what every task and every executor did, and does not invent what nobody knows."""

import math
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from waiting import wait, wait_for

import wukong
from wukong.core import track
from wukong.core.clocks import Ahead, Heard, aligned
from wukong.core.names import text_of
from wukong.core.raised import Raised
from wukong.core.record import JobRecord
from wukong.core.tally import MOST_GROUPS, LayerTally
from wukong.core.track import Recorder, Track
from wukong.errors import WukongError

N = 12


@pytest.fixture(scope="module")
def client():
    with wukong.Client(progress=False, heartbeat_s=0.05) as one:
        yield one


def block(i):
    return bytes(200_000 + i)


def add(*blocks):
    return sum(map(len, blocks))


def fan_in():
    graph = {("block", i): (block, i) for i in range(N)}
    return graph | {"total": (add, *graph)}


def test_every_task_is_in_the_record_once_with_its_times_and_its_executor(everywhere):
    # As many executors as there are tasks: whatever moves, moves through the store.
    with wukong.Client(progress=False, fan_out="eager", large_object_bytes=10**9) as client:
        client.get(fan_in(), "total")
        job = client.last_job
        record, summary = job.record, job.summary()
    assert Counter(record.runs.tasks) == dict.fromkeys(range(N + 1), 1) and not record.unknown()
    assert record.layers[0] and sorted(record.layers[0]) == ["block", "total"]
    assert all(row.state == "ended" and row.recorded == row.n_tasks for row in record.invocations)
    assert len(record.invocations) == summary.executors > 1 and not record.stories
    assert sum(row.n_tasks for row in record.invocations) == summary.tasks_run == N + 1
    for row in record.invocations:
        assert row.clock_error_s == 0.0  # it runs on this machine
        assert 0 <= row.invoked_s <= row.began_s <= row.ended_s and row.ended_s - row.began_s >= row.busy_s
        assert row.operations >= 1 and {"open", "look", "import"} <= row.sums.keys()
    runs = record.runs
    ends = dict(zip(runs.tasks, (begun + took for begun, took in zip(runs.begun, runs.took, strict=True)), strict=True))
    for task, executor, begun in zip(runs.tasks, runs.executors, runs.begun, strict=True):
        assert record.invocations[executor].began_s <= begun <= ends[task] <= record.invocations[executor].ended_s
        assert record.ready_s[task] <= begun
    total = record.keys.index("total")
    assert record.ready_s[total] == max(end for task, end in ends.items() if task != total)
    [at] = [row for row, task in enumerate(runs.tasks) if task == total]
    stored = sum(runs.out_bytes)
    assert runs.out_bytes[at] == 0 and stored >= runs.in_bytes[at] >= (N - 1) * 200_000


def test_the_same_events_are_shown_to_callbacks_and_summed_up(client):
    client.get(fan_in(), "total")
    job = client.last_job
    told = list(job.record.in_order())
    assert [key for key, *_ in told][-1] == "total" and len(told) == N + 1
    assert sum(end - begun for _, begun, end, _ in told) == pytest.approx(job.summary().busy_s)


def flaky(folder):
    tries = Path(folder, "tries")
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if len(tries.read_text()) < 3:
        raise OSError("not yet")
    return "at last"


def test_each_failed_run_of_a_task_has_its_story(client, tmp_path):
    assert client.submit(flaky, str(tmp_path), retries=2, pure=False).result() == "at last"
    stories = client.last_job.record.stories
    assert [(story.what, story.then) for story in stories] == [("OSError: not yet", "run again")] * 2
    assert all("flaky" in story.traceback and story.invocation and story.at_s > 0 for story in stories)

    with pytest.raises(ZeroDivisionError):
        client.get({"bad": (divmod, 1, 0)}, "bad")
    [story] = client.last_job.record.stories
    assert (story.task, story.then) == ("bad", "failed the job") and "ZeroDivisionError" in story.traceback

    futures = client.map(lambda x: 1 // x, [0, 1])
    assert [type(future.exception()) for future in futures] == [ZeroDivisionError, type(None)]
    wait(lambda: client.last_job.ended, "its client has heard that it has ended")  # the values come sooner
    [story] = client.last_job.record.stories
    assert story.then == "failed alone" and story.task == futures[0].key


def dies_once(folder):
    died = Path(folder, "died")
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_an_executor_that_died_has_a_story_and_its_second_run_the_figures(client, tmp_path):
    assert client.get({"once": (dies_once, str(tmp_path))}, "once") == "alive"
    record = client.last_job.record
    [story] = record.stories
    assert story.then == "made again" and story.invocation == "0" and "crash" in story.what and story.hint
    [row] = record.invocations
    assert row.attempt == 1 and row.state == "ended" and row.recorded == 1


def test_what_a_stopped_executor_did_is_marked_as_not_known(client, tmp_path):
    future = client.submit(wait_for, str(tmp_path / "never"), 1, pure=False)
    job = client.last_job
    wait(lambda: job.record.invocations[0].state == "no word", "it has given a heartbeat")
    assert job.record.status == "running"
    future.cancel()
    record = job.record
    [row] = record.invocations
    assert record.status == "cancelled" and record.unknown() == [0] and not len(record.runs)
    assert row.state == "no word" and row.ended_s is None and row.heard_s >= row.began_s and row.busy_s > 0
    assert record.columns("executors")["told_by"] == ["heartbeat"]
    assert record.ready_s[0] == 0.0  # a leaf is ready from the begin on


def test_without_events_only_sums_are_kept(tmp_path):
    with wukong.Client(progress=False, events="off") as client:
        client.get(fan_in(), "total")
        record, summary = client.last_job.record, client.last_job.summary()
        assert summary.tasks_run == N + 1 and summary.busy_s > 0
        assert not len(record.runs) and all(row.recorded == 0 and not row.sums for row in record.invocations)


def test_one_executor_keeps_so_many_tasks_and_spans_and_sums_of_the_rest(monkeypatch):
    monkeypatch.setattr(track, "MOST_TASKS", 3)
    monkeypatch.setattr(track, "MOST_SPANS", 2)
    kept = Track(0, False, b"", 0.0, 0.0, 0.0)
    recorder = Recorder(kept, "on")
    for at in range(5):
        recorder.ran.append(at)
        recorder.began.append(float(at))
        recorder.ended.append(at + 0.5)
        recorder.span("get", at + 0.5, at + 0.75, 10)
        recorder.failed(at, 0.0, 1.0, Raised("t", "E", "m", "", b""), again=True)
        recorder.fold()
    assert (list(kept.tasks), kept.tasks_left_out, recorder.n_tasks) == ([0, 1, 2], 2, 5)
    assert recorder.busy_s == 2.5 and kept.sums["get"] == (5, 1.25, 50)
    assert len(kept.spans.kinds) == 2 and kept.spans_left_out == 3


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells")
def test_a_record_tells_what_tasks_had_of_the_cores(client):
    """Of a thread that walks alone: what it computed, and not what it slept."""
    client.get({"busy": (burn, 0.05), "asleep": (lambda _: time.sleep(0.2), "busy")}, "asleep")
    rows = client.last_job.record.invocations
    assert all({"look", "import", "run"} <= row.on_core.keys() for row in rows)
    on_s = sum(row.on_core["run"][0] for row in rows)
    assert 0.05 <= on_s <= sum(row.busy_s for row in rows) - 0.04


def burn(cpu_s):
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


def test_what_a_heartbeat_tells_of_layers_is_small_and_adds_up():
    keys = {n: ("a-part-1f", n) for n in range(50_000)}
    keys |= {50_000: "sum-part-0c", 50_001: "sum-0c", 50_002: "load7", 50_003: "sum-part-abcdefab", 50_004: "sum-faded"}
    tally = LayerTally(keys)
    tally.take(range(30_000))  # of which it looks at some
    tally.take(range(30_000, 50_005))
    tally.take([50_002])
    told = dict(tally.groups())
    assert sum(told.values()) == 50_006 and told[0] > 49_000
    few = LayerTally(keys)
    few.take([7, 8, 50_000, 50_001, 50_002, 50_003, 50_004])
    assert few.groups() == ((7, 2), (50_000, 2), (50_001, 1), (50_002, 1), (50_004, 1))
    many = LayerTally({n: (f"k{n}", 0) for n in range(1_000)})
    many.take([*range(1_000), 5])
    assert len(many.groups()) == MOST_GROUPS and many.groups()[0] == (5, 2)


def test_clocks_are_aligned_by_the_messages_that_were_exchanged():
    heard = {
        # Ahead by 100 s: called at 10, begun at 10.2; its end at 20 was seen by 20.1.
        "0": Heard(None, 10.0, 110.2, ((120.0, 20.1),)),
        # Made by "0" at 15 (115 by its clock), behind by 50 s: begun at 15.3, its end at 18 seen at 18.4.
        "0.0": Heard("0", 115.0, -34.7, ((-32.0, 18.4),)),
        "agrees": Heard(None, 10.0, 10.2, ((20.0, 20.1),)),
        "silent": Heard(None, 10.0, 110.2),
        "here": Heard(None, 10.0, 10.2, (), same=True),
    }
    found = aligned(heard)
    assert found["here"] == Ahead(0.0, 0.0, 0.0)
    assert found["agrees"].by_s == 0.0 and found["agrees"].error_s == pytest.approx(0.2)
    for name, ahead_s in (("0", 100.0), ("0.0", -50.0)):
        assert abs(found[name].by_s - ahead_s) <= found[name].error_s < 1.0
    assert found["silent"].error_s == math.inf


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_a_record_is_the_same_when_it_is_read_again(client, tmp_path, form):
    with pytest.raises(ZeroDivisionError):
        client.get(fan_in() | {"bad": (divmod, 1, 0)}, ["total", "bad"])
    record, path = client.last_job.record, tmp_path / "record"
    getattr(record, f"to_{form}")(path)
    again = JobRecord.load(path)
    assert again.runs == record.runs and again.invocations == record.invocations and again.stories == record.stories
    assert again.layers == record.layers and (again.status, again.wall_s) == (record.status, record.wall_s)
    assert list(again.keys) == [text_of(key) for key in record.keys]
    assert again.columns("tasks") == record.columns("tasks")


def test_settings_without_end_are_in_the_record_and_its_report(tmp_path):
    path = tmp_path / "record.json"
    with wukong.Client(progress=False, patience_s=math.inf, orphan_s=math.inf) as client:
        client.get({"x": (abs, -1)}, "x")
        client.last_job.record.to_json(path)
        client.last_job.report(tmp_path / "report.html")
    assert JobRecord.load(path).about["policy"]["patience_s"] == "inf"


def test_what_is_no_record_is_refused(tmp_path):
    path = tmp_path / "other.json"
    for text in ("", "[1]", '{"wukong_record": 99}', "PAR1 but nothing else"):
        path.write_text(text)
        with pytest.raises(WukongError, match="no record of a job"):
            JobRecord.load(path)


def test_its_tables_are_frames_and_say_what_is_not_known(client, tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        client.get({"bad": (divmod, 1, 0), "after": (abs, "bad")}, "after")
    record = client.last_job.record
    tasks = record.tasks().set_index("key")
    assert tasks.state.to_dict() == {"bad": "failed", "after": "unknown"}
    assert tasks.began_s.isna().all() and math.isnan(tasks.ready_s["after"]) and tasks.ready_s["bad"] == 0
    assert list(record.executors().invocation) == ["0"] and record.executors().operations[0] >= 1
    assert set(record.spans().kind) <= set(track.KINDS) and (record.spans().duration_s >= 0).all()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(WukongError, match="pandas is not installed"):
        record.tasks()
    assert record.columns("tasks")["key"] == ["bad", "after"] or record.columns("tasks")["key"] == ["after", "bad"]
