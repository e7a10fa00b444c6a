"""The proxy as a process: its key, its signals, its workers, and the one beside a client."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from aws_lambda_server import log_in
from faas_local_tools import children
from proxy_tools import KEY, Peer, Platform, Serving, calls, labels
from waiting import gone, wait

from wukong import cli
from wukong.backends.faas.deployment_key import derived
from wukong.core.payload import Relayed
from wukong.errors import BackendError, ConfigError
from wukong.proxy import commands
from wukong.proxy.beside import ProxyBeside
from wukong.proxy.client import Proxy
from wukong.testing.servers import free_port

VARIABLE = "WUKONG_DEPLOYMENT_KEY"


@pytest.fixture
def platform(monkeypatch, tmp_path):
    log_in(monkeypatch, tmp_path)
    with Platform() as platform:
        yield platform


class Command:
    """``wukong proxy`` on any free port.

    Attributes:
        listening: the line that it begins with.
    """

    def __init__(self, *arguments, **variables):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wukong", "proxy", "--port", "0", "--json", *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, VARIABLE: KEY.hex(), **variables},
            start_new_session=True,
            text=True,
        )
        self.listening = json.loads(self.process.stdout.readline() or "null")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    @property
    def address(self):
        return self.listening["listening"]

    def signal(self, number):
        """Send a signal to it and its workers alike, as a terminal does."""
        os.killpg(self.process.pid, number)

    def ended(self):
        """Wait until it has; return its exit code and the last line it printed."""
        said, _ = self.process.communicate(timeout=30)
        return self.process.returncode, said.splitlines()[-1] if said else None


def health(address):
    with urllib.request.urlopen(f"http://{address}/healthz", timeout=20) as answer:
        return answer.status


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "workers"),
        [
            (signal.SIGTERM, "1"),
            (signal.SIGINT, "2"),
            pytest.param(signal.SIGTERM, "2", marks=pytest.mark.long),
            pytest.param(signal.SIGINT, "1", marks=pytest.mark.long),
        ],
    )
    def test_one_finishes_what_was_accepted_and_exits_with_0(self, platform, number, workers):
        held = platform.hold()
        with Command("--workers", workers) as command:
            assert command.listening["pid"] == command.process.pid
            assert health(command.address) == 200
            with Peer(command.address) as peer:
                peer.invoke(platform.address(), calls(1))
                assert held()
                command.signal(number)
                wait(lambda: Peer(command.address, auth=False).told == {"error": "it is stopping"})
                platform.release.set()
                assert peer.made(1) == [None]
            code, line = command.ended()
        assert code == 0
        assert json.loads(line)["stopped"] == command.address
        assert json.loads(line)["accepted"] == 1

    def test_a_second_one_ends_it_at_once(self, platform):
        held = platform.hold()
        with Command() as command, Peer(command.address) as peer:
            peer.invoke(platform.address(), calls(1))
            assert held()
            command.signal(signal.SIGTERM)
            wait(lambda: Peer(command.address, auth=False).told == {"error": "it is stopping"})
            command.signal(signal.SIGTERM)
            assert command.ended()[0] == 1

    def test_with_nothing_to_do_it_ends_and_says_what_it_has_done(self):
        with Command() as command:
            command.signal(signal.SIGTERM)
            code, line = command.ended()
        assert (code, json.loads(line)["accepted"]) == (0, 0)


class TestWorkers:
    def test_a_message_is_shared_out_and_made_once(self, platform):
        asked = calls(300)
        with Serving(workers=2) as serving, Peer(serving.address) as peer:
            peer.invoke(platform.address(), asked)
            assert peer.made(300) == [None] * 300
            assert all(worker._process.returncode is None for worker in serving.service.workers._workers)
            peer.invoke(platform.address(), asked)
            assert peer.made(300) == [None] * 300
        assert platform.payloads() == dict(asked)
        assert set(platform.made().values()) == {1}

    def test_what_is_refused_comes_back_from_them_with_its_reason(self, platform):
        platform.say(403, "AccessDeniedException", message="not yours")
        with Serving(workers=2) as serving, Peer(serving.address) as peer:
            peer.invoke(platform.address(), calls(256))
            refused = [why for why in peer.made(256) if why is not None]
        assert 0 < len(refused) <= 64
        assert all("not yours" in why for why in refused)

    def test_one_that_dies_costs_its_piece_and_is_replaced(self, platform):
        held = platform.hold(2)
        with Serving(workers=2) as serving, Peer(serving.address) as one, Peer(serving.address) as other:
            one.invoke(platform.address(), calls(1, "one"))
            other.invoke(platform.address(), calls(1, "other"))
            assert held()
            victim = serving.service.workers._workers[0]._process.pid
            os.kill(victim, signal.SIGKILL)
            wait(lambda: serving.service.workers.running == 1)
            platform.release.set()
            made = [peer.made(1)[0] for peer in (one, other)]
            [why] = [each for each in made if each is not None]
            assert "worker process died" in why
            wait(lambda: serving.service.workers.running == 2)
            one.invoke(platform.address(), calls(256, "after"))
            assert one.made(256) == [None] * 256
            assert serving.service.workers.restarts == 1

    def test_they_end_with_the_proxy_however_it_ends(self):
        with Command("--workers", "2") as command:
            workers = children(command.process.pid)
            assert len(workers) == 2
            command.process.kill()
            command.ended()
        wait(lambda: all(gone(pid) for pid in workers))


class TestBeside:
    def test_it_serves_until_it_is_closed(self, platform):
        beside = ProxyBeside(KEY)
        try:
            assert health(beside.address) == 200
            proxy = Proxy(beside.address, key=KEY)
            assert proxy.invoke(platform.address(), calls(3)) == Relayed(labels(calls(3)))
            proxy.close()
        finally:
            beside.close()
        assert gone(beside.pid)
        beside.close()

    def test_the_key_is_not_among_its_arguments(self):
        beside = ProxyBeside(KEY)
        try:
            with open(f"/proc/{beside.pid}/cmdline") as arguments:
                assert KEY.hex() not in arguments.read()
        finally:
            beside.close()

    def test_a_port_that_is_taken_is_a_clear_error(self):
        with Serving() as serving:
            port = int(serving.address.rpartition(":")[2])
            with pytest.raises(BackendError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                ProxyBeside(KEY, port=port)

    def test_it_listens_where_it_is_told_to(self):
        port = free_port()
        beside = ProxyBeside(KEY, port=port)
        beside.close()
        assert beside.address == f"127.0.0.1:{port}"

    def test_one_that_does_not_serve_in_time_is_ended(self, monkeypatch):
        monkeypatch.setattr("wukong.proxy.beside._MODULE", ["-c", "import time; time.sleep(100)"])
        with pytest.raises(BackendError, match=re.escape("did not start")):
            ProxyBeside(KEY, start_timeout_s=0.1)

    def test_it_ends_with_the_process_that_started_it_however_that_ends(self):
        program = """
        import signal
        from wukong.proxy.beside import ProxyBeside
        beside = ProxyBeside(bytes(32))
        print(beside.pid, flush=True)
        signal.pause()
        """
        parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
        parent.communicate()
        wait(lambda: gone(pid))


class TestKey:
    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch, tmp_path):
        log_in(monkeypatch, tmp_path)
        for name in [name for name in os.environ if name.startswith("WUKONG_")]:
            monkeypatch.delenv(name)

    def test_is_that_of_the_environment_as_functions_have_it(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, KEY.hex())
        monkeypatch.setenv("WUKONG_KEY", "another")
        assert commands.deployment_key() == KEY

    @pytest.mark.parametrize("text", ["zz", "abcd", "00" * 65])
    def test_has_to_be_one(self, monkeypatch, text):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(ConfigError, match="no key"):
            commands.deployment_key()

    def test_is_else_that_of_the_setting_as_the_client_takes_it(self, monkeypatch):
        monkeypatch.setenv("WUKONG_KEY", "the secret")
        assert commands.deployment_key() == derived("the secret")

    def test_is_else_that_of_the_deployed_functions(self, monkeypatch, platform):
        platform.configurations["f"] = {"Environment": {"Variables": {VARIABLE: KEY.hex()}}}
        monkeypatch.setenv("WUKONG_FAAS", "aws-lambda")
        monkeypatch.setenv("WUKONG_FAAS__FUNCTION", "f")
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", platform.url)
        assert commands.deployment_key() == KEY

    def test_has_to_be_somewhere(self):
        with pytest.raises(ConfigError, match="has no deployment key"):
            commands.deployment_key()


class TestCommand:
    @pytest.mark.parametrize("arguments", [["--workers", "0"], ["--port", "70000"], ["--wait-s", "0 s"]], ids=str)
    def test_what_cannot_be_is_refused_in_one_line(self, arguments, capsys, monkeypatch):
        monkeypatch.setenv(VARIABLE, KEY.hex())
        assert cli.main(["proxy", *arguments]) == 1
        assert capsys.readouterr().err.startswith("wukong: ConfigError: ")

    def test_sizes_and_times_may_have_units(self):
        given = cli.parser().parse_args(["proxy", "--message-bytes", "2 MiB", "--wait-s", "500 ms", "--calls", "7"])
        assert (given.message_bytes, given.wait_s, given.calls) == (2_097_152, 0.5, 7)

    def test_what_is_no_size_is_wrong_usage(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["proxy", "--message-bytes", "large"])
        assert "'large' is no size" in capsys.readouterr().err

    def test_without_json_it_says_in_words_that_it_listens_and_has_stopped(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "wukong", "proxy", "--port", "0"],
            stdout=subprocess.PIPE,
            env={**os.environ, VARIABLE: KEY.hex()},
            text=True,
        )
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)
        assert re.fullmatch(r"fan-out proxy at 127\.0\.0\.1:\d+, 1 process; Ctrl-C stops it\n", first)
        assert rest == "fan-out proxy stopped: 0 invocations made, 0 refused\n"
        assert process.returncode == 0


@pytest.mark.long
def test_its_benchmark_runs():
    folder = Path(__file__).parent.parent / "benchmarks"
    done = subprocess.run(
        [sys.executable, "proxy_rate.py", "--calls", "5", "--rounds", "1", "--workers", "1", "--latency-ms", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [line.split("|")[2].strip() for line in done.stdout.splitlines()[2:5]] == ["direct", "direct, cold", "proxy"]
