"""The network of nodes: their subnets, who is admitted, and whether they get public addresses.

Functions reach nodes by private addresses, so both are in one VPC: that of the given subnets, else that of the
functions. If there is no function, as with another FaaS backend, it is the default VPC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wukong.backends.storage.fargate.calls import FargateCalls, FargateRefused
from wukong.backends.storage.fargate.options import BACKEND, FargateOptions
from wukong.errors import ConfigError, StoreError

__all__ = ["NodeNetwork", "choose"]

_MOST_SUBNETS = 16


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """The network of nodes.

    Attributes:
        vpc: its id.
        subnets: of the nodes, 16 at most.
        admitted: security groups whose members may connect.
        public_ip: nodes get public addresses.
        why: how this was chosen, in a few words.
    """

    vpc: str
    subnets: tuple[str, ...]
    admitted: tuple[str, ...]
    public_ip: bool
    why: str


def choose(calls: FargateCalls, options: FargateOptions) -> NodeNetwork:
    """Choose the nodes' network. Raises `ConfigError` if functions would not reach it, or if there is none."""
    groups = () if options.function_security_group is None else (options.function_security_group,)
    function = None
    if options.subnets is None or not groups:
        function = _function_network(calls, options)
    if function is not None and not function.get("SubnetIds") and not groups:
        name = options.function or options.name
        raise ConfigError(
            f"the function {name} is in no VPC, and would not reach the private addresses of Redis on Fargate",
            backend=BACKEND,
            hint="deploy it into one: wukong deploy --storage fargate, with --subnets and --security-groups; "
            "or give function_security_group, if this store is for others",
        )
    groups = groups or tuple((function or {}).get("SecurityGroupIds", ()))
    if options.subnets is not None:
        subnets, why = _described(calls, SubnetIds=list(options.subnets)), "the given subnets"
    elif function is not None and function.get("SubnetIds"):
        subnets = _described(calls, SubnetIds=list(function["SubnetIds"]))
        why = f"the subnets of the function {options.function or options.name}"
    else:
        vpc = _default_vpc(calls)
        subnets = _described(calls, Filters=[{"Name": "vpc-id", "Values": [vpc]}])
        why = f"the default VPC {vpc}, as there is no function {options.function or options.name}"
    vpcs = sorted({str(subnet["VpcId"]) for subnet in subnets})
    if len(vpcs) != 1:
        where = f"subnets of {', '.join(vpcs)}" if vpcs else f"{why}, which has no subnets"
        raise ConfigError(f"nodes cannot be put into {where}", backend=BACKEND, hint="give subnets of one VPC")
    public_ip = options.public_ip
    if public_ip is None:
        public_ip = options.public or all(subnet.get("MapPublicIpOnLaunch", False) for subnet in subnets)
    ids = sorted(str(subnet["SubnetId"]) for subnet in subnets)[:_MOST_SUBNETS]
    return NodeNetwork(vpcs[0], tuple(ids), groups, public_ip, why)


def _function_network(calls: FargateCalls, options: FargateOptions) -> Mapping[str, Any] | None:
    """Return the function's VPC configuration, empty if it is in no VPC; None if there is no such function."""
    try:
        found = calls.call("lambda", "get_function_configuration", FunctionName=options.function or options.name)
    except FargateRefused as error:
        if not error.missing:
            raise
        if options.function is not None:
            raise ConfigError(
                f"there is no function {options.function} in {calls.region}",
                backend=BACKEND,
                hint="check the options function and region, or give subnets and function_security_group",
            ) from error
        return None
    network: Mapping[str, Any] = found.get("VpcConfig") or {}
    return network


def _described(calls: FargateCalls, **which: Any) -> Sequence[Mapping[str, Any]]:
    try:
        return list(calls.pages("ec2", "describe_subnets", "Subnets", **which))
    except FargateRefused as error:
        if "NotFound" not in error.code and "Malformed" not in error.code:
            raise
        raise ConfigError(
            f"there is no such subnet in {calls.region}: {error.message}",
            backend=BACKEND,
            hint="'aws ec2 describe-subnets' lists those there are",
        ) from error


def _default_vpc(calls: FargateCalls) -> str:
    found = list(calls.pages("ec2", "describe_vpcs", "Vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}]))
    if not found:
        raise StoreError(
            f"there is no default VPC in {calls.region} to put Redis into",
            backend=BACKEND,
            hint="give the option subnets",
        )
    return str(found[0]["VpcId"])
