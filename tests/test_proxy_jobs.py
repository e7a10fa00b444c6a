"""Whole jobs whose wide fan-outs go through the proxy, on the emulator and on the Lambda service."""

import os
import signal
import socket
import sys
import time
from contextlib import closing
from operator import add
from pathlib import Path

import dask
import pytest
from dask import delayed
from faas_local_tools import left, order
from proxy_tools import Serving
from waiting import wait

import wukong
from wukong.backends.faas import Invocation
from wukong.backends.faas.deployment_key import derived
from wukong.backends.faas.emulator import listener
from wukong.backends.faas.emulator.listener import Guest
from wukong.backends.faas.emulator.wire import HEADER
from wukong.backends.faas.local import LocalFaaS
from wukong.errors import BackendError, PayloadTooLarge
from wukong.proxy.beside import ProxyBeside
from wukong.testing.servers import free_port

EAGER = {"fan_out": "eager", "max_task_fanout": 4, "heartbeat_s": 0.2, "progress": False}
WIDE = 24


def double(number):
    return 2 * number


def gate(number, folder):
    """Say that it runs, and wait until it may go on."""
    Path(folder, "waiting").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.005)
    return number


def fan(root, name):
    """Return the sum of a wide fan-out below `root`."""
    return delayed(sum)([delayed(add)(root, i, dask_key_name=f"{name}-{i}") for i in range(WIDE)])


def two_fans(folder):
    """Return a job with two fan-outs, the second when the test lets it, and its answer."""
    root = delayed(double)(3, dask_key_name="root")
    first = fan(root, "first")
    second = fan(delayed(gate)(root, str(folder), dask_key_name="gate"), "second")
    return delayed(add)(first, second), 2 * sum(6 + i for i in range(WIDE))


def finished_without_it(client, beside, folder):
    """Run a job, and kill the proxy in the middle; return what is known of the job."""
    graph, answer = two_fans(folder)
    future = client.compute(graph)
    wait(lambda: Path(folder, "waiting").exists())
    os.kill(beside.pid, signal.SIGKILL)
    Path(folder, "go").touch()
    assert future.result(timeout=60) == answer
    return client.last_job.summary(timeout_s=20)


class TestOnTheEmulator:
    def test_fan_outs_past_the_limit_go_through_one_that_the_client_starts(self):
        with wukong.Client(proxy="local", **EAGER) as client:
            assert dask.compute(fan(delayed(double)(3), "one"))[0] == sum(6 + i for i in range(WIDE))
            summary = client.last_job.summary()
        assert summary.proxied >= WIDE - 1
        assert summary.unproxied == 0
        assert f"{summary.proxied} invocations by the proxy" in str(summary)

    def test_small_ones_do_not(self):
        with wukong.Client(proxy="local", **{**EAGER, "max_task_fanout": 1_000}) as client:
            assert dask.compute(fan(delayed(double)(3), "one"))[0] == sum(6 + i for i in range(WIDE))
            summary = client.last_job.summary()
        assert summary.executors > WIDE / 2
        assert (summary.proxied, summary.unproxied) == (0, 0)

    def test_with_a_dead_proxy_the_job_ends_right_and_says_so(self):
        with wukong.Client(proxy=f"127.0.0.1:{free_port()}", **EAGER) as client:
            assert dask.compute(fan(delayed(double)(3), "one"))[0] == sum(6 + i for i in range(WIDE))
            summary = client.last_job.summary()
        assert summary.proxied == 0
        assert summary.unproxied >= WIDE - 1
        assert "refused" in summary.unproxied_why
        assert "past the proxy, which did not make them" in str(summary)

    def test_with_a_proxy_of_another_deployment_the_job_ends_right_and_says_so(self):
        with Serving() as serving, wukong.Client(proxy=serving.address, key="mine", **EAGER) as client:
            assert dask.compute(fan(delayed(double)(3), "one"))[0] == sum(6 + i for i in range(WIDE))
            summary = client.last_job.summary()
        assert summary.proxied == 0
        assert "another deployment's key" in summary.unproxied_why

    def test_with_a_proxy_that_hangs_the_job_ends_right_and_says_so(self):
        with (
            closing(ProxyBeside(derived("mine"))) as beside,
            wukong.Client(proxy=beside.address, key="mine", **EAGER) as client,
        ):
            os.kill(beside.pid, signal.SIGSTOP)  # the system still takes connections for it
            assert dask.compute(fan(delayed(double)(3), "one"))[0] == sum(6 + i for i in range(WIDE))
            summary = client.last_job.summary()
            os.kill(beside.pid, signal.SIGCONT)
        assert summary.proxied == 0
        assert "timed out" in summary.unproxied_why

    def test_with_a_proxy_that_dies_in_the_middle_the_job_ends_right_and_says_so(self, tmp_path):
        with (
            closing(ProxyBeside(derived("mine"))) as beside,
            wukong.Client(proxy=beside.address, key="mine", **EAGER) as client,
        ):
            summary = finished_without_it(client, beside, tmp_path)
        assert summary.proxied >= WIDE - 1
        assert summary.unproxied >= WIDE - 1
        assert "of no use" in summary.unproxied_why

    def test_the_one_beside_a_client_ends_with_it_and_a_taken_port_is_the_clients_error(self):
        port = free_port()
        first = wukong.Client(proxy=f"local:{port}", **EAGER)
        with closing(first), pytest.raises(BackendError, match="Address already in use"):
            wukong.Client(proxy=f"local:{port}")
        ProxyBeside(bytes(32), port=port).close()  # it is free again


