"""Runs of invocations that were lost: as the platform tells it, and as the client keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class FailurePort(Protocol):
    """A failure as the platform reports it; the contract is `wukong.backends.faas.Failure`."""

    @property
    def invocation(self) -> str:
        """Its label, ``"<job>/<invocation>"``."""
        ...

    @property
    def reason(self) -> str:
        """``crash``, ``timeout``, ``memory``, ``error`` or ``start``."""
        ...

    @property
    def detail(self) -> str:
        """One line for a person."""
        ...

    @property
    def task(self) -> str | None:
        """The task that was running, if known; if there were several, their keys, as ``"a, b"``."""
        ...


@dataclass(frozen=True, slots=True)
class Lost:
    """A run of an invocation that was lost.

    Attributes:
        at: when that was noticed, seconds of Unix time.
        invocation, attempt: which run.
        what: why it was lost. task: the task that it ran, if known; several as ``"a, b"``. hint: what a person can do.
    """

    at: float
    invocation: str
    attempt: int
    what: str
    task: str | None
    hint: str
