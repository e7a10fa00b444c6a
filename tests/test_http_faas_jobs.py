"""Whole jobs on executor servers, with Redis: servers that are killed, that end, and that answer when all is done."""

import random
import signal
import threading
import time
from pathlib import Path

import dask
import pytest
from http_tools import ExecutorServers

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
    with wukong.Client(
        faas=faas, storage=redis, key=SECRET, progress=False, heartbeat_s=0.1, silence_s=3.0, retries=20
    ) as opened:
        yield opened


def tree(folder, pause_s=0.05):
    def leaf(number):
        time.sleep(pause_s)
        Path(folder, str(number)).touch()
        return number

    level = [dask.delayed(leaf)(number) for number in range(N_LEAVES)]
    while len(level) > 1:
        level = [dask.delayed(sum)(level[at : at + 4]) for at in range(0, len(level), 4)]
    return level[0]


class Meanwhile(threading.Thread):
    """Does something each time when so many more leaves have been computed; ends with the job."""

    def __init__(self, folder, act, each, times):
        super().__init__(daemon=True)
        self.folder, self.act, self.each, self.times = folder, act, each, times
        self.over, self.acted = threading.Event(), 0
        self.start()

    def run(self):
        while self.acted < self.times and not self.over.wait(0.005):
            if len(list(self.folder.iterdir())) >= (self.acted + 1) * self.each:
                self.act()
                self.acted += 1

    def end(self):
        self.over.set()
        self.join()
        return self.acted


def test_a_job_runs_in_the_processes_of_several_servers(client, tmp_path):
    assert tree(tmp_path, 0.02).compute() == sum(range(N_LEAVES))
    assert client.last_job.summary().executors > 2


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)])
def test_servers_are_killed_at_random_in_mid_job(client, servers, tmp_path, seed):
    choice = random.Random(seed)

    def kill():
        at = choice.randrange(2)
        servers.signal(at)
        servers.wait(at)
        servers.start(at)

    meanwhile = Meanwhile(tmp_path, kill, each=6, times=2)
    assert tree(tmp_path).compute() == sum(range(N_LEAVES))
    assert meanwhile.end() == 2
    assert client.last_job.summary().repeated > 0


def test_a_server_that_is_told_to_end_finishes_what_it_runs(client, servers, tmp_path):
    codes = []

    def end():
        servers.signal(0, signal.SIGTERM)
        codes.append(servers.wait(0))

    meanwhile = Meanwhile(tmp_path, end, each=3, times=1)
    assert tree(tmp_path).compute() == sum(range(N_LEAVES))
    meanwhile.end()
    servers.start(0)
    assert codes == [0]
    assert client.last_job.summary().repeated == 0
