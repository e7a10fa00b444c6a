"""Whole jobs with the store `fargate`, whose nodes are real Redis servers on a stand-in for ECS.

Each is a client as a user would write it: it starts nodes, computes on them, and leaves nothing behind.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import redis
from fargate_tools import Bare, account, choice, serving
from tree_tasks import add, tree
from waiting import wait

import wukong
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.fargate import Fargate
from wukong.emulators.aws_ecs import CANNOT_PULL, EcsStandIn
from wukong.errors import ConfigError, StoreError
from wukong.testing.lambda_service import LambdaService
from wukong.testing.storage.opening import StoreOpeningTests
from wukong.testing.storage.waiting import WaitingTests

pytestmark = pytest.mark.xdist_group("fargate jobs")


@pytest.fixture
def aws(cloud: EcsStandIn) -> Iterator[EcsStandIn]:
    """An account in which nothing runs, before and afterwards."""
    began = len(cloud.tasks())
    yield cloud
    cloud.slow(provisioning_s=0.0, pending_s=0.0, stopping_s=0.0, stop_timeout_s=None)
    for task in cloud.tasks()[began:]:
        cloud.kill(task)
    wait(lambda: all(each.status == "STOPPED" for each in cloud.tasks()), "all tasks have ended")


def client(nodes: int | None = 3, *, settings: Mapping[str, Any] | None = None, **storage: Any) -> wukong.Client:
    """A client on the emulator with n nodes."""
    return wukong.Client(storage=choice(nodes, **storage), progress=False, **(settings or {}))


def options(nodes: int | None) -> dict[str, Any]:
    """The same store, for who opens it themselves."""
    return {name: each for name, each in choice(nodes).items() if name != "name"}


def all_stopped(aws: EcsStandIn) -> bool:
    return all(each.status == "STOPPED" for each in aws.tasks())


# --- what a user does


def test_collections_are_computed_and_nothing_runs_afterwards(aws: EcsStandIn) -> None:
    data = np.random.default_rng(7).standard_normal((600, 12))
    with client(3, settings={"fan_out": "eager"}) as one:
        assert len(aws.running()) == 3
        q, r = dask.compute(*dask.array.linalg.qr(dask.array.from_array(data, chunks=(100, 12))))
        np.testing.assert_allclose(q @ r, data, atol=1e-10)
        assert dask.array.ones((1_000, 1_000), chunks=250).sum().compute() == 1_000_000
        graph, key, total = tree()
        assert one.get(graph, key) == total
        assert one.last_job is not None
        summary = str(one.last_job.summary())
        assert "3 Redis nodes on AWS Fargate for" in summary and "$" in summary and "us-east-1" in summary
    wait(lambda: all_stopped(aws), "the nodes have ended")
    assert aws.running() == []


def test_values_are_spread_over_all_nodes(aws: EcsStandIn) -> None:
    store = Fargate(**options(3))
    try:
        store.start(lambda what, done, of: None)
        store.put({f"key-{n}".encode(): bytes(64) for n in range(200)})
        password = store.environment()["WUKONG_REDIS_PASSWORD"]
        counts = []
        for task in aws.running():
            with redis.Redis(str(task.address), password=password, protocol=2) as bare:
                counts.append(len(bare.keys("wukong:v*")))
        assert sum(counts) == 200 and min(counts) > 30
    finally:
        store.close()


def test_nodes_that_are_kept_are_taken_over_by_the_next_client(aws: EcsStandIn) -> None:
    graph, key, total = tree()
    with client(2, keep=True) as one:
        assert one.get(graph, key) == total
    nodes = serving(aws)
    assert len(nodes) == 2
    with client(None) as two:  # it takes as many as there are
        assert two.get(graph, key) == total
        assert serving(aws) == nodes
    assert serving(aws) == nodes, "they were started to be kept"


def test_of_two_clients_the_last_one_stops_the_nodes(aws: EcsStandIn) -> None:
    graph, key, total = tree()
    one = client(2)
    try:
        with client(2) as two:
            nodes = serving(aws)
            assert len(nodes) == 2
            one.close()
            assert serving(aws) == nodes
            assert two.get(graph, key) == total
    finally:
        one.close()
    wait(lambda: aws.running() == [], "the nodes have ended")


def test_nodes_speak_tls_and_a_client_outside_comes_by_public_addresses(aws: EcsStandIn) -> None:
    graph, key, total = tree()
    with client(2, tls=True, public=True, client_cidr="127.0.0.0/8") as one:
        assert one.get(graph, key) == total
        node = aws.running()[0]
        with pytest.raises(redis.ConnectionError), redis.Redis(str(node.address), protocol=2) as bare:
            bare.ping()


# --- nodes that are lost


class Slow:
    """A chain of fan-ins that waits in its middle until a node has been killed, and tells when it is there."""

    def __init__(self, folder: Path) -> None:
        self.reached, self.go_on = folder / "reached", folder / "go-on"

    def graph(self, n: int = 12) -> tuple[dict[Any, Any], Any, int]:
        reached, go_on = str(self.reached), str(self.go_on)

        def value(i: int) -> int:
            return i

        def gate(values: Sequence[int]) -> int:
            import pathlib

            pathlib.Path(reached).touch()
            end = time.monotonic() + 60
            while not pathlib.Path(go_on).exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            return sum(values)

        graph: dict[Any, Any] = {("v", i): (value, i) for i in range(n)}
        graph["gate"] = (gate, [("v", i) for i in range(n)])
        graph.update({("w", i): (add, "gate", ("v", i)) for i in range(n)})
        graph["sum"] = (sum, [("w", i) for i in range(n)])
        total = sum(range(n))
        return graph, "sum", n * total + total


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_node_that_is_killed_is_replaced_and_the_result_is_right(aws: EcsStandIn, tmp_path: Path, nodes: int) -> None:
    slow = Slow(tmp_path)
    graph, key, total = slow.graph()
    began = len(aws.tasks())
    settings = {"heartbeat_s": 0.3, "fan_out": "eager", "ride_bytes": 0}
    with client(nodes, settings=settings) as one:
        first = {each.tags["wukong:slot"]: each.arn for each in aws.running()}

        def lose() -> None:
            wait(slow.reached.exists, "the job is in its middle")
            aws.kill(first["node-0"])
            wait(lambda: len(aws.tasks()[began:]) == nodes + 1, "another node is started")
            slow.go_on.touch()

        thread = threading.Thread(target=lose)
        thread.start()
        try:
            assert one.get(graph, key) == total
        finally:
            thread.join()
        now = {each.tags["wukong:slot"]: each.arn for each in aws.running()}
        assert now.keys() == first.keys() and now["node-0"] != first["node-0"]
        plain, last, right = tree()
        assert one.get(plain, last) == right, "the next job uses the new node"
    wait(lambda: all_stopped(aws), "the nodes have ended")


DIES = """
import os, signal, wukong
from fargate_tools import choice
client = wukong.Client(storage=choice(2, idle_s=1.0), progress=False)
print(client.get({"a": (sum, [20, 22])}, "a"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nodes_that_nobody_uses_end_themselves_though_their_client_was_killed(aws: EcsStandIn) -> None:
    done = subprocess.run([sys.executable, "-c", DIES], env=with_tests(), capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["42"] and done.returncode == -signal.SIGKILL, done.stderr
    tasks = aws.tasks()[-2:]
    wait(lambda: aws.running() == [], "the nodes have ended")
    assert all("nobody uses this node any more" in aws.output(each) for each in tasks)


def with_tests() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}


# --- starting that fails


def test_a_start_that_fails_half_way_says_why_and_leaves_nothing(aws: EcsStandIn) -> None:
    aws.fail_start(3)
    with pytest.raises(StoreError, match=r"node-\d ended before it served: CannotPullContainerError") as caught:
        client(3)
    assert "image" in str(caught.value.hint) and CANNOT_PULL in caught.value.message
    wait(lambda: all_stopped(aws), "the nodes that had started are stopped")
    assert aws.running() == []


def test_ctrl_c_while_nodes_start_leaves_nothing(aws: EcsStandIn) -> None:
    aws.slow(pending_s=60.0)
    code = "import wukong; from fargate_tools import choice; wukong.Client(storage=choice(3), progress=False)"
    began = len(aws.tasks())
    process = subprocess.Popen([sys.executable, "-c", code], env=with_tests(), stderr=subprocess.PIPE, text=True)
    wait(lambda: len(aws.tasks()[began:]) == 3, "it has begun to start nodes")
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, complaints
    assert "KeyboardInterrupt" in complaints
    wait(lambda: all_stopped(aws), "they are stopped")


def test_unknown_credentials_say_so(cloud: EcsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    with account(access_key="AKIDMINE") as theirs:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDANOTHER")
        with pytest.raises(StoreError, match=r"InvalidClientTokenId|UnrecognizedClient|security token") as caught:
            client(1, endpoint_url=theirs.url)
        assert "aws configure" in str(caught.value.hint)


def test_no_credentials_say_so(aws: EcsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreError, match="no usable AWS credentials") as caught:
        client(1)
    assert "log in" in str(caught.value.hint)


def test_a_call_that_is_not_permitted_is_named(aws: EcsStandIn) -> None:
    aws.fail("RunTask", "AccessDeniedException", "User: me is not authorized to perform: ecs:RunTask", times=1)
    with pytest.raises(StoreError, match="ecs:RunTask") as caught:
        client(1)
    assert "must be allowed ecs:RunTask" in str(caught.value.hint)
    wait(lambda: all_stopped(aws), "nothing runs")


def test_subnets_that_are_not_there_say_so(aws: EcsStandIn) -> None:
    with pytest.raises(ConfigError, match="no such subnet"):
        client(1, subnets=["subnet-0a1b2c3d"])


# --- on AWS Lambda


def test_a_job_on_lambda_with_the_nodes_in_its_network(
    aws: EcsStandIn, lambda_service: LambdaService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As deployed: the password is the stack's, the functions have it, and nodes admit the functions."""
    bare = Bare(aws)
    password = secrets.token_hex(32)
    bare.secrets.create_secret(Name="mine/store-password", SecretString=password)
    lambda_service.create_function(
        "mine",
        "from wukong_executor.handler import handler",
        variables={"WUKONG_DEPLOYMENT_KEY": secrets.token_hex(32), "WUKONG_REDIS_PASSWORD": password},
        Timeout=60,
        MemorySize=1_769,
    )
    for name, value in lambda_service.environment.items():
        monkeypatch.setenv(name, value)
    [group] = bare.ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
    subnets = [each["SubnetId"] for each in bare.ec2.describe_subnets()["Subnets"]][:2]
    graph, key, total = tree()
    with wukong.Client(
        faas={"name": "aws-lambda", "function": "mine"},
        storage=choice(2, deployment="mine", subnets=subnets, function_security_group=group["GroupId"]),
        progress=False,
        fan_out="eager",
    ) as one:
        assert one.get(graph, key) == total
        assert one.last_job is not None and one.last_job.summary().executors > 1
        [nodes] = bare.ec2.describe_security_groups(GroupNames=["mine-store"])["SecurityGroups"]
        [rule] = nodes["IpPermissions"]
        assert (rule["FromPort"], rule["ToPort"]) == (6379, 6379)
        assert [each["GroupId"] for each in rule["UserIdGroupPairs"]] == [group["GroupId"]]
        assert rule["IpRanges"] == []
    wait(lambda: all_stopped(aws), "the nodes have ended")


# --- the contract


class ThreeNodes:
    """What functions open: the client's is the same, and slower to come and go."""

    platform_variables = ("WUKONG_REDIS_",)  # functions have them from the store that has started the nodes

    @pytest.fixture(autouse=True)
    def _nodes(self, nodes: PluginSpec) -> None:
        self.nodes = nodes

    def make_store(self) -> Store:
        store: Store = self.nodes.open()
        return store


class TestThreeNodes(ThreeNodes, StoreOpeningTests):
    """What the nodes could change."""


@pytest.mark.long
class TestThreeNodesWait(ThreeNodes, WaitingTests):
    """As those of `test_fargate_shards` do."""


@pytest.fixture(scope="module")
def nodes(cloud: EcsStandIn) -> Iterator[PluginSpec]:
    """How functions open three nodes; they have the password in their environment, as this process and its children."""
    owner = Fargate(**options(3))
    with pytest.MonkeyPatch.context() as patch:
        owner.start(lambda what, done, of: None)
        for name, value in owner.environment().items():
            patch.setenv(name, value)
        yield owner.spec()
        owner.close()
