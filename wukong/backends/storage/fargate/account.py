"""The AWS account as the store uses it: the set-up around nodes, and the tasks that run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

from wukong.backends.storage.fargate.calls import FargateCalls, FargateRefused
from wukong.backends.storage.fargate.certificate import certificate_of
from wukong.backends.storage.fargate.definition import CONTAINER, definition, digest
from wukong.backends.storage.fargate.network import NodeNetwork, choose
from wukong.backends.storage.fargate.options import BACKEND, FargateOptions, Shape
from wukong.backends.storage.fargate.resources import CERTIFICATE, PASSWORD, Resources, lower
from wukong.backends.storage.fargate.script import NODE_VARIABLE
from wukong.core.interrupts import heeded
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["FargateAccount", "NodeKeys", "SetUp"]

_DESCRIBE = 100
_DEFINITIONS = 10
_ROLE_PATIENCE_S = 60.0
_ROLE_PAUSE_S = 2.0
_DIGEST_TAG = "wukong:definition"
_sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class SetUp:
    """What tasks are started with.

    Attributes:
        cluster: ARN.
        definition: ARN of the task definition.
        place: the tasks' network.
        group: id of their security group.
        shape: of the nodes.
    """

    cluster: str
    definition: str
    place: NodeNetwork
    group: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What clients need to log in: the nodes' password, and their certificate if they speak TLS."""

    password: str = field(repr=False)
    ca_data: str | None = None


