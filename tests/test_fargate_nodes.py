"""Nodes as they start, and are found running; on a stand-in that runs real servers."""

from __future__ import annotations

import io
import signal
import threading

import boto3
import pytest
from fargate_tools import account, alive, nodes_of, silent, slots, store_of, task_of

from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.leases import Leases
from wukong.backends.storage.fargate.node import Node, story_of
from wukong.backends.storage.fargate.nodes import Nodes
from wukong.backends.storage.fargate.options import FargateOptions, Shape
from wukong.backends.storage.fargate.shards import FargateShards
from wukong.errors import ConfigError, StoreError, StoreUnavailable

pytestmark = pytest.mark.xdist_group("fargate")


# --- starting


def test_every_node_is_a_call_of_its_own_with_its_slot_in_tags_and_environment(aws, monkeypatch):
    asked = []
    run = FargateAccount.run

    def noted(self, setup, slot, generation, started_by, **more):
        asked.append((slot, generation))
        return run(self, setup, slot, generation, started_by, **more)

    monkeypatch.setattr(FargateAccount, "run", noted)
    at = len(aws.calls())
    told: list[tuple[str, int, int]] = []
    nodes = nodes_of(12).up(lambda *progress: told.append(progress))
    assert aws.calls()[at:].count("RunTask") == 12
    assert [node.slot for node in nodes] == [f"node-{n}" for n in range(12)]
    assert slots(alive(aws)) == sorted(node.slot for node in nodes)
    assert len({node.address for node in nodes}) == 12
    tags = task_of(aws, nodes[3]).tags
    assert tags["wukong:name"] == "wukong"
    assert (tags["wukong:keep"], Shape.of(tags["wukong:shape"])) == ("no", Shape())
    assert tags["wukong:generation"] == str(nodes[3].generation) == str(dict(asked)["node-3"])
    assert told[-1] == ("Redis nodes on AWS Fargate", 12, 12)
    assert [done for what, done, of in told if of == 12] == sorted(done for what, done, of in told if of == 12)


def test_one_of_many_that_is_refused_stops_all_that_were_started(aws):
    nodes_of(1, name="other").up(silent)
    aws.refuse(1)
    with pytest.raises(StoreUnavailable, match=r"AWS has not started node-\d+ on Fargate: Capacity is") as caught:
        nodes_of(9).up(silent)
    assert "other availability zones" in str(caught.value)
    assert [task.family for task in alive(aws)] == ["other-store"]


def test_a_call_that_is_answered_with_an_error_but_has_started_a_node_leaves_none(aws, monkeypatch):
    run = FargateAccount.run

    def lost(self, setup, slot, *arguments, **more):
        run(self, setup, slot, *arguments, **more)
        if slot == "node-1":
            raise StoreUnavailable("the answer is lost")

    monkeypatch.setattr(FargateAccount, "run", lambda *a, **k: lost(*a, **k) or {"taskArn": "?", "tags": []})
    with pytest.raises((StoreUnavailable, AssertionError)):
        nodes_of(2).up(silent)
    assert alive(aws) == []


def test_the_same_call_made_twice_starts_one_node(aws):
    nodes = nodes_of(1)
    setup = nodes.account.prepare(Shape())
    tasks = [nodes.account.run(setup, "node-0", 7, "me", keep=False)["taskArn"] for _ in range(2)]
    assert tasks[0] == tasks[1]
    assert len(alive(aws)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_nodes_start_stops_them(aws, error):
    aws.slow(pending_s=20.0)

    def interrupt(what: str, done: int, of: int) -> None:
        if what.startswith("Redis"):
            raise error

    with pytest.raises(error):
        nodes_of(2).up(interrupt)
    assert alive(aws) == []


class Finalized(io.IOBase):
    """As the answers of HTTP are: what is raised while it is finalized is dropped by Python, and nothing says so."""

    def close(self):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_python_loses_stops_nodes_that_start_all_the_same(aws):
    def tell(what, done, of):
        if of == 2:
            Finalized()

    aws.slow(pending_s=60.0)
    with pytest.raises(KeyboardInterrupt):
        nodes_of(2).up(tell)
    assert alive(aws) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_python_loses_ends_the_wait_for_nodes_that_are_to_stop(aws):
    nodes_of(1).up(lambda *_: None)
    aws.slow(stopping_s=3.0)  # longer than between two looks
    with pytest.raises(KeyboardInterrupt):
        nodes_of(1).down(lambda what, *_: Finalized() if "still" in what else None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoreError])
