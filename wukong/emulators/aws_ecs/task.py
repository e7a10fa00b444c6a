"""A task: its state, and ECS's description of it.

PROVISIONING -> PENDING -> RUNNING -> DEACTIVATING -> STOPPING -> DEPROVISIONING -> STOPPED
     `------------`----------------------------------------^
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from wukong.emulators.aws_ecs.moto_server import ACCOUNT

__all__ = ["Container", "Health", "StandInTask", "Status", "Task"]

Status: TypeAlias = Literal[
    "PROVISIONING", "PENDING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"
]
Health: TypeAlias = Literal["UNKNOWN", "HEALTHY", "UNHEALTHY"]

_TIMES: Mapping[Status, str] = {"RUNNING": "startedAt", "STOPPED": "stoppedAt"}


@dataclass(frozen=True, slots=True)
class StandInTask:
    """A snapshot of a task of a stand-in for ECS.

    Attributes:
        arn: its name.
        family: of its definition.
        address: its loopback address; None: it has none yet.
        status: as ECS calls it.
        health: as ECS calls it.
        pids: living processes of its containers. A container's process leads a process group.
        started_by: as in the request of RunTask.
        tags: its tags.
        stop_code, stopped_reason: why it has ended or is about to end; else empty.
        exit_codes: of its containers that have ended, by name.
    """

    arn: str
    family: str
    address: str | None
    status: Status
    health: Health
    pids: tuple[int, ...]
    started_by: str
    tags: Mapping[str, str]
    stop_code: str
    stopped_reason: str
    exit_codes: Mapping[str, int]


@dataclass(slots=True)
class Container:
    """A container of a task.

    Attributes:
        definition: its part of the task's definition, with the overrides of RunTask.
        pid: of its process while that lives.
        exit_code: of its process; 128 plus the signal's number if a signal killed it.
        reason: why it could not be started.
    """

    definition: dict[str, Any]
    arn: str
    runtime_id: str = field(default_factory=lambda: secrets.token_hex(16))
    health: Health = "UNKNOWN"
    pid: int | None = None
    exit_code: int | None = None
    reason: str = ""
    process: asyncio.subprocess.Process | None = None

    @property
    def name(self) -> str:
        """Its name in the definition."""
        return str(self.definition["name"])

    @property
    def essential(self) -> bool:
        """Whether the task ends with it."""
        return bool(self.definition.get("essential", True))


class Task:
    """A task. Once it has begun, only its life (`wukong.emulators.aws_ecs.life`) changes it.

    Args:
        definition: the task's definition, as DescribeTaskDefinition returns it.
        request: of RunTask.
    """

    def __init__(self, region: str, cluster: str, definition: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        self.region = region
        self.cluster = cluster
        self.definition = definition
        self.request = request
        self.id = secrets.token_hex(16)
        place = f"{cluster.rpartition('/')[2]}/{self.id}"
        self.arn = f"arn:aws:ecs:{region}:{ACCOUNT}:task/{place}"
        self.family = str(definition["family"])
        network = request.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
        self.subnet: str = network["subnets"][0]
        self.groups: tuple[str, ...] = tuple(network.get("securityGroups", ()))
        self.public = network.get("assignPublicIp") == "ENABLED"
        self.zone = ""
        overrides = {each["name"]: each for each in request.get("overrides", {}).get("containerOverrides", ())}
        self.containers = [
            Container(
                _overridden(each, overrides.get(each["name"], {})),
                f"arn:aws:ecs:{region}:{ACCOUNT}:container/{place}/{secrets.token_hex(16)}",
            )
            for each in definition["containerDefinitions"]
        ]
        self.status: Status = "PROVISIONING"
        self.wanted: Literal["RUNNING", "STOPPED"] = "RUNNING"
        self.tags: dict[str, str] = {each["key"]: each.get("value", "") for each in request.get("tags", ())}
        self.address: str | None = None
        self.interface: str | None = None
        self.mac = ""
        self.attachment = secrets.token_hex(16)
        self.stop_code = self.stopped_reason = ""
        self.times: dict[str, float] = {"createdAt": time.time()}
        self.version = 1
        self.stop = asyncio.Event()

    @property
    def begun_by(self) -> str:
        """``startedBy`` of the request of RunTask."""
        return str(self.request.get("startedBy", ""))

    @property
    def health(self) -> Health:
        """The worst health of its essential containers with a health check."""
        found = {each.health for each in self.containers if each.essential and each.definition.get("healthCheck")}
        ordered: tuple[Health, ...] = ("UNHEALTHY", "UNKNOWN", "HEALTHY")
        return next((each for each in ordered if each in found), "UNKNOWN")

    def become(self, status: Status) -> None:
        """Enter a state, now."""
        now = time.time()
        self.status = status
        self.version += 1
        if name := _TIMES.get(status):
            self.times[name] = now
        if status == "PENDING":
            self.times.update(connectivityAt=now, pullStartedAt=now)
        elif status == "RUNNING":
            self.times["pullStoppedAt"] = now

    def doom(self, code: str, reason: str) -> None:
        """Mark the task to end; the first reason counts."""
        if self.wanted == "RUNNING":
            self.wanted, self.stop_code, self.stopped_reason = "STOPPED", code, reason
            self.version += 1
            self.times["stoppingAt"] = time.time()

    def seen(self) -> StandInTask:
        """Return what tests see of it."""
        return StandInTask(
            self.arn,
            self.family,
            self.address,
            self.status,
            self.health,
            tuple(each.pid for each in self.containers if each.pid is not None),
            self.begun_by,
            dict(self.tags),
            self.stop_code,
            self.stopped_reason,
            {each.name: each.exit_code for each in self.containers if each.exit_code is not None},
        )

    def described(self, *, tags: bool) -> dict[str, Any]:
        """Return the task as DescribeTasks returns it."""
        definition, request = self.definition, self.request
        what: dict[str, Any] = {
            "attachments": [self._interface()],
            "attributes": [{"name": "ecs.cpu-architecture", "value": self._architecture()}],
            "availabilityZone": self.zone,
            "clusterArn": self.cluster,
            "containers": [self._container(each) for each in self.containers],
            "cpu": str(request.get("overrides", {}).get("cpu") or definition.get("cpu", "256")),
            "desiredStatus": self.wanted,
            "enableExecuteCommand": bool(request.get("enableExecuteCommand", False)),
            "ephemeralStorage": {"sizeInGiB": 20},
            "group": request.get("group") or f"family:{self.family}",
            "healthStatus": self.health,
            "inferenceAccelerators": [],
            "lastStatus": self.status,
            "launchType": "FARGATE",
            "memory": str(request.get("overrides", {}).get("memory") or definition.get("memory", "512")),
            "overrides": _all_overrides(request.get("overrides", {}), self.containers),
            "platformVersion": "1.4.0",
            "platformFamily": "Linux",
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()] if tags else [],
            "taskArn": self.arn,
            "taskDefinitionArn": definition["taskDefinitionArn"],
            "version": self.version,
            **self.times,
        }
        if self.begun_by:
            what["startedBy"] = self.begun_by
        if "connectivityAt" in self.times:
            what["connectivity"] = "CONNECTED"
        if self.stop_code:
            what.update(stopCode=self.stop_code, stoppedReason=self.stopped_reason)
        return what

    def _architecture(self) -> str:
        platform: Mapping[str, str] = self.definition.get("runtimePlatform") or {}
        return platform.get("cpuArchitecture", "X86_64").lower()

    def _interface(self) -> dict[str, Any]:
        details = [{"name": "subnetId", "value": self.subnet}]
        status = "PRECREATED"
        if self.address is not None and self.interface is not None:
            status = "ATTACHED"
            host = f"ip-{self.address.replace('.', '-')}.ec2.internal"
            details += [
                {"name": "networkInterfaceId", "value": self.interface},
                {"name": "macAddress", "value": self.mac},
                {"name": "privateDnsName", "value": host},
                {"name": "privateIPv4Address", "value": self.address},
            ]
        if self.status == "STOPPED":
            status = "DELETED"
        return {"id": self.attachment, "type": "ElasticNetworkInterface", "status": status, "details": details}

    def _container(self, container: Container) -> dict[str, Any]:
        running = container.pid is not None
        status = "RUNNING" if running else "STOPPED" if self.status == "STOPPED" or container.reason else "PENDING"
        if container.exit_code is not None:
            status = "STOPPED"
        what: dict[str, Any] = {
            "containerArn": container.arn,
            "taskArn": self.arn,
            "name": container.name,
            "image": container.definition.get("image", ""),
            "lastStatus": status,
            "networkInterfaces": [],
            "healthStatus": container.health,
            "cpu": str(container.definition.get("cpu", 0)),
        }
        if container.exit_code is not None:
            what["exitCode"] = container.exit_code
        if container.reason:
            what["reason"] = container.reason
        if running or container.exit_code is not None:
            what["runtimeId"] = f"{self.id}-{container.runtime_id[:10]}"
        if self.address is not None:
            interface = {"attachmentId": self.attachment, "privateIpv4Address": self.address}
            what["networkInterfaces"] = [interface]
        for size in ("memory", "memoryReservation"):
            if size in container.definition:
                what[size] = str(container.definition[size])
        return what


def _overridden(definition: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    environment = {each["name"]: each for each in definition.get("environment", ())}
    environment |= {each["name"]: each for each in override.get("environment", ())}
    what = {**definition, "environment": list(environment.values())}
    if "command" in override:
        what["command"] = override["command"]
    return what


def _all_overrides(given: Mapping[str, Any], containers: list[Container]) -> dict[str, Any]:
    """Return the overrides of every container, empty ones included."""
    said = {each["name"]: each for each in given.get("containerOverrides", ())}
    return {
        "containerOverrides": [said.get(each.name, {"name": each.name}) for each in containers],
        "inferenceAcceleratorOverrides": [],
        **{key: value for key, value in given.items() if key != "containerOverrides"},
    }
