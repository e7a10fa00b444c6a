"""A FaaS backend that starts one Python process for each invocation: always cold, and as simple as can be."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence

from wukong.backends.faas import FaaS, Failure, Invocation
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError

_FUNCTION = """
import importlib, sys
module, _, attribute = sys.argv[1].partition(":")
getattr(importlib.import_module(module), attribute)(sys.stdin.buffer.read())
"""


class SubprocessFaaS(FaaS):
    """Calls `function` ("module:attribute") with the payload in a new process, `slots` at once being sensible."""

    latency_s = 0.5
    billed = False

    def __init__(self, function: str = "wukong.backends.entry:handle", slots: int | None = None) -> None:
        self._function = function
        self._slots = slots or os.cpu_count() or 1
        self._environment = {"PYTHONHASHSEED": "0"}
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen, str] = {}
        self._failures: list[Failure] = []

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        for invocation in invocations:
            with tempfile.TemporaryFile() as payload:
                payload.write(invocation.payload)
                payload.seek(0)
                try:
                    process = subprocess.Popen(
                        [sys.executable, "-c", _FUNCTION, self._function],
                        stdin=payload,
                        env={**os.environ, **self._environment},
                    )
                except OSError as error:
                    raise BackendError(
                        f"no process for {invocation.id}: {error}", backend="faas: subprocess"
                    ) from error
            with self._lock:
                self._running[process] = invocation.id
            threading.Thread(target=self._reap, args=(process, invocation.id), daemon=True).start()

    def spec(self) -> PluginSpec:
        return PluginSpec("wukong_subprocess:SubprocessFaaS", {"function": self._function, "slots": self._slots})

    def configure(self, environment: Mapping[str, str]) -> None:
        self._environment.update(environment)

    def free_slots(self) -> int:
        with self._lock:
            return max(0, self._slots - len(self._running))

    def failures(self) -> list[Failure]:
        with self._lock:
            failures, self._failures = self._failures, []
        return failures

    def cancel(self, prefix: str) -> None:
        with self._lock:
            doomed = [process for process, invocation in self._running.items() if invocation.startswith(prefix)]
        for process in doomed:
            process.terminate()

    def close(self) -> None:
        self.cancel("")

    def _reap(self, process: subprocess.Popen, invocation: str) -> None:
        code = process.wait()
        with self._lock:
            self._running.pop(process, None)
            if code:
                reason = "error" if code > 0 else "crash"
                self._failures.append(Failure(invocation, reason, f"exit code {code}"))
