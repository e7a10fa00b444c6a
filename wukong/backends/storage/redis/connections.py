"""The connections of this process to one Redis server: taken, given back, and not trusted for ever."""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from typing import Any

import redis

from wukong.backends.storage.silence import has_rested, still_trusted

__all__ = ["Connections"]


class Connections:
    """Connections of one kind. Safe for threads and across forks, as redis-py's pools are.

    Those that are given back are kept here, because asking redis-py's pool is a third of a small call.
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        self._pool = pool
        self._idle: deque[tuple[Any, int, float]] = deque()  # with its generation, and when it was used last
        self._generation = 0
        self._pid = os.getpid()

    def take(self, *, sure: bool = False) -> tuple[Any, int]:
        """Return a connection for the caller alone, and its generation; a new one where none is trusted.

        `sure`: one that has just shown that it works. Raises what redis-py raises where the one that is tried does not.
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
        """A connection is not used now."""
        self._idle.append((connection, generation, time.time()))

    def give_up(self, connection: Any) -> None:
        """A connection is not used any more."""
        connection.disconnect()
        self._pool.release(connection)

    def distrust(self) -> None:
        """Use none of those again that were opened before: they lead nowhere, or to the wrong server."""
        self._generation += 1

    def is_current(self, generation: int) -> bool:
        """Whether connections of this generation are trusted still."""
        return generation == self._generation

    def close(self) -> None:
        """Close all connections. One that is wanted afterwards is made anew."""
        self.distrust()
        while self._idle:
            with suppress(IndexError):  # another thread has the last one
                self.give_up(self._idle.pop()[0])
        self._pool.disconnect()
