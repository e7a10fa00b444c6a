"""What a deployment costs while nothing runs: US dollars for a month, prices of us-east-1 in November 2026."""

from __future__ import annotations

from typing import cast

from wukong.backends.storage.fargate.options import Architecture, Shape
from wukong.backends.storage.fargate.price import rent
from wukong.deploy.code import Code, Package
from wukong.deploy.network import Network
from wukong.deploy.options import DeployOptions

SECRET_USD = 0.40
S3_GB_USD = 0.023
LOGS_GB_USD = 0.03
ADDRESS_HOUR_USD = 0.005
"""A public address."""
ZONE_USD = 0.50
"""The price of the proxy's DNS zone."""
MONTH_HOURS = 730
_GB = 2**30
_S_PER_HOUR = 3_600
SNAPSHOT_GB_SECOND_USD = 0.0000015046
"""A snapshot that is kept, by the function's memory; three hours at least."""
RESTORE_GB_USD = 0.0001397998
"""One restored environment, by the function's memory."""
PROVISIONED_GB_SECOND_USD = {"x86_64": 0.0000041667, "arm64": 0.0000033334}


def proxy_hour_usd(options: DeployOptions, public: bool) -> float:
    """Return what the proxy costs an hour; `public`: with a public address."""
    architecture = cast("Architecture", options.architecture)
    shape = Shape(cpu=options.proxy_cpu, memory_mb=options.proxy_memory_mb, architecture=architecture)
    return rent(1, shape).usd_per_s * 3_600 + (ADDRESS_HOUR_USD if public else 0.0)


def snapshots_hour_usd(options: DeployOptions) -> float:
    """Return what it costs to keep the functions' snapshots for an hour."""
    if not options.snapstart:
        return 0.0
    gb = sum(each.memory_mb for each in options.deployed_functions) / 1_024
    return gb * SNAPSHOT_GB_SECOND_USD * _S_PER_HOUR


def provisioned_hour_usd(options: DeployOptions) -> float:
    """Return what the environments that are always initialised cost for an hour, whether they run anything or not."""
    gb = (options.provisioned_concurrency or 0) * options.functions * options.memory_mb / 1_024
    return gb * PROVISIONED_GB_SECOND_USD[options.architecture] * _S_PER_HOUR


def idle_usd(options: DeployOptions, code: Code, network: Network | None = None) -> float:
    """Return what the resources cost for a month without invocations, kept logs excluded."""
    usd = SECRET_USD * len(options.secrets)
    usd += (snapshots_hour_usd(options) + provisioned_hour_usd(options)) * MONTH_HOURS
    if options.proxy:
        usd += proxy_hour_usd(options, _public(network)) * MONTH_HOURS + ZONE_USD
    return usd + (code.size_bytes / _GB * S3_GB_USD if isinstance(code, Package) else 0.0)


def idle_lines(options: DeployOptions, code: Code, network: Network | None = None) -> list[str]:
    """Return the same in words, one line for each resource."""
    lines = ["functions, role and log groups: nothing while they are not used"]
    if options.snapstart:
        restore_usd = options.memory_mb / 1_024 * RESTORE_GB_USD
        count = len(options.function_names)
        what = "the snapshot" if count == 1 else f"{count} snapshots"
        lines.append(
            f"{what}: ${snapshots_hour_usd(options):.4f} an hour, and ${restore_usd:.6f} for each restored one"
        )
    if options.provisioned_concurrency is not None:
        count = options.provisioned_concurrency * options.functions
        lines.append(f"{count:,} provisioned environments: ${provisioned_hour_usd(options):.4f} an hour")
    if isinstance(code, Package):
        lines.append(f"the package in S3: ${code.size_bytes / _GB * S3_GB_USD:.4f} a month")
    else:
        lines.append("the image in ECR: $0.10 a month for each GB, whether it is deployed or not")
    if options.secrets:
        what = "the secret" if len(options.secrets) == 1 else f"{len(options.secrets)} secrets"
        lines.append(f"{what}: ${SECRET_USD * len(options.secrets):.2f} a month")
    if options.proxy:
        public = _public(network)
        what = "the proxy and its public address" if public else "the proxy"
        hour_usd = proxy_hour_usd(options, public)
        lines.append(f"{what}: ${hour_usd:.4f} an hour; its name: ${ZONE_USD:.2f} a month")
    if options.has_table:
        lines.append(
            "the store's table and bucket: nothing while nothing is in them, which is a day after the last job"
        )
    if options.on_fargate:
        lines.append("the store: nothing while no nodes run; 'wukong store status' says what those cost")
    days = options.log_retention_days
    lines.append(f"logs, kept for {days} days: ${LOGS_GB_USD:.2f} a month for each GB, besides $0.50 to take it in")
    if options.subnets:
        lines.append("the VPC: nothing for the functions; NAT gateways and endpoints in it cost while they are there")
    return lines


def _public(network: Network | None) -> bool:
    return network is not None and network.public
