"""What invocations cost: Lambda's rules of billing as pure functions, on stated rates.

AWS bills requests, and the time of each invocation, rounded up to a millisecond, times the function's memory. An
asynchronous event is one request for its first 256 kB and one more for every further 64 kB begun. Not in here: free
tier, volume and savings plans, data transfer, and what the store costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from wukong.backends.faas import Bill, FunctionSize
from wukong.backends.faas.aws_lambda.event import EVENT_BYTES

ONE_CPU_BYTES = 1_769 << 20
"""The memory with which a function has one vCPU."""
_MOST_CORES = 6
_MEMORY_MB = (512, 885, 1_769, 3_008, 5_307, 10_240)
FIRST_BYTES = 262_144
FURTHER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class LambdaRates:
    """Prices in US dollars: of one GB (2**30 bytes) for one second, and of one request. `name` says whose and when."""

    name: str
    gb_second_usd: float
    request_usd: float


RATES: Mapping[str, LambdaRates] = {
    "x86_64": LambdaRates("us-east-1, x86_64, November 2026", 0.0000166667, 0.20e-6),
    "arm64": LambdaRates("us-east-1, arm64, November 2026", 0.0000133334, 0.20e-6),
}
"""By architecture: on demand, first tier."""


def bill(invocations: int, requests: int, wall_s: float, memory_bytes: int, rates: LambdaRates) -> Bill:
    """Return the bill for `invocations` that count as `requests` and ran for `wall_s` seconds in total."""
    billed = gb_seconds(wall_s, memory_bytes, invocations)
    return Bill(invocations, requests, billed, billed * rates.gb_second_usd + requests * rates.request_usd, rates.name)


def sizes(rates: LambdaRates) -> list[FunctionSize]:
    """Return sizes that a function can be given; CPU comes in proportion to memory."""
    return [size(mb, rates) for mb in _MEMORY_MB]


def size(memory_mb: int, rates: LambdaRates) -> FunctionSize:
    """Return the size of a function with `memory_mb` MB of memory."""
    usd_per_s = memory_mb / 1_024 * rates.gb_second_usd
    return FunctionSize(memory_mb << 20, vcpus(memory_mb << 20), usd_per_s, f"wukong deploy --memory {memory_mb}")


def event_requests(size_bytes: int) -> int:
    """Return how many requests one asynchronous event of this size, in bytes of JSON, counts as."""
    return 1 + max(0, -(-(size_bytes - FIRST_BYTES) // FURTHER_BYTES))


def vcpus(memory_bytes: int) -> float:
    """Return the CPUs that come with a function's memory: one for each 1,769 MB; a fraction is a share of one."""
    return memory_bytes / ONE_CPU_BYTES


def cores(memory_bytes: int) -> int:
    """Return how many cores come with a function's memory: one for each 1,769 MB, six at most."""
    return max(1, min(_MOST_CORES, round(vcpus(memory_bytes))))


def gb_seconds(wall_s: float, memory_bytes: int, invocations: int = 1) -> float:
    """Return the billed GB-seconds of `invocations` that ran for `wall_s` seconds in total.

    Lambda rounds each up to a millisecond; several are taken to lose half a millisecond each.
    """
    billed_s = math.ceil(wall_s * 1_000) / 1_000 if invocations == 1 else wall_s + 0.000_5 * invocations
    return billed_s * memory_bytes / 2**30


def inline_event_bytes(
    rates: LambdaRates,
    memory_bytes: int,
    round_trip_s: float,
    bandwidth_bytes_per_s: float,
    limit_bytes: int = EVENT_BYTES,
) -> int:
    """Return the size up to which an event costs no more than a small one whose function fetches the rest.

    A fetch keeps the function waiting for `round_trip_s` and the transfer; what is inline beyond 256 kB costs further
    requests. The store holds the record either way. With 1,769 MB and a store that answers within 6 ms the answer is
    256 kB: a further request is worth 6.9 ms.
    """
    gb_usd = memory_bytes / 2**30 * rates.gb_second_usd
    best = min(FIRST_BYTES, limit_bytes)
    for size in range(FIRST_BYTES + FURTHER_BYTES, limit_bytes + 1, FURTHER_BYTES):
        fetch_usd = (round_trip_s + size * 3 / 4 / bandwidth_bytes_per_s) * gb_usd
        if (event_requests(size) - 1) * rates.request_usd > fetch_usd:
            break
        best = size
    return best
