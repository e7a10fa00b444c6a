"""The CloudFormation template of a deployment, as plain data. Pure: from the same options comes the same template.

    parts: functions, their role, logs, network, key, store's variables  ->  one template

    Role <---- Function, Function2, ... ----> LogGroup, LogGroup2, ...
                  ^  |
    InvokeConfig -+  +--> KeySecret, where the key is kept there; parameters that are not shown, where not

A `Part` adds parameters, resources and outputs, what the functions' role may do, and what functions find in their
environment. A store that runs in the same account is one more part: its cluster, roles and log group among the
resources, its password among the variables, and the right to look for its servers among the statements.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias

from wukong.backends.entry import KEY_VARIABLE
from wukong.backends.faas.aws_lambda.deployed import SECRET_VARIABLE
from wukong.deploy.code import Code
from wukong.deploy.options import Options
from wukong.errors import ConfigError

Plain: TypeAlias = dict[str, Any]

RETRIES = 2
EVENT_AGE_S = 3_600
KEY_PARAMETER = "DeploymentKey"
BODY_BYTES = 51_200
"""CloudFormation's limit of a template that is sent with the call."""
VARIABLES_BYTES = 4_096
"""Lambda's limit of all variables together."""

_FORMAT = 1
_SECTION = "Wukong"
_OWN_INTERFACES = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)
_DELETED: Plain = {"DeletionPolicy": "Delete", "UpdateReplacePolicy": "Delete"}


@dataclass(frozen=True, slots=True)
class Part:
    """What one concern adds to the template.

    Attributes:
        statements: of the policy of the functions' role.
        variables: of the functions' environment: values as the template writes them.
        properties: of every function.
    """

    parameters: Plain = field(default_factory=dict)
    resources: Plain = field(default_factory=dict)
    outputs: Plain = field(default_factory=dict)
    statements: Sequence[Plain] = ()
    variables: Plain = field(default_factory=dict)
    properties: Plain = field(default_factory=dict)


def template(
    options: Options,
    code: Code,
    store_variables: Iterable[str] = (),
    extras: Iterable[str] = ("redis",),
    parts: Iterable[Part] = (),
) -> Plain:
    """Return the template.

    Args:
        options: checked ones.
        code: what the functions run.
        store_variables: the names of the variables that the store needs in functions.
        extras: what of Wukong's extras is in the package for it; only noted.
        parts: further ones.
    """
    names = sorted(store_variables)
    shared = [_key(options), _store(names), _network(options), *parts]
    statements = [*_own_statements(options), *(each for part in shared for each in part.statements)]
    variables: Plain = _merged(part.variables for part in shared)
    properties: Plain = _merged(part.properties for part in shared)
    all_parts = [*shared, _functions(options, code, variables, properties), _role(options, statements)]
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Wukong: functions that run Dask graphs ({options.name})",
        "Metadata": {
            _SECTION: {
                "format": _FORMAT,
                "options": options.described(),
                "code": code.described(),
                "store": {"variables": names, "extras": list(extras)},
                **_versions(),
            }
        },
        "Parameters": _merged(part.parameters for part in all_parts),
        "Resources": _merged(part.resources for part in all_parts),
        "Outputs": _merged(part.outputs for part in all_parts),
    }


def body(document: Plain) -> str:
    """Return a template as it is sent. Raises `ConfigError` where it is too large."""
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) > BODY_BYTES:
        raise ConfigError(
            f"the template has {len(text.encode()):,} bytes; CloudFormation takes {BODY_BYTES:,}",
            hint="deploy fewer functions, or fewer and shorter tags",
        )
    return text