class TestOnLambda:
    def test_fan_outs_go_through_the_proxy_and_past_it_when_it_has_died(
        self, lambda_service, redis_url, monkeypatch, tmp_path
    ):
        for name, value in lambda_service.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("WUKONG_FAAS", "aws-lambda")
        monkeypatch.setenv("WUKONG_STORAGE", redis_url)
        deployed = lambda_service.client().get_function_configuration(FunctionName="wukong")
        key = bytes.fromhex(deployed["Environment"]["Variables"]["WUKONG_DEPLOYMENT_KEY"])
        settings = {**EAGER, "heartbeat_s": 1.0}
        for turn in range(4):  # on a busy machine it may greet too late for one fan-out, which then goes past it
            folder = tmp_path / str(turn)
            folder.mkdir()
            with (
                closing(ProxyBeside(key, workers=2)) as beside,
                wukong.Client(proxy=beside.address, **settings) as client,
            ):
                summary = finished_without_it(client, beside, folder)
            if summary.proxied:
                break
        assert summary.proxied >= WIDE - 1
        assert summary.unproxied >= WIDE - 1
        assert "of no use" in summary.unproxied_why


class TestDoorOfTheEmulator:
    def test_a_guest_sees_what_a_function_sees(self):
        with closing(LocalFaaS(function="faas_functions:note", payload_bytes=100)) as backend:
            guest = backend.spec().open()
            assert guest.limits == backend.limits
            assert guest.spec() == backend.spec()
            assert guest.free_slots() == backend.free_slots()
            with pytest.raises(PayloadTooLarge):
                guest.invoke([Invocation("job/0", bytes(101))])
            guest.close()
            guest.close()

    def test_a_guest_that_makes_no_sense_or_leaves_harms_nobody(self, tmp_path):
        with closing(LocalFaaS(function="faas_functions:note")) as backend:
            for said in (b"\xff" * 100, HEADER.pack(3) + b"abc", HEADER.pack(100)):
                guest = Guest(backend.spec().options["socket_name"])
                guest.connection.sock.sendall(said)
                guest.close()
            backend.invoke([order(tmp_path, "after")])
            left(tmp_path, 1)

    def test_if_sockets_need_a_file_it_goes_with_the_emulator(self, tmp_path, monkeypatch):
        monkeypatch.setattr(listener, "_ABSTRACT", False)
        with closing(LocalFaaS(function="faas_functions:note")) as backend:
            place = Path(backend.spec().options["socket_name"])
            assert place.parent.stat().st_mode & 0o777 == 0o700
            with closing(backend.spec().open()) as guest:
                guest.invoke([order(tmp_path, "one")])
                left(tmp_path, 1)
        assert not place.parent.exists()

    @pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="only root can be somebody else")
    def test_another_user_is_not_let_in(self):
        with closing(LocalFaaS()) as backend:
            name = backend.spec().options["socket_name"]
            pid = os.fork()
            if pid == 0:
                os.setuid(65_534)
                with socket.socket(socket.AF_UNIX) as line:
                    line.connect("\0" + name[1:])
                    os._exit(0 if line.recv(1) == b"" else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            backend.spec().open().close()
