"""A summary says what has become of a job, and what it did and cost up to its end, whatever that was."""

import operator
import os
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait, wait_for

import wukong
from wukong.core.account import Moment, account, billed_before_s
from wukong.core.events import End, Heartbeat, Report, RunningTask
from wukong.core.invocation_tree import InvocationState
from wukong.errors import InvocationFailed, JobTimeout


@pytest.fixture(scope="module")
def client():
    with wukong.Client(progress=False, heartbeat_s=0.05, lanes=1) as one:
        yield one


def stays(folder, name="begun"):
    """A task that has begun when there is this file, and does not end by itself."""
    Path(folder, name).touch()
    time.sleep(600)


def fails_beside(folder):
    wait_for(str(Path(folder, "begun")), None)
    raise ZeroDivisionError("on purpose")


def at_work(job):
    """Whether a heartbeat has told of a running task."""
    return any(state.beat is not None and state.beat.running for state in job._states())


def held(summary, status):
    """The time, work and cost of a job that did not succeed are more than nothing."""
    assert summary.status == status
    assert summary.wall_s > 0 and summary.busy_s > 0 and summary.bill.usd > 0
    assert f"{summary.job} {status}: " in str(summary)


def test_of_a_job_that_runs_a_summary_tells_at_once_what_is_known(client, tmp_path):
    future = client.submit(wait_for, str(tmp_path / "go"), 1, pure=False)
    job = client.last_job
    assert job.summary(timeout_s=600).status == "running"
    wait(lambda: job.summary().busy_s > 0, "it is known to be at work")
    held(job.summary(), "running")
    assert repr(job) == f"<wukong job {job.id}: running on faas: local, storage: local>"
    assert client.cost().jobs["running"] == 1 and "1 running" in repr(client)
    (tmp_path / "go").touch()
    assert future.result() == 1
    assert job.summary().status == "succeeded" and job.summary().tasks_run == 1
    assert "succeeded" in repr(job)


def test_a_task_that_raises_ends_a_failed_job_with_the_work_of_all_that_was_stopped(client, tmp_path):
    graph = {"stays": (stays, str(tmp_path)), "fails": (fails_beside, str(tmp_path))}
    with pytest.raises(ZeroDivisionError):
        client.get(graph, ["stays", "fails"])
    held(client.last_job.summary(), "failed")
    assert client.last_job.summary().reported < client.last_job.summary().executors == 2


