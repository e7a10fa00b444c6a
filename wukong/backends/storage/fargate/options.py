"""The options of the store `fargate`, checked, and the shape of a node.

An option of None takes its value from the nodes that run already, else a default. So a client that adopts nodes need
not repeat the options that they were started with.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from wukong.errors import ConfigError
from wukong.options import expect, suggestion

__all__ = ["BACKEND", "IMAGES", "Architecture", "FargateOptions", "Shape", "check_size"]

BACKEND = "storage: fargate"

Architecture = Literal["arm64", "x86_64"]

IMAGES: Mapping[str, str] = {
    "redis": "public.ecr.aws/docker/library/redis:7.2-alpine",
    "valkey": "docker.io/valkey/valkey:8.1-alpine",
}
"""Short names of images."""

_GIB = 1024
_MEMORY_MB: Mapping[int, Sequence[int]] = {
    256: (512, 1 * _GIB, 2 * _GIB),
    512: range(1 * _GIB, 4 * _GIB + 1, _GIB),
    1024: range(2 * _GIB, 8 * _GIB + 1, _GIB),
    2048: range(4 * _GIB, 16 * _GIB + 1, _GIB),
    4096: range(8 * _GIB, 30 * _GIB + 1, _GIB),
    8192: range(16 * _GIB, 60 * _GIB + 1, 4 * _GIB),
    16384: range(32 * _GIB, 120 * _GIB + 1, 8 * _GIB),
}
"""The sizes that Fargate offers: MB of memory by units of CPU."""
_MOST_NODES = 1_000
_TAG_CHARS = 256
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_NAME_CHARS = 40


@dataclass(frozen=True, slots=True)
class Shape:
    """What all nodes of a store have in common; a tag on each node says it.

    Attributes:
        cpu: 1024 are one virtual CPU.
        memory_mb: of the node; Redis may fill three quarters of it.
        image: of the container.
        architecture: of the node's CPU.
        tls: whether it speaks TLS.
        idle_s: a node that nobody has used for this long ends itself.
    """

    cpu: int = 1024
    memory_mb: int = 8192
    image: str = IMAGES["redis"]
    architecture: Architecture = "arm64"
    tls: bool = False
    idle_s: float = 1800.0

    def __post_init__(self) -> None:
        check_size(self.cpu, self.memory_mb)
        if self.architecture not in typing.get_args(Architecture):
            raise _wrong(f"architecture is {self.architecture!r}", "it is arm64 or x86_64")
        if not self.idle_s > 0:
            raise _wrong(f"idle_s is {self.idle_s}", "it is a number of seconds above 0")
        if not self.image or any(char.isspace() or char in "'\"" for char in self.image):
            raise _wrong(f"image is {self.image!r}", "it is redis, valkey, or the name of an image")
        if len(self.tag) > _TAG_CHARS:
            raise _wrong(f"the image's name is too long: {self.image}", "a tag of AWS has at most 256 characters")

    @property
    def tag(self) -> str:
        """The shape as the text that nodes are tagged with."""
        return (
            f"cpu={self.cpu} memory_mb={self.memory_mb} architecture={self.architecture} "
            f"tls={'yes' if self.tls else 'no'} idle_s={self.idle_s:g} image={self.image}"
        )

    @classmethod
    def of(cls, tag: str) -> Shape | None:
        """Read a text of `tag`; None if it is no shape."""
        said = dict(part.partition("=")[::2] for part in tag.split())
        try:
            return cls(
                int(said["cpu"]),
                int(said["memory_mb"]),
                said["image"],
                typing.cast("Architecture", said["architecture"]),
                said["tls"] == "yes",
                float(said["idle_s"]),
            )
        except (KeyError, ValueError, ConfigError):
            return None


@dataclass(frozen=True, slots=True)
class FargateOptions:
    """The options, as `wukong.backends.storage.fargate.Fargate` takes them. Raises `ConfigError`.

    Attributes:
        name: of the store and all that belongs to it on AWS; the deployed functions' too. The plug-in calls it
            ``deployment``, because ``name`` in a mapping is the name of the plug-in.
        nodes: how many. None: as many as run already; one if none runs.
        cpu, memory_mb, image, architecture, tls, idle_s: see `Shape`; ``redis`` and ``valkey`` are images. None: as the
            nodes that run; if none runs, the default of `Shape`.
        keep: leave the nodes running when the client closes; they end when they are idle.
        start_timeout_s: how long nodes may take until they serve.
        recovery_s: how long replacing a lost node may take.
        watch_s: seconds between two looks at the nodes.
        region, profile: as in the AWS configuration; None: boto3's choice.
        endpoint_url: of every service, for stand-ins of AWS; None: AWS's own.
        function: the function whose network the nodes join; None: the one called `name`.
        function_security_group: the group that nodes admit; None: those of the function.
        subnets: of the nodes; None: those of the function; if there is no function, those of the default VPC.
        client_cidr: further addresses that nodes admit, as ``203.0.113.7/32``; None: none.
        public_ip: nodes get public addresses; None: only if they could not fetch their image without.
        public: this client reaches nodes by public addresses; functions always use private ones.
        log_retention_days: how long the nodes' logs are kept.
        connect_timeout_s, timeout_s, chunk_bytes: as of the store `redis`.
        vcpu_hour_usd, gb_hour_usd: prices; None: those of us-east-1, see `price`.
    """

    name: str = "wukong"
    nodes: int | None = None
    cpu: int | None = None
    memory_mb: int | None = None
    image: str | None = None
    architecture: Architecture | None = None
    tls: bool | None = None
    keep: bool = False
    idle_s: float | None = None
    start_timeout_s: float = 300.0
    recovery_s: float = 120.0
    watch_s: float = 5.0
    region: str | None = None
    profile: str | None = None
    endpoint_url: str | None = None
    function: str | None = None
    function_security_group: str | None = None
    subnets: Sequence[str] | None = None
    client_cidr: str | None = None
    public_ip: bool | None = None
    public: bool = False
    log_retention_days: int = 14
    connect_timeout_s: float = 5.0
    timeout_s: float = 10.0
    chunk_bytes: int | None = None
    vcpu_hour_usd: float | None = None
    gb_hour_usd: float | None = None

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for each in fields(self):
            expect(each.name, getattr(self, each.name), kinds[each.name], where=" of the store fargate")
        if not 0 < len(self.name) <= _NAME_CHARS or set(self.name) - _NAME or not self.name[0].isalpha():
            raise _wrong(
                f"name is {self.name!r}", f"letters, digits and hyphens, a letter first, {_NAME_CHARS} at most"
            )
        if self.nodes is not None and not 0 < self.nodes <= _MOST_NODES:
            raise _wrong(f"nodes is {self.nodes}", f"it is a number from 1 to {_MOST_NODES:,}")
        for name in ("start_timeout_s", "recovery_s", "watch_s", "connect_timeout_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise _wrong(f"{name} is {getattr(self, name)}", "it is a number of seconds above 0")
        if self.subnets is not None and not self.subnets:
            raise _wrong("subnets is empty", "name one at least, or leave it out")
        if self.public and self.public_ip is False:
            raise _wrong("public is on and public_ip is off", "without public addresses nobody comes by them")
        if self.public and self.client_cidr is None:
            raise _wrong("public is on, and no client_cidr is given", "say who may come: client_cidr='203.0.113.7/32'")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise _wrong(f"chunk_bytes is {self.chunk_bytes}", "it is a size from 1 up")
        self.shape(None)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FargateOptions:
        """Read the options as the plug-in takes them, if the store's name is ``deployment``."""
        named = {"name" if key == "deployment" else key: value for key, value in given.items()}
        known = {each.name for each in fields(cls)}
        for key in named:
            if key not in known:
                raise _wrong(f"there is no option {key!r}", suggestion(key, {*known - {"name"}, "deployment"}))
        return cls(**named)

    def shape(self, found: Shape | None) -> Shape:
        """Return the wanted shape of nodes. `found`: the shape of those that run. Raises `ConfigError`."""
        usual = found or Shape()
        wanted: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Shape)}
        wanted["image"] = None if self.image is None else IMAGES.get(self.image, self.image)
        if found is None and self.cpu is not None and self.memory_mb is None:
            wanted["memory_mb"] = max(
                size for size in _MEMORY_MB.get(self.cpu, (0,)) if size <= max(8192, 4 * self.cpu)
            )
        chosen = {name: getattr(usual, name) if value is None else value for name, value in wanted.items()}
        return Shape(**chosen)


def check_size(cpu: int, memory_mb: int) -> None:
    """Raise `ConfigError` unless Fargate has tasks of this size: units of CPU (1024 are one virtual CPU), and MB."""
    if cpu not in _MEMORY_MB:
        raise _wrong(f"cpu is {cpu}", f"Fargate has {_listed(list(_MEMORY_MB))}; 1024 are one virtual CPU")
    if memory_mb not in _MEMORY_MB[cpu]:
        raise _wrong(f"memory_mb is {memory_mb}", f"with cpu={cpu} Fargate has {_listed(list(_MEMORY_MB[cpu]))}")


def _wrong(what: str, hint: str) -> ConfigError:
    return ConfigError(what, backend=BACKEND, hint=hint)


def _listed(sizes: list[int]) -> str:
    texts = [f"{size:,}" if size > 9999 else str(size) for size in sizes]
    return ", ".join(texts) if len(texts) < 8 else f"{texts[0]}, {texts[1]}, ... {texts[-1]}"
