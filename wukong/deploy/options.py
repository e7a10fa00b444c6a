"""The options of a deployment, checked against Lambda's limits before any call of AWS.

The stack itself records the options (`DeployOptions.described`). So a user who deploys again, from any machine, gives
only what is to change. Two options are not recorded: the Python, which has to be that of the user who deploys, and the
requirements file, which is on their machine.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from wukong.backends.storage.fargate.options import check_size
from wukong.deploy.package.build import ARCHITECTURES, HERE, PYTHONS
from wukong.deploy.package.build import checked as check_package
from wukong.errors import ConfigError
from wukong.options import suggestion

KeyIn: TypeAlias = Literal["environment", "secrets-manager"]
StoreIn: TypeAlias = Literal["dynamodb", "fargate"]

MOST_FUNCTIONS = 20
MEMORY_MB = (128, 10_240)
FREE_STORAGE_MB = 512
STORAGE_MB = (FREE_STORAGE_MB, 10_240)
TIMEOUT_S = (1, 900)
RETENTION_DAYS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1_096, 1_827, 2_192, 2_557, 2_922, 3_288),
    3_653,
)
"""The periods that CloudWatch Logs offers."""
TAG = "wukong:deployment"
"""Everything that belongs to a deployment has this tag, with the deployment's name."""
PROXY_PORT = 8989
MOST_WORKERS = 64
QUALIFIER = "live"
"""The alias by which functions are invoked if that takes a published version."""
SNAPSTART_PYTHONS = tuple(each for each in PYTHONS if each not in ("3.9", "3.10", "3.11"))

_NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9])){0,23}")
_KEPT_APART = ("name", "python", "requirements")


