"""Subnets and security groups, checked against what functions, proxy and store need of a network.

Functions in a VPC have no way out of it but a NAT gateway, or endpoints inside it. Executors invoke others, so they
have to reach Lambda itself, Secrets Manager if the key is there, and DynamoDB and S3 if the store is. A public subnet
does not help. Tasks on Fargate may have a public address of their own; for these a public subnet is a way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from wukong.deploy.account import BACKEND, DeployAccount, DeployRefused
from wukong.deploy.finding import Finding
from wukong.deploy.options import DeployOptions
from wukong.errors import BackendError

_MALFORMED = "Malformed"
_NOT_FOUND = "NotFound"
_GATEWAY = "igw-"
_NOT_OUT = (_GATEWAY, "local", "vpce-")
_PROXY_SERVICES = ("ecr.api", "ecr.dkr", "lambda", "logs", "s3", "secretsmanager")
"""The services that the proxy's task has to reach: for its image, its log, its key, and its invocations."""

_BY_GATEWAY = ("dynamodb", "s3")
"""Services whose endpoint can be a gateway in a VPC's routes, which costs nothing."""


@dataclass(frozen=True, slots=True)
class Network:
    """The network of functions, and of tasks on Fargate.

    Attributes:
        vpc: its id.
        task_subnets: the subnets of tasks: those with a way out, if any.
        public: the way out works for public addresses only.
    """

    vpc: str
    task_subnets: tuple[str, ...]
    public: bool = False


