"""One Redis server as its clients see it: requests of several commands, and keys that are watched.

A request is any number of commands sent together; their replies come back together, in one round trip. Every command
here may be sent twice, so a connection that broke while it was idle is replaced without an error.

Watches have connections of their own, which speak RESP3: after `CLIENT CACHING YES` a `GET` has the server remember
which client read the key, even a missing one, and tell that client when the key is written. So nobody polls, and
writers do nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis

from wukong.backends.storage.redis.access import RedisAccess
from wukong.backends.storage.redis.address import Endpoint
from wukong.backends.storage.redis.connections import RedisConnections
from wukong.backends.storage.redis.errors import is_replica, refuses_to_tell, translated
from wukong.backends.storage.redis.progress import Progress
from wukong.backends.storage.redis.reply import Values, read_values
from wukong.backends.storage.redis.request import RedisRequest
from wukong.backends.storage.silence import LARGE_BYTES
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["RedisNode"]

T = TypeVar("T")

_LOOK_S = 10.0
"""A watch asks the server again after this time, and so notices a server that vanished without a word."""


class RedisNode:
    """One server. Safe for threads and across forks.

    Args:
        endpoint: where it is. access: how it is logged in to.

    Attributes:
        name: for errors. host: its host; empty: a unix socket.
        guarded: it asks for a password, or only this machine reaches it.
    """

    def __init__(self, endpoint: Endpoint, access: RedisAccess) -> None:
        self.name = endpoint.name
        self.host = endpoint.host or ""
        self.guarded = access.password is not None or endpoint.is_local
        self._endpoint = endpoint
        self._access = access
        self._askers = RedisConnections(access.pool(endpoint))
        self._watchers = RedisConnections(access.pool(endpoint, watch=True))

    def ask(self, request: RedisRequest) -> list[Any]:
        """Send a request; return the replies, some of which may be a `redis.ResponseError`.

        Raises `StoreError` or `StoreUnavailable` if the server cannot be asked at all.
        """
        n_commands = request.n_commands
        return self._exchange(request, lambda connection, _: [_reply(connection) for _ in range(n_commands)])

    def ask_values(self, request: RedisRequest) -> list[Values]:
        """Send a request that is ``MGET``s of few keys in all; return the values of each. Raises as `ask`."""
        n_commands = request.n_commands
        return self._exchange(request, lambda connection, progress: read_values(connection, progress, n_commands))

    def request(self) -> RedisRequest:
        """Return an empty request."""
        return RedisRequest()

    def servers(self) -> Sequence[RedisNode]:
        """Return the servers that hold the keys: this one."""
        return (self,)

    def _exchange(self, request: RedisRequest, read: Callable[[Any, Progress], T]) -> T:
        pieces, connections = request.pieces(), self._askers
        size_bytes = sum(map(len, pieces))
        fresh = False
        try:
            while True:
                progress = self._progress(size_bytes)
                connection, generation = connections.take(sure=size_bytes > LARGE_BYTES)
                try:
                    progress.send(connection, pieces)
                    answer = read(connection, progress)
                except BaseException as error:
                    connections.give_up(connection)  # or its next user would read the answer to this request
                    if isinstance(error, redis.RedisError | OSError):
                        connections.distrust()  # the idle ones are as old, or older
                    if fresh or type(error) is not redis.ConnectionError:
                        raise
                    fresh = True
                else:
                    connections.give_back(connection, generation)
                    return answer
        except (redis.RedisError, OSError) as error:
            raise self.failure(error, progress) from error

    def watch(self, key: bytes, timeout_s: float) -> bytes | None:
        """Return the value of `key` as soon as there is one; None when `timeout_s` seconds have passed without.

        If the connection breaks meanwhile, the watch goes on over a new one. Raises as `ask`.
        """
        end_s = time.monotonic() + timeout_s
        connections = self._watchers
        last = False
        try:
            while True:
                progress = self._progress()
                connection, generation = connections.take()
                try:
                    while True:
                        value = _look(connection, key, progress, remember=True)
                        last = False
                        left_s = end_s - time.monotonic()
                        if value is None and left_s > 0 and connection.can_read(min(left_s, _LOOK_S)):
                            connection.read_response(push_request=True)
                            value = _look(connection, key, progress, remember=False)
                        if value is not None or time.monotonic() >= end_s:
                            connections.give_back(connection, generation)
                            return value
                        if not connections.is_current(generation):
                            connections.give_up(connection)
                            break
                        progress = self._progress()
                except BaseException as error:
                    connections.give_up(connection)
                    if isinstance(error, redis.RedisError | OSError):
                        connections.distrust()
                    if last or type(error) is not redis.ConnectionError:
                        raise
                    last = True
        except (redis.RedisError, OSError) as error:
            raise self.failure(error, progress) from error

    def tells(self) -> bool:
        """Whether the server tells this user of writes to keys, as `watch` needs it. Raises as `ask`.

        Asks on a connection of its own, which another caller's watch does not notice.
        """
        connections = RedisConnections(self._access.pool(self._endpoint, watch=True))
        progress, request = self._progress(), RedisRequest()
        request.add(b"CLIENT", b"CACHING", b"YES")
        try:
            connection, _ = connections.take()
            progress.send(connection, request.pieces())
            _answer(connection)
        except (redis.RedisError, OSError) as error:
            if refuses_to_tell(error):
                return False
            raise self.failure(error, progress) from error
        finally:
            connections.close()
        return True

    def _progress(self, size_bytes: int = 0) -> Progress:
        return Progress(self._access.longest_s(size_bytes), self._access.timeout_s)

    def failure(self, error: Exception, progress: Progress | None = None) -> StoreError:
        """Return the error to raise for one of redis-py's.

        A server that says it is a replica now has had a failover. Its name may lead to another server, so all
        connections are opened anew.
        """
        if is_replica(error):
            self._askers.distrust()
            self._watchers.distrust()
        told = translated(error, self._endpoint, self._access, None if progress is None else progress.answer_s)
        if progress is not None and progress.moved_s is not None and isinstance(told, StoreUnavailable):
            told.silent_s = time.monotonic() - progress.moved_s
        return told

    def close(self) -> None:
        """Close all connections. One that is wanted afterwards is made anew."""
        self._askers.close()
        self._watchers.close()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _look(connection: Any, key: bytes, progress: Progress, *, remember: bool) -> bytes | None:
    """Get a key; `remember`: have the server tell this connection when the key is written."""
    request = RedisRequest()
    if remember:
        request.add(b"CLIENT", b"CACHING", b"YES")
    request.add(b"GET", key)
    progress.send(connection, request.pieces())
    if remember:
        _answer(connection)
    value: bytes | None = _answer(connection)
    return value


def _answer(connection: Any) -> Any:
    """Return the next reply. Skips lists: pushed messages of the server, which are out of date by now."""
    while isinstance(reply := connection.read_response(), list):
        pass
    return reply
