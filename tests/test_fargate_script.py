"""What runs in a node's container: the script itself, with a real redis-server, on a loopback address."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from waiting import wait

from wukong.backends.storage.fargate.certificate import certificate_of, new_certificate
from wukong.backends.storage.fargate.script import HEALTH, SCRIPT, idle_environment
from wukong.testing.servers import free_port

PASSWORD = "c3" * 32  # of these tests alone: one looks for it in all processes
HOST = "127.0.0.1"


class Container:
    """The script, run as ECS would, and clients of what it has started."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.port = folder, free_port()
        self.environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(folder),
            "WUKONG_REDIS_PASSWORD": PASSWORD,
            "WUKONG_NODE": "node-3.17",
            "WUKONG_MAXMEMORY_MB": "64",
            "WUKONG_BIND": HOST,
            "WUKONG_PORT": str(self.port),
            **environment,
        }
        self.tls = "WUKONG_REDIS_PEM" in environment
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                ["sh", "-c", SCRIPT],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def client(self, **login: Any) -> redis.Redis:
        tls = {"ssl": True, "ssl_cert_reqs": "none", "ssl_check_hostname": False} if self.tls else {}
        return redis.Redis(
            HOST, self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), **{"password": PASSWORD, **tls, **login}
        )

    def serves(self) -> bool:
        with suppress(redis.ConnectionError):
            return bool(self.client().ping())
        return False

    def healthy(self) -> bool:
        return subprocess.run(["sh", "-c", HEALTH], env=self.environment, capture_output=True).returncode == 0

    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def pid(self) -> int:
        """The redis-server's."""
        return int(self.client().info("server")["process_id"])


@contextmanager
def container(folder: Path, idle_s: float = 600.0, **environment: str) -> Iterator[Container]:
    started = Container(folder, {**idle_environment(idle_s), **environment})
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGKILL)
        started.process.wait()


def test_it_serves_with_the_password_and_the_nodes_own_user_and_nobody_else(tmp_path):
    with container(tmp_path) as node:
        wait(node.serves, "the node serves")
        mine = node.client(username="node-3.17")
        mine.set("key", "value")
        assert mine.get("key") == b"value"
        assert mine.acl_whoami() == "node-3.17"
        strangers = ({"username": "node-3.16"}, {"username": "node-4.17"}, {"password": "5b" * 32})
        for stranger in strangers:
            with pytest.raises(redis.AuthenticationError):
                node.client(**stranger).ping()
        with pytest.raises(redis.AuthenticationError):
            node.client(password=None).get("key")
        config = mine.config_get("*")
        assert {name: config[name] for name in ("maxmemory", "maxmemory-policy", "save", "appendonly")} == {
            "maxmemory": str(64 << 20),
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no",
        }


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked at in /proc")
def test_the_password_is_in_no_process_arguments_and_in_no_file(tmp_path):
    with container(tmp_path, idle_s=1.0) as node:
        wait(node.serves, "the node serves")
        seen: set[str] = set()
        while not node.ended():  # while the script looks at its server
            for each in filter(str.isdigit, os.listdir("/proc")):
                with suppress(OSError):
                    seen.add(Path(f"/proc/{each}/cmdline").read_text(errors="replace"))
        assert any("commandstats" in each for each in seen)
        assert not any(PASSWORD in each for each in seen)
        assert [path.name for path in tmp_path.rglob("*")] == ["output"]
        assert PASSWORD not in node.output.read_text()


def test_a_node_that_nobody_uses_ends_by_itself_whatever_keys_it_has_and_whoever_looks_at_it(tmp_path):
    with container(tmp_path, idle_s=1.5) as node:
        wait(node.serves, "the node serves")
        node.client(username="node-3.17").set("key", "value")
        looks = 0
        while not node.ended():
            looks += node.healthy()
            with suppress(redis.ConnectionError):
                node.client().info("memory")
        assert node.process.returncode == 0
        assert looks > 0
        assert "nobody uses this node any more" in node.output.read_text()


def test_use_keeps_a_node_running_for_as_long_as_it_lasts(tmp_path):
    with container(tmp_path, idle_s=1.0) as node:
        wait(node.serves, "the node serves")
        client = node.client()
        looks, idle = 0, int(node.environment["WUKONG_POLLS"])
        while looks < 3 * idle:
            client.get("key")
            looks = client.info("commandstats").get("cmdstat_auth", {"calls": 0})["calls"]  # redis-cli's
            assert not node.ended()
        wait(node.ended, "it ends when use has ended")


