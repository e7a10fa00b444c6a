"""Whole jobs on executor servers, with Redis: servers that are killed, that end, and that answer when all is done."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import dask
import pytest
from http_tools import ExecutorServers
from waiting import wait

import wukong
from wukong.testing.servers import RedisServer

SECRET = "a key that both sides have"
N_LEAVES = 48
MODES = {
    "direct": {"direct": True},
    "wait": {"wait": True},
}


@pytest.fixture(scope="module")
def redis():
    with RedisServer("--requirepass", "sesame") as server:
        yield f"redis://:sesame@127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def servers():
    variables = {"WUKONG_KEY": SECRET, "WUKONG_DEPLOYMENT_KEY": "", "WUKONG_REDIS_PASSWORD": "sesame"}
    with ExecutorServers(2, "--places", "3", "--grace", "60", variables=variables) as running:
        yield running


@pytest.fixture(scope="module", params=["direct", pytest.param("wait", marks=pytest.mark.long)])
def client(request, servers, redis):
    faas = {"name": "http", "urls": servers.urls, **MODES[request.param]}
    how = {"heartbeat_s": 0.1, "silence_s": 3.0, "retries": 20, "lanes": 1}  # else too few run at once to kill some
    with wukong.Client(faas=faas, storage=redis, key=SECRET, progress=False, **how) as opened:
        yield opened


def tree(folder, pause_s=0.05, until=None):
    """A sum of leaves that say where they run; the last one goes on for as long as there is no file `until`."""

    def leaf(number):
        parent = Path(f"/proc/{os.getppid()}/stat").read_text()  # of all processes of a server, whose child it is
        Path(folder, f"{number}~{parent.rpartition(')')[2].split()[1]}").touch()
        time.sleep(pause_s)
        while until is not None and number == N_LEAVES - 1 and not Path(until).exists():
            time.sleep(pause_s)
        return number

    level = [dask.delayed(leaf)(number) for number in range(N_LEAVES)]
    while len(level) > 1:
        level = [dask.delayed(sum)(level[at : at + 4]) for at in range(0, len(level), 4)]
    return level[0]


def busy(folder, servers):
    """Return the number of the server, of those that run now, on which the latest leaf has begun."""
    pids = [process.pid for process in servers.processes]

    def begun():
        leaves = [(file.stat().st_mtime_ns, int(file.name.partition("~")[2])) for file in folder.iterdir()]
        return [(at, pid) for at, pid in leaves if pid in pids]

    return pids.index(max(wait(begun, "a leaf begins on a server that runs"))[1])


class Meanwhile(threading.Thread):
    """Does something each time when so many more leaves have begun, `then` something else; ends with the job."""

    def __init__(self, folder, act, each, times, then=lambda: None):
        super().__init__(daemon=True)
        self.folder, self.act, self.each, self.times, self.then = folder, act, each, times, then
        self.over, self.acted = threading.Event(), 0
        self.start()

    def run(self):
        try:
            while self.acted < self.times and not self.over.wait(0.005):
                if len(list(self.folder.iterdir())) >= (self.acted + 1) * self.each:
                    self.act()
                    self.acted += 1
        finally:
            self.then()

    def end(self):
        self.over.set()
        self.join()
        return self.acted


def test_a_job_runs_in_the_processes_of_several_servers(client, tmp_path):
    assert tree(tmp_path, 0.02).compute() == sum(range(N_LEAVES))
    assert client.last_job.summary().executors > 2


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
def test_servers_are_killed_at_random_in_mid_job(client, servers, tmp_path, seed):
    def kill():
        at = busy(leaves, servers)
        servers.signal(at)
        servers.wait(at)
        servers.start(at)

    leaves, enough = tmp_path / "leaves", tmp_path / "enough"
    leaves.mkdir()
    meanwhile = Meanwhile(leaves, kill, each=random.Random(seed).randrange(2, 10), times=2, then=enough.touch)
    assert tree(leaves, until=enough).compute() == sum(range(N_LEAVES))
    assert meanwhile.end() == 2
    assert client.last_job.summary().repeated > 0


def test_a_server_that_is_told_to_end_finishes_what_it_runs(client, servers, tmp_path):
    codes = {}

    def end():
        at = busy(tmp_path, servers)
        servers.signal(at, signal.SIGTERM)
        codes[at] = servers.wait(at)

    meanwhile = Meanwhile(tmp_path, end, each=3, times=1)
    assert tree(tmp_path).compute() == sum(range(N_LEAVES))
    meanwhile.end()
    for at in codes:
        servers.start(at)
    assert list(codes.values()) == [0]
    assert client.last_job.summary().repeated == 0
