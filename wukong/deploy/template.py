"""The CloudFormation template of a deployment, as plain data. Pure: the same options give the same template.

    parts: functions, their role, logs, network, key, store, proxy  ->  one template

    Role <---- Function, Function2, ... ----> LogGroup, LogGroup2, ...
                  ^  |
    InvokeConfig -+  +--> KeySecret, if the key is in a secret; else a parameter that is not shown

A `TemplatePart` adds parameters, resources and outputs, permissions of the functions' role, and variables of their
environment. A store that runs in the same account is one more part, and so is the proxy; both share a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wukong.backends.entry import KEY_VARIABLE
from wukong.backends.faas.aws_lambda.deployed import SECRET_VARIABLE
from wukong.deploy.code import Code, Image
from wukong.deploy.containers import cluster, functions_group, groups_of_functions
from wukong.deploy.network import Network
from wukong.deploy.options import FREE_STORAGE_MB, DeployOptions
from wukong.deploy.parts import (
    Plain,
    TemplatePart,
    allow,
    arn,
    function_arns,
    invoked_arns,
    log_group,
    merged,
    role,
    secret,
)
from wukong.deploy.proxy import proxy
from wukong.deploy.store import store
from wukong.deploy.table import table
from wukong.deploy.versions import published, snapshots
from wukong.errors import ConfigError

RETRIES = 2
EVENT_AGE_S = 3_600
KEY_PARAMETER = "DeploymentKey"
BODY_BYTES = 51_200
"""CloudFormation's limit of a template that is sent with the call."""
HASHES = {"PYTHONHASHSEED": "0"}
"""Variables that make all functions hash texts alike."""

VARIABLES_BYTES = 4_096
"""Lambda's limit of all variables together."""

_FORMAT = 1
_SECTION = "Wukong"
_KEY_SECRET = "KeySecret"
_OWN_INTERFACES = (
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
)


def template(
    options: DeployOptions,
    code: Code,
    store_variables: Iterable[str] = (),
    extras: Iterable[str] = ("redis",),
    network: Network | None = None,
    proxy_image: Image | None = None,
    parts: Iterable[TemplatePart] = (),
    marks: Mapping[str, str] | None = None,
) -> Plain:
    """Return the template.

    Args:
        options: checked ones.
        code: what the functions run.
        store_variables: the names of the variables that the store needs in functions.
        extras: Wukong's extras in the package; only recorded.
        network: of functions, and of what runs on Fargate; None: in no VPC.
        proxy_image: that the proxy runs, if there is a proxy.
        parts: further ones.
        marks: of hidden values, if versions are published: see `secret.marked`.
    """
    names = sorted(store_variables)
    key: Plain | None = {"Ref": _KEY_SECRET} if options.has_secret else None
    shared = [
        _key(options),
        _store(names),
        _network(options),
        cluster(options),
        functions_group(options, network),
        store(options, network),
        table(options),
        proxy(options, proxy_image, network, key),
        *parts,
    ]
    statements = [*_own_statements(options), *(each for part in shared for each in part.statements)]
    variables: Plain = merged(part.variables for part in shared)
    properties: Plain = merged(part.properties for part in shared)
    properties |= snapshots(options)
    functions = _functions(options, code, variables, properties, marks or {})
    all_parts = [*shared, functions, _role(options, statements)]
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Wukong: functions that run Dask graphs ({options.name})",
        "Metadata": {
            _SECTION: {
                "format": _FORMAT,
                "options": options.described(),
                "code": code.described(),
                "store": {"variables": names, "extras": list(extras)},
                **({"marks": dict(marks)} if marks else {}),
                **_versions(),
            }
        },
        "Parameters": merged(part.parameters for part in all_parts),
        "Resources": merged(part.resources for part in all_parts),
        "Outputs": merged(part.outputs for part in all_parts),
    }


def body(document: Plain) -> str:
    """Return the text of a template. Raises `ConfigError` if it is too large."""
    text = json.dumps(document, separators=(",", ":"), sort_keys=True)
    if len(text.encode()) > BODY_BYTES:
        raise ConfigError(
            f"the template has {len(text.encode()):,} bytes; CloudFormation takes {BODY_BYTES:,}",
            hint="deploy fewer functions, or fewer and shorter tags",
        )
    return text


