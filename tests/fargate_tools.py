"""What the tests of the Fargate store share: an account that really runs tasks, nodes in it, and what is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from aws_descriptions import hasten_moto
from waiting import wait

from wukong.backends.storage.fargate import Fargate
from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.calls import FargateCalls
from wukong.backends.storage.fargate.node import Node
from wukong.backends.storage.fargate.nodes import Nodes
from wukong.backends.storage.fargate.options import FargateOptions
from wukong.emulators.aws_ecs import EcsStandIn, StandInTask

_WHO = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION")


@contextmanager
def account(**options: Any) -> Iterator[EcsStandIn]:
    """An empty account, with somebody logged in. Clients of boto3 are made once: they take longer than what they do."""
    hasten_moto()
    with EcsStandIn(**options) as aws, pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(FargateCalls, "_client", _shared(FargateCalls._client))
        yield aws


def _shared(client: Callable[[FargateCalls, str], Any]) -> Callable[[FargateCalls, str], Any]:
    """Stores that are opened alike have the same clients."""
    clients: dict[Any, Any] = {}

    def shared(calls: FargateCalls, service: str) -> Any:
        key = service, calls._given, *map(os.environ.get, _WHO)
        if key not in clients:
            clients[key] = client(calls, service)
        return clients[key]

    return shared


@contextmanager
def emptied(cloud: EcsStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An account in which nothing runs, before and afterwards, and in which nothing is told to fail."""
    monkeypatch.setattr(cloud, "_failures", {})
    yield
    for store in _made:  # one that a test did not get to close would replace its nodes for ever
        store.close()
    _made.clear()
    cloud.slow(provisioning_s=0.0, pending_s=0.0, stopping_s=0.0)
    for task in cloud.tasks():
        if task.status != "STOPPED":
            cloud.thaw(task)
            cloud.kill(task)
    wait(lambda: all(task.status == "STOPPED" for task in cloud.tasks()), "all tasks have ended")


_made: list[Fargate] = []


def store_of(number: int | None = None, **options: Any) -> Fargate:
    """The store, looked after often; `emptied` closes it."""
    _made.append(Fargate(nodes=number, **{"start_timeout_s": 30.0, "watch_s": 0.1, **options}))
    return _made[-1]


def nodes_of(number: int | None = None, **options: Any) -> Nodes:
    found = FargateOptions(nodes=number, **{"start_timeout_s": 30.0, "watch_s": 0.1, **options})
    return Nodes(found, FargateAccount(found))


def silent(what: str, done: int, of: int) -> None:
    pass


def alive(aws: EcsStandIn) -> list[StandInTask]:
    """Tasks that nobody has asked to stop."""
    return [
        task for task in aws.tasks() if task.status in ("PROVISIONING", "PENDING", "RUNNING") and not task.stop_code
    ]


def slots(nodes: list[Node] | list[StandInTask]) -> list[str]:
    return sorted(each.slot if isinstance(each, Node) else each.tags["wukong:slot"] for each in nodes)


def task_of(aws: EcsStandIn, node: Node) -> StandInTask:
    [found] = [task for task in aws.tasks() if task.arn == node.task]
    return found


def choice(nodes: int | None, **more: Any) -> dict[str, Any]:
    """The store, as a client chooses it: looked after often, so that a test need not wait for it."""
    given = {} if nodes is None else {"nodes": nodes}
    return {"name": "fargate", **given, "watch_s": 0.1, "start_timeout_s": 30.0, **more}


def serving(aws: EcsStandIn) -> set[str]:
    """The ARNs of the tasks that run and that nobody has asked to end."""
    return {each.arn for each in aws.running() if not each.stop_code}


class Bare:
    """The account, by other ways than the store's."""

    def __init__(self, aws: EcsStandIn) -> None:
        session = boto3.Session()
        self.ecs, self.ec2, self.iam, self.secrets, self.logs = (
            session.client(service, **aws.options) for service in ("ecs", "ec2", "iam", "secretsmanager", "logs")
        )

    def left(self) -> list[str]:
        """Everything in the account that was made by anybody and is still there."""
        groups = self.ec2.describe_security_groups()["SecurityGroups"]
        clusters = self.ecs.describe_clusters(clusters=self.ecs.list_clusters()["clusterArns"])["clusters"]
        return [
            *(f"cluster {each['clusterName']}" for each in clusters if each["status"] == "ACTIVE"),
            *(f"definition {each}" for each in self.ecs.list_task_definitions()["taskDefinitionArns"]),
            *(f"group {each['GroupName']}" for each in groups if each["GroupName"] != "default"),
            *(f"role {each['RoleName']}" for each in self.iam.list_roles()["Roles"]),
            *(f"secret {each['Name']}" for each in self.secrets.list_secrets()["SecretList"]),
            *(f"logs {each['logGroupName']}" for each in self.logs.describe_log_groups()["logGroups"]),
            *(
                f"interface {each['NetworkInterfaceId']}"
                for each in self.ec2.describe_network_interfaces()["NetworkInterfaces"]
            ),
        ]
