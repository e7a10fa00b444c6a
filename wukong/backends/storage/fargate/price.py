"""What nodes cost: Fargate's rates for Linux, on demand. Not in here: data transfer, logs, secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wukong.backends.storage import Rent
from wukong.backends.storage.fargate.options import Shape

__all__ = ["RATES", "FargateRates", "rent"]


@dataclass(frozen=True, slots=True)
class FargateRates:
    """Prices in US dollars: of one virtual CPU, and of one GB of memory, for one hour. `name` says whose and when."""

    name: str
    vcpu_hour_usd: float
    gb_hour_usd: float


RATES: Mapping[str, FargateRates] = {
    "x86_64": FargateRates("us-east-1, x86_64, November 2026", 0.04048, 0.004445),
    "arm64": FargateRates("us-east-1, arm64, November 2026", 0.03238, 0.00356),
}
"""By architecture."""


def rent(nodes: int, shape: Shape, vcpu_hour_usd: float | None = None, gb_hour_usd: float | None = None) -> Rent:
    """Return the cost of `nodes` nodes. A price of None means that of us-east-1."""
    usual = RATES[shape.architecture]
    given = vcpu_hour_usd is not None or gb_hour_usd is not None
    vcpu = usual.vcpu_hour_usd if vcpu_hour_usd is None else vcpu_hour_usd
    gigabyte = usual.gb_hour_usd if gb_hour_usd is None else gb_hour_usd
    usd_per_hour = nodes * (shape.cpu / 1024 * vcpu + shape.memory_mb / 1024 * gigabyte)
    what = f"{nodes:,} Redis node{'s' * (nodes != 1)} on AWS Fargate"
    return Rent(usd_per_hour / 3600, what, "as configured" if given else usual.name)
