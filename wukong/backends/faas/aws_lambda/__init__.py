"""AWS Lambda: `AwsLambda`, the FaaS backend ``aws-lambda``.

Events go out asynchronously over keep-alive connections of our own (`burst`, `invoker`): boto3 spends ten times as much
on a call, and calls are what a burst is made of. Everything else is boto3's: region, endpoint and credentials
(`access`), and reading what is deployed (`deployed`). Functions import this module at every cold start, so it
imports boto3 and `burst` only when they are needed.

Lambda stops a chain of functions that invoke one another after 16, counting by a header (``X-Amzn-Trace-Id``) which
boto3 adds inside functions. Executors form chains by design, each ended by its job; that header is not sent on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wukong.backends.faas import Bill, FaaS, FunctionSize, Invocation, Limits, TaskOutput
from wukong.backends.faas.aws_lambda import price
from wukong.backends.faas.aws_lambda.event import EVENT_BYTES, payload_room
from wukong.backends.faas.task_output import show
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, ConfigError, PayloadTooLarge

if TYPE_CHECKING:
    from wukong.backends.faas.aws_lambda.access import LambdaAccess
    from wukong.backends.faas.aws_lambda.deployed import Deployed
    from wukong.backends.faas.aws_lambda.invoker import Invoker
    from wukong.backends.faas.aws_lambda.output import Follower

__all__ = ["AwsLambda"]

_BACKEND = "faas: aws-lambda"
_MIB = 1_048_576
"""The memory that comes with one whole CPU: for prices, if the functions' memory is not known."""
_FETCH_S, _FETCH_BYTES_PER_S = 0.001, 100e6
"""How long a function is assumed to fetch a payload from the store, for its price: a latency and a bandwidth."""


