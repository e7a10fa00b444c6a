"""The settings of one Lambda service. The defaults are AWS Lambda's own, unless stated otherwise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

from wukong.backends import machine
from wukong.backends.faas.emulator.faults import FaultScript
from wukong.backends.faas.emulator.settings import PROFILES
from wukong.errors import ConfigError
from wukong.options import expect, suggestion

_LAMBDA = PROFILES["aws-lambda"]
_ENVIRONMENT_BYTES = 100 * 1_048_576
_TIMES = ("scaling_period_s", "idle_s", "init_s", "throttle_delay_s", "event_age_s")


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """One service's settings. Sizes are bytes, times are seconds.

    Attributes:
        host: a loopback address; any other is refused.
        port: 0: any free one.
        region, account: the parts of ARNs.
        access_key, secret_key: if given, every request's signature is verified; otherwise it only has to be there.
        concurrency: most invocations at once, over all functions; None: AWS's 1,000, or the number of environments of
            100 MB that fit into half of this machine's memory, whichever is less.
        scaling: how many new environments a function may have per `scaling_period_s`.
        starts_at_once: most environments that start at any moment; the others wait. None: two per core. On AWS each
            starts on a machine of its own; here they would slow each other down.
        start: ``fresh``: every environment is a new interpreter. ``forked``: they are forked from one process per
            function that has imported the handler's module. A fork takes some milliseconds instead of the whole
            import, and shares memory. Import-time code of the module then runs once, as with SnapStart.
        site_packages: environments see the packages that are installed for the service. False: they see those of
            Lambda's Python runtime (awslambdaric, boto3 and their requirements), and the function's own package.
        own_tmp: environments have a /tmp of their own, as large as their function's EphemeralStorage, in memory, and
            gone with them, if the system allows it (see `confine`). False: they share this machine's /tmp, so that
            tests see what functions leave there; TMPDIR is a folder for each, which is gone with it.
        idle_s: an environment that has been idle for this long ends.
        init_s: how long initialising may take before it is cut short and repeated within the invocation.
        time_limit_s: in place of every function's own Timeout, for tests. None: each function's own.
        enforce_memory: kill environments that use more than their function's MemorySize.
        event_bytes, request_bytes, response_bytes: the largest payload of an asynchronous event, of a synchronous
            request, and of a synchronous response.
        retry_delays_s: the pause before each retry of a failed asynchronous attempt. Its length is the number of
            retries, unless the function's event invoke configuration says less.
        throttle_delay_s: how long the queue rests after an event found no room; doubled each time, up to 5 minutes.
            0: events start as soon as there is room.
        event_age_s: an event older than this is given up, unless the function's configuration says otherwise.
        faults: a script of faults, or a mapping of its fields; see `FaultScript`. Deaths ``during`` an invocation
            strike 2 ms times `InvocationFault.at_task` after its start, or at its end. Duplicates and losses are for
            events only.
        kept: how many log lines per function are kept, and how many failures. The service keeps all in memory.
    """

    host: str = "127.0.0.1"
    port: int = 0
    region: str = "us-east-1"
    account: str = "123456789012"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    concurrency: int | None = None
    scaling: int = 1_000
    scaling_period_s: float = 10.0
    starts_at_once: int | None = None
    start: Literal["fresh", "forked"] = "fresh"
    site_packages: bool = False
    own_tmp: bool = False
    idle_s: float = 300.0
    init_s: float = 10.0
    time_limit_s: float | None = None
    enforce_memory: bool = True
    event_bytes: int = _LAMBDA.payload_bytes or 0
    request_bytes: int = 6_291_456
    response_bytes: int = 6_291_556
    retry_delays_s: tuple[float, ...] = (60.0, 120.0)
    throttle_delay_s: float = 1.0
    event_age_s: float = 21_600.0
    faults: FaultScript | Mapping[str, Any] | None = None
    kept: int = 10_000

    def __post_init__(self) -> None:
        """Check. Raises `ConfigError`."""
        if not machine.loopback(self.host):
            raise ConfigError(
                f"the Lambda service does not listen on {self.host!r}",
                hint="it runs whatever it is given, as you: a loopback address is all it takes, as 127.0.0.1",
            )
        if (self.access_key is None) != (self.secret_key is None):
            raise ConfigError("access_key and secret_key go together")
        for name in ("concurrency", "scaling", "starts_at_once", "kept"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} is {value!r}; it is at least 1")
        for name in _TIMES:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; seconds are not negative")
        if self.time_limit_s is not None and self.time_limit_s <= 0:
            raise ConfigError(f"time_limit_s is {self.time_limit_s!r}; a limit is more than 0")
        if any(delay_s < 0 for delay_s in self.retry_delays_s):
            raise ConfigError("retry_delays_s: seconds are not negative")
        object.__setattr__(self, "retry_delays_s", tuple(self.retry_delays_s))
        object.__setattr__(self, "faults", FaultScript.of(self.faults))

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> ServiceSettings:
        """Return the settings of a mapping. Raises `ConfigError` for a key that is no setting."""
        annotations = get_type_hints(cls)
        for name, value in plain.items():
            if name not in annotations:
                raise ConfigError(f"the Lambda service has no setting {name!r}; {suggestion(name, annotations)}")
            expect(name, value, annotations[name])
        return cls(**plain)

    def script(self) -> FaultScript | None:
        """Return the script of faults, if there is one."""
        return FaultScript.of(self.faults)

    def most_at_once(self) -> int:
        """Return the limit of invocations at once."""
        if self.concurrency is not None:
            return self.concurrency
        return max(1, min(_LAMBDA.concurrency or 1, _memory_bytes() // 2 // _ENVIRONMENT_BYTES))

    def most_starting(self) -> int:
        """Return the limit of environments that start at once."""
        return 2 * machine.cores() if self.starts_at_once is None else self.starts_at_once


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