def test_a_server_that_does_not_answer_counts_as_idle_and_is_killed(tmp_path, monkeypatch):
    script = SCRIPT.replace("timeout 5", "timeout 0.2").replace("-lt 100", "-lt 2")
    monkeypatch.setattr("test_fargate_script.SCRIPT", script)
    with container(tmp_path, idle_s=1.0) as node:
        wait(node.serves, "the node serves")
        os.kill(node.pid, signal.SIGSTOP)
        wait(node.ended, "the node has ended")
        assert node.process.returncode == 128 + signal.SIGKILL


def test_term_ends_it_at_once_and_in_peace(tmp_path):
    with container(tmp_path) as node:
        wait(node.serves, "the node serves")
        node.process.terminate()
        wait(node.ended, "the node has ended")
        assert node.process.returncode == 0
        assert "told to end" in node.output.read_text()
        assert not node.serves()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are looked at in /proc")
@pytest.mark.parametrize("processes", [0, 1, 2])
def test_term_while_it_starts_leaves_nothing_behind(tmp_path, processes):
    with container(tmp_path, WUKONG_POLL_S="0.05", WUKONG_POLLS="1000") as node:
        pid = node.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        wait(lambda: len(children.read_text().split()) >= processes, "it has started them all")
        node.process.terminate()
        wait(node.ended, "the node has ended")
        wait(lambda: not lives(pid), "nothing of it is left")


def lives(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_end_of_the_server_is_the_nodes_at_once_with_its_exit_code(tmp_path):
    with container(tmp_path) as node:
        wait(node.serves, "the node serves")
        os.kill(node.pid, signal.SIGKILL)
        wait(node.ended, "the node has ended")
        assert node.process.returncode == 128 + signal.SIGKILL


def test_with_a_certificate_it_speaks_nothing_but_tls_and_clients_can_tell_that_it_is_theirs(tmp_path):
    pem, other = new_certificate("wukong"), new_certificate("wukong")
    with container(tmp_path, WUKONG_REDIS_PEM=pem) as node:
        wait(node.serves, "the node serves")
        assert node.healthy()
        trusting = {"ssl_cert_reqs": "required", "ssl_ca_data": certificate_of(pem)}
        assert node.client(username="node-3.17", **trusting).ping()
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            node.client(**{**trusting, "ssl_ca_data": certificate_of(other)}).ping()
        with pytest.raises(redis.ConnectionError):
            redis.Redis(HOST, node.port, password=PASSWORD, retry=Retry(NoBackoff(), 0)).ping()


def test_certificate_and_key_lie_in_no_file_once_redis_has_read_them(tmp_path):
    often = {"WUKONG_POLL_S": "0.1", "WUKONG_POLLS": "6000"}
    with container(tmp_path, WUKONG_REDIS_PEM=new_certificate("wukong"), **often) as node:
        wait(node.serves, "the node serves")
        for path in tmp_path.rglob("pem"):
            assert path.stat().st_mode & 0o077 == 0
        node.client().set("key", "value")
        wait(lambda: not list(tmp_path.rglob("pem")), "the file is gone")
        assert node.client().get("key") == b"value"
        node.process.terminate()
        wait(node.ended, "the node has ended")
        assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_a_node_is_healthy_when_it_serves_and_only_then(tmp_path):
    with container(tmp_path) as node:
        wait(node.healthy, "the node is healthy")
        node.environment["WUKONG_REDIS_PASSWORD"] = "5b" * 32
        assert not node.healthy()
        node.environment["WUKONG_REDIS_PASSWORD"] = PASSWORD
        node.process.terminate()
        wait(node.ended, "the node has ended")
        assert not node.healthy()


@pytest.mark.parametrize(
    ("idle_s", "poll_s", "polls"), [(1800.0, "15", "120"), (60.0, "15", "4"), (1.0, "0.25", "4"), (100.0, "15", "7")]
)
def test_idle_time_is_counted_in_looks(idle_s, poll_s, polls):
    assert idle_environment(idle_s) == {"WUKONG_POLL_S": poll_s, "WUKONG_POLLS": polls}