class AwsLambda(FaaS):
    """Functions on AWS Lambda. All arguments are keywords; times in seconds, sizes in bytes.

    Region, profile, endpoint and credentials come from where boto3 takes them, unless given here. Functions use the
    credentials of their own role.

    Args:
        function: name or ARN; several share out the invocations, because Lambda's limit on new environments (1,000 in
            10 s) holds per function.
        larger: functions with more memory, one for each size, the next larger first: what takes too much memory on
            `function` is run again on them.
        qualifier: version or alias.
        region, profile: as in the AWS configuration.
        endpoint_url: of Lambda's API, for functions as well; None: AWS's own, unless configured.
        payload_bytes: limit of an asynchronous event, bytes of JSON.
        time_s, memory_bytes: the functions' time limit and memory; None: read from their configuration.
        larger_bytes: the memory of each of `larger`; None: read from their configuration.
        concurrency: most invocations at once; None: not known.
        max_connections: calls under way at once in one `invoke`, each on a connection of its own.
        timeout_s: an event that Lambda has not accepted after this time is sent again.
        patience_s: give up when Lambda has accepted no event for this long.
        check: compare versions and modules before a job.
        task_output: bring what tasks print and log here, from the functions' logs, as it comes (on AWS by the
            permission logs:FilterLogEvents, and some seconds late); None: only from a service on this machine.
        gb_second_usd, request_usd: prices; None: those of us-east-1, see `price`.
    """

    latency_s = 0.05
    billed = True
    configurable = False

    def __init__(
        self,
        *,
        function: str | Sequence[str] = "wukong",
        larger: Sequence[str] = (),
        qualifier: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        payload_bytes: int = EVENT_BYTES,
        time_s: float | None = None,
        memory_bytes: int | None = None,
        larger_bytes: Sequence[int] | None = None,
        concurrency: int | None = None,
        max_connections: int = 128,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        check: bool = True,
        task_output: bool | None = None,
        gb_second_usd: float | None = None,
        request_usd: float | None = None,
    ) -> None:
        self._functions = [function] if isinstance(function, str) else list(function)
        self._larger = [larger] if isinstance(larger, str) else list(larger)
        self._larger_bytes = None if larger_bytes is None else list(larger_bytes)
        if not self._functions or not all([*self._functions, *self._larger]):
            raise ConfigError("no function is named", backend=_BACKEND, hint='the option function, e.g. "wukong"')
        least = {"payload_bytes": 1_024, "max_connections": 1}
        for name, value in (
            ("payload_bytes", payload_bytes),
            ("time_s", time_s),
            ("memory_bytes", memory_bytes),
            ("concurrency", concurrency),
            ("max_connections", max_connections),
            ("timeout_s", timeout_s),
            ("patience_s", patience_s),
        ):
            if value is not None and not value >= least.get(name, 0.001):
                raise ConfigError(f"{name} is {value!r}; it is at least {least.get(name, 0.001)}", backend=_BACKEND)
        self._qualifier = qualifier
        self._payload_bytes, self._room_bytes = payload_bytes, payload_room(payload_bytes)
        self._time_s, self._memory_bytes, self._concurrency = time_s, memory_bytes, concurrency
        self._max_connections, self._timeout_s, self._patience_s = max_connections, timeout_s, patience_s
        self._compare = check
        self._task_output = task_output
        self._hand_on: Callable[[TaskOutput], None] = show
        self._prices = gb_second_usd, request_usd
        self._where = region or self._region_of_arns(), profile, endpoint_url
        self._lock = threading.Lock()
        self._closed = False

    def _region_of_arns(self) -> str | None:
        named = [*self._functions, *self._larger]
        regions = {name.split(":")[3] for name in named if name.startswith("arn:") and name.count(":") >= 6}
        if len(regions) > 1:
            raise ConfigError(
                f"the functions are in several regions: {', '.join(sorted(regions))}",
                backend=_BACKEND,
                hint="one client uses functions of one region",
            )
        return next(iter(regions), None)

    # --- what there is, found out on first use

    @cached_property
    def _access(self) -> LambdaAccess:
        from wukong.backends.faas.aws_lambda.access import LambdaAccess

        return LambdaAccess(*self._where)

    @cached_property
    def _deployed(self) -> Deployed:
        from wukong.backends.faas.aws_lambda.deployed import Deployed

        return Deployed(self._access, [(name, self._qualifier) for name in (*self._functions, *self._larger)])

    @cached_property
    def _invokers(self) -> list[Invoker]:
        """What invokes functions of each size, the smallest first."""
        from wukong.backends.aws_signing import Signer
        from wukong.backends.faas.aws_lambda.invoker import Invoker, Lane
        from wukong.backends.http_connections import EndpointConnections

        access = self._access
        try:
            connections = EndpointConnections(
                access.endpoint_url, access.trusted, self._timeout_s, self._max_connections
            )
        except ValueError as error:
            raise ConfigError(str(error), backend=_BACKEND, hint="check the option endpoint_url") from error
        headers = {"X-Amz-Invocation-Type": "Event", "Content-Type": "application/json"}
        signer = Signer(connections.host, access.region, access.keys, headers)
        lanes = [Lane.of(target, connections.path) for target in self._deployed.targets()]
        count = len(self._functions)
        limits = self._max_connections, self._timeout_s, self._patience_s
        return [
            Invoker(each, signer, connections, *limits) for each in (lanes[:count], *([one] for one in lanes[count:]))
        ]

    @cached_property
    def _follower(self) -> Follower | None:
        """What fetches tasks' output; None if it is not wanted."""
        from wukong.backends.faas.aws_lambda.output import Follower

        here = self._access.here
        wanted = here if self._task_output is None else self._task_output
        return (
            Follower(self._access, self._deployed.log_groups, here, lambda each: self._hand_on(each))
            if wanted
            else None
        )

    @cached_property
    def limits(self) -> Limits:  # type: ignore[override]
        """The limits; time and memory are the least of all functions', read from their configuration unless given."""
        found = self._configurations()[: len(self._functions)]
        times = [float(each["Timeout"]) for each in found if "Timeout" in each]
        memories = [int(each["MemorySize"]) * _MIB for each in found if "MemorySize" in each]
        time_s = min(times, default=None) if self._time_s is None else self._time_s
        memory_bytes = min(memories, default=None) if self._memory_bytes is None else self._memory_bytes
        inline_event_bytes = price.inline_event_bytes(
            self.rates, memory_bytes or price.ONE_CPU_BYTES, _FETCH_S, _FETCH_BYTES_PER_S, self._payload_bytes
        )
        return Limits(
            self._room_bytes,
            time_s,
            memory_bytes,
            self._concurrency,
            payload_room(inline_event_bytes),
            sizes=self._sizes(memory_bytes),
        )

    def _sizes(self, memory_bytes: int | None) -> tuple[int, ...]:
        """The memory of each size; none if there is one only, or if they are not known."""
        if not self._larger or memory_bytes is None:
            return ()
        if self._larger_bytes is None:
            found = self._deployed.configurations()[len(self._functions) :]
            if not all("MemorySize" in each for each in found):
                return ()
            self._larger_bytes = [int(each["MemorySize"]) * _MIB for each in found]
        sizes = (memory_bytes, *self._larger_bytes)
        if list(sizes) != sorted(set(sizes)) or len(self._larger_bytes) != len(self._larger):
            raise ConfigError(
                f"the sizes of {', '.join([self._functions[0], *self._larger])} are "
                f"{', '.join(f'{each // _MIB:,} MB' for each in sizes)}",
                backend=_BACKEND,
                hint="the option larger names functions with more memory, the next larger first",
            )
        return sizes

    def _configurations(self) -> Sequence[Mapping[str, Any]]:
        """The functions' configurations; empty if they are not needed, as inside a function, where all is given."""
        if self._time_s is not None and self._memory_bytes is not None:
            return ()
        return self._deployed.configurations()

    # --- the contract

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        """Send these invocations as asynchronous events; return when Lambda has accepted all."""
        if self._closed:
            raise BackendError("this backend has been closed", backend=_BACKEND)
        for each in invocations:
            if not 0 <= each.size <= len(self._larger):
                raise BackendError(
                    f"{each.id} is for functions of size {each.size}, and there are {1 + len(self._larger)} sizes",
                    backend=_BACKEND,
                )
            if len(each.payload) > self._room_bytes:
                raise PayloadTooLarge(
                    f"the payload of {each.id} has {len(each.payload):,} bytes; at most {self._room_bytes:,} fit into "
                    f"an event of {self._payload_bytes:,} bytes",
                    backend=_BACKEND,
                )
        if invocations:
            with self._lock:
                invokers = self._invokers
                follower = None if self._task_output is False else self._follower
            if follower is not None:
                follower.follow({each.id.partition("/")[0] for each in invocations})
            from wukong.backends.faas.aws_lambda.burst import Burst

            for size, invoker in enumerate(invokers):
                ours = [each for each in invocations if each.size == size]
                if ours:
                    Burst(invoker, ours).run()

    def subscribe(self, callback: Callable[[TaskOutput], None]) -> None:
        """Have `callback` called for output of tasks, as far as it is brought here; see the argument `task_output`."""
        self._hand_on = callback

    def spec(self) -> PluginSpec:
        """Return how a function opens this backend: where Lambda is and what the limits are, and no credentials."""
        limits = self.limits
        options = {
            "function": self._functions,
            "larger": self._larger,
            "qualifier": self._qualifier,
            "region": self._access.region,
            "endpoint_url": self._access.endpoint_url,
            "payload_bytes": self._payload_bytes,
            "time_s": limits.time_s,
            "memory_bytes": limits.memory_bytes,
            "larger_bytes": list(limits.sizes[1:]) if limits.sizes else None,
            "concurrency": self._concurrency,
            "max_connections": self._max_connections,
            "timeout_s": self._timeout_s,
            "patience_s": self._patience_s,
            "task_output": False,
            "gb_second_usd": self.rates.gb_second_usd,
            "request_usd": self.rates.request_usd,
        }
        return PluginSpec(f"{__name__}:AwsLambda", options)

    def deployment_key(self) -> str | None:
        """Return the functions' deployment key, from their variables or from Secrets Manager; None: not readable."""
        return self._deployed.deployment_key()

    def configure(self, environment: Mapping[str, str]) -> None:
        """Compare these variables with those of the functions. Raises `BackendError` if one differs."""
        self._deployed.compare(environment)

    def prepare(self, modules: Sequence[str]) -> None:
        """Ask the functions, once, whether their versions fit and these modules are there. Raises `BackendError`."""
        if self._compare:
            self._deployed.check(modules)

    def billed_requests(self, payload_bytes: int) -> int:
        """Return as how many requests an event with a payload of this size is billed."""
        return price.event_requests(self._payload_bytes - self._room_bytes // 3 * 4 + -(-payload_bytes // 3) * 4)

    def bill(self, invocations: int, requests: int, wall_s: float) -> Bill:
        """Return the cost of invocations that ran for `wall_s` in total. Unknown memory counts as 1,769 MB."""
        memory_bytes = self.limits.memory_bytes or price.ONE_CPU_BYTES
        return price.bill(invocations, requests, wall_s, memory_bytes, self.rates)

    def sizes(self) -> Sequence[FunctionSize]:
        """Return sizes that the functions could be given."""
        return price.sizes(self.rates)

    @cached_property
    def rates(self) -> price.LambdaRates:
        """The prices in use: those given, or us-east-1's for the functions' architecture."""
        found = [each.get("Architectures", ["x86_64"])[0] for each in self._configurations()]
        usual = price.RATES.get(found[0] if found else "x86_64", price.RATES["x86_64"])
        gb_second_usd, request_usd = self._prices
        if gb_second_usd is None and request_usd is None:
            return usual
        return price.LambdaRates(
            "as configured",
            usual.gb_second_usd if gb_second_usd is None else gb_second_usd,
            usual.request_usd if request_usd is None else request_usd,
        )

    def close(self) -> None:
        """Close all connections. Closing twice is no error."""
        self._closed = True
        with self._lock:
            if (follower := self.__dict__.get("_follower")) is not None:
                follower.close()
            for invoker in self.__dict__.get("_invokers", ()):
                invoker.close()
            if "_access" in self.__dict__:
                self.__dict__["_access"].close()
