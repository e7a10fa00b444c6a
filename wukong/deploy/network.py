"""Subnets and security groups, held against what functions need of a network.

Functions in a VPC have no way out of it but through a NAT gateway, or by endpoints inside it. Executors invoke others,
so they have to reach Lambda itself; where the key is in Secrets Manager, that as well. A public subnet does not help.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from wukong.deploy.account import Account, Refused
from wukong.deploy.finding import Finding
from wukong.deploy.options import Options

_MALFORMED = "Malformed"
_NOT_FOUND = "NotFound"
_NOT_OUT = ("igw-", "local", "vpce-")


def network_findings(account: Account, options: Options) -> Iterator[Finding]:
    """Yield what is wrong with the network that functions are to be in."""
    if not options.subnets:
        return
    subnets = yield from _each(account, "describe_subnets", "SubnetIds", "Subnets", "SubnetId", options.subnets)
    groups = yield from _each(
        account, "describe_security_groups", "GroupIds", "SecurityGroups", "GroupId", options.security_groups
    )
    by_vpc: dict[str, list[str]] = {}
    for name, told in {**subnets, **groups}.items():
        by_vpc.setdefault(str(told.get("VpcId")), []).append(name)
    if len(by_vpc) > 1:
        where = "; ".join(f"{vpc}: {', '.join(names)}" for vpc, names in sorted(by_vpc.items()))
        yield Finding(f"subnets and security groups are in different VPCs ({where})", "name those of one VPC")
        return
    if len(subnets) < len(options.subnets) or not by_vpc:
        return
    [vpc] = by_vpc
    services = ["lambda", *(["secretsmanager"] if options.key_in == "secrets-manager" else [])]
    yield from _ways_out(account, vpc, sorted(subnets), services)


def _each(
    account: Account, operation: str, argument: str, key: str, name: str, wanted: tuple[str, ...]
) -> Generator[Finding, None, dict[str, Any]]:
    """Ask for each by itself, so that every wrong one is found. A generator that also returns those that are there."""
    found: dict[str, Any] = {}
    for each in wanted:
        try:
            [found[each]] = account.call("ec2", operation, **{argument: [each]})[key]
        except Refused as error:
            if _NOT_FOUND not in error.code and _MALFORMED not in error.code:
                raise
            what = "subnet" if name == "SubnetId" else "security group"
            command = operation.replace("_", "-")
            yield Finding(
                f"there is no {what} {each} in {account.region}", f"'aws ec2 {command}' lists those there are"
            )
    return found


def _ways_out(account: Account, vpc: str, subnets: list[str], services: list[str]) -> Iterator[Finding]:
    """Find subnets from which functions would reach neither the internet nor an endpoint of these services."""
    in_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    endpoints = {
        str(each["ServiceName"]).rpartition(".")[2]
        for each in account.pages("ec2", "describe_vpc_endpoints", "VpcEndpoints", Filters=in_vpc)
        if each.get("State", "available").lower() == "available"
    }
    lacking = [service for service in services if service not in endpoints]
    if not lacking:
        return
    tables = list(account.pages("ec2", "describe_route_tables", "RouteTables", Filters=in_vpc))
    shut = [subnet for subnet in subnets if not _leads_out(tables, subnet)]
    if shut:
        yield Finding(
            f"functions in {', '.join(shut)} would not reach {' and '.join(lacking)}: there is neither a NAT gateway "
            "for them nor an endpoint, and a public subnet does not help",
            f"give the subnets a route to a NAT gateway, or make an interface endpoint com.amazonaws.{account.region}."
            f"{lacking[0]} in the VPC",
            fatal=False,
        )


def _leads_out(tables: list[Any], subnet: str) -> bool:
    """Whether a subnet's route table, its own or the VPC's main one, has a way out that functions can take."""
    own = [table for table in tables if any(each.get("SubnetId") == subnet for each in table["Associations"])]
    main = [table for table in tables if any(each.get("Main") for each in table["Associations"])]
    for table in own or main:
        for route in table["Routes"]:
            ways = [value for key, value in route.items() if key.endswith("Id") and isinstance(value, str)]
            if route.get("DestinationCidrBlock") == "0.0.0.0/0" and any(not way.startswith(_NOT_OUT) for way in ways):
                return True
    return False
