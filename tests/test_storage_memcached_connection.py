"""What comes over a connection to memcached: whole values, errors, and pieces of any size."""

import os
import socket
import threading

import pytest
from pymemcache.exceptions import MemcacheUnexpectedCloseError

from wukong.backends.storage.memcached import MemcachedStore
from wukong.backends.storage.memcached import connection as memcached_connection
from wukong.backends.storage.memcached import shard as memcached_shard
from wukong.backends.storage.memcached.connection import MemcachedConnection
from wukong.errors import StoreError, StoreFull, StoreUnavailable


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"-ERR unknown command", StoreError, "answered what it should not: -ERR unknown"),
        (b"CLIENT_ERROR unauthenticated", StoreError, "answered what it should not: unauthenticated"),
        (b"SERVER_ERROR Out of memory during read", StoreFull, "has no room: Out of memory during read"),
        (b"SERVER_ERROR out of order", StoreError, "refused: out of order"),
        (b"ERROR Too many open connections", StoreUnavailable, "answers with an error only"),
        (b"NOT_STORED", StoreError, "has not stored what it was given"),
    ],
)
def test_an_answer_that_is_not_the_expected_one_is_an_error(monkeypatch, answer, error, message):
    monkeypatch.setattr(memcached_shard, "_FULL_PAUSES_S", ())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection = listener.accept()[0]
            connection.recv(1_000)
            connection.sendall(answer + b"\r\n")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        store = MemcachedStore(endpoints=[f"127.0.0.1:{listener.getsockname()[1]}"], item_bytes=1 << 20)
        with pytest.raises(StoreError, match=message) as refused:
            store.put({b"a": b"1"}, ttl_s=60.0)
        assert type(refused.value) is error
        thread.join()
        store.close()


class Dripping:
    """A socket of which no more than n bytes come at a time."""

    def __init__(self, connected, n_bytes):
        self.connected, self.n_bytes = connected, n_bytes
        self.sendall, self.close = connected.sendall, connected.close
        self.gettimeout, self.settimeout = connected.gettimeout, connected.settimeout

    def recv(self, most_bytes):
        return self.connected.recv(min(most_bytes, self.n_bytes))

    def recv_into(self, room):
        return self.connected.recv_into(room[: self.n_bytes])


@pytest.mark.parametrize("n_bytes", [1, 2, 27, 28, 29, 65_536, 70_000, 1_000_000])
def test_a_large_value_may_come_in_pieces_of_any_size_and_is_whole_or_an_error(n_bytes):
    value = os.urandom(70_000)
    answer = b"VALUE large 0 %d\r\n%b\r\nVALUE small 0 1\r\nx\r\nEND\r\n" % (len(value), value)
    ours, theirs = socket.socketpair()
    ours.settimeout(30.0)
    with ours, theirs:
        connection = MemcachedConnection(("nowhere", 0), 5.0, 5.0, 5.0, None)
        connection.sock = memcached_connection._Wide(Dripping(ours, n_bytes), 5.0, 5.0, lambda: None)
        theirs.sendall(answer)
        assert connection.found([b"large", b"small"]) == {b"large": value, b"small": b"x"}
        theirs.sendall(answer[:60_000])
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(MemcacheUnexpectedCloseError):
            connection.found([b"large", b"small"])
