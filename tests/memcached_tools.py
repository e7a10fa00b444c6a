"""What the tests of the memcached store share."""

import os
import socket
from contextlib import ExitStack, closing, contextmanager
from urllib.parse import unquote_to_bytes

from pymemcache import Client

from wukong.backends.storage import Arrival
from wukong.backends.storage.memcached import MemcachedStore

LARGE = os.urandom(1_300_000)
RIDER = b"r" * 10_000


@contextmanager
def opening():
    """Yield a function that opens a store on servers; close all of them at the end."""
    with ExitStack() as stack:

        def opened(*servers, **options):
            store = MemcachedStore(endpoints=[server.endpoint for server in servers], **options)
            return stack.enter_context(closing(store))

        yield opened


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
            found += connection.recv(65_536)
    return [unquote_to_bytes(line.split()[0].removeprefix(b"key=")) for line in found.splitlines()[:-1]]
