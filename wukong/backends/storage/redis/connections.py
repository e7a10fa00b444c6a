"""The connections of this process to one Redis server: taken, given back, and trusted for a limited time."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from typing import Any

import redis

from wukong.backends.storage.silence import has_rested, still_trusted

__all__ = ["RedisConnections"]


class RedisConnections:
    """Connections of one kind. Safe for threads and across forks, as redis-py's pools are.

    Connections that are given back are kept here, because redis-py's pool would cost a third of a small call.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._idle: deque[tuple[Any, int, float]] = deque()  # with its generation, and when it was used last
        self._generation = 0
        self._pid = os.getpid()

    def take(self, *, sure: bool = False) -> tuple[Any, int]:
        """Return a connection for the caller alone, and its generation; a new one if none is trusted.

        `sure`: test a connection that has been idle for a while first. Raises what redis-py raises if that fails.
        """
        if self._pid != os.getpid():  # what is idle belongs to the parent
            self._idle, self._pid = deque(), os.getpid()
        while True:
            try:
                connection, generation, used_s = self._idle.pop()
            except IndexError:
                return self._pool.get_connection(), self._generation
            if generation != self._generation or not still_trusted(used_s):
                self.give_up(connection)
                continue
            if sure and has_rested(used_s):
                self._try(connection)
            return connection, generation

    def _try(self, connection: Any) -> None:
        try:
            connection._sock.settimeout(connection.socket_timeout)
            connection.send_command("PING", check_health=False)
            connection.read_response()
        except BaseException:
            self.distrust()
            self.give_up(connection)
            raise

    def give_back(self, connection: Any, generation: int) -> None:
        """Keep a connection for later calls."""
        self._idle.append((connection, generation, time.time()))

    def give_up(self, connection: Any) -> None:
        """Close a connection for good."""
        connection.disconnect()
        self._pool.release(connection)

    def distrust(self) -> None:
        """Use no connection again that was opened before now: it leads nowhere, or to the wrong server."""
        self._generation += 1

    def is_current(self, generation: int) -> bool:
        """Whether connections of this generation are still trusted."""
        return generation == self._generation

    def close(self) -> None:
        """Close all connections. A later call opens new ones."""
        self.distrust()
        while self._idle:
            with suppress(IndexError):  # another thread has the last one
                self.give_up(self._idle.pop()[0])
        self._pool.disconnect()
