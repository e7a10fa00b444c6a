"""`wukong store`: nodes brought up, looked at and taken down by hand."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from fargate_tools import Bare, choice, serving
from waiting import wait

import wukong
from wukong import cli
from wukong.emulators.aws_ecs import CANNOT_PULL, EcsStandIn

pytestmark = pytest.mark.xdist_group("fargate command")

Run = Callable[..., tuple[int, str, str]]
OPTIONS = ("--set", "storage.start_timeout_s=30")


@pytest.fixture
def store(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``wukong store`` with these arguments; return exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["store", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def aws(cloud: EcsStandIn, store: Run) -> Iterator[EcsStandIn]:
    """An account with no store in it, before and afterwards."""
    yield cloud
    cloud.slow(pending_s=0.0, stop_timeout_s=None)
    store("down")
    assert cloud.running() == []


def test_what_is_shown_for_a_client_is_python(aws: EcsStandIn, store: Run) -> None:
    public = ("--set", "storage.public=true", "--set", "storage.client_cidr=127.0.0.0/8")
    code, out, err = store("up", *public, *OPTIONS)
    assert (code, err) == (0, ""), err
    [shown] = re.findall(r"client = wukong\.Client\(storage=(.*)\)", out)
    choice = ast.literal_eval(shown)
    assert choice == {"name": "fargate", "public": True, "client_cidr": "127.0.0.0/8"}
    with wukong.Client(storage=choice, progress=False) as client:
        assert client.get({"a": (sum, [20, 22])}, "a") == 42


def test_nodes_are_brought_up_shown_used_and_taken_down(aws: EcsStandIn, store: Run) -> None:
    before = Bare(aws).left()
    code, out, err = store("up", "--nodes", "3", *OPTIONS)
    assert (code, err) == (0, ""), err
    assert "3 nodes of wukong in us-east-1: 3 started, 0 ran already" in out
    rows = re.findall(
        r"^(node-\d)  (127\.\S+)\s+(RUNNING\S*(?: \w+)?)\s+(\d+ s)\s+8,192 MB\s+\d\.\d of 6,144 MB", out, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["node-0", "node-1", "node-2"]
    assert {row[1] for row in rows} == {each.address for each in aws.running()}
    assert re.search(r"3 Redis nodes on AWS Fargate: \$0\.1\d+ an hour \(us-east-1", out)
    assert "until nobody has used them for 30 min" in out
    assert 'wukong.Client(storage="fargate")' in out

    nodes = serving(aws)
    with wukong.Client(storage=choice(None), progress=False) as client:
        assert client.get({"a": (sum, [20, 22])}, "a") == 42
    assert serving(aws) == nodes, "they stay when clients come and go"

    code, out, _ = store("status")
    assert code == 0
    assert len(re.findall(r"^node-\d .*\$0\.0\d+$", out, re.MULTILINE)) == 3
    assert re.search(r"\$0\.1\d+ an hour, \$0\.0\d+ so far", out)

    code, out, _ = store("status", "--json")
    told = json.loads(out)
    assert code == 0 and (told["name"], told["region"], len(told["nodes"])) == ("wukong", "us-east-1", 3)
    assert told["nodes"][0]["slot"] == "node-0" and 0 < told["nodes"][0]["used_bytes"] < told["nodes"][0]["room_bytes"]
    assert told["hour_usd"] > told["so_far_usd"] > 0

    code, out, _ = store("down")
    assert code == 0
    said = out.splitlines()
    assert [each.split(",")[0] for each in said if each.startswith("stopped")] == [
        f"stopped node-{n}" for n in range(3)
    ]
    assert {"removed role wukong-store", "removed secret wukong/store-password"} <= set(said)
    assert "no node of the store wukong runs" in out
    assert aws.running() == [] and Bare(aws).left() == before


def test_up_takes_over_what_runs_and_changes_how_many(aws: EcsStandIn, store: Run) -> None:
    assert store("up", "--nodes", "2", *OPTIONS)[0] == 0
    nodes = serving(aws)
    code, out, _ = store("up", *OPTIONS)
    assert code == 0 and "2 nodes of wukong in us-east-1: 0 started, 2 ran already" in out
    code, out, _ = store("up", "--nodes", "3", *OPTIONS)
    assert code == 0 and "3 nodes of wukong in us-east-1: 1 started, 2 ran already" in out
    assert serving(aws) > nodes
    code, out, _ = store("up", "--nodes", "1", *OPTIONS)
    assert code == 0 and "1 node of wukong in us-east-1: 0 started, 1 ran already" in out
    wait(lambda: len(aws.running()) == 1, "the others are stopped")
    assert {each.tags["wukong:slot"] for each in aws.running()} == {"node-0"}


def test_fewer_nodes_leave_those_that_clients_use(aws: EcsStandIn, store: Run) -> None:
    with wukong.Client(storage=choice(2), progress=False):
        code, out, _ = store("up", "--nodes", "1", *OPTIONS)
        assert code == 0 and "1 node of wukong in us-east-1: 0 started, 1 ran already" in out
        assert "node-1 run on: clients use them" in out
        assert len(serving(aws)) == 2


def test_up_keeps_the_nodes_of_a_client(aws: EcsStandIn, store: Run) -> None:
    with wukong.Client(storage=choice(2), progress=False):
        nodes = serving(aws)
        assert store("up", *OPTIONS)[0] == 0
    assert serving(aws) == nodes


def test_without_nodes_status_says_so_and_down_is_no_error(aws: EcsStandIn, store: Run) -> None:
    code, out, _ = store("status", "--json")
    assert code == 1 and json.loads(out)["nodes"] == []
    code, out, _ = store("status")
    assert code == 1 and "no node of the store wukong runs; 'wukong store up'" in out
    code, out, _ = store("down")
    assert code == 0 and "no node of the store wukong runs" in out


def test_what_others_have_made_is_left(aws: EcsStandIn, store: Run) -> None:
    bare = Bare(aws)
    bare.ecs.create_cluster(clusterName="mine")
    bare.logs.create_log_group(logGroupName="/ecs/mine-store")
    before = bare.left()
    assert store("up", "--name", "mine", *OPTIONS)[0] == 0
    code, out, _ = store("down", "--name", "mine")
    assert code == 0 and "left cluster mine" in out and "left log group /ecs/mine-store" in out
    assert bare.left() == before
    bare.ecs.delete_cluster(cluster="mine")
    bare.logs.delete_log_group(logGroupName="/ecs/mine-store")


def test_a_store_of_another_name_is_another_store(aws: EcsStandIn, store: Run) -> None:
    code, out, _ = store("up", "--name", "other", *OPTIONS)
    assert code == 0
    assert 'storage={"name": "fargate", "deployment": "other"}' in out
    assert store("status")[0] == 1
    assert store("status", "--name", "other")[0] == 0
    assert store("down")[0] == 0 and len(aws.running()) == 1
    assert store("down", "--name", "other")[0] == 0 and aws.running() == []


def test_options_come_from_the_configuration_and_the_command(
    aws: EcsStandIn, store: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WUKONG_STORAGE", "redis://127.0.0.1:1")
    assert store("up", "--set", "storage.cpu=256", "--set", "storage.memory_mb=512", *OPTIONS)[0] == 0
    assert " 512 MB" in store("status")[1]
    assert store("down")[0] == 0
    monkeypatch.setenv("WUKONG_STORAGE", "fargate")
    monkeypatch.setenv("WUKONG_STORAGE__DEPLOYMENT", "configured")
    monkeypatch.setenv("WUKONG_STORAGE__NODES", "2")
    code, out, _ = store("up", *OPTIONS)
    assert code == 0 and "2 nodes of configured" in out and 'Client(storage="fargate")' in out
    assert store("down")[0] == 0 and aws.running() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--storage", "redis://localhost"], "for the store fargate, not for redis"),
        (["up", "--nodes", "0"], "nodes is 0"),
        (["up", "--set", "storage.nodse=3"], "did you mean 'nodes'"),
        (["status", "--set", "storage.cpu=17"], "cpu is 17"),
        (["up", "--set", 'storage.subnets=["subnet-0a1b"]'], "no such subnet"),
    ],
    ids=lambda each: None if isinstance(each, str) else each[-1],
)
def test_mistakes_are_told_in_one_line(aws: EcsStandIn, store: Run, arguments: list[str], says: str) -> None:
    code, _, err = store(*arguments)
    assert code == 1
    assert says in err and "Traceback" not in err
    assert aws.running() == []


def test_a_start_that_fails_stops_what_it_started_and_nothing_else(aws: EcsStandIn, store: Run) -> None:
    assert store("up", "--nodes", "1", *OPTIONS)[0] == 0
    [node] = aws.running()
    aws.fail_start(2)
    code, _, err = store("up", "--nodes", "3", *OPTIONS)
    assert code == 1 and CANNOT_PULL in err
    wait(lambda: serving(aws) == {node.arn}, "the one that ran before is left")


def test_ctrl_c_stops_what_the_command_started(aws: EcsStandIn, store: Run) -> None:
    assert store("up", "--nodes", "1", *OPTIONS)[0] == 0
    [node] = aws.running()
    aws.slow(pending_s=60.0)
    began = len(aws.tasks())
    command = [sys.executable, "-m", "wukong", "store", "up", "--nodes", "3"]
    process = subprocess.Popen(command, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait(lambda: len(aws.tasks()[began:]) == 2, "two more are started")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: what this command has started is stopped" in out and "Traceback" not in err
    wait(lambda: all(each.status == "STOPPED" for each in aws.tasks()[began:]), "they are stopped")
    assert serving(aws) == {node.arn}


def test_wrong_credentials_say_what_to_do(aws: EcsStandIn, store: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    code, _, err = store("status")
    assert code == 1 and "no usable AWS credentials" in err and "aws configure" in err
