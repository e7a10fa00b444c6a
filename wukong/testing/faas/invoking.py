"""Invoking: asynchronous, at least once each, whatever the payload."""

from __future__ import annotations

import hashlib
import pickle
import random
import threading
from pathlib import Path

import pytest

from wukong.backends.faas import Invocation
from wukong.errors import PayloadTooLarge
from wukong.testing.faas.base import FaaSSuite
from wukong.testing.faas_functions import found, payload

_LARGE_BYTES = 4 * 1_048_576


class InvokingTests(FaaSSuite):
    """A part of `wukong.testing.faas.FaaSTests`."""

    def test_an_invocation_runs_at_least_once(self, directory: Path) -> None:
        with self._opened() as backend:
            backend.invoke([Invocation("job/0", payload(directory, "one"))])
            assert self._wait_for(directory, {"one"}).keys() == {"one"}

    def test_invoking_nothing_is_no_error(self) -> None:
        with self._opened() as backend:
            backend.invoke([])

    def test_invoke_returns_while_the_function_runs(self, directory: Path) -> None:
        with self._opened() as backend:
            backend.invoke(self._waiters(directory, ["waiter"]))
            self._wait_for(directory, {"waiter"})
            assert "waiter-not-released" not in found(directory), "invoke has returned only when the function had"
            self._release(directory, ["waiter"])

    def test_each_of_a_batch_of_100_runs(self, directory: Path) -> None:
        names = {f"n{number}" for number in range(100)}
        with self._opened() as backend:
            backend.invoke([Invocation(f"job/{name}", payload(directory, name)) for name in sorted(names)])
            evidence = self._wait_for(directory, names)
        assert evidence.keys() == names
        runs = [run for each in evidence.values() for run in each]
        assert {run["at_once"] for run in runs} == {1}, "two invocations ran in one process at the same time"

    def test_the_same_invocation_can_be_made_again(self, directory: Path) -> None:
        again = Invocation("job/0", payload(directory, "again"))
        with self._opened() as backend:
            backend.invoke([again])
            backend.invoke([again])
            self._wait(lambda: len(found(directory).get("again", [])) >= 2, "it has run twice")

    def test_ids_may_be_long(self, directory: Path) -> None:
        with self._opened() as backend:
            ids = [f"job-{'0123456789abcdef' * 2}/0{'.12~3' * depth}" for depth in (1, 10, 100)]
            names = {f"id{n}" for n in range(len(ids))}
            calls = zip(ids, sorted(names), strict=True)
            backend.invoke([Invocation(each, payload(directory, name)) for each, name in calls])
            self._wait_for(directory, names)
            backend.cancel(ids[-1])
            bad = f"{ids[-1]}/bad"
            backend.invoke([Invocation(bad, payload(directory, "bad", then={"raise": "on purpose"}))])
            self._wait_for(directory, {"bad"})
            reported = {failure.invocation for failure in self._failures(backend)}
            assert reported <= {bad}, "a failure is reported under another id"

    def test_payloads_arrive_byte_for_byte(self, directory: Path) -> None:
        with self._opened() as backend:
            most = backend.limits.payload_bytes or _LARGE_BYTES
            room = min(most, _LARGE_BYTES) - len(payload(directory, "size00"))
            sizes = sorted({size for size in (0, 1, 255, 65_535, 65_536, 300_000, room) if size <= room})
            bodies = {f"size{n:02}": random.Random(n).randbytes(size) for n, size in enumerate(sizes)}
            for name, body in bodies.items():
                backend.invoke([Invocation(f"job/{name}", payload(directory, name, body=body))])
            evidence = self._wait_for(directory, set(bodies))
        for name, body in bodies.items():
            assert evidence[name][0]["size"] == len(body)
            assert evidence[name][0]["digest"] == hashlib.sha256(body).hexdigest()

    def test_a_payload_over_the_limit_is_refused_before_any_starts(self, directory: Path) -> None:
        with self._opened() as backend:
            limit = backend.limits.payload_bytes
            if limit is None:
                pytest.skip("this backend declares no limit of payloads")
            warm = {f"warm{n}" for n in range(4)}
            backend.invoke([Invocation(f"job/{name}", payload(directory, name)) for name in sorted(warm)])
            self._wait_for(directory, warm)
            small = payload(directory, "small")
            large = payload(directory, "large", body=bytes(limit + 1))
            with pytest.raises(PayloadTooLarge) as refused:
                backend.invoke([Invocation("job/0", small), Invocation("job/1", large)])
            assert f"{limit:,}" in str(refused.value) or str(limit) in str(refused.value)
            assert f"{len(large):,}" in str(refused.value) or str(len(large)) in str(refused.value)
            assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
            backend.invoke([Invocation("job/2", payload(directory, "after"))])
            self._wait_for(directory, {"after"})
            assert not self._settled(lambda: "small" in found(directory)), "one of a batch that was refused has started"

    def test_threads_invoke_at_once(self, directory: Path) -> None:
        errors: list[BaseException] = []
        with self._opened() as backend:
            start = threading.Barrier(8)

            def invoke(thread: int) -> None:
                try:
                    start.wait()
                    for n in range(5):
                        name = f"t{thread}n{n}"
                        backend.invoke([Invocation(f"job/{name}", payload(directory, name, body=bytes(50_000)))])
                        free = backend.free_slots()
                        assert free is None or free >= 0
                        backend.cancel("another-job/")
                        assert backend.failures() == []
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=invoke, args=(thread,)) for thread in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors
            self._wait_for(directory, {f"t{thread}n{n}" for thread in range(8) for n in range(5)})
