"""The script of faults that a service follows, and how far it has come."""

from __future__ import annotations

import itertools
from dataclasses import replace

from wukong.backends.faas.emulator.faults import FaultScript, InvocationFault
from wukong.emulators.aws_lambda.invocation import NO_FAULT

_RETRY_SEED = 1_000_003


class ServiceScript:
    """Counts requests and invocations, and says what is to go wrong with each. `script` None: nothing goes wrong."""

    def __init__(self, script: FaultScript | None) -> None:
        self.restart(script)

    def restart(self, script: FaultScript | None) -> None:
        """Follow another script, from its beginning."""
        self._script = script
        self._requests = itertools.count()
        self._received = itertools.count()

    def throttles(self) -> bool:
        """Return whether the script refuses the next request."""
        return self._script is not None and self._script.throttled(next(self._requests))

    def fault(self) -> tuple[int, InvocationFault]:
        """Return the number of the next invocation, and its fault."""
        if self._script is None:
            return 0, NO_FAULT
        number = next(self._received)
        return number, self._script.fault(number)

    def retry_fault(self, number: int, attempt: int) -> InvocationFault:
        """Return the fault of a further attempt of an invocation: only a crash, and no delay."""
        if self._script is None:
            return NO_FAULT
        script = replace(self._script, seed=self._script.seed + _RETRY_SEED * attempt)
        return replace(script.fault(number), lost=False, duplicate=False, delay_s=0.0)

    def cold_start_s(self) -> float:
        """Return the delay that the script adds to a cold start."""
        return 0.0 if self._script is None else self._script.cold_start_s
