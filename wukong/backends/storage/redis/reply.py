"""Values from a Redis server, read straight into their final memory.

redis-py's reader copies what arrives into a growing buffer, and from there into the value: that takes three times the
memory of a large value for a moment, and the time of two copies. Here a value's size is read first, then the value.
Small values, and large numbers of values, are left to redis-py, whose reader is written in C.
"""

from __future__ import annotations

import socket
import time
from typing import Any, TypeAlias

import redis
from redis.connection import DefaultParser

from wukong.backends.storage import Buffer
from wukong.backends.storage.redis.progress import Progress
from wukong.backends.storage.silence import LARGE_BYTES

__all__ = ["MOST_VALUES", "Values", "read_values"]

Values: TypeAlias = "list[Buffer | None] | redis.ResponseError"

MOST_VALUES = 64
"""For more values than this in one reply redis-py is faster, unless they are very large."""

_READ_BYTES = 65_536
_CLOSED = "Connection closed by server."


def read_values(connection: Any, progress: Progress, n_commands: int = 1) -> list[Values]:
    """Read the replies to `n_commands` ``MGET``: for each a value or None for each key, or the server's error instead.

    Raises `redis.ConnectionError` if the server hangs up, `redis.TimeoutError` if it falls silent.
    """
    try:
        incoming = _Incoming(connection._sock, progress)
        return [_read_values(incoming) for _ in range(n_commands)]
    except TimeoutError as error:
        raise redis.TimeoutError("timeout reading from socket") from error
    except (OSError, ValueError) as error:
        raise redis.ConnectionError(f"a reply broke off: {error}") from error


def _read_values(incoming: _Incoming) -> Values:
    head = incoming.line()
    if head.startswith(b"-"):
        refusal: Exception = DefaultParser.parse_error(head[1:].decode(errors="replace"))  # type: ignore[no-untyped-call]
        if isinstance(refusal, redis.ResponseError):
            return refusal
        raise refusal
    values: list[Buffer | None] = []
    for _ in range(_number(head, b"*")):
        size_bytes = _number(incoming.line(), b"$")
        values.append(None if size_bytes < 0 else incoming.take(size_bytes))
    return values


def _number(line: bytes, kind: bytes) -> int:
    if not line.startswith(kind):
        raise redis.InvalidResponse(f"{line[:40]!r} where {kind.decode()} is to be")
    return int(line[1:])


class _Incoming:
    """A reader of a socket. `ahead` holds bytes that were received but not yet asked for."""

    __slots__ = ("_ahead", "_at", "_progress", "_sock")

    def __init__(self, sock: socket.socket, progress: Progress) -> None:
        self._sock = sock
        self._progress = progress
        self._ahead = b""
        self._at = 0

    def line(self) -> bytes:
        """Return the next line without its end."""
        while (end := self._ahead.find(b"\r\n", self._at)) < 0:
            self._ahead = self._ahead[self._at :] + self._more()
            self._at = 0
        line = self._ahead[self._at : end]
        self._at = end + 2
        return line

    def take(self, size_bytes: int) -> Buffer:
        """Return the next `size_bytes` bytes; skip the line end that follows them."""
        there = len(self._ahead) - self._at
        if size_bytes + 2 <= there:
            value = self._ahead[self._at : self._at + size_bytes]
            self._at += size_bytes + 2
            return value
        whole = bytearray(size_bytes)
        n_bytes = min(there, size_bytes)
        whole[:n_bytes] = self._ahead[self._at : self._at + n_bytes]
        rest = memoryview(whole)[n_bytes:]
        progress, large = self._progress, size_bytes > LARGE_BYTES
        while rest:
            if large:
                progress.moving(self._sock)
            received = self._sock.recv_into(rest)
            if not received:
                raise redis.ConnectionError(_CLOSED)
            rest = rest[received:]
            if large:
                progress.moved_s = time.monotonic()
        self._ahead, self._at = self._ahead[self._at + n_bytes :], 0
        self.line()
        return whole

    def _more(self) -> bytes:
        received = self._sock.recv(_READ_BYTES)
        if not received:
            raise redis.ConnectionError(_CLOSED)
        return received