def test_a_job_of_which_one_future_failed_has_failed(client):
    futures = client.map(lambda n: 1 // n, [1, 0], pure=False)
    assert isinstance(futures[1].exception(), ZeroDivisionError)
    assert futures[0].result() == 1
    wait(lambda: client.last_job.summary().status == "failed")


def test_an_invocation_that_is_given_up_ends_a_failed_job(client):
    with pytest.raises(InvocationFailed):
        client.get({"a": (os._exit, 3), "b": (operator.add, "a", 1)}, "b")
    summary = client.last_job.summary()
    assert (summary.status, summary.repeated) == ("failed", 3)
    assert summary.wall_s > 0 and summary.bill.usd > 0


def test_a_job_that_takes_longer_than_it_may_has_timed_out(client, tmp_path):
    with pytest.raises(JobTimeout):
        client.get({"a": (stays, str(tmp_path))}, "a", timeout=2.0)  # by when it has begun, on a busy machine as well
    summary = client.last_job.summary()
    assert summary.status == "timed out" and summary.wall_s >= 2.0 and summary.bill.usd > 0


def test_who_waits_too_short_for_a_future_stops_nothing(client, tmp_path):
    future = client.submit(wait_for, str(tmp_path / "go"), 1, pure=False)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    assert client.last_job.summary().status == "running"
    (tmp_path / "go").touch()
    assert future.result() == 1


def test_cancelled_futures_and_ctrl_c_end_a_cancelled_job(client, tmp_path, monkeypatch):
    future = client.submit(stays, str(tmp_path), "cancelled", pure=False)
    wait(lambda: at_work(client.last_job), "it is known to be at work")
    future.cancel()
    held(client.last_job.summary(), "cancelled")

    def interrupted(job):
        if at_work(job):
            raise KeyboardInterrupt

    monkeypatch.setattr("wukong.core.job.Job.tend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.get({"a": (stays, str(tmp_path), "interrupted")}, "a")
    held(client.last_job.summary(), "cancelled")


def test_what_runs_when_a_client_is_closed_is_cancelled_and_its_summary_waits_for_nobody(tmp_path):
    with wukong.Client(progress=False) as one:
        one.submit(stays, str(tmp_path))
        job = one.last_job
        wait(lambda: at_work(job), "it is known to be at work")
    waiting = threading.Thread(target=job.summary, args=(600,), daemon=True)
    waiting.start()
    waiting.join(60)
    assert not waiting.is_alive()
    held(job.summary(), "cancelled")
    assert one.cost().jobs == {"cancelled": 1}


def test_a_clients_total_is_the_sum_over_its_jobs():
    with wukong.Client(progress=False) as one:
        for n in range(3):
            assert one.get({"a": (operator.add, n, 1)}, "a") == n + 1
        with pytest.raises(ZeroDivisionError):
            one.get({"a": (operator.truediv, 1, 0)}, "a")
        last = one.last_job.summary()
        total = wait(lambda: (now := one.cost()).tasks == 3 and now, "all have been settled")
    assert total.jobs == {"succeeded": 3, "failed": 1}
    assert total.executors == 4
    assert total.wall_s > last.wall_s and total.usd > last.bill.usd
    assert str(total).startswith("4 jobs (1 failed), 3 tasks, ")
    assert str(one.cost()) in repr(one)


AT_WORK = RunningTask("long"), RunningTask("short", lane=1)


def test_who_left_no_end_report_is_counted_by_its_last_heartbeat_up_to_the_end():
    beat = Heartbeat(1_000.0, 7, AT_WORK, 0, Report(tasks=7, wall_s=5.0, busy_s=4.0))
    idle = Heartbeat(1_000.0, 2, (), 0, Report(tasks=2, wall_s=1.0, busy_s=0.5))
    states = [
        InvocationState("0", End(Report(tasks=1, wall_s=9.0, busy_s=8.0)), None, 0),
        InvocationState("0.0", None, beat, 0),
        InvocationState("0.1", None, idle, 0),
        InvocationState("0.2", None, None, 0),
    ]
    quiet, ages = {"0.0": 2.0, "0.1": 2.0}, {"0.2": 3.0, "0.3": 9.0}
    total = account(states, Known(quiet, ages), Moment(100.0, 0.0))
    assert (total.executors, total.reported, total.running, total.report.tasks) == (4, 1, 2, 10)
    assert total.report.wall_s == 9 + (5 + 2) + (1 + 2) + 3
    assert total.report.busy_s == 8 + (4 + 2 * 2) + 0.5 + 3, "both of its tasks have gone on"
    limited = account(states, Known(quiet, ages), Moment(100.0, 0.0), 2.5)
    assert limited.report.wall_s == 9 + 5 + (1 + 1.5) + 2.5, "the platform has ended them by then"


class Known:
    """What the tree of invocations knows, besides what the store says."""

    def __init__(self, quiet, ages, attempts=(), gone=()):
        self.quiet, self.ages, self.attempts, self.gone = quiet, ages, Counter(attempts), gone

    def quiet_s(self, invocation, beat, now):
        return self.quiet[invocation]

    def age_s(self, invocation, now):
        return self.ages[invocation]

    def silent(self, invocation):
        return invocation not in self.quiet


def test_what_was_made_again_counts_from_then_on_and_what_others_are_made_for_not_at_all():
    beat = Heartbeat(1_000.0, 7, AT_WORK, 0, Report(tasks=7, wall_s=5.0, billed_s=5.0))
    ended = End(Report(wall_s=9.0, billed_s=9.0))
    states = [
        InvocationState("0", ended, None, 0),  # since that look
        InvocationState("1", None, beat, 0),
        InvocationState("2", None, beat, 1),  # the run before is still alive
        InvocationState("3", None, None, 0),
    ]
    known = Known({}, {"0": 1.0, "1": 2.0, "2": 4.0}, {"0": 1, "1": 1, "2": 1}, {"3"})
    assert account(states, known, Moment(100.0, 0.0)).report.billed_s == 1 + 2 + 4


def test_a_run_that_was_killed_is_billed_for_as_long_as_is_known():
    beat = Heartbeat(1_000.0, 7, AT_WORK, 0, Report(wall_s=5.0, billed_s=20.0), left_s=2.0)
    mute = Heartbeat(1_000.0, 0)
    assert billed_before_s(beat, None, 99.0, 1.0) == 20, "nobody knows when it died: at its last heartbeat"
    assert billed_before_s(beat, "now", 99.0, 1.0) == 24
    assert billed_before_s(beat, "now", 99.0, 3_600.0) == 28, "it has no more time than that"
    assert billed_before_s(beat, "at its limit", 99.0, 1.0) == 28
    endless = replace(beat, left_s=None)
    assert billed_before_s(endless, "at its limit", 99.0, 1.0) == 24
    assert billed_before_s(endless, "at its limit", 99.0, 1.0, 15.0) == 60
    for none in (mute, None):
        assert billed_before_s(none, "now", 10.0, 0.0, None, 4.0) == 40
        assert billed_before_s(none, "now", 1_000.0, 0.0, 60.0, 4.0) == 240, "it was queued before that"
        assert billed_before_s(none, "at its limit", 10.0, 0.0) == 10
        assert billed_before_s(none, None, 10.0, 0.0) == 0, "it may never have begun"
