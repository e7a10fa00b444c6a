"""Functions as they are deployed: versions, aliases, limits, and the configuration in the API's own words.

What runs of them is in `scaling`, what waits in `events`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from wukong.emulators.aws_lambda.names import LATEST, Name, arn
from wukong.emulators.aws_lambda.package import Code
from wukong.emulators.aws_lambda.recursion import TERMINATE
from wukong.emulators.aws_lambda.refusal import no_function
from wukong.emulators.aws_lambda.settings import ServiceSettings


@dataclass(eq=False, slots=True)
class Version:
    """One version of a function: code and configuration that don't change any more. An update makes a new one.

    Attributes:
        number: ``$LATEST``, or the number of a published version.
        settings: the configuration, in the API's words.
        state: ``Pending`` while a snapshot of it is taken, ``Failed`` if that could not be; `why`.
    """

    function: Function
    number: str
    code: Code
    settings: Mapping[str, Any]
    revision: str = field(default_factory=lambda: str(uuid.uuid4()))
    modified: datetime = field(default_factory=lambda: datetime.now(UTC))
    state: str = "Active"
    why: str = ""

    @property
    def arn(self) -> str:
        """The function's ARN, with the number of a published version."""
        return self.function.arn if self.number == LATEST else f"{self.function.arn}:{self.number}"

    @property
    def handler(self) -> str:
        """``module.function``."""
        return str(self.settings["Handler"])

    @property
    def timeout_s(self) -> float:
        """The configured time limit, seconds."""
        return float(self.settings["Timeout"])

    @property
    def memory_mb(self) -> int:
        """The configured memory, MB of 1,048,576 bytes."""
        return int(self.settings["MemorySize"])

    @property
    def tmp_mb(self) -> int:
        """The configured size of /tmp, MB of 1,048,576 bytes."""
        return int(self.settings["EphemeralStorage"].get("Size", 512))

    @property
    def snapped(self) -> bool:
        """Whether its environments are restored from a snapshot: that is for published versions only."""
        return self.number != LATEST and self.settings["SnapStart"]["ApplyOn"] == "PublishedVersions"

    @property
    def variables(self) -> Mapping[str, str]:
        """The function's own environment variables."""
        return self.settings["Environment"].get("Variables") or {}

    def configuration(self, state: str | None = None, update: str | None = "Successful") -> dict[str, Any]:
        """Return the answer to ``GetFunctionConfiguration``. `state` None: its own; `update` None: none."""
        state = self.state if state is None else state
        told = {
            **self.settings,
            "CodeSha256": self.code.sha256,
            "CodeSize": self.code.size_bytes,
            "FunctionArn": self.arn,
            "FunctionName": self.function.name,
            "LastModified": f"{self.modified:%Y-%m-%dT%H:%M:%S}.{self.modified.microsecond // 1000:03d}+0000",
            "LoggingConfig": {"LogFormat": "Text", "LogGroup": self.function.log_group},
            "RevisionId": self.revision,
            "SnapStart": {**self.settings["SnapStart"], "OptimizationStatus": "On" if self.snapped else "Off"},
            "State": state,
            "Version": self.number,
        }
        if state == "Failed":
            told |= {"StateReason": self.why, "StateReasonCode": "FunctionError"}
        if state == "Pending":
            told |= {"StateReason": "The function is being created.", "StateReasonCode": "Creating"}
        if update is not None:
            told["LastUpdateStatus"] = update
        return told


@dataclass(eq=False, slots=True)
class Function:
    """A function.

    Attributes:
        versions: by number; ``$LATEST`` is always there.
        aliases: the number that each points to, and its description.
        reserved: its own share of the concurrency, which is its limit as well; None: it shares the account's rest.
        event_settings: its event invoke configurations, by qualifier.
        recursive_loop: ``Terminate`` or ``Allow``: how the service treats long chains of its own invocations.
    """

    name: str
    arn: str
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, dict[str, Any]] = field(default_factory=dict)
    reserved: int | None = None
    event_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    recursive_loop: str = TERMINATE
    tags: dict[str, str] = field(default_factory=dict)
    published: int = 0

    @property
    def log_group(self) -> str:
        """The name of its log group."""
        return f"/aws/lambda/{self.name}"

    def latest(self) -> Version:
        """Return ``$LATEST``."""
        return self.versions[LATEST]

    def version(self, qualifier: str | None) -> Version | None:
        """Return the version for a qualifier: a number, an alias, or None for ``$LATEST``."""
        if qualifier is None:
            return self.versions[LATEST]
        if qualifier in self.aliases:
            qualifier = self.aliases[qualifier]["FunctionVersion"]
        return self.versions.get(qualifier)


class Functions:
    """All functions, by name."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self.by_name: dict[str, Function] = {}

    def find(self, name: Name) -> Function:
        """Return a function. Raises `Refusal` if there is none of that name."""
        function = self.by_name.get(name.function)
        if function is None:
            raise no_function(arn(self._settings, name.function, name.qualifier))
        return function

    def find_version(self, name: Name) -> Version:
        """Return the version for a name. Raises `Refusal` if there is none."""
        version = self.find(name).version(name.qualifier)
        if version is None:
            raise no_function(arn(self._settings, name.function, name.qualifier))
        return version

    def has(self, version: Version) -> bool:
        """Return whether a version has been neither replaced nor deleted."""
        function = version.function
        return self.by_name.get(function.name) is function and function.versions.get(version.number) is version

    def reserved(self) -> int:
        """Return how much of the account's concurrency single functions have reserved."""
        return sum(function.reserved or 0 for function in self.by_name.values())
