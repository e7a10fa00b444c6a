"""One connection to a proxy, as a sender has it: opened, greeted, asked; blocking, with a limit on every wait."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from wukong.backends.keepalive import keep_alive
from wukong.errors import Retryable
from wukong.proxy import protocol
from wukong.proxy.protocol import ANSWER, HEAD, HELLO, VERSION, Announced, ProtocolError, Talk

__all__ = ["ProxyConnection", "ProxyRefused"]

_PING_S = 1.0
_LATE_S = 2.0


class ProxyRefused(ProtocolError, Retryable):
    """The proxy does not serve, and says why: it is full, stopping, or of another version."""


class ProxyConnection:
    """An open connection. One thread at a time uses it.

    Args:
        place: host and port.
        key: the deployment's.
        connect_s: how long connecting and greeting may take, seconds.

    Attributes:
        announced: what the proxy said of itself.

    Raises OSError if nobody answers, `ProtocolError` if what answers is no proxy of this deployment, or does not serve.
    """

    def __init__(self, place: tuple[str, int], key: bytes, connect_s: float) -> None:
        end = time.monotonic() + connect_s
        self._socket = socket.create_connection(place, connect_s)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(self._socket)
            self._end = end
            self.announced = self._greeted(key)
        except BaseException:
            self._socket.close()
            raise
        self._used_at = time.time()

    def _greeted(self, key: bytes) -> Announced:
        said = protocol.hello(os.urandom(protocol.NONCE_BYTES))
        self._send([said])
        start = self._receive(HELLO.size)
        version, _ = protocol.read_hello(start)
        if version != VERSION:
            raise ProxyRefused(f"it speaks version {version} of the protocol, and this side version {VERSION}")
        size, proof = ANSWER.unpack(self._receive(ANSWER.size))
        if size > protocol.MOST_TEXT_BYTES:
            raise ProtocolError(f"it greets with {size:,} bytes")
        conversation, told = protocol.read_answer(key, said, start, proof, self._receive(size))
        if "error" in told:
            raise ProxyRefused(str(told["error"]))
        self._talk = Talk(conversation, b">")
        self._send(self._talk.frame({"type": "auth"}))
        return Announced.of(told)

    def alive(self) -> bool:
        """Whether the proxy still listens. It is asked only if the connection has rested for a while."""
        if abs(time.time() - self._used_at) < _PING_S:  # by the calendar: other clocks stand still in a frozen function
            return True
        try:
            return self.ask({"type": "ping"}, (), _PING_S).get("type") == "pong"
        except (OSError, ProtocolError):
            return False

    def ask(self, header: Mapping[str, Any], body: Sequence[bytes], most_s: float) -> dict[str, Any]:
        """Send a message and return the answer's header. Raises OSError (TimeoutError among them), `ProtocolError`."""
        self._end = time.monotonic() + min(most_s, self.announced.message_s + _LATE_S)
        self._send(self._talk.frame(header, body))
        text_bytes, body_bytes, digest = HEAD.unpack(self._receive(HEAD.size))
        if text_bytes + body_bytes > protocol.MOST_ANSWER_BYTES:
            raise ProtocolError(f"it answers with {text_bytes + body_bytes:,} bytes")
        text = self._receive(text_bytes)
        told = self._talk.read(digest, text, self._receive(body_bytes))
        if told.get("type") == "error":
            raise ProxyRefused(str(told.get("error")))
        self._used_at = time.time()
        return told

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _limit(self) -> None:
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)

    def _send(self, buffers: Sequence[bytes]) -> None:
        whole = b"".join(buffers)
        self._limit()
        self._socket.sendall(whole)

    def _receive(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._limit()
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise ConnectionResetError("the connection was closed")
            found += piece
        return bytes(found)