def test_what_fails_when_all_nodes_serve_stops_them_and_a_second_start_is_a_first_one(aws, monkeypatch, error):
    def fail(*_):
        raise error("now of all times")

    closed = []
    client = store_of(2)
    with monkeypatch.context() as patch:
        patch.setattr(Leases, "publish", fail)
        patch.setattr(FargateShards, "close", lambda shards: closed.append(shards))
        with pytest.raises(error, match="now of all times"):
            client.start(silent)
    assert alive(aws) == []
    assert len(closed) == 1
    with pytest.raises(StoreError, match="has no nodes"):
        client.get([b"a"])
    client.start(silent)
    client.put({b"a": b"1"})
    assert client.get([b"a"]) == [b"1"]
    client.close()
    assert alive(aws) == []


def test_a_node_that_ends_while_it_starts_tells_why_and_what_to_do(aws):
    aws.fail_start()
    with pytest.raises(StoreError, match=r"node-0 ended before it served: CannotPullContainer") as caught:
        nodes_of(1).up(silent)
    assert "NAT gateway" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "story", "hint"),
    [
        ({"stoppedReason": "ResourceInitializationError: unable to pull secrets"}, "unable to pull secrets", "NAT"),
        (
            {
                "stoppedReason": "Essential container in task exited",
                "containers": [{"name": "redis", "exitCode": 137, "reason": "OutOfMemoryError: killed"}],
            },
            "container redis: exit code 137, OutOfMemoryError: killed",
            "memory_mb",
        ),
        ({"containers": [{"name": "redis"}], "stopCode": "UserInitiated"}, "UserInitiated", None),
        ({}, "no reason given", None),
    ],
)
def test_the_end_of_a_task_is_told_in_its_own_words(task, story, hint):
    told, todo = story_of(task)
    assert story in told
    assert (todo is None) if hint is None else hint in (todo or "")


def test_nodes_that_take_too_long_are_named_and_stopped(aws):
    aws.slow(pending_s=20.0)
    with pytest.raises(StoreUnavailable, match=r"0 of 2 Redis nodes on AWS Fargate serve after 0.3 s: node-0 is P"):
        nodes_of(2, start_timeout_s=0.3).up(silent)
    assert alive(aws) == []


def test_a_client_that_cannot_reach_healthy_nodes_says_what_to_do_and_stops_them(aws):
    def elsewhere(account, task):
        return "127.99.99.99", None  # nobody listens there

    options = FargateOptions(nodes=1, start_timeout_s=30.0)
    with pytest.raises(
        StoreUnavailable, match=r"node-0 runs, and cannot be reached from here at 127.99.99.99"
    ) as caught:
        Nodes(options, FargateAccount(options), elsewhere).up(silent, use=True)
    assert "client_cidr" in str(caught.value)
    assert alive(aws) == []


def test_whoever_only_brings_nodes_up_need_not_reach_them(aws):
    options = FargateOptions(nodes=1, start_timeout_s=30.0)
    [node] = Nodes(options, FargateAccount(options), lambda *_: ("127.99.99.99", None)).up(silent)
    assert task_of(aws, node).health == "HEALTHY"


def test_nodes_that_are_listed_late_are_not_started_twice():
    with account(lag_s=0.5) as aws:
        nodes = nodes_of(2).up(silent)
        assert slots(nodes) == slots(alive(aws)) == ["node-0", "node-1"]


