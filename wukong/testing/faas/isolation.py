"""Functions at once, each by itself: one that raises, dies or is cancelled harms nobody else."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from wukong.backends.faas import Failure, Invocation
from wukong.testing.faas.base import FUNCTION, GO, FaaSSuite
from wukong.testing.faas_functions import found, payload

_AT_ONCE = 4
_MOST_AT_ONCE = 64
_ASKED = 100
_MOST_WORK_S = 0.002
_LONGER_S = 2.0
_REASONS = {"crash", "timeout", "memory", "error", "start"}


class IsolationTests(FaaSSuite):
    """A part of `wukong.testing.faas.FaaSTests`."""

    def test_free_slots_are_a_count_or_unknown(self) -> None:
        with self._opened() as backend:
            free = backend.free_slots()
            assert free is None or free >= 0
            most = backend.limits.concurrency
            assert free is None or most is None or free <= most

    def test_an_idle_platform_has_a_free_slot_and_tells_without_asking_anybody(self) -> None:
        """An executor asks before every split: if `free_slots` sleeps or waits for an answer, all tasks wait."""
        with self._opened() as backend:
            self._wait(lambda: backend.free_slots() != 0, "a platform on which nothing runs has a free slot")
            resource = pytest.importorskip("resource")
            if not hasattr(resource, "RUSAGE_THREAD"):
                pytest.skip("this platform does not count how often one thread slept")
            before, worked_s = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.thread_time()
            for n in range(1, _ASKED + 1):
                backend.free_slots()
                slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
                assert slept <= _ASKED / 4, f"free_slots has slept or waited {slept} times in {n} calls"
                ms = 1_000 * (time.thread_time() - worked_s)
                assert ms <= 1_000 * _ASKED * _MOST_WORK_S, f"free_slots has computed for {ms:.0f} ms in {n} calls"

    def test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process(self, directory: Path) -> None:
        with self._opened() as backend:
            free = backend.free_slots()
            names, sure = [f"n{n}" for n in range(_AT_ONCE)], min(_AT_ONCE, free or 0)
            backend.invoke(self._waiters(directory, names))
            n_sure = max(1, sure)
            while True:
                what = f"{n_sure} functions run at once, as many as free_slots has promised"
                self._wait(partial(_left_evidence, directory, n_sure), what)
                self._settled(partial(_left_evidence, directory, len(names)))
                left, n_running = backend.free_slots(), len(found(directory))
                assert left is None or left >= 0
                most = backend.limits.concurrency
                assert left is None or most is None or left <= most - n_running, "slots that are taken count as free"
                if not left or free is None or left <= free - n_running or n_running >= _MOST_AT_ONCE:
                    break
                more = [f"n{len(names) + n}" for n in range(min(_AT_ONCE, left))]  # it says that these start, too
                backend.invoke(self._waiters(directory, more))
                n_sure, names = n_running + len(more), names + more
            runs = self._release(directory, names)
            self._wait(lambda: backend.free_slots() != 0, "slots are free again when functions have ended")
            hashes = {run["hash"] for each in runs.values() for run in each}
            assert len(hashes) == 1, "two functions hash a text differently: PYTHONHASHSEED has to be the same for all"
            assert not [run for each in runs.values() for run in each if run["at_once"] > 1], (
                "two invocations ran in one process at the same time"
            )

    @pytest.mark.parametrize(
        "then", [{"raise": "on purpose"}, {"exit": 3}, {"die": True}], ids=["raise", "exit", "die"]
    )
    def test_a_function_that_fails_harms_nobody_else(self, directory: Path, then: dict[str, object]) -> None:
        with self._opened() as backend:
            n_free = backend.free_slots() or 1
            beside = [f"beside{n}" for n in range(max(1, min(2, n_free - 1)))]
            backend.invoke(self._waiters(directory, beside))
            if n_free > 1:
                self._wait_for(directory, set(beside))
            else:  # if only one may run at a time, it has to come to an end
                self._release(directory, beside)
            backend.invoke([Invocation("job/bad", payload(directory, "bad", then=then))])
            self._wait_for(directory, {"bad"})
            names = {f"good{n}" for n in range(10)}
            backend.invoke([Invocation(f"job/{name}", payload(directory, name)) for name in sorted(names)])
            evidence = self._wait_for(directory, names)
            assert "bad-in-the-client" not in evidence, "functions run in the client's own process"
            reported = self._failures(backend)
            self._release(directory, beside)
        assert all(isinstance(failure, Failure) for failure in reported)
        assert {failure.invocation for failure in reported} <= {"job/bad"}
        assert {failure.reason for failure in reported} <= _REASONS
        assert all(failure.detail for failure in reported), "a failure says what happened"
        runs = Counter({"job/bad": len(found(directory)["bad"])})
        assert not Counter(failure.invocation for failure in reported) - runs, "a failure is reported once"

    def test_no_failure_is_reported_if_none_happened(self, directory: Path) -> None:
        with self._opened() as backend:
            backend.invoke([Invocation("job/0", payload(directory, "fine"))])
            self._wait_for(directory, {"fine"})
            assert backend.failures() == []

    def test_what_is_queued_or_runs_is_known_and_nothing_else(self, directory: Path) -> None:
        names = [f"known{n}" for n in range(6)]  # a server may still end what another test has left
        with self._opened() as backend:
            ids = [f"job/{name}" for name in (*names, "bad")]
            if backend.known(ids) is None:
                pytest.skip("this platform cannot tell which invocations it has")
            assert not backend.known(ids)
            backend.invoke(self._waiters(directory, names))
            assert set(backend.known(ids) or ()) == set(ids[:-1])
            self._wait(lambda: found(directory), "a function runs")
            assert set(backend.known(ids) or ()) == set(ids[:-1])
            self._release(directory, names)
            self._wait(lambda: not backend.known(ids), "no invocation is known that has ended")
            backend.invoke([Invocation("job/bad", payload(directory, "bad", then={"die": True}))])
            self._wait(lambda: not backend.known(ids), "no invocation is known that has died")
            assert [failure.invocation for failure in backend.failures()] == ["job/bad"]

    def test_a_function_that_raises_has_failed_if_the_platform_tells(self, directory: Path) -> None:
        with self._opened() as backend:
            if backend.known(["job/bad"]) is None:
                pytest.skip("this platform cannot tell which invocations it has")
            backend.invoke([Invocation("job/bad", payload(directory, "bad", then={"raise": "on purpose"}))])
            self._wait(lambda: not backend.known(["job/bad"]), "no invocation is known that has raised")
            reported = backend.failures()
            assert reported, "a function has raised, and failures() misses it"
            assert {(failure.invocation, failure.reason) for failure in reported} == {("job/bad", "error")}

    def test_a_function_ends_at_its_time_limit(self, directory: Path) -> None:
        backend = self.make_limited_faas(FUNCTION)
        if backend is None:
            pytest.skip("the hook make_limited_faas is not defined")
        with closing(backend):
            limit_s = backend.limits.time_s
            assert limit_s is not None, "it has to declare its limit"
            then = {"wait": GO, "wait_s": 3 * limit_s + _LONGER_S}
            backend.invoke([Invocation("job/0", payload(directory, "long", then=then))])
            self._wait_for(directory, {"long"})
            end_s = time.monotonic() + 3 * limit_s + 2 * _LONGER_S
            reported: list[Failure] = []
            while not reported and time.monotonic() < end_s:
                assert "long-not-released" not in found(directory), "the time limit that is declared ends nothing"
                reported += backend.failures()
                time.sleep(0.01)
            assert {failure.reason for failure in reported} <= {"timeout"}
            assert "long-not-released" not in found(directory), "the time limit that is declared ends nothing"

    def test_what_is_cancelled_is_no_failure(self, directory: Path) -> None:
        names = [f"n{n}" for n in range(6)]
        with self._opened() as backend:
            backend.invoke(self._waiters(directory, names, job="job-1"))
            self._wait(lambda: found(directory), "a function runs")
            backend.cancel("job-1/")
            assert self._failures(backend) == []
            (directory / GO).touch()  # if the platform cannot stop them, they end
            assert self._failures(backend) == []

    def test_cancelling_one_job_leaves_others_alone(self, directory: Path) -> None:
        names = [f"n{n}" for n in range(6)]
        with self._opened() as backend:
            backend.invoke(self._waiters(directory, names, job="job-1"))
            self._wait(lambda: found(directory), "a function runs")
            for other in ("job-2/", "job-11/", "job-1/n7", "b-1/", "/n0"):
                backend.cancel(other)
            self._release(directory, names)
            assert backend.failures() == []


def _left_evidence(directory: Path, n: int) -> bool:
    return len(found(directory)) >= n
