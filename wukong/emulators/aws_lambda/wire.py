"""HTTP/1.1 for this service: it reads requests with a Content-Length, writes whole answers, keeps connections alive.

It is written by hand on asyncio's protocols because the service also serves benchmarks: it parses a request of boto3's
in 7 us. h11 takes 61 us, and a compiled parser (httptools, 3 us) would be one more package to install.
Chunked bodies are refused with 411; no client of the Lambda API sends them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, cast

logger = logging.getLogger(__name__)

_HEAD_BYTES = 65_536
MOST_BYTES = 128 * 1_048_576
"""The largest body that is read."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class HttpRequest(NamedTuple):
    """One request. `target` is as sent: the path, perhaps with a query; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Malformed(Exception):
    """The input is no valid request. Carries the status of the answer; the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class HttpConnection(asyncio.Protocol):
    """One connection of a client. A subclass handles requests in `handle`, and calls `respond` once for each.

    The next request is read when the one before it has been answered.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str], int] | None = None
        self._answering = False
        self._parsing = False
        self._last = False
        self._ended = False

    def handle(self, request: HttpRequest) -> None:
        """Answer a request, now or later, with one call of `respond`."""
        raise NotImplementedError

    def lost(self) -> None:
        """The client has gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._transport = None
        self.lost()

    def eof_received(self) -> bool:
        """A client that has half-closed its end still gets the answers that it waits for."""
        self._ended = True
        return self._answering

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        if not self._answering and not self._parsing:
            self._parse()

    def _parse(self) -> None:
        self._parsing = True
        try:
            while self._buffer and not self._answering and self._transport is not None:
                request = self._take()
                if request is None:
                    break
                self._answering = True
                self.handle(request)
            if self._ended and not self._answering:
                self.close()
        except Malformed as error:
            self._answering, self._last = True, True
            self.respond(error.status, {"message": str(error)})
        except Exception:
            logger.exception("a request could not be handled")
            if self._answering:
                self._last = True
                self.respond(500, {"Message": "The service has failed; its log says why.", "Type": "Service"})
        finally:
            self._parsing = False

    def _take(self) -> HttpRequest | None:
        """Cut the next whole request off the buffer."""
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if max(end, len(self._buffer) if end < 0 else 0) > _HEAD_BYTES:
                raise Malformed(431, "The header is too large")
            if end < 0:
                return None
            self._head = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head[2].get("expect", "").lower() == "100-continue" and self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        method, target, headers, size_bytes = self._head
        if len(self._buffer) < size_bytes:
            return None
        if len(self._buffer) == size_bytes:
            body = bytes(self._buffer)
            self._buffer.clear()
        else:
            body = bytes(self._buffer[:size_bytes])
            del self._buffer[:size_bytes]
        self._head = None
        if headers.get("connection", "").lower() == "close":
            self._last = True
        return HttpRequest(method, target, headers, body)

    def respond(
        self,
        status: int,
        body: bytes | Mapping[str, Any] = b"",
        headers: str = "",
        content_type: str = "application/json",
    ) -> None:
        """Answer the current request. `headers`: further lines with their ends. A client that has left is no error."""
        if not isinstance(body, bytes):
            body = json.dumps(body, separators=(",", ":")).encode()
        self._answering = False
        transport = self._transport
        if transport is None:
            return
        last = self._last or (self._ended and not self._buffer)
        head = (
            f"{_STATUS_LINES[status]}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            f"{headers}{'Connection: close' if last else 'Connection: keep-alive'}\r\n\r\n"
        ).encode("latin-1", "replace")
        if len(body) < 65_536:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        if last:
            transport.close()
        elif self._buffer and not self._parsing:
            self._parse()

    def close(self) -> None:
        """End the connection; what has been written is still sent."""
        if self._transport is not None:
            self._transport.close()


def _head(text: bytes) -> tuple[str, str, dict[str, str], int]:
    first, *lines = text.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise Malformed(400, "That is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise Malformed(400, "A header cannot be read")
        name = name.lower()
        if name in headers and name in ("content-length", "host", "authorization"):
            raise Malformed(400, f"There are two headers {name}")
        headers[name] = value.strip()
    if "transfer-encoding" in headers:
        raise Malformed(411, "Send a Content-Length: chunked bodies are not read")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Malformed(400, "The Content-Length is no number")
    if int(length) > MOST_BYTES:
        raise Malformed(413, f"Request must be smaller than {MOST_BYTES} bytes")
    if words[2] == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return words[0], words[1], headers, int(length)
