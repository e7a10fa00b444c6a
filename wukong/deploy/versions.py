"""Published versions of the functions, and the alias by which they are invoked: for SnapStart, and provisioned ones.

    Function -> Version, named by what it keeps -> Alias "live" -> every invocation

A version keeps code and configuration as they were when it was published. CloudFormation publishes a new one if the
resource has another name, and Lambda refuses one that would be like the last. So a version's name contains a digest of
exactly what a version keeps: the function's properties, and marks of the hidden values in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b

from wukong.deploy.options import DeployedFunction, DeployOptions
from wukong.deploy.parts import Plain

_NOT_KEPT = ("FunctionName", "RecursiveLoop", "ReservedConcurrentExecutions")
"""Properties that hold for all versions of a function."""


def snapshots(options: DeployOptions) -> Plain:
    """Return the properties by which Lambda takes snapshots of functions, for `parts.TemplatePart.properties`."""
    return {"SnapStart": {"ApplyOn": "PublishedVersions"}} if options.snapstart else {}


def published(options: DeployOptions, which: DeployedFunction, function: Plain, marks: Mapping[str, str]) -> Plain:
    """Return the resources of the newest version of a function, and its alias; none if invocations need no version.

    Args:
        which: the function. Environments of a larger one are not provisioned, for it is needed rarely.
        function: its properties.
        marks: of hidden values, see `secret.marked`.
    """
    if options.qualifier is None:
        return {}
    kept = {key: value for key, value in function.items() if key not in _NOT_KEPT}
    digest = blake2b(json.dumps([kept, marks], sort_keys=True).encode(), digest_size=6).hexdigest()
    number = which.number
    version, reference = f"Version{number}V{digest}", {"Ref": f"Function{number}"}
    alias: Plain = {
        "Name": options.qualifier,
        "Description": "What clients and executors invoke",
        "FunctionName": reference,
        "FunctionVersion": {"Fn::GetAtt": [version, "Version"]},
    }
    if options.provisioned_concurrency is not None and not which.larger:
        alias["ProvisionedConcurrencyConfig"] = {"ProvisionedConcurrentExecutions": options.provisioned_concurrency}
    return {
        version: {"Type": "AWS::Lambda::Version", "Properties": {"FunctionName": reference}},
        f"Alias{number}": {"Type": "AWS::Lambda::Alias", "Properties": alias},
    }
