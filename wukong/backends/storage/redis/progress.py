"""One request on its way over a connection: how long its answer may take, and when a large value last moved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis

from wukong.backends.storage import Buffer
from wukong.core.time_left import time_left_s

__all__ = ["Progress"]

_LEAST_S = 0.05


class Progress:
    """See the module's docstring.

    Args:
        most_s: how long a piece of a large value may take to move, seconds.

    Attributes:
        answer_s: how long the answer may take, once all is sent.
        moved_s: when a piece of a large value last moved, by `time.monotonic`; None: none has.
    """

    __slots__ = ("_most_s", "answer_s", "moved_s")

    def __init__(self, answer_s: float, most_s: float) -> None:
        self.answer_s = answer_s
        self._most_s = most_s
        self.moved_s: float | None = None

    def send(self, connection: Any, pieces: Sequence[Buffer]) -> None:
        """Send a request; the time for its answer begins then. Raises `redis.ConnectionError`, `redis.TimeoutError`."""
        sock = connection._sock
        if sock is None:
            raise redis.ConnectionError("it was closed meanwhile")
        *large, last = pieces
        for piece in large:
            self.moving(sock)
            connection.send_packed_command([piece], check_health=False)
            self.moved_s = time.monotonic()
        if sock.gettimeout() != self.answer_s:
            sock.settimeout(self.answer_s)
        connection.send_packed_command([last], check_health=False)

    def moving(self, sock: Any) -> None:
        """Set the time limit for the next piece of a large value. Raises `redis.TimeoutError` if the time is over."""
        left_s = time_left_s(moving=True)
        if left_s <= 0:
            raise redis.TimeoutError("the time for this is over")
        if sock.gettimeout() != (wait_s := min(self._most_s, max(_LEAST_S, left_s))):
            sock.settimeout(wait_s)