@dataclass(frozen=True, slots=True)
class DeployedFunction:
    """One function: its name, what its resources in the template are numbered, its memory, and whether it is larger."""

    name: str
    number: str
    memory_mb: int
    larger: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions:
    """A wanted deployment.

    Attributes:
        name: of the stack and the first function; the others are called ``<name>-2``, ``<name>-3``, ...
        functions: how many. Lambda starts at most 1,000 new environments of each in 10 s.
        memory_mb: of each function. 1,769 MB come with one whole CPU, less memory with a part of one, more with up
            to six.
        larger_mb: of further functions, one for each size, the next larger first: what takes too much memory on the
            others is run again on them.
        ephemeral_storage_mb: the size of each environment's /tmp.
        timeout_s: how long an invocation may take; jobs may take longer.
        architecture: ``arm64``, which costs a fifth less, or ``x86_64``.
        python: minor version, as ``"3.13"``; that of the clients.
        reserved_concurrency: concurrent executions that AWS reserves for each function, which is also its maximum;
            None: no reservation.
        snapstart: environments are restored from a snapshot of one that was initialised when it was deployed.
        provisioned_concurrency: how many environments of each function are always initialised; None: none.
        requirements: a requirements file, for the package.
        image: URI of an image in ECR, instead of a package.
        subnets: ids; the functions are in their VPC. Empty: in no VPC.
        security_groups: ids, for functions in a VPC. Empty: a group of their own.
        log_retention_days: how long logs are kept.
        tags: of everything that is deployed.
        key_in: where functions find the deployment's key.
        store: the part of the store that is deployed: ``dynamodb``: all of it; ``fargate``: all but the nodes. None:
            nothing.
        proxy: the fan-out proxy runs as a service on Fargate.
        proxy_image: URI of its image in ECR; None: that of the functions.
        proxy_cpu: 1,024 are one virtual CPU.
        proxy_memory_mb: a size that Fargate offers with `proxy_cpu`.
        proxy_workers: processes; None: one for each whole CPU.
        clients: blocks of addresses that may connect to proxy and store, besides the functions.
    """

    name: str = "wukong"
    functions: int = 1
    memory_mb: int = 1_769
    larger_mb: tuple[int, ...] = ()
    ephemeral_storage_mb: int = FREE_STORAGE_MB
    timeout_s: int = 900
    architecture: str = "arm64"
    python: str = HERE
    reserved_concurrency: int | None = None
    snapstart: bool = False
    provisioned_concurrency: int | None = None
    requirements: Path | None = None
    image: str | None = None
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    log_retention_days: int = 14
    tags: Mapping[str, str] = field(default_factory=dict)
    key_in: KeyIn = "environment"
    store: StoreIn | None = None
    proxy: bool = False
    proxy_image: str | None = None
    proxy_cpu: int = 1_024
    proxy_memory_mb: int = 2_048
    proxy_workers: int | None = None
    clients: tuple[str, ...] = ()

    def checked(self) -> DeployOptions:
        """Return the options unchanged. Raises `ConfigError` for invalid ones."""
        check_name(self.name)
        _between("--functions", self.functions, (1, MOST_FUNCTIONS))
        _between("--memory", self.memory_mb, MEMORY_MB, " MB", "1769 come with one whole CPU")
        for size_mb in self.larger_mb:
            _between("--sizes", size_mb, MEMORY_MB, " MB")
        if [self.memory_mb, *self.larger_mb] != sorted({self.memory_mb, *self.larger_mb}):
            raise ConfigError(
                f"the sizes {', '.join(f'{each:,}' for each in (self.memory_mb, *self.larger_mb))} MB are in no order",
                hint="--sizes 1769,3538,10240 goes the smallest first, which is --memory",
            )
        _between("--ephemeral-storage", self.ephemeral_storage_mb, STORAGE_MB, " MB", "512 cost nothing")
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
        if self.security_groups and not self.subnets:
            raise ConfigError("security groups are for functions in a VPC", hint="give --subnets as well")
        if self.image is not None and self.requirements is not None:
            raise ConfigError(
                "--requirements are for a package, and --image is none",
                hint="what is required goes into the image; docs/aws.md says how to build one",
            )
        self._check_proxy()
        self._check_versions()
        for cidr in self.clients:
            _check_block(cidr)
        if self.clients and not self.has_cluster:
            raise ConfigError(
                "--clients come to the proxy and to the store on Fargate, and neither is there",
                hint="give --proxy or --storage fargate as well, or --clients none",
            )
        for key, value in self.tags.items():
            if not 1 <= len(key) <= 128 or len(value) > 256 or key.startswith(("aws:", "wukong:")):
                raise ConfigError(
                    f"AWS takes no tag {key!r} with this value",
                    hint="1 to 128 characters, not beginning with aws: or wukong:; the value at most 256",
                )
        return self

    def _check_proxy(self) -> None:
        try:
            check_size(self.proxy_cpu, self.proxy_memory_mb)
        except ConfigError as error:
            raise ConfigError(
                f"--proxy-cpu {self.proxy_cpu} with --proxy-memory {self.proxy_memory_mb} cannot be", hint=error.hint
            ) from error
        if self.proxy_workers is not None:
            _between("--proxy-workers", self.proxy_workers, (1, MOST_WORKERS))
        if self.proxy and self.image is None and self.proxy_image is None:
            raise ConfigError(
                "--proxy runs in a container, and functions of a package have no image for it",
                hint="give --proxy-image, the URI of an image in ECR with Wukong and boto3 in it; one for functions "
                "will do: docs/aws.md says how to build it",
            )

    def _check_versions(self) -> None:
        """Check what takes published versions, by what Lambda's documentation says of both."""
        provisioned, reserved = self.provisioned_concurrency, self.reserved_concurrency
        if provisioned is not None and provisioned < 1:
            raise ConfigError(
                f"--provisioned-concurrency {provisioned} keeps nothing initialised", hint="from 1 up, or 'none'"
            )
        if provisioned is not None and reserved is not None and provisioned > reserved:
            raise ConfigError(
                f"--provisioned-concurrency {provisioned} is more than --reserved-concurrency {reserved} lets run",
                hint="what is provisioned counts into what is reserved",
            )
        if not self.snapstart:
            return
        if self.image is not None:
            raise ConfigError(
                "Lambda takes no snapshots of functions of an image", hint="leave --snapstart or --image out"
            )
        if provisioned is not None:
            raise ConfigError(
                "--snapstart and --provisioned-concurrency exclude each other",
                hint="--no-snapstart, or --provisioned-concurrency none",
            )
        if self.ephemeral_storage_mb > FREE_STORAGE_MB:
            raise ConfigError(
                f"Lambda takes no snapshots of functions with more than {FREE_STORAGE_MB} MB of /tmp",
                hint=f"--no-snapstart, or --ephemeral-storage {FREE_STORAGE_MB}",
            )

    @property
    def qualifier(self) -> str | None:
        """The alias by which the functions are invoked; None: they are invoked as they are."""
        return QUALIFIER if self.snapstart or self.provisioned_concurrency is not None else None

    @property
    def function_names(self) -> tuple[str, ...]:
        """The functions' names, in order: those of the smallest size, then each larger one."""
        return tuple(each.name for each in self.deployed_functions)

    @property
    def larger_names(self) -> tuple[str, ...]:
        """The names of the functions with more memory, in order."""
        return self.function_names[self.functions :]

    @property
    def deployed_functions(self) -> tuple[DeployedFunction, ...]:
        """The functions, in order."""
        numbers = ["", *map(str, range(2, self.functions + 1))]
        alike = [DeployedFunction(f"{self.name}{n and f'-{n}'}", n, self.memory_mb) for n in numbers]
        larger = [DeployedFunction(f"{self.name}-{mb}mb", f"{mb}MB", mb, True) for mb in self.larger_mb]
        return (*alike, *larger)

    @property
    def log_groups(self) -> tuple[str, ...]:
        """The names of the functions' log groups, in the same order."""
        return tuple(f"/aws/lambda/{name}" for name in self.function_names)

    def logs_of(self, part: str) -> tuple[str, ...]:
        """The names of the log groups of ``"functions"``, ``"proxy"`` or ``"store"``; none if there is no such part."""
        if part == "proxy":
            return (self.proxy_log_group,) if self.proxy else ()
        if part == "store":
            return (self.store_log_group,) if self.on_fargate else ()
        return self.log_groups

    @property
    def secret_name(self) -> str:
        """The name of the secret that holds the key, if it is in a secret."""
        return f"{self.name}/deployment-key"

    @property
    def has_secret(self) -> bool:
        """Whether the key is in a secret: for the functions, or for the proxy, which takes it only from there."""
        return self.key_in == "secrets-manager" or self.proxy

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of all secrets of the deployment."""
        key = (self.secret_name,) if self.has_secret else ()
        return (*key, self.store_secret_name) if self.on_fargate else key

    @property
    def has_cluster(self) -> bool:
        """Whether anything runs on Fargate. Functions then have to be in the same VPC."""
        return self.proxy or self.on_fargate

    @property
    def on_fargate(self) -> bool:
        """Whether the store's nodes run on Fargate."""
        return self.store == "fargate"

    @property
    def has_table(self) -> bool:
        """Whether the store is a table in DynamoDB, with a bucket for large values."""
        return self.store == "dynamodb"

    @property
    def table_name(self) -> str:
        """The name of that table."""
        return self.name

    @property
    def functions_group_name(self) -> str:
        """The functions' security group, if none is named for them."""
        return f"{self.name}-functions"

    @property
    def store_name(self) -> str:
        """The Fargate store's role, family of task definitions and security group."""
        return f"{self.name}-store"

    @property
    def store_log_group(self) -> str:
        """The name of the Fargate store's log group."""
        return f"/ecs/{self.store_name}"

    @property
    def store_secret_name(self) -> str:
        """The name of the secret that holds the Fargate store's password."""
        return f"{self.name}/store-password"

    @property
    def proxy_name(self) -> str:
        """The proxy's service, family of task definitions and security group."""
        return f"{self.name}-proxy"

    @property
    def proxy_log_group(self) -> str:
        """The name of the proxy's log group."""
        return f"/ecs/{self.proxy_name}"

    @property
    def namespace(self) -> str:
        """The proxy's DNS domain, within the VPC."""
        return f"{self.name}.internal"

    @property
    def proxy_address(self) -> str:
        """``host:port`` of the proxy, within the VPC; the client's setting ``proxy``."""
        return f"proxy.{self.namespace}:{PROXY_PORT}"

    @property
    def workers(self) -> int:
        """The number of the proxy's processes."""
        return self.proxy_workers or max(1, self.proxy_cpu // 1_024)

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags, including that of the deployment."""
        return {**self.tags, TAG: self.name}

    def described(self) -> dict[str, Any]:
        """Return the options that a later deployment keeps, as plain data without nulls, as templates allow none."""
        said = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in said.items()
            if value is not None and name not in _KEPT_APART
        }

    @classmethod
    def over(cls, name: str, deployed: Mapping[str, Any], given: Mapping[str, Any]) -> DeployOptions:
        """Return the options that a stack records, updated with those in `given`, checked.

        Recorded options that this version does not know are ignored. Raises `ConfigError`.
        """
        known = {each.name for each in dataclasses.fields(cls)} - set(_KEPT_APART)
        kept = {
            key: tuple(value) if isinstance(value, list) else value for key, value in deployed.items() if key in known
        }
        return cls(**{**kept, **given, "name": name}).checked()


def check_name(name: str) -> str:
    """Return a deployment's name unchanged. Raises `ConfigError` if it is invalid."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a deployment cannot be called {name!r}",
            hint="up to 24 small letters, digits and single hyphens, beginning with a letter: buckets are called so",
        )
    return name


def _check_block(text: str) -> None:
    try:
        block = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ConfigError(f"--clients {text} is no block of addresses: {error}", hint="as 10.0.0.0/16") from error
    if block.prefixlen == 0:
        raise ConfigError("--clients 0.0.0.0/0 lets everybody in", hint="name the clients' own addresses")


def _between(option: str, value: int, limits: tuple[int, int], unit: str = "", remark: str = "") -> None:
    least, most = limits
    if not least <= value <= most:
        remark = f" ({remark})" if remark else ""
        raise ConfigError(f"{option} {value} cannot be", hint=f"from {least} to {most}{unit}{remark}")


def _one_of(option: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ConfigError(f"{option} {value} cannot be", hint=suggestion(value, valid))
