"""What a deployment costs while nothing runs: US dollars for a month, prices of us-east-1 in November 2026."""

from __future__ import annotations

from wukong.deploy.code import Code, Package
from wukong.deploy.options import Options

SECRET_USD = 0.40
S3_GB_USD = 0.023
LOGS_GB_USD = 0.03
_GB = 2**30


def idle_usd(options: Options, code: Code) -> float:
    """Return what the resources cost for a month in which nothing is invoked, without logs that are kept."""
    usd = SECRET_USD if options.key_in == "secrets-manager" else 0.0
    return usd + (code.size_bytes / _GB * S3_GB_USD if isinstance(code, Package) else 0.0)


def idle_lines(options: Options, code: Code) -> list[str]:
    """Return the same in words, one line for each thing."""
    lines = ["functions, role and log groups: nothing while they are not used"]
    if isinstance(code, Package):
        lines.append(f"the package in S3: ${code.size_bytes / _GB * S3_GB_USD:.4f} a month")
    else:
        lines.append("the image in ECR: $0.10 a month for each GB, whether it is deployed or not")
    if options.key_in == "secrets-manager":
        lines.append(f"the secret: ${SECRET_USD:.2f} a month")
    days = options.log_retention_days
    lines.append(f"logs, kept for {days} days: ${LOGS_GB_USD:.2f} a month for each GB, besides $0.50 to take it in")
    if options.subnets:
        lines.append("the VPC: nothing for the functions; NAT gateways and endpoints in it cost while they are there")
    return lines
