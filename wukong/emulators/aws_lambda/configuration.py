"""The configuration of a function, and the mistakes that AWS would refuse as well."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from wukong.emulators.aws_lambda.refusal import Refusal, invalid, not_in

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
"""The only runtime: that of the interpreter which runs the service."""

_DEFAULTS: dict[str, Any] = {
    "Architectures": ["x86_64"],
    "Description": "",
    "Environment": {"Variables": {}},
    "EphemeralStorage": {"Size": 512},
    "MemorySize": 128,
    "PackageType": "Zip",
    "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"},
    "Timeout": 3,
    "TracingConfig": {"Mode": "PassThrough"},
}
_CONFIGURABLE = (
    "DeadLetterConfig",
    "Description",
    "Environment",
    "EphemeralStorage",
    "Handler",
    "MemorySize",
    "Role",
    "Runtime",
    "SnapStart",
    "Timeout",
    "TracingConfig",
    "VpcConfig",
)
_RANGES = {"Timeout": (1, 900), "MemorySize": (128, 10_240), "EphemeralStorage.Size": (512, 10_240)}
_ENVIRONMENT_BYTES = 4_096
_SNAPSHOT_TMP_MB = 512
_RESERVED = re.compile(
    r"_HANDLER|_X_AMZN_TRACE_ID|AWS_(DEFAULT_)?REGION|AWS_EXECUTION_ENV|AWS_LAMBDA_(FUNCTION_.*|LOG_.*|RUNTIME_API|"
    r"INITIALIZATION_TYPE)|AWS_ACCESS_KEY(_ID)?|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN|LAMBDA_(TASK_ROOT|RUNTIME_DIR)"
)


def created(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a new function's configuration. Raises `Refusal`."""
    if body.get("PackageType", "Zip") != "Zip":
        raise invalid("This service runs no container images; deploy the same code as a zip")
    for name in ("Handler", "Runtime", "Role"):
        if not body.get(name):
            raise invalid(f"{name} is mandatory for functions created with deployment packages of type Zip.")
    given = {name: body[name] for name in (*_CONFIGURABLE, "Architectures") if name in body}
    return _checked({**_DEFAULTS, **given})


def changed(before: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's configuration after an update. Raises `Refusal`."""
    return _checked({**before, **{name: body[name] for name in _CONFIGURABLE if name in body}})


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    if settings["Runtime"] != RUNTIME:
        raise invalid(
            f"This service runs {RUNTIME}, as the interpreter that it was started with, not {settings['Runtime']}"
        )
    for name, (least, most) in _RANGES.items():
        outer, _, inner = name.partition(".")
        value = settings[outer].get(inner, least) if inner else settings[outer]
        if not least <= value <= most:
            where = "less than or equal to" if value > most else "greater than or equal to"
            limit = most if value > most else least
            place = f"{outer[0].lower()}{outer[1:]}{f'.{inner.lower()}' if inner else ''}"
            message = (
                f"1 validation error detected: Value '{value}' at '{place}' failed to "
                f"satisfy constraint: Member must have value {where} {limit}"
            )
            raise Refusal(400, "ValidationException", {"message": message})
    _check_snapshot(settings)
    variables = settings["Environment"].get("Variables") or {}
    begin = "Lambda was unable to configure your environment variables because the environment variables you have "
    if reserved := sorted(name for name in variables if _RESERVED.fullmatch(name)):
        raise invalid(
            f"{begin}provided contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    measured = json.dumps(variables, separators=(",", ":"))
    if len(measured) > _ENVIRONMENT_BYTES:
        raise invalid(f"{begin}provided exceeded the 4KB limit. String measured: {measured[:80]}...")
    return settings


def _check_snapshot(settings: dict[str, Any]) -> None:
    wanted = settings["SnapStart"].get("ApplyOn", "None")
    if wanted not in ("PublishedVersions", "None"):
        raise not_in(str(wanted), "snapStart.applyOn", ("PublishedVersions", "None"))
    settings["SnapStart"] = {"ApplyOn": wanted, "OptimizationStatus": "Off"}
    if wanted != "None" and settings["EphemeralStorage"].get("Size", 512) > _SNAPSHOT_TMP_MB:
        raise invalid(f"SnapStart is not supported for functions with more than {_SNAPSHOT_TMP_MB} MB of /tmp")


def event_settings(body: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event invoke configuration: `before` with the changes of `body`. Raises `Refusal`."""
    names = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
    given = {name: body[name] for name in names if body.get(name) is not None}
    if not given:
        raise invalid("You must specify at least one of error handling or destination setting.")
    if not 0 <= given.get("MaximumRetryAttempts", 0) <= 2:
        raise invalid("MaximumRetryAttempts is 0, 1 or 2")
    if not 60 <= given.get("MaximumEventAgeInSeconds", 60) <= 21_600:
        raise invalid("MaximumEventAgeInSeconds is from 60 to 21600")
    told = {"DestinationConfig": {}, **{name: before[name] for name in names if name in before}, **given}
    told["DestinationConfig"] = {"OnSuccess": {}, "OnFailure": {}, **told["DestinationConfig"]}
    return told
