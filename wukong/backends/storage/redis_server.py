"""One Redis server as its clients see it: requests of several commands, and keys that are watched.

A request is any number of commands sent together; their replies come back together, in one round trip. Everything that
is asked here may be asked twice, so a connection that broke while it lay in the pool is replaced and nobody notices.

A key is *watched* over connections of their own, which speak RESP3: after `CLIENT CACHING YES` a `GET` has the server
remember who read the key, be it there or not, and tell them when it is written to. Nobody polls, and whoever writes
does nothing for it.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import redis

from wukong.backends.storage import Buffer
from wukong.backends.storage.redis_access import Access
from wukong.backends.storage.redis_address import Endpoint
from wukong.backends.storage.redis_errors import translated
from wukong.backends.storage.redis_reply import read_values
from wukong.backends.storage.redis_request import Request
from wukong.errors import StoreError

__all__ = ["Server"]

T = TypeVar("T")

_LOOK_S = 10.0
"""A server that vanished without a word is noticed by asking it again after so long."""


class Server:
    """One server. Safe for threads and across forks, as redis-py's pools are."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        self.name = endpoint.name
        self.guarded = access.password is not None or endpoint.is_local
        self._endpoint = endpoint
        self._access = access
        self._pool = access.pool(endpoint)
        self._idle: deque[Any] = deque()  # taken from the pool and kept: asking the pool is a third of a small call
        self._pid = os.getpid()
        self._watchers = access.pool(endpoint, watch=True)

    def ask(self, request: Request) -> list[Any]:
        """Send a request; return the replies, some of which may be a `redis.ResponseError`.

        Raises `StoreError` or `StoreUnavailable` where the server cannot be asked at all.
        """
        n_commands = request.n_commands
        return self._exchange(request, lambda connection: [_reply(connection) for _ in range(n_commands)])

    def ask_values(self, request: Request) -> list[Buffer | None] | redis.ResponseError:
        """Send a request that is one ``MGET`` of few keys; return the values. Raises as `ask`."""
        return self._exchange(request, read_values)

    def _exchange(self, request: Request, read: Callable[[Any], T]) -> T:
        pieces = request.pieces()
        fresh = False
        try:
            while True:
                connection = self._take(fresh)
                try:
                    connection.send_packed_command(pieces, check_health=False)
                    answer = read(connection)
                except BaseException as error:
                    self._give_up(connection)  # or whoever uses it next would read what was meant for this one
                    if fresh or type(error) is not redis.ConnectionError:
                        raise
                    fresh = True
                else:
                    self._idle.append(connection)
                    return answer
        except (redis.RedisError, OSError) as error:
            raise self.failure(error) from error

    def _take(self, fresh: bool) -> Any:
        """Return a connection for the caller alone. One that has just been used is as good as a new one.

        `fresh`: one that was just found to be alive; the others that lie idle may have broken too, and are given up.
        """
        if self._pid != os.getpid():  # what is idle belongs to the parent
            self._idle, self._pid = deque(), os.getpid()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._pool.get_connection()
            if not fresh:
                return connection
            self._give_up(connection)

    def _give_up(self, connection: Any) -> None:
        connection.disconnect()
        self._pool.release(connection)

    def watch(self, key: bytes, timeout_s: float) -> bytes | None:
        """Return what is under `key` as soon as there is something; None when so much time has passed without.

        Where the connection breaks meanwhile, it goes on over a new one. Raises as `ask`.
        """
        end_s = time.monotonic() + timeout_s
        pool = self._watchers
        last = False
        try:
            while True:
                connection: Any = pool.get_connection()
                try:
                    while True:
                        value = _look(connection, key, remember=True)
                        last = False
                        left_s = end_s - time.monotonic()
                        if value is None and left_s > 0 and connection.can_read(min(left_s, _LOOK_S)):
                            connection.read_response(push_request=True)
                            value = _look(connection, key, remember=False)
                        if value is not None or time.monotonic() >= end_s:
                            return value
                except BaseException as error:
                    connection.disconnect()
                    if last or type(error) is not redis.ConnectionError:
                        raise
                    last = True
                finally:
                    pool.release(connection)
        except (redis.RedisError, OSError) as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> StoreError:
        """Return the error to raise for one of redis-py's."""
        return translated(error, self._endpoint, self._access)

    def close(self) -> None:
        """Close all connections. One that is wanted afterwards is made anew."""
        self._pool.disconnect()
        self._watchers.disconnect()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _look(connection: Any, key: bytes, *, remember: bool) -> bytes | None:
    """Get a key; `remember`: and have the server tell this connection when it is written to."""
    request = Request()
    if remember:
        request.add(b"CLIENT", b"CACHING", b"YES")
    request.add(b"GET", key)
    connection.send_packed_command(request.pieces(), check_health=False)
    if remember:
        _answer(connection)
    value: bytes | None = _answer(connection)
    return value


def _answer(connection: Any) -> Any:
    """The next reply. What the server told of its own accord comes as a list, and is of no interest any more."""
    while isinstance(reply := connection.read_response(), list):
        pass
    return reply