class FargateAccount:
    """One store's view of an AWS account. Nothing is looked up before it is needed. Safe in several threads.

    All methods raise `StoreError` if AWS refuses something, `StoreUnavailable` for what may pass, and `ConfigError`.
    """

    def __init__(self, options: FargateOptions) -> None:
        self.options = options
        self.calls = FargateCalls(options.region, options.profile, options.endpoint_url)
        self.resources = Resources(self.calls, options.name)

    @cached_property
    def place(self) -> NodeNetwork:
        """Where nodes are put."""
        return choose(self.calls, self.options)

    def functions_are_there(self) -> bool:
        """Whether there are functions that reach nodes from within the VPC."""
        return bool(self.place.admitted)

    @property
    def family(self) -> str:
        """The name of the task definition."""
        return f"{self.options.name}-store"

    def prepare(self, shape: Shape) -> SetUp:
        """Make what is missing for nodes of this shape. Chooses the network first, as all else depends on it."""
        place = self.place
        resources = self.resources
        cluster = resources.cluster()
        group = resources.group(place, self.options.client_cidr)
        password = resources.password_secret()
        certificate = resources.certificate_secret() if shape.tls else None
        wanted = definition(
            self.options.name,
            shape,
            role=resources.role(),
            region=self.calls.region,
            log_group=resources.logs(self.options.log_retention_days),
            password=password,
            certificate=certificate,
        )
        return SetUp(cluster, self._registered(wanted), place, group, shape)

    def admit(self) -> None:
        """Let the client that the options name in to nodes that run already."""
        self.resources.group(self.place, self.options.client_cidr)

    def keys(self, shape: Shape) -> NodeKeys:
        """Return what clients need to log in to nodes of this shape. Raises `FargateRefused` if there is no secret."""
        password = self.resources.read(PASSWORD)
        return NodeKeys(password, certificate_of(self.resources.read(CERTIFICATE)) if shape.tls else None)

    def _registered(self, wanted: Mapping[str, Any]) -> str:
        """Return the ARN of the wanted task definition: the latest one if it is the same, else a new one."""
        mark = digest(wanted)
        try:
            told = self.calls.call("ecs", "describe_task_definition", taskDefinition=self.family, include=["TAGS"])
        except FargateRefused as error:
            if not error.missing and error.code != "ClientException":
                raise
        else:
            latest = told["taskDefinition"]
            if latest.get("status", "ACTIVE") == "ACTIVE" and _tag(told.get("tags", ()), _DIGEST_TAG) == mark:
                return str(latest["taskDefinitionArn"])
        tags = lower({"wukong:name": self.options.name, "wukong:made-by": "store", _DIGEST_TAG: mark})
        made = self.calls.call("ecs", "register_task_definition", **wanted, tags=tags)
        return str(made["taskDefinition"]["taskDefinitionArn"])

    # --- tasks

    def run(self, setup: SetUp, slot: str, generation: int, started_by: str, *, keep: bool) -> Mapping[str, Any]:
        """Start one node; return its task. A second call with the same arguments starts nothing.

        One call could start ten tasks, but all tasks of a call have the same tags and environment. With one call for
        each node, a node has its slot in both from the moment that it exists. So another client can tell which node is
        which, even if the client that started them died half-way.
        """
        node = f"{slot}.{generation}"
        tags = {
            "wukong:name": self.options.name,
            "wukong:made-by": "store",
            "wukong:slot": slot,
            "wukong:generation": str(generation),
            "wukong:shape": setup.shape.tag,
            "wukong:keep": "yes" if keep else "no",
        }
        network = {
            "subnets": list(setup.place.subnets),
            "securityGroups": [setup.group],
            "assignPublicIp": "ENABLED" if setup.place.public_ip else "DISABLED",
        }
        environment = [{"name": NODE_VARIABLE, "value": node}]
        arguments: dict[str, Any] = {
            "cluster": setup.cluster,
            "taskDefinition": setup.definition,
            "count": 1,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": network},
            "overrides": {"containerOverrides": [{"name": CONTAINER, "environment": environment}]},
            "startedBy": started_by,
            "tags": lower(tags),
            "clientToken": blake2b(f"{self.options.name}/{node}/{started_by}".encode(), digest_size=16).hexdigest(),
        }
        told = self._run(arguments)
        if told.get("failures") or not told.get("tasks"):
            raise _not_placed(slot, told.get("failures", ()), setup.place)
        task: Mapping[str, Any] = told["tasks"][0]
        return task

    def _run(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the task; retry for a while, because AWS does not know a new role everywhere at once."""
        with heeded() as interrupted:
            return self._run_in_time(arguments, interrupted)

    def _run_in_time(self, arguments: Mapping[str, Any], interrupted: Callable[[], None]) -> Mapping[str, Any]:
        end = time.monotonic() + _ROLE_PATIENCE_S
        while True:
            interrupted()
            try:
                told: Mapping[str, Any] = self.calls.call("ecs", "run_task", **arguments)
                return told
            except FargateRefused as error:
                new = "assume" in error.message and "role" in error.message
                if "apacity is unavailable" in error.message:
                    raise _not_placed("a node", [{"reason": error.message}], self.place) from error
                if not new or time.monotonic() > end:
                    raise
            _sleep(_ROLE_PAUSE_S)

    def tasks(self, *, status: str = "RUNNING", started_by: str | None = None) -> list[Mapping[str, Any]]:
        """Return the store's tasks, with tags.

        Args:
            status: the desired status: ``RUNNING``, or ``STOPPED``, of which AWS keeps those of the last hour.
            started_by: only running tasks with this mark.
        """
        which = {"family": self.family, "desiredStatus": status} if started_by is None else {"startedBy": started_by}
        try:
            arns = list(self.calls.pages("ecs", "list_tasks", "taskArns", cluster=self.options.name, **which))
        except FargateRefused as error:
            if not error.missing:
                raise
            return []
        return self.described(arns)

    def described(self, arns: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return these tasks as they are now; AWS may have forgotten a task that ended an hour ago."""
        told: list[Mapping[str, Any]] = []
        for some in _portions(arns, _DESCRIBE):
            told += self.calls.call(
                "ecs", "describe_tasks", cluster=self.options.name, tasks=list(some), include=["TAGS"]
            )["tasks"]
        return told

    def stop(self, task: str, reason: str) -> None:
        """Stop a task. One that is not there any more is no error."""
        try:
            self.calls.call("ecs", "stop_task", cluster=self.options.name, task=task, reason=reason[:255])
        except FargateRefused as error:
            gone = error.code == "InvalidParameterException" and "not found" in error.message
            if not error.missing and not gone:
                raise

    def keep(self, task: str) -> None:
        """Mark a task as one that stays when the last client has left."""
        self.calls.call("ecs", "tag_resource", resourceArn=task, tags=lower({"wukong:keep": "yes"}))

    def public_address(self, interface: str) -> str | None:
        """Return the public address of a network interface; None: it has none, or none yet."""
        try:
            told = self.calls.call("ec2", "describe_network_interfaces", NetworkInterfaceIds=[interface])
        except FargateRefused as error:
            if not error.missing:
                raise
            return None
        found = [each.get("Association", {}).get("PublicIp") for each in told["NetworkInterfaces"]]
        return None if not found or found[0] is None else str(found[0])

    # --- removing

    def remove(self) -> tuple[list[str], list[str]]:
        """Remove all that was made here, once no task runs; return what was removed, and what is left."""
        arns = list(self.calls.pages("ecs", "list_task_definitions", "taskDefinitionArns", familyPrefix=self.family))
        for arn in arns:
            self.calls.call("ecs", "deregister_task_definition", taskDefinition=arn)
        for some in _portions(arns, _DEFINITIONS):
            self.calls.call("ecs", "delete_task_definitions", taskDefinitions=list(some))
        removed, left = self.resources.remove()
        if arns:
            removed.insert(0, f"task definition {self.family}")
        return removed, left

    def close(self) -> None:
        """Close all connections to AWS."""
        self.calls.close()


def _not_placed(slot: str, failures: Sequence[Mapping[str, Any]], place: NodeNetwork) -> StoreError:
    reasons = {" ".join(filter(None, (each.get("reason"), each.get("detail")))) for each in failures}
    what = f"AWS has not started {slot} on Fargate: {'; '.join(sorted(reasons)) or 'no reason given'}"
    if any("apacity" in reason or "RESOURCE" in reason for reason in reasons):
        return StoreUnavailable(
            what,
            backend=BACKEND,
            hint=f"there is no room now in {', '.join(place.subnets)}: try again later, with subnets in other "
            "availability zones, another architecture, or smaller nodes",
        )
    return StoreError(what, backend=BACKEND, hint="docs/fargate.md says what nodes need")


def _tag(tags: Sequence[Mapping[str, str]], key: str) -> str | None:
    return next((tag.get("value") for tag in tags if tag.get("key") == key), None)


def _portions(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
