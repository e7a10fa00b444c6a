"""A FaaS backend that is held to its contract (`wukong.backends.contract`): as client, functions and proxy use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from wukong.backends.contract import Contract
from wukong.backends.faas import Bill, FaaS, Failure, FunctionSize, Invocation, Limits, TaskOutput
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError

__all__ = ["CheckedFaaS"]


class CheckedFaaS(FaaS):
    """A backend whose answers are checked: their types, their bounds, and the exceptions that it raises.

    Attributes:
        inner: the backend, as the plug-in made it.
    """

    def __init__(self, inner: FaaS) -> None:
        self.inner = inner
        self._contract = Contract(inner, "FaaS", BackendError, "wukong.testing.faas.FaaSTests")
        self.latency_s, self.billed, self.shares_files = inner.latency_s, inner.billed, inner.shares_files
        self.opens_at, self.configurable = inner.opens_at, inner.configurable

    @property
    def limits(self) -> Limits:  # type: ignore[override]
        """See `FaaS.limits`. The backend may find them out only when asked."""
        limits = self._contract.asked("limits", lambda: self.inner.limits)
        if not isinstance(limits, Limits):
            self._contract.broken(f"limits is {type(limits).__name__}, not Limits")
        return limits

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        """See `FaaS.invoke`."""
        self._contract.asked("invoke", self.inner.invoke, invocations)

    def spec(self) -> PluginSpec:
        """See `FaaS.spec`."""
        return self._contract.spec(self.inner.spec)

    def environment(self) -> Mapping[str, str]:
        """See `FaaS.environment`."""
        return self._contract.environment(self.inner.environment)

    def free_slots(self) -> int | None:
        """See `FaaS.free_slots`."""
        free = self._contract.asked("free_slots", self.inner.free_slots)
        if free is not None and (type(free) is not int or free < 0):
            self._contract.broken(f"free_slots answered {free!r}, neither a count nor None")
        return free

    def failures(self) -> list[Failure]:
        """See `FaaS.failures`."""
        failures = self._contract.asked("failures", self.inner.failures)
        if not isinstance(failures, list) or not all(isinstance(each, Failure) for each in failures):
            self._contract.broken(f"failures answered {failures!r:.100}, not a list of Failure")
        return failures

    def known(self, ids: Sequence[str]) -> Collection[str] | None:
        """See `FaaS.known`."""
        known = self._contract.asked("known", self.inner.known, ids)
        if known is None:
            return None
        if isinstance(known, (str, bytes)) or not isinstance(known, Collection):
            self._contract.broken(f"known answered {type(known).__name__}, neither ids nor None")
        if others := set(known).difference(ids):
            self._contract.broken(f"known answered {next(iter(others))!r}, which it was not asked for")
        return known

    def cancel(self, prefix: str) -> None:
        """See `FaaS.cancel`."""
        self._contract.asked("cancel", self.inner.cancel, prefix)

    def deployment_key(self) -> str | None:
        """See `FaaS.deployment_key`."""
        key = self._contract.asked("deployment_key", self.inner.deployment_key)
        try:
            if key is None or bytes.fromhex(key):
                return key
        except (TypeError, ValueError):
            pass
        self._contract.broken("deployment_key answered something that is no hex text")  # which may be a secret

    def configure(self, environment: Mapping[str, str]) -> None:
        """See `FaaS.configure`."""
        self._contract.asked("configure", self.inner.configure, environment)

    def prepare(self, modules: Sequence[str]) -> None:
        """See `FaaS.prepare`."""
        self._contract.asked("prepare", self.inner.prepare, modules)

    def billed_requests(self, payload_bytes: int) -> int:
        """See `FaaS.billed_requests`."""
        n = self._contract.asked("billed_requests", self.inner.billed_requests, payload_bytes)
        if type(n) is not int or n < 1:
            self._contract.broken(f"billed_requests answered {n!r}, not how many")
        return n

    def bill(self, invocations: int, requests: int, wall_s: float) -> Bill | None:
        """See `FaaS.bill`."""
        bill = self._contract.asked("bill", self.inner.bill, invocations, requests, wall_s)
        if bill is not None and not isinstance(bill, Bill):
            self._contract.broken(f"bill answered {type(bill).__name__}, neither a Bill nor None")
        return bill

    def sizes(self) -> Sequence[FunctionSize]:
        """See `FaaS.sizes`."""
        sizes = self._contract.asked("sizes", self.inner.sizes)
        if not isinstance(sizes, Sequence):
            self._contract.broken(f"sizes answered {type(sizes).__name__}, not a sequence")
        for each in sizes:
            if not isinstance(each, FunctionSize) or each.memory_bytes <= 0 or each.vcpus <= 0 or each.usd_per_s < 0:
                self._contract.broken(f"sizes answered {each!r}, which no function can have")
        return sizes

    def subscribe(self, callback: Callable[[TaskOutput], None]) -> None:
        """See `FaaS.subscribe`."""
        self._contract.asked("subscribe", self.inner.subscribe, callback)

    def drain(self, timeout_s: float) -> None:
        """See `FaaS.drain`."""
        self._contract.asked("drain", self.inner.drain, timeout_s)

    def close(self) -> None:
        """See `FaaS.close`."""
        self._contract.asked("close", self.inner.close)
