"""What ECS fetches for a task before it starts: secrets, and whether its log group is there."""

from __future__ import annotations

import json
from collections.abc import Mapping

from wukong.emulators.aws_ecs.moto_server import Refused, ask

__all__ = ["NoSecret", "log_group_is_there", "secret_value"]

_ARN_PARTS = 7
"""``arn:aws:secretsmanager:region:account:secret:name``; behind it json key, version stage and version id."""


class NoSecret(Exception):
    """A secret that cannot be had, and why."""


def secret_value(value_from: str, region: str) -> str:
    """Return what a container definition's ``valueFrom`` stands for.

    That is the ARN of a secret, with a JSON key, a version stage and a version id behind it, all of which may be
    empty; or the ARN or name of a parameter of Systems Manager. Raises `NoSecret`.
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
    except Refused as error:
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
