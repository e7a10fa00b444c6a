"""Nodes that are lost, and their replacement; on a stand-in that runs real servers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import redis
from fargate_tools import alive, nodes_of, silent, store_of
from waiting import wait

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.fargate import Fargate
from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.leases import LEASES
from wukong.backends.storage.layers import within
from wukong.backends.storage.layers.sharded import Sharded
from wukong.emulators.aws_ecs import CAPACITY
from wukong.errors import StoreError, StoreUnavailable

pytestmark = pytest.mark.xdist_group("fargate replacing")


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


def test_functions_wait_for_a_replacement_only_if_other_nodes_would_tell_them_of_it(aws):
    client = store_of(1, recovery_s=60.0)
    client.start(silent)
    assert client.capabilities.recovery_s == 60.0
    assert opened(client).capabilities.recovery_s == 0.0
    client.close()


def test_a_node_whose_health_check_fails_is_replaced(aws, monkeypatch):
    client = store_of(1, connect_timeout_s=0.5, timeout_s=0.5)
    client.start(silent)
    [sick] = alive(aws)
    described = FargateAccount.described

    def unhealthy(self, arns):
        told = described(self, arns)
        return [{**task, "healthStatus": "UNHEALTHY"} if task["taskArn"] == sick.arn else task for task in told]

    monkeypatch.setattr(FargateAccount, "described", unhealthy)
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
    for module in ("leases", "watch"):
        monkeypatch.setattr(f"wukong.backends.storage.fargate.{module}.LEASE_S", 1.0)
    client = store_of(1)
    client.start(silent)
    ends: set[float] = set()
    wait(lambda: ends.update(lease_ends(client)) or len(ends) > 5, "the lease is renewed")
    assert min(new - old for old, new in pairwise(sorted(ends))) < 1_000.0, "it is renewed before it runs out"
    client.close()
    assert alive(aws) == []


@pytest.mark.parametrize("all_of_it", [True, False])
def test_nodes_that_were_taken_down_under_a_client_are_not_started_again(aws, caplog, monkeypatch, all_of_it):
    if not all_of_it:  # a stack has made the rest
        monkeypatch.setattr(FargateAccount, "remove", lambda self: ([], []))
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
    client = store_of(1, idle_s=2.0)
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


def lease_ends(client: Fargate) -> list[float]:
    """When the leases of a node run out, in ms by its own clock."""
    return [end for _, end in bare(client).zrange(LEASES, 0, -1, withscores=True)]
