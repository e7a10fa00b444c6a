"""Functions at once, each by itself: one that raises, dies or is cancelled harms nobody else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from wukong.backends.faas import Failure, Invocation
from wukong.testing.faas.ground import FaaSSuite
from wukong.testing.faas_functions import found, payload

_MOST_AT_ONCE = 8
_REASONS = {"crash", "timeout", "memory", "error", "start"}


class IsolationTests(FaaSSuite):
    """A part of `wukong.testing.faas.FaaSTests`."""

    def test_free_slots_are_a_count_or_unknown(self) -> None:
        with self._opened() as backend:
            free = backend.free_slots()
            assert free is None or free >= 0
            most = backend.limits.concurrency
            assert free is None or most is None or free <= most

    def test_as_many_run_at_once_as_there_are_free_slots_and_one_in_a_process(self, directory: Path) -> None:
        with self._opened() as backend:
            free = backend.free_slots()
            sure = min(_MOST_AT_ONCE, free or 0)
            names = [f"n{n}" for n in range(max(4, sure))]
            backend.invoke(self._waiters(directory, names))
            self._wait(lambda: len(found(directory)) >= max(1, sure), f"{max(1, sure)} functions run at once")
            self._settled(lambda: len(found(directory)) == len(names))
            left = backend.free_slots()
            assert left is None or left >= 0
            runs = self._release(directory, names)
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
            else:  # where only one may run at a time, it has to come to an end
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

    def test_no_failure_is_reported_where_none_happened(self, directory: Path) -> None:
        with self._opened() as backend:
            backend.invoke([Invocation("job/0", payload(directory, "fine"))])
            self._wait_for(directory, {"fine"})
            assert backend.failures() == []

    def test_what_is_queued_or_runs_is_known_and_nothing_else(self, directory: Path) -> None:
        names = [f"n{n}" for n in range(6)]
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

    def test_cancelling_one_job_leaves_others_alone(self, directory: Path) -> None:
        names = [f"n{n}" for n in range(6)]
        with self._opened() as backend:
            backend.invoke(self._waiters(directory, names, job="job-1"))
            self._wait(lambda: found(directory), "a function runs")
            for other in ("job-2/", "job-11/", "job-1/n7", "b-1/", "/n0"):
                backend.cancel(other)
            self._release(directory, names)
            assert backend.failures() == []