def noted(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what Wukong has noted in a template's metadata: ``options``, ``code``, ``store`` and versions."""
    found = metadata.get(_SECTION, {})
    return found if isinstance(found, Mapping) and found.get("format") == _FORMAT else {}


def store_parameters(variables: Iterable[str]) -> dict[str, str]:
    """Return the parameter through which each of the store's variables comes, by the variable's name."""
    return {name: f"StoreVariable{n}" for n, name in enumerate(sorted(variables), 1)}


def _versions() -> Plain:
    found: Plain = {}
    for name, package in (("wukong", "wukong-serverless"), ("dask", "dask"), ("cloudpickle", "cloudpickle")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found


# --- the parts


def _key(options: Options) -> Part:
    """The key that everything exchanged is signed with: in a variable, or in a secret that a variable names."""
    parameter: Plain = {
        "Type": "String",
        "NoEcho": True,
        "Description": "What everything that client and functions exchange is signed with",
        "MinLength": 64,
        "MaxLength": 64,
        "AllowedPattern": "[0-9a-f]*",
    }
    if options.key_in == "environment":
        return Part({KEY_PARAMETER: parameter}, variables={KEY_VARIABLE: {"Ref": KEY_PARAMETER}})
    secret: Plain = {
        "Type": "AWS::SecretsManager::Secret",
        **_DELETED,
        "Properties": {
            "Name": options.secret_name,
            "Description": f"The deployment key of Wukong's functions ({options.name})",
            "SecretString": {"Ref": KEY_PARAMETER},
        },
    }
    return Part(
        {KEY_PARAMETER: parameter},
        {"KeySecret": secret},
        {"KeySecret": {"Description": "The secret that holds the deployment's key", "Value": {"Ref": "KeySecret"}}},
        [_allow("ReadOwnKey", ["secretsmanager:GetSecretValue"], [{"Ref": "KeySecret"}])],
        {SECRET_VARIABLE: {"Ref": "KeySecret"}},
    )


def _store(variables: Iterable[str]) -> Part:
    """What opens the store there: passwords and the like, which are not shown anywhere."""
    by_name = store_parameters(variables)
    return Part(
        {
            parameter: {"Type": "String", "NoEcho": True, "Description": f"The functions' variable {name}"}
            for name, parameter in by_name.items()
        },
        variables={name: {"Ref": parameter} for name, parameter in by_name.items()},
    )


def _network(options: Options) -> Part:
    """Network interfaces in the VPC, which Lambda makes in the role's name. The functions' own code may not."""
    if not options.subnets:
        return Part()
    allowed = _allow("OwnNetworkInterfaces", _OWN_INTERFACES, ["*"])  # EC2 knows no narrower resource for all of them
    denied: Plain = {
        "Sid": "NotByTheFunctionsCode",
        "Effect": "Deny",
        "Action": list(_OWN_INTERFACES),
        "Resource": "*",
        "Condition": {"ArnEquals": {"lambda:SourceFunctionArn": _function_arns(options)}},
    }
    config = {"SubnetIds": list(options.subnets), "SecurityGroupIds": list(options.security_groups)}
    return Part(statements=[allowed, denied], properties={"VpcConfig": config})


def _own_statements(options: Options) -> list[Plain]:
    groups = [
        {"Fn::Sub": f"arn:${{AWS::Partition}}:logs:${{AWS::Region}}:${{AWS::AccountId}}:log-group:{group}:*"}
        for group in options.log_groups
    ]
    return [
        _allow("InvokeOwnFunctions", ["lambda:InvokeFunction"], _function_arns(options)),
        _allow("WriteOwnLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], groups),
    ]


def _role(options: Options, statements: Sequence[Plain]) -> Part:
    trust: Plain = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    role: Plain = {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Description": f"What Wukong's functions may do ({options.name})",
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [trust]},
            "Policies": [
                {"PolicyName": "own", "PolicyDocument": {"Version": "2012-10-17", "Statement": list(statements)}}
            ],
        },
    }
    output = {"Description": "The functions' role", "Value": {"Fn::GetAtt": ["Role", "Arn"]}}
    return Part(resources={"Role": role}, outputs={"Role": output})


def _functions(options: Options, code: Code, variables: Plain, properties: Plain) -> Part:
    """Each function with its log group, which is made first and goes last, and how its events are retried."""
    resources: Plain = {}
    for n, (name, group) in enumerate(zip(options.function_names, options.log_groups, strict=True), 1):
        number = "" if n == 1 else str(n)
        resources[f"LogGroup{number}"] = {
            "Type": "AWS::Logs::LogGroup",
            **_DELETED,
            "Properties": {"LogGroupName": group, "RetentionInDays": options.log_retention_days},
        }
        function: Plain = {
            "FunctionName": name,
            "Description": "Runs executors of Wukong",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "MemorySize": options.memory_mb,
            "Timeout": options.timeout_s,
            "Architectures": [options.architecture],
            "Environment": {"Variables": variables},
            "LoggingConfig": {"LogGroup": {"Ref": f"LogGroup{number}"}},
            # Executors invoke executors: Lambda would take a long chain of them for a mistake, and end it.
            "RecursiveLoop": "Allow",
            **code.properties(),
            **properties,
        }
        if options.reserved_concurrency is not None:
            function["ReservedConcurrentExecutions"] = options.reserved_concurrency
        resources[f"Function{number}"] = {"Type": "AWS::Lambda::Function", "Properties": function}
        resources[f"InvokeConfig{number}"] = {
            "Type": "AWS::Lambda::EventInvokeConfig",
            "Properties": {
                "FunctionName": {"Ref": f"Function{number}"},
                "Qualifier": "$LATEST",
                "MaximumRetryAttempts": RETRIES,
                "MaximumEventAgeInSeconds": EVENT_AGE_S,
            },
        }
    output = {"Description": "The functions, by name", "Value": ",".join(options.function_names)}
    return Part(resources=resources, outputs={"Functions": output})


def _function_arns(options: Options) -> list[Plain]:
    """The functions' ARNs, from their names: to refer to the functions themselves would be a circle."""
    return [
        {"Fn::Sub": f"arn:${{AWS::Partition}}:lambda:${{AWS::Region}}:${{AWS::AccountId}}:function:{name}"}
        for name in options.function_names
    ]


def _allow(sid: str, actions: Sequence[str], resources: Sequence[Any]) -> Plain:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": list(resources)}


def _merged(mappings: Iterable[Plain]) -> Plain:
    found: Plain = {}
    for each in mappings:
        for key, value in each.items():
            if key in found:
                raise ValueError(f"two parts of the template both define {key}")
            found[key] = value
    return found