def placed(account: DeployAccount, options: DeployOptions) -> tuple[DeployOptions, list[Finding]]:
    """Return the options; if functions have to be in a VPC and no subnets are named, with those of the default VPC.

    Returns findings about that, too. Raises `BackendError` if functions would not reach what they need from any subnet
    of the default VPC.
    """
    if options.subnets or not options.has_cluster:
        return options, []
    why = "the proxy" if options.proxy else "the store on Fargate"
    default = account.pages("ec2", "describe_vpcs", "Vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])
    vpc = next((str(each["VpcId"]) for each in default), None)
    hint = "name some of a VPC with a NAT gateway, or an endpoint for Lambda: --subnets"
    if vpc is None:
        raise BackendError(
            f"functions have to be in a VPC for {why}; no subnets are named, and there is no default VPC",
            backend=BACKEND,
            hint=hint,
        )
    described = account.pages("ec2", "describe_subnets", "Subnets", Filters=_in(vpc))
    subnets = sorted(str(each["SubnetId"]) for each in described)
    ways = _Ways(account, vpc)
    if ways.lacking(_function_services(options)):
        subnets = [each for each in subnets if ways.leads_out(each)]
    if not subnets:
        raise BackendError(
            f"functions have to be in a VPC for {why}; no subnets are named, and from none of the default VPC {vpc} "
            "would they reach lambda",
            backend=BACKEND,
            hint=f"{hint}; docs/aws.md says how to make an endpoint in the default VPC",
        )
    said = Finding(
        f"no subnets are named; functions have to be in a VPC for {why}, and are put into the default VPC {vpc}",
        "--subnets names others",
        fatal=False,
    )
    return replace(options, subnets=tuple(subnets)), [said]


def surveyed(account: DeployAccount, options: DeployOptions) -> tuple[Network | None, list[Finding]]:
    """Return the functions' network, None if they are in no VPC, and what is wrong with it."""
    if not options.subnets:
        return None, []
    found: list[Finding] = []
    subnets = _each(account, "describe_subnets", "SubnetIds", "Subnets", options.subnets, found)
    groups = _each(account, "describe_security_groups", "GroupIds", "SecurityGroups", options.security_groups, found)
    by_vpc: dict[str, list[str]] = {}
    for name, told in {**subnets, **groups}.items():
        by_vpc.setdefault(str(told.get("VpcId")), []).append(name)
    if len(by_vpc) > 1:
        where = "; ".join(f"{vpc}: {', '.join(names)}" for vpc, names in sorted(by_vpc.items()))
        found.append(Finding(f"subnets and security groups are in different VPCs ({where})", "name those of one VPC"))
        return None, found
    if len(subnets) < len(options.subnets) or not by_vpc:
        return None, found
    [vpc] = by_vpc
    ways = _Ways(account, vpc)
    found += _function_ways(ways, sorted(subnets), _function_services(options))
    network = _tasks_network(ways, sorted(subnets))
    if options.proxy:
        found += _names(account, vpc)
        found += _task_ways(ways, network)
    return network, found


def _function_services(options: DeployOptions) -> list[str]:
    key = ["secretsmanager"] if options.key_in == "secrets-manager" else []
    return ["lambda", *key, *(_BY_GATEWAY if options.has_table else ())]


def _each(
    account: DeployAccount, operation: str, argument: str, key: str, wanted: Sequence[str], findings: list[Finding]
) -> dict[str, Any]:
    """Return those of these that exist, by id. Asks for each by itself, so that every wrong id is found."""
    found: dict[str, Any] = {}
    for each in wanted:
        try:
            [found[each]] = account.call("ec2", operation, **{argument: [each]})[key]
        except DeployRefused as error:
            if _NOT_FOUND not in error.code and _MALFORMED not in error.code:
                raise
            what = "subnet" if key == "Subnets" else "security group"
            command = operation.replace("_", "-")
            findings.append(
                Finding(f"there is no {what} {each} in {account.region}", f"'aws ec2 {command}' lists those there are")
            )
    return found


def _function_ways(ways: _Ways, subnets: Sequence[str], services: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding if functions in some subnets would reach neither the internet nor endpoints of these services."""
    lacking = ways.lacking(services)
    shut = [subnet for subnet in subnets if lacking and not ways.leads_out(subnet)]
    if shut:
        yield Finding(
            f"functions in {', '.join(shut)} would not reach {' and '.join(lacking)}: there is neither a NAT gateway "
            "for them nor an endpoint, and a public subnet does not help",
            "give the subnets a route to a NAT gateway, or make "
            f"{_kind(lacking[0])} {ways.endpoint(lacking[0])} in the VPC",
            fatal=False,
        )


def _kind(service: str) -> str:
    return "a gateway endpoint" if service in _BY_GATEWAY else "an interface endpoint"


def _names(account: DeployAccount, vpc: str) -> Iterator[Finding]:
    """Yield a finding if the VPC would not resolve the proxy's name."""
    for attribute, option in (("enableDnsSupport", "dns-support"), ("enableDnsHostnames", "dns-hostnames")):
        told = account.call("ec2", "describe_vpc_attribute", VpcId=vpc, Attribute=attribute)
        if not told[attribute[0].upper() + attribute[1:]]["Value"]:
            yield Finding(
                f"names like the proxy's are not resolved in {vpc}: its attribute {attribute} is off",
                f"aws ec2 modify-vpc-attribute --vpc-id {vpc} --enable-{option}",
            )


def _task_ways(ways: _Ways, network: Network) -> Iterator[Finding]:
    """Yield a finding if the proxy would not start, because it has no way to the services that it needs."""
    lacking = ways.lacking(_PROXY_SERVICES)
    if lacking and not network.public and not ways.leads_out(network.task_subnets[0]):
        yield Finding(
            f"the proxy in {', '.join(network.task_subnets)} would not reach {', '.join(lacking)}: there is neither a "
            "gateway for it nor an endpoint, so it would not start, and the deployment would be undone",
            "give the subnets a route to a NAT gateway, or make endpoints in the VPC: "
            f"{', '.join(map(ways.endpoint, lacking))}",
            fatal=False,
        )


def _tasks_network(ways: _Ways, subnets: Sequence[str]) -> Network:
    private = tuple(subnet for subnet in subnets if ways.leads_out(subnet))
    public = tuple(subnet for subnet in subnets if ways.leads_out(subnet, public=True))
    return Network(ways.vpc, private or public or tuple(subnets), not private and bool(public))


class _Ways:
    """The ways out of a VPC: endpoints, and the routes of its subnets. Looked up on demand."""

    def __init__(self, account: DeployAccount, vpc: str) -> None:
        self._account, self.vpc = account, vpc

    @cached_property
    def _endpoints(self) -> set[str]:
        return {
            str(each["ServiceName"]).partition(f".{self._account.region}.")[2]
            for each in self._account.pages("ec2", "describe_vpc_endpoints", "VpcEndpoints", Filters=_in(self.vpc))
            if each.get("State", "available").lower() == "available"
        }

    @cached_property
    def _tables(self) -> list[Any]:
        return list(self._account.pages("ec2", "describe_route_tables", "RouteTables", Filters=_in(self.vpc)))

    def lacking(self, services: Sequence[str]) -> list[str]:
        """Return the services without an endpoint."""
        return [service for service in services if service not in self._endpoints]

    def endpoint(self, service: str) -> str:
        """Return the name of a service's endpoint."""
        return f"com.amazonaws.{self._account.region}.{service}"

    def leads_out(self, subnet: str, *, public: bool = False) -> bool:
        """Whether a subnet's route table, its own or the VPC's main one, has a way out.

        `public`: for tasks with a public address.
        """
        own = [table for table in self._tables if any(each.get("SubnetId") == subnet for each in table["Associations"])]
        main = [table for table in self._tables if any(each.get("Main") for each in table["Associations"])]
        for table in own or main:
            for route in table["Routes"]:
                ways = [way for key, way in route.items() if key.endswith("Id") and isinstance(way, str)]
                if route.get("DestinationCidrBlock") == "0.0.0.0/0" and any(
                    way.startswith(_GATEWAY) if public else not way.startswith(_NOT_OUT) for way in ways
                ):
                    return True
        return False


def _in(vpc: str) -> list[dict[str, Any]]:
    return [{"Name": "vpc-id", "Values": [vpc]}]
