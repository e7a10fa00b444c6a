"""Commands on their way to a Redis server, packed so that a large value is never copied."""

from __future__ import annotations

from typing import Any

from hiredis import pack_command

from wukong.backends.storage import Blob, Buffer, blob_size

__all__ = ["RedisRequest"]

_WHOLE_BYTES = 512 << 10  # a copy of up to 512 KiB takes less time than a second packet
_PART_BYTES = 64 << 10
_JOIN_BYTES = 1 << 20
_SEND_BYTES = 4 << 20


class RedisRequest:
    """Commands on their way to a server, packed: small ones joined, large values without a copy.

    Attributes:
        n_commands: how many answers it brings.
    """

    __slots__ = ("_pieces", "_small", "_small_bytes", "n_commands")

    def __init__(self) -> None:
        self.n_commands = 0
        self._pieces: list[Buffer] = []
        self._small: list[Buffer] = []
        self._small_bytes = 0

    def add(self, *words: Any) -> None:
        """Add a command: bytes, text and numbers."""
        self._put(pack_command(words))
        self.n_commands += 1

    def add_set(self, key: bytes, blob: Blob, ttl_ms: int | None) -> None:
        """Add a `SET`. A large value is sent from its own memory, part by part."""
        parts = blob if isinstance(blob, tuple) else (blob,)
        size_bytes = blob_size(blob)
        ending = b"" if ttl_ms is None else b"$2\r\nPX\r\n$%d\r\n%d\r\n" % (len(b"%d" % ttl_ms), ttl_ms)
        self._put(b"*%d\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (5 if ending else 3, len(key), key, size_bytes))
        for part in parts:
            if size_bytes < _WHOLE_BYTES or blob_size(part) < _PART_BYTES:
                self._put(part)
            else:
                self._join()
                view = memoryview(part).cast("B")
                self._pieces += (view[at : at + _SEND_BYTES] for at in range(0, len(view), _SEND_BYTES))
        self._put(b"\r\n" + ending)
        self.n_commands += 1

    def pieces(self) -> list[Buffer]:
        """Return what is to be sent, in order. No piece is much larger than what is sent under one time limit."""
        self._join()
        return self._pieces

    def _put(self, piece: Buffer) -> None:
        self._small.append(piece)
        self._small_bytes += blob_size(piece)
        if self._small_bytes >= _JOIN_BYTES:
            self._join()

    def _join(self) -> None:
        if self._small:
            self._pieces.append(b"".join(self._small))
            self._small.clear()
            self._small_bytes = 0
