"""The servers that tests start: stopped in their tracks, and let go on."""

import os
import signal
import socket
import traceback

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as NoAnswer
from redis.retry import Retry
from waiting import gone, wait

from wukong.testing import servers
from wukong.testing.servers import MemcachedServer, RedisClusterServers, RedisServer


def test_a_server_answers_nothing_from_when_it_is_frozen_until_it_is_thawed():
    with RedisServer() as server, Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:

        def answers():
            try:
                return client.ping()
            except NoAnswer:
                return False

        wait(answers)
        for _ in range(2):  # the second time it is frozen already
            server.freeze()
            with pytest.raises(NoAnswer):
                client.ping()
        server.thaw()
        wait(answers, "it goes on")


def test_a_member_of_a_cluster_whose_second_port_is_taken_gets_others(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = iter([servers.free_port(), taken.getsockname()[1]])
        monkeypatch.setattr(servers, "free_port", lambda host, free=servers.free_port: next(found, None) or free(host))
        with RedisClusterServers(1, replicas=False) as cluster:
            assert cluster.masters[0].told("PING") == "PONG"
        assert next(found, None) is None


@pytest.mark.parametrize("server", [RedisServer, MemcachedServer])
def test_a_server_dies_with_the_process_that_started_it(server):
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, b"%d" % server().start().pid)
            signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)  # or reading would never end, if the server does not start
    try:
        pid = int(os.read(read, 20))
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    wait(lambda: gone(pid), "it is dead")
