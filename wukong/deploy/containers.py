"""What proxy and store have in common: both run as containers on AWS Fargate, in the functions' VPC.

    functions' group --port--> a group of its own: task in the cluster, its execution role, its log group

A container admits the functions' group: that of `--security-groups`, or else one that is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wukong.deploy.network import Network
from wukong.deploy.options import DeployOptions
from wukong.deploy.parts import Plain, TemplatePart, arn, role

NAME_TAG = "wukong:name"
"""The tag by which tasks on Fargate are found."""

TASKS = "ecs-tasks.amazonaws.com"
"""The service that assumes the roles of tasks on Fargate."""

_FUNCTIONS_GROUP = "FunctionsGroup"


def cluster(options: DeployOptions) -> TemplatePart:
    """The cluster, if anything runs in it."""
    if not options.has_cluster:
        return TemplatePart()
    properties = {"ClusterName": options.name, "Tags": tags(options)}
    return TemplatePart(resources={"Cluster": {"Type": "AWS::ECS::Cluster", "Properties": properties}})


def functions_group(options: DeployOptions, network: Network | None) -> TemplatePart:
    """A security group for functions in a VPC, if none was named for them. It admits nobody."""
    if network is None or options.security_groups:
        return TemplatePart()
    name = options.functions_group_name
    group = _group(options, name, f"The functions of Wukong ({options.name})", network, [])
    output = {"Description": "The functions' security group", "Value": _id(_FUNCTIONS_GROUP)}
    return TemplatePart(resources={_FUNCTIONS_GROUP: group}, outputs={_FUNCTIONS_GROUP: output})


def groups_of_functions(options: DeployOptions) -> list[Any]:
    """Return the ids of the functions' security groups, in the template's syntax."""
    return list(options.security_groups) or [_id(_FUNCTIONS_GROUP)]


def admitting_group(options: DeployOptions, name: str, description: str, port: int, network: Network) -> Plain:
    """Return a security group that admits the functions, and the clients of the options, on one port."""
    rules: list[Plain] = [
        {**_port(port), "SourceSecurityGroupId": group, "Description": "functions"}
        for group in groups_of_functions(options)
    ]
    rules += [{**_port(port), "CidrIp": cidr, "Description": "clients"} for cidr in options.clients]
    return _group(options, name, description, network, rules)


def execution_role(
    options: DeployOptions, description: str, statements: Sequence[Plain], name: str | None = None
) -> Plain:
    """Return the role that ECS itself assumes to start a task: for its image, its secrets and its log."""
    named = {} if name is None else {"RoleName": name}
    return role(description, TASKS, statements, Tags=tags(options), **named)


def streams(group: str) -> Plain:
    """Return the ARN of the streams of a log group."""
    return arn(f"logs:{{here}}:log-group:{group}:*")


def tags(options: DeployOptions) -> list[Plain]:
    """Return the tag by which tasks on Fargate are found, in the template's syntax."""
    return [{"Key": NAME_TAG, "Value": options.name}]


def _group(options: DeployOptions, name: str, description: str, network: Network, rules: Sequence[Plain]) -> Plain:
    return {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "GroupName": name,
            "GroupDescription": description,
            "VpcId": network.vpc,
            "SecurityGroupIngress": list(rules),
            "Tags": tags(options),
        },
    }


def _port(port: int) -> Plain:
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}


def _id(group: str) -> Plain:
    return {"Fn::GetAtt": [group, "GroupId"]}
