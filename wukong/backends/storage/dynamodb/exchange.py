"""Requests to one endpoint over several connections at once, and their answers, from one thread.

Each request is written on a connection of its own before the first answer is read. So a batch takes as long as its
slowest request, and needs no thread and no event loop. Small requests and small answers lie in
the sockets' buffers meanwhile.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from wukong.backends.http_connections import EndpointConnections, read_response
from wukong.backends.storage import Buffer
from wukong.backends.storage.silence import longest_s
from wukong.errors import StoreUnavailable

__all__ = ["Exchange", "HttpAnswer", "Make"]

Make: TypeAlias = "Callable[[], Sequence[Buffer]]"
"""Makes a request: buffers of bytes that are sent back to back. Called once more if a connection was dead."""


class HttpAnswer(NamedTuple):
    """One response: `date` is the header ``Date``, `region` that which S3 names a bucket's region by."""

    status: int
    body: bytes
    date: str | None
    region: str | None


class _Busy(NamedTuple):
    n: int
    connection: socket.socket
    reused: bool
    size_bytes: int


class Exchange:
    """Send requests and read their answers. Safe in several threads, and in a forked child.

    Args:
        connections: to the endpoint.
        at_once: requests of one batch that are under way at the same time, at most.
        timeout_s: how long the service may be silent while a large value moves.
        answer_timeout_s: how long it may take to answer a small request.
        unreachable: makes the error for a service that does not answer, from what went wrong.
    """

    def __init__(
        self,
        connections: EndpointConnections,
        at_once: int,
        timeout_s: float,
        answer_timeout_s: float,
        unreachable: Callable[[Exception], StoreUnavailable],
    ) -> None:
        self.connections = connections
        self._at_once, self._timeout_s, self._answer_timeout_s = at_once, timeout_s, answer_timeout_s
        self._unreachable = unreachable

    def send(self, requests: Sequence[Make]) -> list[HttpAnswer]:
        """Return the answers in the order of the requests.

        A request is made (and signed) when its turn has come. Raises `StoreUnavailable` if one is not answered; others
        may have been carried out all the same.
        """
        answers: list[HttpAnswer | None] = [None] * len(requests)
        waiting, busy = deque(range(len(requests))), deque[_Busy]()
        try:
            while waiting or busy:
                while waiting and len(busy) < self._at_once:
                    n = waiting.popleft()
                    busy.append(self._sent(n, requests[n]))
                line = busy.popleft()
                answers[line.n] = self._read(line, requests[line.n])
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            for line in busy:
                line.connection.close()
        return [answer for answer in answers if answer is not None]

    def _sent(self, n: int, make: Make) -> _Busy:
        request = make()
        size_bytes = sum(map(len, request))
        if (connection := self.connections.take()) is not None:
            try:
                return self._written(_Busy(n, connection, True, size_bytes), request)
            except (ConnectionError, ssl.SSLError):  # it was being closed while it was idle
                pass
        return self._written(_Busy(n, self.connections.open(), False, size_bytes), request)

    def _written(self, line: _Busy, request: Sequence[Buffer]) -> _Busy:
        try:
            line.connection.settimeout(longest_s(self._answer_timeout_s, self._timeout_s, line.size_bytes))
            for part in request:
                line.connection.sendall(part)
        except BaseException:
            line.connection.close()
            raise
        return line

    def _read(self, line: _Busy, make: Make) -> HttpAnswer:
        try:
            try:
                line.connection.settimeout(longest_s(self._answer_timeout_s, self._timeout_s, line.size_bytes))
                response = read_response(line.connection, wait=True)
            except (ConnectionError, ssl.SSLError, http.client.BadStatusLine):
                if not line.reused:
                    raise
                line.connection.close()
                request = make()
                line = self._written(_Busy(line.n, self.connections.open(), False, line.size_bytes), request)
                response = read_response(line.connection, wait=True)
        except BaseException:
            line.connection.close()
            raise
        assert response is not None
        status, headers, body, again = response
        if again:
            self.connections.give(line.connection)
        else:
            line.connection.close()
        return HttpAnswer(status, body, headers.get("Date"), headers.get("x-amz-bucket-region"))
