"""The parts of a template, one for each concern, and the small elements that all of them use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wukong.deploy.options import DeployOptions

Plain: TypeAlias = dict[str, Any]

DELETED: Plain = {"DeletionPolicy": "Delete", "UpdateReplacePolicy": "Delete"}


@dataclass(frozen=True, slots=True)
class TemplatePart:
    """The contribution of one concern to the template.

    Attributes:
        statements: of the policy of the functions' role.
        variables: of the functions' environment, with values in the template's syntax.
        properties: of every function.
    """

    parameters: Plain = field(default_factory=dict)
    resources: Plain = field(default_factory=dict)
    outputs: Plain = field(default_factory=dict)
    statements: Sequence[Plain] = ()
    variables: Plain = field(default_factory=dict)
    properties: Plain = field(default_factory=dict)


def merged(mappings: Iterable[Plain]) -> Plain:
    """Merge these parts. Raises ValueError if two define the same name."""
    found: Plain = {}
    for each in mappings:
        for key, value in each.items():
            if key in found:
                raise ValueError(f"two parts of the template both define {key}")
            found[key] = value
    return found


def allow(sid: str, actions: Sequence[str], resources: Sequence[Any]) -> Plain:
    """Return the statement that allows these actions on these resources."""
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def arn(rest: str) -> Plain:
    """Return an ARN of this account and region from ``lambda:{here}:function:x``; ``{here}`` stands for both."""
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:{rest.format(here='${AWS::Region}:${AWS::AccountId}')}"}


def function_arns(options: DeployOptions) -> list[Plain]:
    """The functions' ARNs, from their names: a reference to the functions themselves would be circular."""
    return [arn(f"lambda:{{here}}:function:{name}") for name in options.function_names]


def invoked_arns(options: DeployOptions) -> list[Plain]:
    """The ARNs by which the functions are invoked: their own, or those of their aliases."""
    alias = "" if options.qualifier is None else f":{options.qualifier}"
    return [arn(f"lambda:{{here}}:function:{name}{alias}") for name in options.function_names]


def log_group(options: DeployOptions, name: str, **more: Any) -> Plain:
    """Return a log group, which is deleted with the stack. `more`: further properties."""
    return {
        "Type": "AWS::Logs::LogGroup",
        **DELETED,
        "Properties": {"LogGroupName": name, "RetentionInDays": options.log_retention_days, **more},
    }


def secret(name: str, description: str, **value: Any) -> Plain:
    """Return a secret, which is deleted with the stack; `value`: its property ``SecretString`` or another one."""
    return {
        "Type": "AWS::SecretsManager::Secret",
        **DELETED,
        "Properties": {"Name": name, "Description": description, **value},
    }


def role(description: str, service: str, statements: Sequence[Plain], **more: Any) -> Plain:
    """Return a role that `service` assumes, with its permissions. `more`: further properties."""
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Description": description,
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
            "Policies": [
                {"PolicyName": "own", "PolicyDocument": {"Version": "2012-10-17", "Statement": list(statements)}}
            ],
            **more,
        },
    }
