"""What the tests of the memcached store share."""

import os
import socket
from contextlib import ExitStack, closing
from urllib.parse import unquote_to_bytes

import pytest
from pymemcache import Client

from wukong.backends.storage import Arrival
from wukong.backends.storage.memcached import MemcachedStore
from wukong.testing.servers import MemcachedServer

LARGE = os.urandom(1_300_000)
RIDER = b"r" * 10_000


@pytest.fixture
def server():
    """A server of this test only."""
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def opened():
    """A function that opens a store on servers, and closes it after the test."""
    with ExitStack() as stack:

        def opened(*servers, **options):
            store = MemcachedStore(endpoints=[server.endpoint for server in servers], **options)
            return stack.enter_context(closing(store))

        yield opened


@pytest.fixture
def store(server, opened):
    """A store on the test's own server."""
    return opened(server)


def bare(server):
    return Client((server.host, server.port), default_noreply=False, timeout=5)


def arrival(*members, of=2, who=b"me", value=None, record=b"f", only_if_last=False):
    return Arrival(record, members, of, who, value, only_if_last)


def verb_of(command):
    return (command[0] if isinstance(command, tuple) else command).split()[0]


def everything(store):
    """Each verb once, by name."""
    return {
        "get": lambda: store.get([b"a", b"b"]),
        "put": lambda: store.put({b"a": b"1"}),
        "delete": lambda: store.delete([b"a"]),
        "wait": lambda: store.wait(b"a", 5.0),
        "incr": lambda: store.incr([arrival(0)]),
        "advice": lambda: store.advice(),
    }


def dumped(server):
    """The keys of a server, as its own crawler finds them."""
    with socket.create_connection((server.host, server.port), 5) as connection:
        connection.sendall(b"lru_crawler metadump all\r\n")
        found = b""
        while not found.endswith(b"END\r\n"):
            found += (more := connection.recv(65_536))
            assert more, found
    return [unquote_to_bytes(line.split()[0].removeprefix(b"key=")) for line in found.splitlines()[:-1]]
