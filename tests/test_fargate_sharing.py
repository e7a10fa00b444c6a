"""More nodes, fewer nodes, several clients at the same ones; on a stand-in that runs real servers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fargate_tools import alive, nodes_of, silent, slots, store_of, task_of
from waiting import wait

from wukong.backends.storage.fargate import Fargate, leases, pacing
from wukong.backends.storage.fargate.options import FargateOptions, Shape
from wukong.errors import StoreError, StoreUnavailable

pytestmark = pytest.mark.xdist_group("fargate sharing")


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
        if len(seen) == 4:  # it has met the closed node by then
            leaving.account.stop(node.task, "nobody uses this node any more")

    [other] = coming.up(stop, use=True)
    assert other.task != node.task


def test_a_client_that_died_is_forgotten_when_its_lease_runs_out(aws, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_S", 0.2)
    nodes_of(1).up(silent, use=True)
    monkeypatch.undo()
    second = nodes_of(1)
    [node] = second.up(silent, use=True)
    wait(lambda: second.leave([node]) == [] or not second.leases.enter(node), "the first one is forgotten")
    assert alive(aws) == []


@pytest.mark.parametrize("leased", [True, False], ids=["by a client", "by a command, which takes no leases"])
def test_nodes_under_another_client_survive_a_start_that_fails(aws, leased, monkeypatch):
    """One starts two nodes; another one uses the first of them before the second fails."""
    monkeypatch.setattr(pacing, "_AT_ONCE", 1)
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
        nodes_of(2).up(use, use=leased)
    assert len(alive(aws)) == 1
    second.put({b"still": b"there"})
    assert second.get([b"still"]) == [b"there"]
    second.close()


def test_a_node_that_cannot_be_reached_is_left_to_its_idle_time(aws):
    nodes = nodes_of(1, connect_timeout_s=0.3, timeout_s=0.3)
    [node] = nodes.up(silent, use=True)
    aws.freeze(task_of(aws, node))
    assert nodes.leave([node]) == [node]
    assert len(alive(aws)) == 1


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
    options = FargateOptions()
    far = Fargate(find=lambda *_: ("127.99.99.99", None))
    [line] = far.advice()
    assert "cannot be reached from here at 127.99.99.99 -> " in line
    assert options.name in line


def test_status_is_by_slot_and_empty_if_nothing_runs(aws):
    assert nodes_of(name="nothing").status() == []
    made = nodes_of(11).up(silent)
    told = nodes_of().status()
    assert [node.slot for node in told] == [f"node-{n}" for n in range(11)]
    assert [replace(node, health="", since=0) for node in told] == [replace(node, health="", since=0) for node in made]
