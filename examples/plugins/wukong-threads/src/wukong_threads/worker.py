"""What runs in a worker process: one invocation after the other, and the backend as a function sees it."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from wukong.backends.faas import FaaS, Invocation, Limits
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, PayloadTooLarge

from wukong_threads.gauge import Gauge

BACKEND = "faas: threads"


class _Line:
    """The line to the thread that drives this process."""

    def __init__(self, connection: Connection[Any, Any], gauge: Gauge) -> None:
        self.connection, self.gauge = connection, gauge
        self._lock = threading.Lock()  # an executor sends from two threads

    def send(self, *message: Any) -> None:
        try:
            with self._lock:
                self.connection.send(message)
        except OSError as error:
            raise BackendError("the process that started this function is gone", backend=BACKEND) from error


_line: _Line | None = None


def main() -> None:
    """Run what comes over the line until it is closed."""
    global _line
    given = json.loads(sys.argv[1])
    _line = _Line(Connection(given["line"]), Gauge(given["gauge"]))
    module, _, attribute = given["function"].partition(":")
    function = getattr(import_module(module), attribute)
    _line.send("ready")
    while True:
        try:
            payload, environment = _line.connection.recv()
        except (EOFError, OSError):
            return
        os.environ.update(environment)
        try:
            function(payload)
            error = None
        except BaseException as raised:  # sys.exit() in a function is no reason for its process to end
            error = f"{type(raised).__name__}: {raised}"
        sys.stdout.flush()
        sys.stderr.flush()
        _line.send("done", error)


class Inside(FaaS):
    """The backend inside a function."""

    latency_s = 0.001
    billed = False

    def __init__(self, line: _Line, limits: Limits) -> None:
        self._line = line
        self.limits = limits

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        check_sizes(invocations, self.limits)
        self._line.send("invoke", [(each.id, each.payload) for each in invocations])

    def spec(self) -> PluginSpec:
        limits = self.limits
        options = {"payload_bytes": limits.payload_bytes, "time_s": limits.time_s, "slots": limits.concurrency}
        return PluginSpec(f"{__name__}:attach", options)

    def free_slots(self) -> int:
        return self._line.gauge.read()

    def cancel(self, prefix: str) -> None:
        self._line.send("cancel", prefix)


def attach(payload_bytes: int | None = None, time_s: float | None = None, slots: int | None = None) -> Inside:
    """Open the backend from inside a function. Raises `BackendError` anywhere else."""
    if _line is None:
        raise BackendError(f"process {os.getpid()} is not a function of this backend", backend=BACKEND)
    return Inside(_line, Limits(payload_bytes=payload_bytes, time_s=time_s, concurrency=slots))


def check_sizes(invocations: Sequence[Invocation], limits: Limits) -> None:
    """Raise `PayloadTooLarge` before anything is started."""
    for each in invocations:
        if limits.payload_bytes is not None and len(each.payload) > limits.payload_bytes:
            raise PayloadTooLarge(
                f"the payload of {each.id} has {len(each.payload):,} bytes; {limits.payload_bytes:,} are the most",
                backend=BACKEND,
            )
