"""One URL behind which executors are: calls to it over kept connections, and what its answers mean."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wukong.backends.faas.http import wire
from wukong.backends.faas.http.access import HttpAccess
from wukong.backends.faas.http.wire import BACKEND, Verb
from wukong.backends.http_connections import EndpointConnections, read_response, retry_after_s
from wukong.errors import BackendError, ConfigError, PayloadTooLarge, Throttled

PASSING = frozenset({408, 429, 502, 503, 504})
"""Statuses by which servers, and what stands in front of them, say that trying again may help."""

_TOLD_S = 1.0
_SHOWN = 200

logger = logging.getLogger("wukong")


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """An answer: its status, what it says as a JSON object (empty if it says something else), and how."""

    status: int
    told: Mapping[str, Any]
    text: str
    wait_s: float


class HttpEndpoint:
    """One URL. Safe in several threads.

    Args:
        url: of the server, or of what stands in front of many.
        access: what requests and connections need besides.
        timeout_s: how long an answer may take.
        keep: connections that are kept while idle.

    Attributes:
        rest_until: no invocation goes there before this time (monotonic, seconds).
        refusals: how often it has refused one after the other.
        server: name of the server that answered last.
        after: number of the last failure that it has told; None: those from the next answer on are wanted.
        answered_at: when it answered last (monotonic, seconds).
        several: more than one server answers here.
    """

    def __init__(
        self,
        url: str,
        access: HttpAccess,
        timeout_s: float,
        keep: int,
    ) -> None:
        try:
            if "@" in urlsplit(url).netloc:
                raise ValueError("a URL is part of every payload, and must hold no password")
            self._connections = EndpointConnections(url, access.trusted, timeout_s, keep)
        except ValueError as error:
            raise ConfigError(
                str(error), backend=BACKEND, hint="check the options url and urls; secrets go by headers"
            ) from error
        self.url, self._access, self._timeout_s = url, access, timeout_s
        self.rest_until, self.refusals = 0.0, 0
        self.server, self.answered_at = "", time.monotonic()
        self.after: int | None = None
        self.several = False
        self._servers: set[str] = set()
        self._free: tuple[float, int, str, int] | None = None
        self._lock = threading.Lock()

    def free(self) -> int | None:
        """Return how many places were free there a moment ago; None: it has told nothing since then."""
        told = self._free
        return None if told is None or time.monotonic() - told[0] > _TOLD_S else told[1]

    def ask(self, verb: Verb, told: Mapping[str, Any], timeout_s: float | None = None) -> ServerAnswer:
        """Ask something, and return the answer. Raises OSError and `http.client.HTTPException`."""
        return self.call(verb, json.dumps(told).encode(), timeout_s)

    def call(self, verb: Verb, body: bytes, timeout_s: float | None = None) -> ServerAnswer:
        """Make one call. Raises OSError and `http.client.HTTPException`."""
        request = self._request(verb, body)
        while True:
            connection = self._connections.take()
            reused = connection is not None
            connection = connection or self._connections.open()
            try:
                connection.settimeout(timeout_s or self._timeout_s)
                connection.sendall(request)
                found = read_response(connection, wait=True)
                assert found is not None
            except BaseException as error:
                connection.close()
                if reused and isinstance(error, (ConnectionError, http.client.HTTPException)):
                    continue  # it was being closed while it was idle; a new one has no such excuse
                raise
            status, headers, text, again = found
            if again:
                self._connections.give(connection)
            else:
                connection.close()
            return self.understood(status, headers, text)

    def open(self, verb: Verb, body: bytes) -> tuple[socket.socket, http.client.HTTPResponse]:
        """Make one call on a connection of its own; return that and the answer, of which only the head is read.

        Raises OSError and `http.client.HTTPException`.
        """
        connection = self._connections.open()
        try:
            connection.sendall(self._request(verb, body))
            response = http.client.HTTPResponse(connection, method="POST")
            response.begin()
        except BaseException:
            connection.close()
            raise
        return connection, response

    def understood(self, status: int, headers: http.client.HTTPMessage, text: bytes) -> ServerAnswer:
        """Return an answer; note what it tells of the server."""
        told = wire.plain(text)
        wait_s = 0.0 if "server" in told else retry_after_s(headers.get("Retry-After"))  # one of ours may be free soon
        with self._lock:
            self.answered_at = time.monotonic()
            if isinstance(free := told.get("free"), int):
                teller, nth = str(told.get("server")), int(told.get("nth", 0))
                if self._free is None or teller != self._free[2] or nth > self._free[3]:  # else it was overtaken
                    self._free = time.monotonic(), free, teller, nth
            if (server := told.get("server")) and server != self.server:
                if server in self._servers and not self.several:
                    self.several = True
                    logger.warning(
                        "%s: several servers answer at %s, so that none can tell what all of them have: the option "
                        "direct is for URLs with one server each",
                        BACKEND,
                        self.url,
                    )
                if self.server:
                    self.after = 0
                self._servers.add(server)
                self.server = server
        return ServerAnswer(status, told, text[:_SHOWN].decode("utf-8", "replace").strip(), wait_s)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._connections.close()

    def _request(self, verb: Verb, body: bytes) -> bytes:
        path = self._connections.path + ("/" if verb == "invoke" else f"/{verb}")
        kind = "application/octet-stream" if verb == "invoke" else "application/json"
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self._connections.host}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            f"{wire.SIGNATURE_HEADER}: {wire.signature(self._access.key(), verb, body, int(time.time()))}",
            *self._access.headers(),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def unreachable(url: str, error: Exception) -> BackendError:
    """Return the error for a URL that cannot be reached or does not answer; `Throttled` if that may pass."""
    how = "does not answer" if isinstance(error, TimeoutError) else "cannot be reached"
    text = f"{url} {how}: {str(error) or type(error).__name__}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return BackendError(text, backend=BACKEND, hint="the option ca_file names authorities of one's own")
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return BackendError(text, backend=BACKEND, hint="check the options url and urls")
    return Throttled(text, backend=BACKEND, hint="is the server up, and can this machine reach it? see docs/http.md")


def refused(url: str, answer: ServerAnswer) -> BackendError:
    """Return the error for an answer that is not what was asked for; `Throttled` if trying again may help."""
    why = answer.told.get("refused")
    said = why or answer.told.get("error") or answer.text
    text = f"{url} answers {answer.status}{f': {said}' if said else ''}"
    if why:
        hint = "the setting key (WUKONG_KEY), and the clock, must be the same here and in the servers' containers"
        return BackendError(text, backend=BACKEND, hint=hint)
    if answer.status in PASSING:
        hint = "all servers are busy, or about to end: more places, more servers, or a longer patience_s"
        return Throttled(text, backend=BACKEND, hint=hint)
    if answer.status == 413:
        hint = "what stands in front takes less than the server: lower its --payload-limit"
        return PayloadTooLarge(text, backend=BACKEND, hint=hint)
    hints = {
        401: "the platform wants to know who calls: the option headers names variables with a token",
        403: "the platform wants to know who calls: the option headers names variables with a token",
        404: "no Wukong executor server is there: check the path of the URL",
        405: "no Wukong executor server is there: check the path of the URL",
        400: "client and server run different versions of Wukong: put the same one into both",
        411: "what stands in front must pass on Content-Length",
    }
    usual = "see the log of the server, or of what stands in front of it"
    return BackendError(text, backend=BACKEND, hint=hints.get(answer.status, usual))