# --- adopting


def test_nodes_that_run_are_adopted_with_everything_they_hold(aws):
    first = store_of(2, keep=True)
    first.start(silent)
    first.put({b"%d" % n: b"x" for n in range(20)})
    first.close()
    at = len(aws.calls())
    second = store_of()
    second.start(silent)
    assert second.get([b"%d" % n for n in range(20)]) == [b"x"] * 20
    assert "RunTask" not in aws.calls()[at:]
    second.close()
    assert len(alive(aws)) == 2


def test_nodes_of_another_shape_are_refused_and_left_alone(aws):
    nodes_of(1, memory_mb=4096).up(silent)
    with pytest.raises(
        ConfigError, match=r"node-0 of wukong runs with memory_mb=4096, and memory_mb=8192 is asked for"
    ):
        nodes_of(2, memory_mb=8192).up(silent)
    assert len(alive(aws)) == 1
    more = nodes_of(2)
    more.up(silent)
    assert more.shape == Shape(memory_mb=4096)
    assert {task.tags["wukong:shape"] for task in alive(aws)} == {Shape(memory_mb=4096).tag}


def test_if_two_start_the_same_node_at_once_both_use_the_first_one(aws, monkeypatch):
    """Each has looked before the other one started anything."""
    start, live = threading.Barrier(2), Nodes.live
    looked: set[int] = set()

    def both_look(self):
        found = live(self)
        if id(self) not in looked:
            looked.add(id(self))
            start.wait(20)
        return found

    monkeypatch.setattr(Nodes, "live", both_look)
    clients = [nodes_of(2), nodes_of(2)]
    got: list[list[Node]] = []
    threads = [threading.Thread(target=lambda each=each: got.append(each.up(silent, use=True))) for each in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [node.task for node in got[0]] == [node.task for node in got[1]]
    assert sorted(task.arn for task in alive(aws)) == sorted(node.task for node in got[0])


def test_an_adopted_node_that_ends_while_it_is_waited_for_is_started_anew(aws):
    aws.slow(pending_s=20.0)
    other = nodes_of(1)
    other.account.run(other.account.prepare(Shape()), "node-0", 7, "another client", keep=False)
    [doomed] = alive(aws)
    stopped = []

    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("Redis") and not stopped:
            stopped.append(doomed)
            aws.slow(pending_s=0.0)
            aws.stop_task(doomed, "UserInitiated", "it was interrupted")

    [node] = nodes_of(1).up(stop)
    assert node.task != doomed.arn
    assert node.generation > 7


def test_an_adopted_node_whose_health_check_fails_is_replaced(aws, monkeypatch):
    [sick] = nodes_of(1, keep=True).up(silent)
    aws.freeze(task_of(aws, sick))
    described = FargateAccount.described

    def unhealthy(self, arns):
        told = described(self, arns)
        return [{**task, "healthStatus": "UNHEALTHY"} if task["taskArn"] == sick.task else task for task in told]

    monkeypatch.setattr(FargateAccount, "described", unhealthy)
    [node] = nodes_of(1, connect_timeout_s=0.3, timeout_s=0.3).up(silent, use=True)
    assert (node.slot, node.task != sick.task) == (sick.slot, True)
    assert [task.arn for task in alive(aws)] == [node.task]


def test_nodes_with_another_password_than_the_secrets_say_so_and_go_on(aws):
    nodes = nodes_of(1, keep=True)
    nodes.up(silent)
    secrets, name = boto3.client("secretsmanager"), "wukong/store-password"
    password = secrets.get_secret_value(SecretId=name)["SecretString"]
    secrets.put_secret_value(SecretId=name, SecretString="5b" * 32)
    try:
        with pytest.raises(StoreError, match="node-0 does not take the password that the secret wukong/store-password"):
            nodes_of(1).up(silent, use=True)
    finally:
        secrets.put_secret_value(SecretId=name, SecretString=password)
    assert len(alive(aws)) == 1
