"""Faults on demand: what goes wrong with the n-th invocation, as a pure function of a seed and n.

The same seed gives the same faults, whatever the machine does meanwhile. Every kind draws its own number in a fixed
order, so that turning one kind on leaves the others where they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from random import Random
from typing import Any, Literal

from wukong.errors import ConfigError

_PROBABILITIES = ("throttle", "crash_before", "crash_during", "crash_after", "duplicate", "late", "lost")


@dataclass(frozen=True, slots=True)
class InvocationFault:
    """The fault of one invocation, if any.

    Attributes:
        lost: the platform accepts it, never starts it, and tells nobody.
        duplicate: it is delivered twice.
        delay_s: it starts this much later, seconds.
        crash: its process dies ``before`` the function is called, ``during`` it at the start of task number
            `at_task` (a function that starts fewer dies as it ends), or ``after`` it, before anything is reported.
        at_task: counted from 1.
    """

    lost: bool = False
    duplicate: bool = False
    delay_s: float = 0.0
    crash: Literal["before", "during", "after"] | None = None
    at_task: int = 1


@dataclass(frozen=True, slots=True)
class FaultScript:
    """A seeded script of faults. Probabilities lie between 0 and 1; times are seconds.

    Attributes:
        seed: the same seed, the same faults.
        start_latency_s: added to the start of every invocation.
        cold_start_s: added if a fresh worker has to be used.
        throttle: probability that an attempt to invoke is refused.
        crash_before, crash_during, crash_after: probability that the process dies before, in the middle of, or after
            the function. At most one of them happens.
        crash_at_task: at the start of which task ``crash_during`` strikes, from 1; None: one of the first eight.
        duplicate: probability that an invocation is delivered twice.
        late, late_s: probability that an invocation is late, and by how much.
        lost: probability that an invocation is accepted and never starts.
    """

    seed: int = 0
    start_latency_s: float = 0.0
    cold_start_s: float = 0.0
    throttle: float = 0.0
    crash_before: float = 0.0
    crash_during: float = 0.0
    crash_after: float = 0.0
    crash_at_task: int | None = None
    duplicate: float = 0.0
    late: float = 0.0
    late_s: float = 0.1
    lost: float = 0.0

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"faults.{name} is {getattr(self, name)!r}; it is a probability, from 0 to 1")
        if self.crash_before + self.crash_during + self.crash_after > 1.0:
            raise ConfigError("faults: crash_before, crash_during and crash_after add up to more than 1")
        for name in ("start_latency_s", "cold_start_s", "late_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"faults.{name} is {getattr(self, name)!r}; seconds are not negative")
        if self.crash_at_task is not None and self.crash_at_task < 1:
            raise ConfigError("faults.crash_at_task counts from 1")

    @classmethod
    def of(cls, settings: FaultScript | Mapping[str, Any] | None) -> FaultScript | None:
        """Return the script that a mapping spells out. Raises `ConfigError` for a key that no script has."""
        if settings is None or isinstance(settings, FaultScript):
            return settings
        valid = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(valid))
        if unknown:
            raise ConfigError(f"faults: unknown {', '.join(map(repr, unknown))}; valid are {', '.join(valid)}")
        try:
            return cls(**settings)
        except TypeError as error:
            raise ConfigError(f"faults: {error}") from error

    def fault(self, n: int) -> InvocationFault:
        """Return what happens to the n-th invocation which the platform receives, counted from 0. Pure."""
        draw = Random(f"{self.seed}/{n}").random
        lost, duplicate, late, crash, at_task = draw(), draw(), draw(), draw(), draw()
        kind: Literal["before", "during", "after"] | None = None
        if crash < self.crash_before:
            kind = "before"
        elif crash < self.crash_before + self.crash_during:
            kind = "during"
        elif crash < self.crash_before + self.crash_during + self.crash_after:
            kind = "after"
        return InvocationFault(
            lost=lost < self.lost,
            duplicate=duplicate < self.duplicate,
            delay_s=self.start_latency_s + (self.late_s if late < self.late else 0.0),
            crash=kind,
            at_task=1 + int(8 * at_task) if self.crash_at_task is None else self.crash_at_task,
        )

    def throttled(self, attempt: int) -> bool:
        """Return whether this attempt to invoke is refused; attempts of all processes count from 0. Pure."""
        return Random(f"{self.seed}/throttle/{attempt}").random() < self.throttle
