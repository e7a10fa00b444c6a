"""The task definition of a store's nodes. Pure, and without secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from wukong.backends.storage.fargate.options import Shape
from wukong.backends.storage.fargate.script import (
    HEALTH,
    PASSWORD_VARIABLE,
    PEM_VARIABLE,
    SCRIPT,
    idle_environment,
)

__all__ = ["CONTAINER", "PORT", "definition", "digest", "statements"]

CONTAINER = "redis"
PORT = 6379
_VALUES_SHARE = 0.75
"""The share of a node's memory for `maxmemory`: the rest is for connections, output buffers, and Redis itself."""
_USER = "999:999"
_ARCHITECTURES = {"arm64": "ARM64", "x86_64": "X86_64"}


def definition(
    name: str, shape: Shape, *, role: str, region: str, log_group: str, password: str, certificate: str | None
) -> dict[str, Any]:
    """Return the arguments of `register_task_definition`, without tags.

    Args:
        name: of the store.
        shape: of the nodes.
        role: ARN of the execution role, by which the container gets its image, its secrets and its log.
        region: of the log.
        log_group: its name.
        password, certificate: ARNs of the secrets; certificate None: no TLS.
    """
    environment = {"WUKONG_MAXMEMORY_MB": str(int(shape.memory_mb * _VALUES_SHARE)), **idle_environment(shape.idle_s)}
    secrets = {PASSWORD_VARIABLE: password, **({} if certificate is None else {PEM_VARIABLE: certificate})}
    container = {
        "name": CONTAINER,
        "image": shape.image,
        "essential": True,
        "cpu": shape.cpu,
        "memory": shape.memory_mb,
        "user": _USER,
        "entryPoint": ["sh", "-c"],
        "command": [SCRIPT],
        "environment": _pairs("value", environment),
        "secrets": _pairs("valueFrom", secrets),
        "portMappings": [{"containerPort": PORT, "protocol": "tcp"}],
        "ulimits": [{"name": "nofile", "softLimit": 65_535, "hardLimit": 65_535}],
        "linuxParameters": {"initProcessEnabled": True},
        "stopTimeout": 30,
        "healthCheck": {
            "command": ["CMD-SHELL", HEALTH],
            "interval": 10,
            "timeout": 5,
            "retries": 3,
            "startPeriod": 15,
        },
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {"awslogs-group": log_group, "awslogs-region": region, "awslogs-stream-prefix": "redis"},
        },
    }
    return {
        "family": f"{name}-store",
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": str(shape.cpu),
        "memory": str(shape.memory_mb),
        "runtimePlatform": {
            "cpuArchitecture": _ARCHITECTURES[shape.architecture],
            "operatingSystemFamily": "LINUX",
        },
        "executionRoleArn": role,
        "containerDefinitions": [container],
    }


def statements(secrets: Any, logs: Any) -> list[dict[str, Any]]:
    """Return the execution role's permissions, as statements of an IAM policy: what containers need before they start.

    Args:
        secrets: ARN of the nodes' secrets, with a ``*`` for all of them.
        logs: ARN of their log group, with ``:*`` for its streams.
    """
    images = [
        "ecr:GetAuthorizationToken",
        "ecr:BatchCheckLayerAvailability",
        "ecr:GetDownloadUrlForLayer",
        "ecr:BatchGetImage",
    ]
    return [
        {"Effect": "Allow", "Action": "secretsmanager:GetSecretValue", "Resource": secrets},
        {"Effect": "Allow", "Action": ["logs:CreateLogStream", "logs:PutLogEvents"], "Resource": logs},
        {"Effect": "Allow", "Action": images, "Resource": "*"},
    ]


def digest(wanted: Mapping[str, Any]) -> str:
    """Return a digest of a definition, to compare definitions by; each is tagged with its own."""
    return blake2b(json.dumps(wanted, sort_keys=True).encode(), digest_size=8).hexdigest()


def _pairs(key: str, values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, key: value} for name, value in values.items()]