def noted(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return Wukong's record in a template's metadata: ``options``, ``code``, ``store`` and versions."""
    found = metadata.get(_SECTION, {})
    return found if isinstance(found, Mapping) and found.get("format") == _FORMAT else {}


def store_parameters(variables: Iterable[str]) -> dict[str, str]:
    """Return the name of the parameter for each of the store's variables, by the variable's name."""
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


def _key(options: DeployOptions) -> TemplatePart:
    """The key that signs all messages: in a variable, or in a secret that a variable names."""
    parameter: Plain = {
        "Type": "String",
        "NoEcho": True,
        "Description": "What everything that client and functions exchange is signed with",
        "MinLength": 64,
        "MaxLength": 64,
        "AllowedPattern": "[0-9a-f]*",
    }
    made: Plain = {}
    outputs: Plain = {}
    if options.has_secret:
        what = f"The deployment key of Wukong's functions ({options.name})"
        made[_KEY_SECRET] = secret(options.secret_name, what, SecretString={"Ref": KEY_PARAMETER})
        outputs[_KEY_SECRET] = {
            "Description": "The secret that holds the deployment's key",
            "Value": {"Ref": _KEY_SECRET},
        }
    if options.key_in == "environment":
        return TemplatePart({KEY_PARAMETER: parameter}, made, outputs, variables={KEY_VARIABLE: {"Ref": KEY_PARAMETER}})
    return TemplatePart(
        {KEY_PARAMETER: parameter},
        made,
        outputs,
        [allow("ReadOwnKey", ["secretsmanager:GetSecretValue"], [{"Ref": _KEY_SECRET}])],
        {SECRET_VARIABLE: {"Ref": _KEY_SECRET}},
    )


def _store(variables: Iterable[str]) -> TemplatePart:
    """The store's credentials in functions, which are not shown anywhere."""
    by_name = store_parameters(variables)
    return TemplatePart(
        {
            parameter: {"Type": "String", "NoEcho": True, "Description": f"The functions' variable {name}"}
            for name, parameter in by_name.items()
        },
        variables={name: {"Ref": parameter} for name, parameter in by_name.items()},
    )


def _network(options: DeployOptions) -> TemplatePart:
    """Network interfaces in the VPC, which Lambda makes in the role's name. The functions' own code may not."""
    if not options.subnets:
        return TemplatePart()
    allowed = allow("OwnNetworkInterfaces", _OWN_INTERFACES, ["*"])  # EC2 offers no narrower resource for all of them
    denied: Plain = {
        "Sid": "NotByTheFunctionsCode",
        "Effect": "Deny",
        "Action": list(_OWN_INTERFACES),
        "Resource": "*",
        "Condition": {"ArnEquals": {"lambda:SourceFunctionArn": function_arns(options)}},
    }
    config = {"SubnetIds": list(options.subnets), "SecurityGroupIds": groups_of_functions(options)}
    return TemplatePart(statements=[allowed, denied], properties={"VpcConfig": config})


def _own_statements(options: DeployOptions) -> list[Plain]:
    groups = [arn(f"logs:{{here}}:log-group:{group}:*") for group in options.log_groups]
    return [
        allow("InvokeOwnFunctions", ["lambda:InvokeFunction"], invoked_arns(options)),
        allow("WriteOwnLogs", ["logs:CreateLogStream", "logs:PutLogEvents"], groups),
    ]


def _role(options: DeployOptions, statements: Sequence[Plain]) -> TemplatePart:
    made = role(f"What Wukong's functions may do ({options.name})", "lambda.amazonaws.com", statements)
    output = {"Description": "The functions' role", "Value": {"Fn::GetAtt": ["Role", "Arn"]}}
    return TemplatePart(resources={"Role": made}, outputs={"Role": output})


def _functions(
    options: DeployOptions, code: Code, variables: Plain, properties: Plain, marks: Mapping[str, str]
) -> TemplatePart:
    """Each function with its log group, which is made first and deleted last, and the retries of its events."""
    resources: Plain = {}
    for each, group in zip(options.deployed_functions, options.log_groups, strict=True):
        name, number = each.name, each.number
        resources[f"LogGroup{number}"] = log_group(options, group)
        function: Plain = {
            "FunctionName": name,
            "Description": "Runs executors of Wukong",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "MemorySize": each.memory_mb,
            "Timeout": options.timeout_s,
            "Architectures": [options.architecture],
            "Environment": {"Variables": {**HASHES, **variables}},
            "LoggingConfig": {"LogGroup": {"Ref": f"LogGroup{number}"}},
            # Executors invoke executors: Lambda would take a long chain for a mistake, and end it.
            "RecursiveLoop": "Allow",
            **code.properties(),
            **properties,
        }
        if options.ephemeral_storage_mb != FREE_STORAGE_MB:
            function["EphemeralStorage"] = {"Size": options.ephemeral_storage_mb}
        if options.reserved_concurrency is not None:
            function["ReservedConcurrentExecutions"] = options.reserved_concurrency
        resources[f"Function{number}"] = {"Type": "AWS::Lambda::Function", "Properties": function}
        versions = published(options, each, function, marks)
        resources |= versions
        resources[f"InvokeConfig{number}"] = {
            "Type": "AWS::Lambda::EventInvokeConfig",
            **({"DependsOn": [f"Alias{number}"]} if versions else {}),
            "Properties": {
                "FunctionName": {"Ref": f"Function{number}"},
                "Qualifier": options.qualifier or "$LATEST",
                "MaximumRetryAttempts": RETRIES,
                "MaximumEventAgeInSeconds": EVENT_AGE_S,
            },
        }
    output = {"Description": "The functions, by name", "Value": ",".join(options.function_names)}
    return TemplatePart(resources=resources, outputs={"Functions": output})
