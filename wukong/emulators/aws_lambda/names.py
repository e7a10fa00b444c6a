"""The names of functions: a name, a partial or a full ARN, each with or without a version or alias at its end."""

from __future__ import annotations

import re
from typing import NamedTuple

from wukong.emulators.aws_lambda.refusal import denied, not_a_name, not_found
from wukong.emulators.aws_lambda.settings import ServiceSettings

LATEST = "$LATEST"
_PATTERN = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?"
    r"(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?"
)
_NAME = re.compile(
    r"(?:arn:aws[a-zA-Z-]*:lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>\d{12}):)?(?:function:)?"
    r"(?P<name>[a-zA-Z0-9_-]+)(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9_-]+))?"
)
_QUALIFIER = re.compile(r"\$LATEST|[a-zA-Z0-9_-]+")
_NAME_CHARACTERS = 64


class Name(NamedTuple):
    """A function's name in a request. `qualifier`: a version or alias; None if none was given."""

    function: str
    qualifier: str | None


def parse(text: str, qualifier: str | None, settings: ServiceSettings) -> Name:
    """Read a request's function name and ``Qualifier``. Raises `Refusal`."""
    found = _NAME.fullmatch(text)
    if found is None or len(found["name"]) > _NAME_CHARACTERS:
        raise not_a_name(text, "functionName", _PATTERN)
    if found["region"] not in (None, settings.region):
        there, here = found["region"], settings.region
        raise not_found(f"Functions from '{there}' are not reachable in this region ('{here}')")
    if found["account"] not in (None, settings.account):
        action = "is not authorized to perform an action of lambda on resource"
        raise denied("AccessDeniedException", f"User: arn:aws:iam::{settings.account}:root {action}: {text}")
    if qualifier is not None and not _QUALIFIER.fullmatch(qualifier):
        raise not_a_name(qualifier, "qualifier", r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+")
    within = found["qualifier"]
    if within is not None and qualifier is not None and within != qualifier:
        raise not_a_name(text, "functionName", "The derived qualifier from the function name does not match")
    return Name(found["name"], qualifier if within is None else within)


def arn(settings: ServiceSettings, function: str, qualifier: str | None = None) -> str:
    """Return a function's ARN, with a version or alias if one is given."""
    base = f"arn:aws:lambda:{settings.region}:{settings.account}:function:{function}"
    return base if qualifier is None else f"{base}:{qualifier}"
