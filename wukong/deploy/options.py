"""What can be chosen about a deployment, held against Lambda's limits before AWS is asked anything.

What was chosen is written into the stack itself (`Options.described`), so that whoever deploys again, from wherever,
says only what is to be different. Two things are not kept: the Python, which has to be that of whoever deploys, and the
requirements file, which is where it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from wukong.errors import ConfigError
from wukong.executor.package import ARCHITECTURES, HERE, PYTHONS
from wukong.executor.package import checked as check_package
from wukong.options import suggestion

KeyIn: TypeAlias = Literal["environment", "secrets-manager"]

MOST_FUNCTIONS = 20
MEMORY_MB = (128, 10_240)
TIMEOUT_S = (1, 900)
RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1_096, 1_827, 2_192, 2_557, 2_922, 3_288),
    3_653,
)
"""What CloudWatch Logs takes."""
TAG = "wukong:deployment"
"""Everything that belongs to a deployment has this tag, with the deployment's name."""
VPC_NEEDS = "functions in a VPC need subnets and security groups"

_NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){0,23}")
_KEPT_APART = ("name", "python", "requirements")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A deployment as it is wanted.

    Attributes:
        name: of the stack and the first function; the others are called ``<name>-2``, ``<name>-3``, ...
        functions: how many. Lambda starts at most 1,000 new environments of each in 10 s.
        memory_mb: of each function. 1,769 MB come with one whole CPU, less with a part of one.
        timeout_s: how long an invocation may take; jobs may take longer.
        architecture: ``arm64``, which costs a fifth less, or ``x86_64``.
        python: minor version, as ``"3.13"``; that of the clients.
        reserved_concurrency: the most invocations at once, for each function, and that they are there; None: what the
            account has.
        requirements: a requirements file, for the package.
        image: URI of an image in ECR, instead of a package.
        subnets, security_groups: ids; the functions are in this VPC. Empty: in none.
        log_retention_days: how long logs are kept.
        tags: of everything that is deployed.
        key_in: where functions find the deployment's key.
    """

    name: str = "wukong"
    functions: int = 1
    memory_mb: int = 1_769
    timeout_s: int = 900
    architecture: str = "arm64"
    python: str = HERE
    reserved_concurrency: int | None = None
    requirements: Path | None = None
    image: str | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    log_retention_days: int = 14
    tags: Mapping[str, str] = field(default_factory=dict)
    key_in: KeyIn = "environment"

    def checked(self) -> Options:
        """Return the options as they are. Raises `ConfigError` for what cannot be."""
        check_name(self.name)
        _between("--functions", self.functions, (1, MOST_FUNCTIONS))
        _between("--memory", self.memory_mb, MEMORY_MB, " MB", "1769 come with one whole CPU")
        _between("--timeout", self.timeout_s, TIMEOUT_S, " s", "jobs may take longer: work is handed on in time")
        _one_of("--architecture", self.architecture, ARCHITECTURES)
        if self.image is None:
            _one_of("--python", self.python, PYTHONS)
            check_package(self.python, self.architecture, self.requirements)
        _one_of("--key-in", self.key_in, get_args(KeyIn))
        if self.reserved_concurrency is not None and self.reserved_concurrency < 1:
            raise ConfigError(
                f"--reserved-concurrency {self.reserved_concurrency} lets no function run",
                hint="from 1 up, or 'none' for what the account has",
            )
        if self.log_retention_days not in RETENTION_DAYS:
            near = min(RETENTION_DAYS, key=lambda days: abs(days - self.log_retention_days))
            raise ConfigError(
                f"CloudWatch Logs keeps nothing for {self.log_retention_days} days",
                hint=f"did you mean {near}? valid: {', '.join(map(str, RETENTION_DAYS))}",
            )
        if bool(self.subnets) != bool(self.security_groups):
            what = "--security-groups" if self.subnets else "--subnets"
            raise ConfigError(VPC_NEEDS, hint=f"give {what} as well")
        if self.image is not None and self.requirements is not None:
            raise ConfigError(
                "--requirements are for a package, and --image is none",
                hint="what is required goes into the image; docs/aws.md says how to build one",
            )
        for key, value in self.tags.items():
            if not 1 <= len(key) <= 128 or len(value) > 256 or key.startswith(("aws:", "wukong:")):
                raise ConfigError(
                    f"AWS takes no tag {key!r} with this value",
                    hint="1 to 128 characters, not beginning with aws: or wukong:; the value at most 256",
                )
        return self

    @property
    def function_names(self) -> tuple[str, ...]:
        """The functions' names, in order."""
        return (self.name, *(f"{self.name}-{n}" for n in range(2, self.functions + 1)))

    @property
    def log_groups(self) -> tuple[str, ...]:
        """The names of the functions' log groups, in the same order."""
        return tuple(f"/aws/lambda/{name}" for name in self.function_names)

    @property
    def secret_name(self) -> str:
        """What the secret is called that holds the key, where one does."""
        return f"{self.name}/deployment-key"

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags, that of the deployment included."""
        return {**self.tags, TAG: self.name}

    def described(self) -> dict[str, Any]:
        """Return the options that a later deployment keeps, as plain data without nulls: a template may have none."""
        said = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in said.items()
            if value is not None and name not in _KEPT_APART
        }

    @classmethod
    def over(cls, name: str, deployed: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
        """Return the options in `given` laid over those that a stack says it was deployed with, checked.

        What the stack says and this version does not know is left out. Raises `ConfigError`.
        """
        known = {each.name for each in dataclasses.fields(cls)} - set(_KEPT_APART)
        kept = {
            key: tuple(value) if isinstance(value, list) else value for key, value in deployed.items() if key in known
        }
        return cls(**{**kept, **given, "name": name}).checked()


def check_name(name: str) -> str:
    """Return a deployment's name as it is. Raises `ConfigError` where it cannot be one."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a deployment cannot be called {name!r}",
            hint="up to 24 small letters, digits and single hyphens, beginning with a letter: buckets are called so",
        )
    return name


def _between(option: str, value: int, limits: tuple[int, int], unit: str = "", remark: str = "") -> None:
    least, most = limits
    if not least <= value <= most:
        remark = f" ({remark})" if remark else ""
        raise ConfigError(f"{option} {value} cannot be", hint=f"from {least} to {most}{unit}{remark}")


def _one_of(option: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{option} {value} cannot be", hint=suggestion(value, valid))
