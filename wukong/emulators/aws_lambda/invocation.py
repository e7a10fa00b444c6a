"""One call of a function, from its acceptance to its outcome."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from wukong.backends.faas.emulator.faults import InvocationFault
from wukong.emulators.aws_lambda.functions import Version

Reason = Literal["error", "crash", "timeout", "memory", "start"]
NO_FAULT = InvocationFault()


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The outcome of one attempt.

    Attributes:
        payload: what the function returned, or an error as JSON.
        reason: None if it returned; else ``error`` (it raised, or returned too much), ``crash``, ``timeout``,
            ``memory``, or ``start`` (it could not be initialised).
        content_type: of the payload.
        tail: the last 4 KB of its log.
    """

    payload: bytes
    reason: Reason | None = None
    content_type: str = "application/json"
    tail: bytes = b""


@dataclass(eq=False, slots=True)
class LambdaInvocation:
    """One call of a function.

    Attributes:
        id: the request id; the same for every attempt of one event.
        arn: the function as it was called, with the qualifier if one was given.
        answer: called once with the outcome of this attempt.
        event: whether it is asynchronous.
        client_context: JSON, for the function's context object.
        attempt: 0, 1 or 2.
        accepted_s: when the service took it (monotonic, seconds).
        qualifier: the version or alias in the request; None: none.
        number: its number for the script of faults.
        counted: whether it counts into the account's concurrency.
    """

    id: str
    version: Version
    arn: str
    payload: bytes
    trace: str
    answer: Callable[[AttemptOutcome], None]
    event: bool = False
    client_context: str | None = None
    fault: InvocationFault = NO_FAULT
    attempt: int = 0
    accepted_s: float = field(default_factory=time.monotonic)
    qualifier: str | None = None
    number: int = 0
    counted: bool = False

    def again(self) -> LambdaInvocation:
        """Return a second delivery of the same event."""
        return replace(self, counted=False)


def error(kind: str, message: str, **more: Any) -> bytes:
    """Return an error in the platform's own form: ``errorType`` and ``errorMessage``."""
    return json.dumps({"errorType": kind, "errorMessage": message, **more}).encode()


def exit_text(status: int) -> str:
    """Return how a runtime has ended, in Lambda's words. `status`: as from `os.waitpid`."""
    if status == 0:
        return "Runtime exited without providing a reason"
    how = _signal(status & 0x7F) if status & 0x7F else f"exit status {status >> 8}"
    return f"Runtime exited with error: {how}"


def _signal(number: int) -> str:
    return f"signal: {(signal.strsignal(number) or str(number)).lower()}"
