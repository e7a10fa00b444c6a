"""Nodes coming and going: started, adopted, shared, scaled, replaced, left; on a stand-in that runs real servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest
import redis
from faas_local_tools import wait
from fargate_tools import account

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.fargate import Fargate, door
from wukong.backends.storage.fargate.account import Account
from wukong.backends.storage.fargate.node import Node, story_of
from wukong.backends.storage.fargate.nodes import Nodes
from wukong.backends.storage.fargate.options import Options, Shape
from wukong.backends.storage.layers import within
from wukong.backends.storage.layers.sharded import Sharded
from wukong.errors import ConfigError, StoreError, StoreUnavailable
from wukong.testing.ecs import CAPACITY, EcsStandIn, StandInTask

pytestmark = [pytest.mark.xdist_group("fargate"), pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def cloud() -> Iterator[EcsStandIn]:
    with account() as aws:
        yield aws


@pytest.fixture
def aws(cloud: EcsStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[EcsStandIn]:
    """An account in which nothing runs, before and afterwards."""
    monkeypatch.setattr(cloud, "_failures", {})
    yield cloud
    for store in _made:  # one that a test did not get to close would replace its nodes for ever
        store.close()
    _made.clear()
    cloud.slow(provisioning_s=0.0, pending_s=0.0, stopping_s=0.0)
    for task in cloud.tasks():
        if task.status != "STOPPED":
            cloud.thaw(task)
            cloud.kill(task)
    wait(lambda: all(task.status == "STOPPED" for task in cloud.tasks()), "all tasks have ended")


def nodes_of(number: int | None = None, **options: Any) -> Nodes:
    found = Options(nodes=number, **{"start_timeout_s": 30.0, "watch_s": 0.1, **options})
    return Nodes(found, Account(found))


_made: list[Fargate] = []


def store_of(number: int | None = None, **options: Any) -> Fargate:
    _made.append(Fargate(nodes=number, **{"start_timeout_s": 30.0, "watch_s": 0.1, **options}))
    return _made[-1]


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


# --- starting


def test_every_node_is_a_call_of_its_own_with_its_slot_in_tags_and_environment(aws, monkeypatch):
    asked = []
    run = Account.run

    def noted(self, setup, slot, generation, started_by, **more):
        asked.append((slot, generation))
        return run(self, setup, slot, generation, started_by, **more)

    monkeypatch.setattr(Account, "run", noted)
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
    run = Account.run

    def lost(self, setup, slot, *arguments, **more):
        run(self, setup, slot, *arguments, **more)
        if slot == "node-1":
            raise StoreUnavailable("the answer is lost")

    monkeypatch.setattr(Account, "run", lambda *a, **k: lost(*a, **k) or {"taskArn": "?", "tags": []})
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

    options = Options(nodes=1, start_timeout_s=30.0)
    with pytest.raises(
        StoreUnavailable, match=r"node-0 runs, and cannot be reached from here at 127.99.99.99"
    ) as caught:
        Nodes(options, Account(options), elsewhere).up(silent, use=True)
    assert "client_cidr" in str(caught.value)
    assert alive(aws) == []


def test_whoever_only_brings_nodes_up_need_not_reach_them(aws):
    options = Options(nodes=1, start_timeout_s=30.0)
    [node] = Nodes(options, Account(options), lambda *_: ("127.99.99.99", None)).up(silent)
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


def test_where_two_start_the_same_node_at_once_both_use_the_first_one(aws, monkeypatch):
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
    described = Account.described

    def unhealthy(self, arns):
        told = described(self, arns)
        return [{**task, "healthStatus": "UNHEALTHY"} if task["taskArn"] == sick.task else task for task in told]

    monkeypatch.setattr(Account, "described", unhealthy)
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


# --- scaling


def test_more_nodes_are_started_and_fewer_stop_those_beyond(aws):
    two = nodes_of(2).up(silent)
    four = nodes_of(4).up(silent)
    assert [node.task for node in four[:2]] == [node.task for node in two]
    assert [node.slot for node in nodes_of().up(silent)] == [node.slot for node in four]
    nodes_of(1, keep=True).up(silent)
    assert slots(alive(aws)) == ["node-0"]


def test_fewer_nodes_do_not_stop_those_that_a_client_uses(aws):
    user = store_of(3)
    user.start(silent)
    nodes_of(1).up(silent)
    assert len(alive(aws)) == 3
    user.close()
    assert alive(aws) == []


def test_a_client_uses_as_many_as_it_asks_for_and_leaves_the_rest_alone(aws):
    nodes_of(3, keep=True).up(silent)
    one = store_of(1)
    one.start(silent)
    assert one.rent().what == "1 Redis node on AWS Fargate"
    one.close()
    assert len(alive(aws)) == 3


# --- sharing


def test_the_last_client_that_leaves_stops_the_nodes_whoever_started_them(aws):
    first, second = store_of(2), store_of(2)
    first.start(silent)
    second.start(silent)
    first.close()
    assert len(alive(aws)) == 2
    second.put({b"still": b"there"})
    second.close()
    assert alive(aws) == []


def test_a_client_that_wants_to_keep_nodes_has_its_way_though_it_leaves_first(aws):
    first, second = store_of(1), store_of(1, keep=True)
    first.start(silent)
    second.start(silent)
    second.close()
    first.close()
    [task] = alive(aws)
    assert task.tags["wukong:keep"] == "yes"
    third = store_of(1)
    third.start(silent)  # it was not left closed
    third.close()


def test_who_comes_while_the_last_one_leaves_does_not_get_in_and_starts_its_own(aws):
    leaving = nodes_of(1)
    [node] = leaving.up(silent, use=True)
    assert leaving.last([node]) == [node]
    coming = nodes_of(1)
    seen = []

    def stop(what: str, done: int, of: int) -> None:
        seen.append(done)
        if len(seen) == 4:  # it has met the closed door by then
            leaving.account.stop(node.task, "nobody uses this node any more")

    [other] = coming.up(stop, use=True)
    assert other.task != node.task


def test_a_client_that_died_is_forgotten_when_its_lease_runs_out(aws, monkeypatch):
    monkeypatch.setattr(door, "LEASE_S", 0.2)
    nodes_of(1).up(silent, use=True)
    monkeypatch.undo()
    second = nodes_of(1)
    [node] = second.up(silent, use=True)
    wait(lambda: second.leave([node]) == [] or not second.door.enter(node), "the first one is forgotten")
    assert alive(aws) == []


def test_nodes_under_another_client_survive_a_start_that_fails(aws, monkeypatch):
    """One starts two nodes; another one uses the first of them before the second fails."""
    aws.slow(pending_s=0.0)
    aws.fail_start(2)
    second = store_of(1)
    started = []

    def use(what: str, done: int, of: int) -> None:
        if of == 2 and not started and alive(aws):
            wait(lambda: any(task.status == "RUNNING" for task in aws.tasks()), "one runs")
            second.start(silent)
            started.append(True)

    with pytest.raises(StoreError, match="ended before it served"):
        nodes_of(2).up(use, use=True)
    second.put({b"still": b"there"})
    assert second.get([b"still"]) == [b"there"]
    second.close()


def test_a_node_that_cannot_be_reached_is_left_to_its_idle_time(aws):
    nodes = nodes_of(1, connect_timeout_s=0.3, timeout_s=0.3)
    [node] = nodes.up(silent, use=True)
    aws.freeze(task_of(aws, node))
    assert nodes.leave([node]) == [node]
    assert len(alive(aws)) == 1


# --- replacing


def opened(store: Fargate) -> Store:
    """The store as a function opens it."""
    spec = store.spec()
    password = dict(store.environment())["WUKONG_REDIS_PASSWORD"]
    return PluginSpec(spec.target, {**spec.options, "password": password, "connect_timeout_s": 1.0}).open()


def spread(store: Store) -> dict[str, bytes]:
    """A key for each slot."""
    sharded = within(store, Sharded)
    assert sharded is not None
    keys = [b"key %d" % n for n in range(100)]
    return {repr(sharded.shard_of(key)): key for key in keys}


def test_a_node_that_died_is_replaced_and_everybody_finds_the_new_one(aws):
    client = store_of(3)
    client.start(silent)
    executor = opened(client)
    keys = list(spread(executor).values())
    assert len(keys) == 3
    client.put(dict.fromkeys(keys, b"x"))
    before = client.spec().options["slots"]
    aws.kill(alive(aws)[1])
    wait(lambda: client.spec().options["slots"] != before, "the node is replaced")
    [(old, new)] = [pair for pair in zip(before, client.spec().options["slots"], strict=True) if pair[0] != pair[1]]
    assert (new[0], new[1] > old[1], new[2] != old[2]) == (old[0], True, True)
    wait(lambda: sorted(map(bool, client.get(keys))) == [False, True, True], "one share is lost, and no more")
    executor.put(dict.fromkeys(keys, b"y"))  # it was never told, and asks the others
    assert client.get(keys) == [b"y"] * 3
    assert executor.capabilities.recovery_s == client.capabilities.recovery_s == 120.0
    executor.close()
    client.close()
    assert alive(aws) == []


def test_who_has_the_address_of_a_lost_node_is_not_taken_for_it(aws):
    client = store_of(2)
    client.start(silent)
    spec = client.spec()
    first, second = spec.options["slots"]
    swapped = [[first[0], first[1], second[2]], second]
    password = dict(client.environment())["WUKONG_REDIS_PASSWORD"]
    lost = PluginSpec(spec.target, {**spec.options, "slots": swapped, "password": password}).open()
    key = next(key for shard, key in spread(lost).items() if first[0] in shard)
    with pytest.raises(StoreUnavailable, match=r"node-0 is not at .* any more, or has another password"):
        lost.put({key: b"value"})
    stale = [[first[0], first[1] - 1, second[2]], second]
    found = PluginSpec(spec.target, {**spec.options, "slots": stale, "password": password}).open()
    found.put({key: b"value"})  # of a newer one the directory tells
    assert client.get([key]) == [b"value"]
    client.close()


def test_functions_wait_for_a_replacement_only_where_other_nodes_would_tell_them_of_it(aws):
    client = store_of(1, recovery_s=60.0)
    client.start(silent)
    assert client.capabilities.recovery_s == 60.0
    assert opened(client).capabilities.recovery_s == 0.0
    client.close()


def test_a_node_whose_health_check_fails_is_replaced(aws, monkeypatch):
    client = store_of(1, connect_timeout_s=0.5, timeout_s=0.5)
    client.start(silent)
    [sick] = alive(aws)
    described = Account.described

    def unhealthy(self, arns):
        told = described(self, arns)
        return [{**task, "healthStatus": "UNHEALTHY"} if task["taskArn"] == sick.arn else task for task in told]

    monkeypatch.setattr(Account, "described", unhealthy)
    wait(lambda: [task.arn for task in alive(aws)] not in ([], [sick.arn]), "another node runs")
    wait(lambda: client.spec().options["slots"][0][1] > int(sick.tags["wukong:generation"]), "the client knows it")
    client.put({b"key": b"value"})
    client.close()


def test_a_replacement_that_fails_stops_none_of_the_others_and_is_tried_again(aws, caplog):
    client = store_of(3, start_timeout_s=10.0)
    client.start(silent)
    before = client.spec().options["slots"]
    aws.refuse(1, CAPACITY)
    aws.fail_start()
    dead, *others = alive(aws)
    aws.kill(dead)
    wait(lambda: client.spec().options["slots"] != before, "the node is replaced")
    assert "cannot be looked after now: AWS has not started" in caplog.text
    assert "cannot be looked after now: node-" in caplog.text
    assert {task.arn for task in others} < {task.arn for task in alive(aws)}
    assert len(alive(aws)) == 3
    client.close()
    assert alive(aws) == []


def test_two_clients_replace_a_node_once(aws):
    clients = [store_of(2), store_of(2)]
    for client in clients:
        client.start(silent)
    before = clients[0].spec().options["slots"]
    aws.kill(alive(aws)[0])
    for client in clients:
        wait(lambda client=client: client.spec().options["slots"] != before, "the node is replaced")
    wait(lambda: len(alive(aws)) == 2, "one of two is stopped")
    assert clients[0].spec().options["slots"] == clients[1].spec().options["slots"]
    for client in clients:
        client.close()
    assert alive(aws) == []


def test_closing_while_a_node_is_being_replaced_leaves_none(aws):
    client = store_of(2, start_timeout_s=1_000.0)
    client.start(silent)
    aws.slow(pending_s=1_000.0)
    aws.kill(alive(aws)[0])
    wait(lambda: any(task.status == "PENDING" for task in alive(aws)), "another one is being started")
    client.close()
    assert alive(aws) == []


def test_leases_are_renewed_for_as_long_as_a_client_is_open(aws, monkeypatch):
    for module in ("door", "watch"):
        monkeypatch.setattr(f"wukong.backends.storage.fargate.{module}.LEASE_S", 0.6)
    client = store_of(1)
    client.start(silent)
    other = nodes_of(1)
    [node] = other.up(silent, use=True)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert other.last([node]) == []
        assert other.door.enter(node)
    other.last([node])
    client.close()
    assert alive(aws) == []


@pytest.mark.parametrize("all_of_it", [True, False])
def test_nodes_that_were_taken_down_under_a_client_are_not_started_again(aws, caplog, monkeypatch, all_of_it):
    if not all_of_it:  # a stack has made the rest
        monkeypatch.setattr(Account, "remove", lambda self: ([], []))
    client = store_of(2)
    client.start(silent)
    nodes_of().down(silent)
    wait(lambda: "was taken down while this client used it" in caplog.text, "the client has noticed")
    with pytest.raises(StoreError, match="was taken down") as caught:
        client.put({b"%d" % n: b"x" for n in range(20)})
    assert not isinstance(caught.value, StoreUnavailable)
    client.close()
    assert alive(aws) == []


def test_a_client_that_is_open_and_does_nothing_keeps_its_nodes_from_ending(aws):
    client = store_of(1, idle_s=1.0)
    client.start(silent)
    [task] = alive(aws)
    looks = 0
    while looks < 12:  # three times as long as it may be idle
        looks = int(bare(client).info("commandstats").get("cmdstat_auth", {"calls": 0})["calls"])
    assert [each.arn for each in alive(aws)] == [task.arn]
    client.close()


def bare(client: Fargate) -> redis.Redis:
    host, _, port = client.spec().options["slots"][0][2].partition(":")
    return redis.Redis(host, int(port), password=dict(client.environment())["WUKONG_REDIS_PASSWORD"])


# --- looking


def test_a_nodes_memory_is_told_and_looking_is_no_use_of_it(aws):
    nodes = nodes_of(1)
    [node] = nodes.up(silent)
    used, limit = nodes_of().memory(node)
    assert 0 < used < limit == int(Shape().memory_mb * 0.75) << 20
    aws.freeze(task_of(aws, node))
    with pytest.raises(StoreUnavailable):
        nodes_of(connect_timeout_s=0.3, timeout_s=0.3).memory(node)


def test_advice_is_asked_of_the_nodes_that_run(aws):
    nodes_of(1, keep=True).up(silent)
    store = store_of(1)
    assert store.advice() == []
    store.start(silent)
    assert store.advice() == []
    store.close()
    options = Options()
    far = Fargate(find=lambda *_: ("127.99.99.99", None))
    [line] = far.advice()
    assert "cannot be reached from here at 127.99.99.99 -> " in line
    assert options.name in line


def test_status_is_by_slot_and_empty_where_nothing_runs(aws):
    assert nodes_of(name="nothing").status() == []
    made = nodes_of(11).up(silent)
    told = nodes_of().status()
    assert [node.slot for node in told] == [f"node-{n}" for n in range(11)]
    assert [replace(node, health="", since=0) for node in told] == [replace(node, health="", since=0) for node in made]
