"""What a backend says of itself, how functions open it, what they find in their environment, and how it ends."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import pytest

from wukong.backends.faas import FaaS, Invocation, Limits, TaskOutput
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, WukongError
from wukong.testing.faas.base import FUNCTION, GO, FaaSSuite, with_spec
from wukong.testing.faas_functions import found, payload

_VARIABLE = "WUKONG_CONFORMANCE"
_SECRET = "d41d8cd98f00b204"
_LONG_ENOUGH = 4  # a shorter value of a variable may be part of another word by chance


class FaaSOpeningTests(FaaSSuite):
    """A part of `wukong.testing.faas.FaaSTests`."""

    def _objections(self) -> AbstractContextManager[None]:
        """Allow a Wukong error: functions that are deployed already may object to being configured."""
        return suppress(BackendError) if self.deployed_beforehand else nullcontext()

    def test_is_a_backend_that_declares_its_limits_and_latency(self) -> None:
        with self._opened() as backend:
            assert isinstance(backend, FaaS)
            assert isinstance(backend.limits, Limits)
            limits = asdict(backend.limits)
            sizes = limits.pop("sizes")
            assert limits.pop("spare_cores") >= 0
            for limit in limits.values():
                assert limit is None or limit > 0
            assert isinstance(sizes, tuple)
            assert list(sizes) == sorted(set(sizes)), "sizes of functions come the smallest first"
            assert not sizes or sizes[0] == backend.limits.memory_bytes, "the smallest size is memory_bytes"
            assert backend.latency_s > 0
            assert isinstance(backend.billed, bool)
            assert isinstance(backend.shares_files, bool)
            assert isinstance(backend.configurable, bool)
            assert backend.opens_at is None or backend.spec().target == backend.opens_at
            key = backend.deployment_key()
            assert key is None or 16 <= len(bytes.fromhex(key)) <= 64

    def test_what_it_costs_is_a_bill_or_nothing(self) -> None:
        with self._opened() as backend:
            largest = backend.limits.payload_bytes or 1_000_000
            counts = [backend.billed_requests(size_bytes) for size_bytes in (0, 1, largest // 2, largest)]
            few, many = backend.bill(10, 20, 3.0), backend.bill(100, 200, 30.0)
        assert counts[0] >= 1
        assert counts == sorted(counts)
        assert (few is None) == (many is None)
        if few is not None and many is not None:
            assert (few.invocations, few.requests) == (10, 20)
            assert 0 <= few.usd <= many.usd
            assert str(few)

    def test_the_sizes_that_functions_could_have_come_the_smallest_first(self) -> None:
        with self._opened() as backend:
            sizes = list(backend.sizes())
        for each in sizes:
            assert each.memory_bytes > 0 and each.vcpus > 0 and each.usd_per_s >= 0
        memory = [each.memory_bytes for each in sizes]
        assert memory == sorted(set(memory))

    def test_the_spec_is_plain_data(self) -> None:
        with self._opened() as backend:
            spec = backend.spec()
        assert isinstance(spec, PluginSpec)
        module, colon, attribute = spec.target.partition(":")
        assert module and colon and attribute, "a target is 'module:attribute'"
        assert json.loads(json.dumps(dict(spec.options))) == dict(spec.options)
        assert pickle.loads(pickle.dumps(spec)) == spec

    def test_a_function_invokes_others(self, directory: Path) -> None:
        children = [f"child{number}" for number in range(20)]
        with self._opened() as backend:
            then = with_spec(backend, invoke=children)
            backend.invoke([Invocation("job/0", payload(directory, "parent", then=then))])
            self._wait_for(directory, {"parent", *children})

    def test_a_function_sees_the_limits_and_slots_that_the_client_sees(self, directory: Path) -> None:
        with self._opened() as backend:
            then = with_spec(backend, look=True)
            backend.invoke([Invocation("job/0", payload(directory, "one", then=then))])
            [seen, *_] = self._wait_for(directory, {"one-looked"})["one-looked"]
            assert seen["limits"] == json.loads(json.dumps(asdict(backend.limits)))
            assert seen["refused"] is not False, "a function may invoke with a payload over the limit"
            assert seen["free_slots"] is None or seen["free_slots"] >= 0

    def test_functions_find_what_the_client_configures(self, directory: Path) -> None:
        if self.deployed_beforehand:
            pytest.skip("functions of this platform are configured when they are deployed")
        with self._opened() as backend:
            backend.configure({_VARIABLE: _SECRET})
            then = with_spec(backend, invoke=["child"], environment=[_VARIABLE])
            backend.invoke([Invocation("job/0", payload(directory, "parent", then=then))])
            self._wait_for(directory, {"parent", "child"})
            backend.invoke([Invocation("job/1", payload(directory, "dies", then={"die": True}))])
            self._wait_for(directory, {"dies"})  # its successor has the variables too, and so have all that run at once
            names = [f"later{n}" for n in range(6)]
            then = {"environment": [_VARIABLE], "wait": GO, "wait_s": self.timeout_s}
            backend.invoke([Invocation(f"job/{name}", payload(directory, name, then=then)) for name in names])
            self._wait(lambda: found(directory).keys() & set(names), "one of them runs")
            evidence = self._release(directory, names)
        for name in ("parent", "child", *names):
            for run in evidence[name]:
                assert run["environment"] == {_VARIABLE: _SECRET}, f"{name} lacks what was configured"

    def test_nothing_that_is_configured_travels_in_the_spec(self) -> None:
        with self._opened() as backend:
            with self._objections():
                backend.configure({_VARIABLE: _SECRET})
            spec, variables = backend.spec(), backend.environment()
            shown = [json.dumps(dict(spec.options)), repr(backend), str(backend)]
        assert all(isinstance(text, str) for variable in variables.items() for text in variable), "variables are text"
        for name, secret in {**variables, _VARIABLE: _SECRET}.items():
            told = len(secret) >= _LONG_ENOUGH and any(secret in text for text in shown)
            assert not told, f"the value of {name} travels in every payload, or is shown"

    def test_hints_and_cancelling_what_is_not_there_are_no_errors(self, directory: Path) -> None:
        with self._opened() as backend:
            with self._objections():
                backend.prepare(["json", "no_such_module_anywhere"])
            backend.subscribe(lambda _output: None)
            backend.cancel("no-such-job/")
            backend.invoke([Invocation("job/0", payload(directory, "after"))])
            self._wait_for(directory, {"after"})

    def test_output_that_is_told_says_whose_it_is(self, directory: Path) -> None:
        told: list[TaskOutput] = []
        with self._opened() as backend:
            backend.subscribe(told.append)
            backend.invoke([Invocation("job/loud", payload(directory, "loud", then={"say": "one line"}))])
            self._wait_for(directory, {"loud"})
            self._settled(lambda: bool(told))  # a backend need not tell
        for output in told:
            assert isinstance(output, TaskOutput)
            assert output.invocation == "job/loud"
            assert output.stream == "stdout"
            assert output.text.strip() == "one line"

    def test_closing_twice_is_no_error(self) -> None:
        backend = self.make_faas(FUNCTION)
        backend.close()
        backend.close()

    def test_closing_with_functions_at_work_is_no_error(self, directory: Path) -> None:
        with self._opened() as backend:
            backend.invoke(self._waiters(directory, ["a", "b"]))
            runs = self._wait(lambda: found(directory), "a function runs")
        if not self.deployed_beforehand:  # a platform of its own ends with it, and leaves no process
            mine = [run["pid"] for each in runs.values() for run in each if os.getpid() in run["ancestors"]]
            self._wait(lambda: not any(map(_lives, mine)), "no process is left of a backend that is closed")
        (directory / GO).touch()

    def test_a_platform_that_cannot_be_reached_says_so_with_an_error_of_wukongs(self, directory: Path) -> None:
        refused: list[Exception] = []
        try:
            backend = self.make_unreachable_faas(FUNCTION)
        except Exception as error:
            refused.append(error)
        else:
            if backend is None:
                pytest.skip("the hook make_unreachable_faas is not defined")
            with closing(backend):
                refused += _raised(lambda: backend.invoke([Invocation("job/0", payload(directory, "one"))]))
                assert refused, "a platform that cannot be reached cannot have accepted this"
                for call in (backend.free_slots, backend.failures, lambda: backend.known(["job/0"])):
                    refused += _raised(call)
                refused += _raised(lambda: backend.cancel("job/"))
        for told in refused:
            assert isinstance(told, WukongError), f"a vendor's exception escapes: {told!r}"
            copy = pickle.loads(pickle.dumps(told))
            assert (type(copy), str(copy)) == (type(told), str(told))

    def test_a_closed_backend_works_or_says_so_with_an_error_of_wukongs(self, directory: Path) -> None:
        backend = self.make_faas(FUNCTION)
        backend.close()
        calls: list[Callable[[], object]] = [
            lambda: backend.invoke([Invocation("job/0", payload(directory, "late"))]),
            backend.free_slots,
            backend.failures,
            lambda: backend.cancel("job/"),
            lambda: backend.configure({_VARIABLE: "1"}),
        ]
        refused: list[WukongError] = []
        for call in calls:
            try:
                call()
            except WukongError as error:
                refused.append(error)
        for told in refused:
            copy = pickle.loads(pickle.dumps(told))
            assert (type(copy), str(copy)) == (type(told), str(told))


def _raised(call: Callable[[], object]) -> list[Exception]:
    try:
        call()
    except Exception as error:
        return [error]
    return []


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    return True
