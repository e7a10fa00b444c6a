"""Fargate's rules for task definitions that moto does not check. ECS checks them at registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wukong.emulators.aws_ecs.moto_server import ErrorAnswer

__all__ = ["check_definition"]

_GB = 1024
_SIZES: Mapping[int, range | tuple[int, ...]] = {
    256: (512, _GB, 2 * _GB),
    512: range(_GB, 4 * _GB + 1, _GB),
    1024: range(2 * _GB, 8 * _GB + 1, _GB),
    2048: range(4 * _GB, 16 * _GB + 1, _GB),
    4096: range(8 * _GB, 30 * _GB + 1, _GB),
    8192: range(16 * _GB, 60 * _GB + 1, 4 * _GB),
    16384: range(32 * _GB, 120 * _GB + 1, 8 * _GB),
}
_HEALTH = {"interval": (5, 300), "timeout": (2, 60), "retries": (1, 10), "startPeriod": (0, 300)}
_STOP_TIMEOUT_S = 120


def check_definition(what: Mapping[str, Any]) -> None:
    """Raise `ErrorAnswer` for a request to register a definition that Fargate could not run."""
    if "FARGATE" not in (what.get("requiresCompatibilities") or ()):
        return
    if what.get("networkMode") != "awsvpc":
        raise _wrong("Fargate only supports network mode 'awsvpc'.")
    try:
        fits = int(what["memory"]) in _SIZES[int(what["cpu"])]
    except (KeyError, ValueError):
        fits = False
    if not fits:
        raise _wrong("No Fargate configuration exists for given values.")
    for container in what.get("containerDefinitions", ()):
        _check_container(container, has_role=bool(what.get("executionRoleArn")))


def _check_container(container: Mapping[str, Any], *, has_role: bool) -> None:
    log = (container.get("logConfiguration") or {}).get("logDriver")
    if log == "awslogs" and not has_role:
        raise _wrong("Fargate requires task definition to have execution role ARN to support log driver awslogs.")
    if container.get("secrets") and not has_role:
        raise _wrong("When you are specifying container secrets, you must also specify a value for 'executionRoleArn'.")
    if not 0 <= (container.get("stopTimeout") or 0) <= _STOP_TIMEOUT_S:
        raise _wrong(f"stopTimeout must be between 0 and {_STOP_TIMEOUT_S} seconds on Fargate.")
    for mapping in container.get("portMappings") or ():
        if mapping.get("hostPort", mapping["containerPort"]) != mapping["containerPort"]:
            raise _wrong("When networkMode=awsvpc, the host ports and container ports in port mappings must match.")
    check = container.get("healthCheck")
    if check is None:
        return
    if not check.get("command") or check["command"][0] not in ("CMD", "CMD-SHELL", "NONE"):
        raise _wrong("Health check command must begin with CMD, CMD-SHELL or NONE.")
    for name, (least, most) in _HEALTH.items():
        if check.get(name) is not None and not least <= check[name] <= most:
            raise _wrong(f"Health check {name} must be between {least} and {most}.")


def _wrong(message: str) -> ErrorAnswer:
    return ErrorAnswer("ClientException", message)
