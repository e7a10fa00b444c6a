"""What ECS looks up for a task before it starts: its secrets and its log group."""

from __future__ import annotations

import json
from collections.abc import Mapping

from wukong.emulators.aws_ecs.moto_server import ErrorAnswer, ask

__all__ = ["NoSecret", "log_group_is_there", "secret_value"]

_ARN_PARTS = 7
"""The parts of ``arn:aws:secretsmanager:region:account:secret:name``; JSON key, version stage and version id follow."""


class NoSecret(Exception):
    """Why a secret cannot be fetched."""


def secret_value(value_from: str, region: str) -> str:
    """Return the value of a container definition's ``valueFrom``.

    That names a secret by its ARN, followed by a JSON key, a version stage and a version id, all of which may be
    empty; or a parameter of Systems Manager by its ARN or name. Raises `NoSecret`.
    """
    try:
        if ":secretsmanager:" not in value_from:
            name = value_from.partition(":parameter")[2] or value_from
            found = ask("ssm", "GetParameter", region, Name=name, WithDecryption=True)
            return str(found["Parameter"]["Value"])
        parts = value_from.split(":")
        key, stage, version = (*parts[_ARN_PARTS:], "", "", "")[:3]
        which = {name: each for name, each in (("VersionStage", stage), ("VersionId", version)) if each}
        found = ask("secretsmanager", "GetSecretValue", parts[3], SecretId=":".join(parts[:_ARN_PARTS]), **which)
    except ErrorAnswer as error:
        raise NoSecret(f"failed to fetch secret {value_from}: {error}") from error
    text = found.get("SecretString")
    if text is None:
        raise NoSecret(f"the secret {value_from} is not text")
    if not key:
        return str(text)
    try:
        values = json.loads(text)
        return str(values[key])
    except (ValueError, KeyError, TypeError) as error:
        raise NoSecret(f"retrieved secret from Secrets Manager did not contain json key {key}") from error


def log_group_is_there(options: Mapping[str, str], region: str) -> bool:
    """Return whether a container with these options of the log driver ``awslogs`` can write its log."""
    group = options.get("awslogs-group", "")
    if options.get("awslogs-create-group") == "true":
        return True
    found = ask("logs", "DescribeLogGroups", options.get("awslogs-region", region), logGroupNamePrefix=group)
    return any(each["logGroupName"] == group for each in found["logGroups"])
