"""The backend as the client has it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from wukong.backends.faas import FaaS, Failure, Invocation, Limits
from wukong.backends.spec import PluginSpec
from wukong.errors import ConfigError

from wukong_threads import worker
from wukong_threads.platform import Platform


class ThreadsFaaS(FaaS):
    """Functions in processes of this machine, as many at once as there are `slots`. Keyword arguments only.

    Args:
        function: what to run, ``"module:attribute"``.
        slots: how many run at once; None: as many as the machine has cores.
        payload_bytes: the largest payload; None: no limit.
        time_s: how long an invocation may take, seconds; None: as long as it likes.

    Raises `ConfigError` for less than one slot.
    """

    CONTRACT = 1
    latency_s = 0.001
    billed = False

    def __init__(
        self,
        *,
        function: str = "wukong.backends.entry:handle",
        slots: int | None = None,
        payload_bytes: int | None = None,
        time_s: float | None = None,
    ) -> None:
        slots = slots if slots is not None else os.cpu_count() or 1
        if slots < 1:
            raise ConfigError(f"slots is {slots}; there is one at least", backend=worker.BACKEND)
        self.limits = Limits(payload_bytes=payload_bytes, time_s=time_s, concurrency=slots)
        self._platform = Platform(function, slots, time_s)

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        worker.check_sizes(invocations, self.limits)
        self._platform.accept(invocations)

    def spec(self) -> PluginSpec:
        """Return how a function opens this backend: by the line to the thread that drives its process."""
        limits = self.limits
        options = {"payload_bytes": limits.payload_bytes, "time_s": limits.time_s, "slots": limits.concurrency}
        return PluginSpec("wukong_threads.worker:attach", options)

    def free_slots(self) -> int:
        return self._platform.gauge.read()

    def failures(self) -> list[Failure]:
        return self._platform.take_failures()

    def known(self, ids: Sequence[str]) -> list[str]:
        return self._platform.known(ids)

    def cancel(self, prefix: str) -> None:
        self._platform.cancel(prefix)

    def configure(self, environment: Mapping[str, str]) -> None:
        self._platform.configure(environment)

    def close(self) -> None:
        self._platform.close()
