"""What the client tells the host when it starts, and the profiles of limits that imitate real platforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wukong.backends.faas import Limits
from wukong.backends.faas.emulator.faults import FaultScript
from wukong.errors import ConfigError

PROFILES = {
    "aws-lambda": Limits(payload_bytes=1_048_576, time_s=900.0, memory_bytes=1_769 * 1_048_576, concurrency=1_000),
}
"""Limits by platform: AWS Lambda's for asynchronous invocations; 1,769 MB is where a function gets one whole CPU."""


@dataclass(frozen=True, slots=True)
class EmulatorSettings:
    """One emulator's settings; see `wukong.backends.faas.local.LocalFaaS` for what each means.

    `slots` is the number of invocations that run at once while all of them compute, and the number of workers kept.
    `most_cores`: how many cores one executor uses, besides its own those that nobody else does.
    `log_level` is the level of the client's root logger; `socket_name` is that of the socket for guests.
    """

    function: str
    slots: int
    max_slots: int
    idle_s: float
    limits: Limits
    faults: FaultScript | None
    log_level: int
    socket_name: str
    most_cores: int = 1

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain data, for the wire."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> EmulatorSettings:
        """Return the settings that `plain` made plain."""
        faults = plain["faults"]
        return cls(**{**plain, "limits": Limits(**plain["limits"]), "faults": faults and FaultScript(**faults)})


def limits(
    profile: str | None,
    payload_bytes: int | None,
    time_s: float | None,
    memory_bytes: int | None,
    concurrency: int | None,
    cores: int = 1,
    sizes_bytes: Sequence[int] | None = None,
) -> Limits:
    """Return a profile's limits, with those replaced that are given. Raises `ConfigError` for what cannot be."""
    if profile is not None and profile not in PROFILES:
        raise ConfigError(f"faas: local has no profile {profile!r}; there is {', '.join(map(repr, PROFILES))}")
    base = Limits() if profile is None else PROFILES[profile]
    for name, value in (
        ("payload_bytes", payload_bytes),
        ("time_s", time_s),
        ("memory_bytes", memory_bytes),
        ("concurrency", concurrency),
    ):
        if value is not None and value <= 0:
            raise ConfigError(f"faas: local: {name} is {value!r}; a limit is more than 0, and None means no limit")
    sizes = tuple(sizes_bytes or ())
    ordered = bool(sizes) and sizes[0] > 0 and list(sizes) == sorted(set(sizes))
    if sizes_bytes is not None and (memory_bytes is not None or not ordered):
        raise ConfigError(
            f"faas: local: sizes_bytes is {list(sizes)!r}; it goes the smallest first, which is memory_bytes",
            hint="as [500_000_000, 2_000_000_000], without memory_bytes",
        )
    memory_bytes = sizes[0] if sizes else memory_bytes
    return Limits(
        payload_bytes=base.payload_bytes if payload_bytes is None else payload_bytes,
        time_s=base.time_s if time_s is None else time_s,
        memory_bytes=base.memory_bytes if memory_bytes is None else memory_bytes,
        concurrency=base.concurrency if concurrency is None else concurrency,
        cores=cores,
        sizes=sizes,
    )
