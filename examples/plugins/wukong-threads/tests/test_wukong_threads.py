"""The conformance suite, and what is this backend's own: warm workers, what it reports, what it cancels and ends."""

import os
import time
from contextlib import closing

import pytest
from wukong.backends.faas import Failure, Invocation
from wukong.errors import BackendError, ConfigError
from wukong.testing.faas import FaaSTests
from wukong.testing.faas_functions import found, payload

from wukong_threads import ThreadsFaaS


class TestThreadsFaaS(FaaSTests):
    def make_faas(self, function):
        return ThreadsFaaS(function=function, slots=4)

    def make_limited_faas(self, function):
        return ThreadsFaaS(function=function, slots=1, time_s=1.0)


class TestThreadsFaaSWithLimits(FaaSTests):
    def make_faas(self, function):
        return ThreadsFaaS(function=function, slots=2, payload_bytes=100_000, time_s=60.0)


def opened(**options):
    return closing(ThreadsFaaS(function="wukong.testing.faas_functions:conform", **options))


def call(directory, name, **then):
    return Invocation(f"job/{name}", payload(directory, name, then=then))


def until(seen):
    """Wait until `seen` is true."""
    end_s = time.monotonic() + 30
    while not (answer := seen()):
        assert time.monotonic() < end_s
        time.sleep(0.002)
    return answer


def test_workers_are_used_again(tmp_path):
    with opened(slots=2) as backend:
        backend.invoke([call(tmp_path, f"n{n}") for n in range(30)])
        until(lambda: len(found(tmp_path)) == 30)
        assert len({run["pid"] for runs in found(tmp_path).values() for run in runs}) <= 2
        assert until(backend.free_slots) <= 2


@pytest.mark.parametrize(
    ("then", "time_s", "reason", "detail"),
    [
        ({"die": True}, None, "crash", "signal 9"),
        ({"raise": "on purpose"}, None, "error", "Expected: on purpose"),
        ({"wait": "never", "wait_s": 60}, 2.0, "timeout", "over the time limit of 2 s"),
    ],
)
def test_what_fails_is_reported_with_its_reason_and_its_slot_goes_on(tmp_path, then, time_s, reason, detail):
    with opened(slots=1, time_s=time_s) as backend:
        backend.invoke([call(tmp_path, "bad", **then)])
        assert until(backend.failures) == [Failure("job/bad", reason, detail)]
        backend.invoke([call(tmp_path, "good")])
        until(lambda: "good" in found(tmp_path))
        assert backend.failures() == []


def test_a_function_that_is_not_there_never_starts(capfd):
    with closing(ThreadsFaaS(function="nowhere:function", slots=1)) as backend:
        backend.invoke([Invocation("job/0", b"")])
        [failure] = until(backend.failures)
    assert (failure.invocation, failure.reason) == ("job/0", "start")
    assert "No module named 'nowhere'" in capfd.readouterr().err


def test_what_a_killed_function_had_invoked_still_runs(tmp_path):
    with opened(slots=1) as backend:
        spec = {"target": backend.spec().target, "options": dict(backend.spec().options)}
        backend.invoke([call(tmp_path, "bad", spec=spec, invoke=["child"], die=True)])
        until(lambda: "child" in found(tmp_path))
        assert [failure.invocation for failure in backend.failures()] == ["job/bad"]


def test_what_is_cancelled_ends_queued_or_running_and_is_no_failure(tmp_path):
    with opened(slots=1) as backend:
        backend.invoke([call(tmp_path, name, wait="never", wait_s=60) for name in ("running", "queued")])
        until(lambda: "running" in found(tmp_path))
        backend.cancel("job/")
        backend.invoke([call(tmp_path, "after")])
        until(lambda: "after" in found(tmp_path))
        assert "queued" not in found(tmp_path)
        assert backend.failures() == []


def test_closing_ends_every_process(tmp_path):
    with opened(slots=2) as backend:
        backend.invoke([call(tmp_path, "running", wait="never", wait_s=60), call(tmp_path, "idle")])
        until(lambda: {"running", "idle"} <= found(tmp_path).keys())
        pids = [run["pid"] for runs in found(tmp_path).values() for run in runs]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_spec_opens_only_inside_a_function():
    with opened() as backend, pytest.raises(BackendError, match="is not a function of this backend"):
        backend.spec().open()


def test_less_than_one_slot_is_refused():
    with pytest.raises(ConfigError, match="slots is 0"):
        ThreadsFaaS(slots=0)
