"""What the tests of a FaaS backend stand on: hooks, and evidence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pytest

from wukong.backends.faas import FaaS, Failure, Invocation
from wukong.testing.faas_functions import conform, found, payload, this_is_the_client
from wukong.testing.suite import Suite

FUNCTION = f"{conform.__module__}:{conform.__name__}"
GO = ".go"
"""The file that lets waiting functions go on."""

_SETTLE_S = 0.5
_PAUSE_S = 0.002
_MOST_PAUSE_S = 0.03
T = TypeVar("T")
Evidence: TypeAlias = dict[str, list[dict[str, Any]]]


class FaaSSuite(Suite):
    """The hooks of `wukong.testing.faas.FaaSTests`, and how its tests see what functions did.

    Attributes:
        timeout_s: how long to wait for something that has to happen, seconds; long enough for a cold start.
        deployed_beforehand: functions have their environment and their modules from their deployment, so that
            `FaaS.configure` and `FaaS.prepare` change nothing and may object.
    """

    hooks = frozenset(
        {
            *("deployed_beforehand", "evidence_directory", "make_faas", "make_limited_faas", "make_unreachable_faas"),
            "timeout_s",
        }
    )
    timeout_s: float = 30.0
    deployed_beforehand: bool = False

    def make_faas(self, function: str) -> FaaS:
        """Return a new backend that runs `function` (``"module:attribute"``); the suite closes it."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_faas")

    def make_limited_faas(self, function: str) -> FaaS | None:
        """Return a backend whose time limit is a second or a few; None: there is no such thing."""
        return None

    def make_unreachable_faas(self, function: str) -> FaaS | None:
        """Return a backend that cannot reach its platform, or raise what a user would see; None: not possible."""
        return None

    def evidence_directory(self, tmp_path: Path) -> Path:
        """Return an empty directory that this process and the functions both see."""
        return tmp_path

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """The directory in which this test's functions leave evidence."""
        this_is_the_client()
        return self.evidence_directory(tmp_path)

    @contextmanager
    def _opened(self) -> Iterator[FaaS]:
        with closing(self.make_faas(FUNCTION)) as backend:
            if not self.deployed_beforehand and (variables := backend.environment()):
                backend.configure(variables)  # as the client does
            yield backend

    def _wait(self, seen: Callable[[], Any], what: str) -> Any:
        """Return the first true answer of `seen`."""
        answer = _looked(seen, self.timeout_s)
        assert answer, f"not within {self.timeout_s:g} s: {what}"
        return answer

    def _wait_for(self, directory: Path, names: set[str]) -> Evidence:
        if not _looked(lambda: names <= found(directory).keys(), self.timeout_s):
            missing = sorted(names - found(directory).keys())
            assert not missing, f"{len(missing)} not within {self.timeout_s:g} s: {', '.join(missing[:5])}"
        return found(directory)

    def _settled(self, seen: Callable[[], bool]) -> bool:
        """Return whether `seen` comes true soon; what follows must hold either way."""
        return bool(_looked(seen, _SETTLE_S))

    def _failures(self, backend: FaaS) -> list[Failure]:
        """Return what a backend reports, now and when it is asked again; it need not report anything."""
        reported: list[Failure] = []

        def ask() -> bool:
            reported.extend(backend.failures())
            return bool(reported)

        self._settled(ask)
        for _ in range(3):
            ask()
        return reported

    def _waiters(self, directory: Path, names: Sequence[str], job: str = "job") -> list[Invocation]:
        """Return invocations that run until `GO` is there."""
        then = {"wait": GO, "wait_s": self.timeout_s}
        return [Invocation(f"{job}/{name}", payload(directory, name, then=then)) for name in names]

    def _release(self, directory: Path, names: Sequence[str]) -> Evidence:
        """Let waiting functions go on, and return the evidence when they have."""
        (directory / GO).touch()
        return self._wait_for(directory, {f"{name}-released" for name in names})


def _looked(seen: Callable[[], T], timeout_s: float) -> T:
    """Return the first true answer of `seen`, or the last one. Looks cost next to nothing, however long it takes."""
    give_up_s, pause_s = time.monotonic() + timeout_s, _PAUSE_S
    while not (answer := seen()) and time.monotonic() < give_up_s:
        time.sleep(pause_s)
        pause_s = min(_MOST_PAUSE_S, pause_s * 1.3)
    return answer


def with_spec(backend: FaaS, **then: Any) -> Mapping[str, Any]:
    """Return what a function has to be told so that it can open its own backend."""
    spec = backend.spec()
    return {"spec": {"target": spec.target, "options": dict(spec.options)}, **then}
