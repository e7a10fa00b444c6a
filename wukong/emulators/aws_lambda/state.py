"""The state that all modules of one service share."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wukong.backends.faas.emulator.faults import FaultScript, InvocationFault
from wukong.emulators.aws_lambda.functions import Functions, Version
from wukong.emulators.aws_lambda.invocation import NO_FAULT
from wukong.emulators.aws_lambda.ledger import ServiceLedger
from wukong.emulators.aws_lambda.logs import LogBook
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.spawner import Spawner

_RETRY_SEED = 1_000_003


class ServiceState:
    """One service's settings, functions, records and resources.

    Attributes:
        folder: of its files; removed at the end.
        python: the interpreter that environments run.
        needed: folders that environments need besides their code, for Python and its packages.
        endpoint: the service's own URL, once it listens.
        spawner_of: returns the spawner of a version's environments.
    """

    def __init__(self, settings: ServiceSettings, loop: asyncio.AbstractEventLoop, folder: Path) -> None:
        self.settings = settings
        self.loop = loop
        self.folder = folder
        self.python = sys.executable
        self.needed = [sys.prefix, sys.base_prefix, str(folder / "runtime"), *filter(os.path.isabs, sys.path)]
        self.endpoint = ""
        self.functions = Functions(settings)
        self.ledger = ServiceLedger(settings.kept)
        self.logs = LogBook(settings.kept)
        self.spawner_of: Callable[[Version], Spawner]
        self._script = settings.script()
        self._requests = itertools.count()
        self._received = itertools.count()

    @property
    def script(self) -> FaultScript | None:
        """The script of faults. Setting it restarts the count of invocations."""
        return self._script

    @script.setter
    def script(self, script: FaultScript | None) -> None:
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
