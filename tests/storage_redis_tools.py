"""Redis servers, a store on them, a client of theirs that is not Wukong's, and what they were asked."""

import re
import threading
from collections.abc import Mapping

import pytest
import redis
from certificates import make_certificates

from wukong.backends.storage.redis import RedisStore
from wukong.testing.servers import RedisServer

PASSWORD = "pass/word@with, all:that%#?"
TTL_S = 600.0


@pytest.fixture(scope="module", name="server")
def a_server():
    with RedisServer(unix_socket=True) as server:
        yield server


@pytest.fixture(scope="module", name="shards")
def some_shards():
    servers = [RedisServer() for _ in range(3)]
    try:
        yield [server.start() for server in servers]
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="module", name="guarded")
def a_guarded_server():
    with RedisServer(password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module", name="certificates")
def some_certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", name="secure")
def a_secure_server(certificates):
    with RedisServer(tls=certificates) as server:
        yield server


@pytest.fixture(name="bare")
def a_bare_client(server):
    """A client of the plain server's that is not ours; the server is empty and counts from nothing."""
    client = redis.Redis(port=server.port, protocol=2)
    client.flushall()
    client.config_resetstat()
    yield client
    client.close()


@pytest.fixture(name="store")
def a_store(server):
    store = RedisStore(endpoints=[server.endpoint])
    yield store
    store.close()


def calls(bare: redis.Redis) -> Mapping[str, int]:
    """How often each command was called, but for those that a test itself and a new connection call."""
    counted = {
        name.removeprefix("cmdstat_").partition("|")[0]: stat["calls"]
        for name, stat in bare.info("commandstats").items()
    }
    return {name: n for name, n in counted.items() if not re.match(r"info|config|flushall|ping|hello|client", name)}


# --- waiting


def in_thread(call) -> tuple[threading.Thread, list]:
    answers: list = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers
