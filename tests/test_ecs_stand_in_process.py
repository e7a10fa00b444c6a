"""The stand-in of ECS as a process among others: two on one machine, what it needs, and what ends with it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import boto3
import pytest
from ecs_account import IDLE, Account
from waiting import gone, wait

from wukong.emulators import aws_ecs as stand_in
from wukong.emulators.aws_ecs import Delays, EcsStandIn, addresses, moto_server

pytestmark = pytest.mark.xdist_group("ecs")


def test_two_on_one_machine_do_not_meet() -> None:
    with EcsStandIn() as one, EcsStandIn() as two:
        hosts = []
        account = Account(one)
        for aws in (one, two):
            account.aws, account.ecs = aws, boto3.client("ecs", **aws.options)
            hosts.append(account.is_in(account.start(IDLE), "RUNNING").address)
    assert len({str(host).rpartition(".")[0] for host in hosts}) == 2


def test_a_machine_without_such_addresses_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stand_in._open
    monkeypatch.setattr(addresses, "_is_here", lambda _: False)
    monkeypatch.setattr(addresses.sys, "platform", "darwin")
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.2.*sudo ifconfig lo0 alias"):
        EcsStandIn().start()
    assert stand_in._open == before


def test_without_moto_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moto.server", None)
    with pytest.raises(RuntimeError, match=r"moto.*pip install 'wukong-serverless\[testing-ecs\]'"):
        moto_server.moto_url.__wrapped__()


def test_closing_ends_every_process_and_answers_no_more() -> None:
    with EcsStandIn(delays=Delays(stop_timeout_s=60.0)) as aws:
        account = Account(aws)
        arn = account.start("trap '' TERM; sleep 600 & echo $!; while :; do sleep 600; done")
        [pid] = account.is_in(arn, "RUNNING").pids
        child = int(wait(lambda: aws.output(arn), "it says which process it has started"))
        port = int(aws.url.rpartition(":")[2])
    assert gone(pid)
    wait(lambda: gone(child), "its child is gone")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    aws.stop()


KILLED = """
import sys; sys.path.insert(0, {tests!r})
from ecs_account import Account
from waiting import wait
from wukong.emulators.aws_ecs import EcsStandIn
aws = EcsStandIn().start()
account = Account(aws)
arn = account.start("sleep 600 & echo $!; wait")
[pid] = account.is_in(arn, "RUNNING").pids
print(pid, wait(lambda: aws.output(arn), "it says which process it has started"), flush=True)
import time; time.sleep(60)
"""


def test_all_processes_end_when_their_parent_is_killed() -> None:
    script = KILLED.format(tests=os.path.dirname(__file__))
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(each) for each in parent.stdout.readline().split()]
    assert len(pids) == 2 and not any(map(gone, pids))
    parent.kill()
    parent.wait()
    wait(lambda: all(map(gone, pids)), "all are gone")
