"""The suite that proves a FaaS plug-in: subclass `FaaSTests` in a test module, say how to make one, run pytest.

    class TestMine(FaaSTests):
        def make_faas(self, function):
            return MyFaaS(function=function)

What the functions did is seen from files that they leave in a directory, not from what the plug-in says. A platform
whose functions do not see pytest's temporary directory gives a shared one by `evidence_directory`. Capabilities are
declared by the plug-in's attributes (`FaaS.limits`), and the suite reads them; no test can be overridden.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from wukong.backends.faas import FaaS, Failure, Invocation, Limits
from wukong.backends.spec import PluginSpec
from wukong.errors import PayloadTooLarge
from wukong.testing.faas_functions import conform, found, payload

_FUNCTION = f"{conform.__module__}:{conform.__name__}"
_LARGE_BYTES = 4 * 1_048_576


class FaaSTests:
    """What every FaaS backend must do. See the module's docstring.

    Attributes:
        timeout_s: how long to wait for something that has to happen, seconds; long enough for a cold start.
    """

    timeout_s: float = 30.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        overridden = sorted(name for name in vars(cls) if name.startswith("test_") and hasattr(FaaSTests, name))
        if overridden:
            raise TypeError(
                f"{cls.__name__} overrides {', '.join(overridden)} of the suite; a plug-in declares what it cannot do "
                f"by its attributes, and passes the rest"
            )

    def make_faas(self, function: str) -> FaaS:
        """Return a new backend that runs `function` (``"module:attribute"``); the suite closes it."""
        raise NotImplementedError

    def evidence_directory(self, tmp_path: Path) -> Path:
        """Return an empty directory that this process and the functions both see."""
        return tmp_path

    @contextmanager
    def _opened(self) -> Iterator[FaaS]:
        with closing(self.make_faas(_FUNCTION)) as backend:
            yield backend

    def _wait(self, seen: Callable[[], Any], what: str) -> Any:
        """Return the first true answer of `seen`."""
        give_up_s = time.monotonic() + self.timeout_s
        while not (answer := seen()):
            assert time.monotonic() < give_up_s, f"not within {self.timeout_s:g} s: {what}"
            time.sleep(0.002)
        return answer

    def _wait_for(self, directory: Path, names: set[str]) -> dict[str, list[dict[str, Any]]]:
        self._wait(lambda: names <= found(directory).keys(), f"every one of {len(names)} invocations has run")
        return found(directory)

    def test_is_a_backend_that_declares_its_limits_and_latency(self) -> None:
        with self._opened() as backend:
            assert isinstance(backend, FaaS)
            assert isinstance(backend.limits, Limits)
            assert backend.latency_s > 0
            assert isinstance(backend.billed, bool)

    def test_an_invocation_runs_at_least_once(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        with self._opened() as backend:
            backend.invoke([Invocation("job/0", payload(directory, "one"))])
            assert self._wait_for(directory, {"one"}).keys() == {"one"}

    def test_invoking_nothing_is_no_error(self) -> None:
        with self._opened() as backend:
            backend.invoke([])

    def test_each_of_a_batch_of_100_runs(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        names = {f"n{number}" for number in range(100)}
        with self._opened() as backend:
            backend.invoke([Invocation(f"job/{name}", payload(directory, name)) for name in sorted(names)])
            assert self._wait_for(directory, names).keys() == names

    def test_the_same_invocation_can_be_made_again(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        again = Invocation("job/0", payload(directory, "again"))
        with self._opened() as backend:
            backend.invoke([again])
            backend.invoke([again])
            self._wait(lambda: len(found(directory).get("again", [])) >= 2, "it has run twice")

    def test_a_function_invokes_others(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        children = [f"child{number}" for number in range(20)]
        with self._opened() as backend:
            spec = backend.spec()
            then = {"invoke": children, "spec": {"target": spec.target, "options": dict(spec.options)}}
            backend.invoke([Invocation("job/0", payload(directory, "parent", then=then))])
            self._wait_for(directory, {"parent", *children})

    def test_payloads_arrive_byte_for_byte(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
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

    def test_a_payload_over_the_limit_is_refused_before_any_starts(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        with self._opened() as backend:
            limit = backend.limits.payload_bytes
            if limit is None:
                pytest.skip("this backend declares no limit of payloads")
            small = payload(directory, "small")
            large = payload(directory, "large", body=bytes(limit + 1))
            with pytest.raises(PayloadTooLarge) as refused:
                backend.invoke([Invocation("job/0", small), Invocation("job/1", large)])
            assert f"{limit:,}" in str(refused.value) or str(limit) in str(refused.value)
            assert f"{len(large):,}" in str(refused.value) or str(len(large)) in str(refused.value)
            backend.invoke([Invocation("job/2", payload(directory, "after"))])
            assert self._wait_for(directory, {"after"}).keys() == {"after"}

    def test_threads_invoke_at_once(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        errors: list[BaseException] = []
        with self._opened() as backend:
            start = threading.Barrier(8)

            def invoke(thread: int) -> None:
                try:
                    start.wait()
                    for n in range(5):
                        name = f"t{thread}n{n}"
                        backend.invoke([Invocation(f"job/{name}", payload(directory, name, body=bytes(50_000)))])
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=invoke, args=(thread,)) for thread in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not errors
            self._wait_for(directory, {f"t{thread}n{n}" for thread in range(8) for n in range(5)})

    def test_a_function_that_raises_harms_nobody_else(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        with self._opened() as backend:
            bad = payload(directory, "bad", then={"raise": "on purpose"})
            backend.invoke([Invocation("job/bad", bad)])
            self._wait_for(directory, {"bad"})
            names = {f"good{n}" for n in range(10)}
            backend.invoke([Invocation(f"job/{name}", payload(directory, name)) for name in sorted(names)])
            self._wait_for(directory, names)
            reported = backend.failures()
        assert all(isinstance(failure, Failure) for failure in reported)
        assert {failure.invocation for failure in reported} <= {"job/bad"}

    def test_no_failure_is_reported_where_none_happened(self, tmp_path: Path) -> None:
        directory = self.evidence_directory(tmp_path)
        with self._opened() as backend:
            backend.invoke([Invocation("job/0", payload(directory, "fine"))])
            self._wait_for(directory, {"fine"})
            assert backend.failures() == []

    def test_free_slots_are_a_count_or_unknown(self) -> None:
        with self._opened() as backend:
            free = backend.free_slots()
            assert free is None or free >= 0

    def test_the_spec_is_plain_data(self) -> None:
        with self._opened() as backend:
            spec = backend.spec()
        assert isinstance(spec, PluginSpec)
        module, colon, attribute = spec.target.partition(":")
        assert module
        assert colon == ":"
        assert attribute
        assert json.loads(json.dumps(dict(spec.options))) == dict(spec.options)

    def test_hints_and_cancelling_what_is_not_there_are_no_errors(self) -> None:
        with self._opened() as backend:
            backend.configure({"WUKONG_CONFORMANCE": "1"})
            backend.prepare(["json", "no_such_module_anywhere"])
            backend.subscribe(lambda _output: None)
            backend.cancel("no-such-job/")

    def test_closing_twice_is_no_error(self) -> None:
        backend = self.make_faas(_FUNCTION)
        backend.close()
        backend.close()
