"""Keep-alive connections to one HTTP endpoint: opened, kept while idle, and never used once the other side hung up.

A connection is a blocking socket with a time limit. Requests are written to it as they are, and `read_response` parses
what comes back with the standard library's `http.client`: a quarter of what a full client costs per call. How long to
wait before a call is made again stands here too.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_READ_BYTES = 16_384
_IDLE_S = 30.0
"""Idle connections are not used after this time: a frozen function's may be dead without anybody having said so."""
_FIRST_PAUSE_S = 0.05
_LAST_PAUSE_S = 5.0


def pause_s(tries: int, random: Random) -> float:
    """Return how long to wait after this many failures, seconds: exponential, with jitter, 5 s at most."""
    longest = min(_LAST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(tries - 1, 16))
    return random.uniform(0.5, 1.0) * longest


def retry_after_s(text: str | None) -> float:
    """Return the header ``Retry-After`` in seconds; a date counts as none."""
    try:
        return max(0.0, float(text)) if text else 0.0
    except ValueError:
        return 0.0


class EndpointConnections:
    """Connections to one endpoint. Safe in several threads, and in a forked child, which opens its own.

    Args:
        endpoint_url: scheme, host and port.
        trusted: returns the authorities to trust over TLS; called at the first connection.
        timeout_s: most that any single wait may take, for connecting as well, seconds.
        keep: how many are kept while idle.
    """

    def __init__(self, endpoint_url: str, trusted: Callable[[], ssl.SSLContext], timeout_s: float, keep: int) -> None:
        parts = urlsplit(endpoint_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{endpoint_url!r} is not the URL of an HTTP endpoint")
        self._scheme, self._name = parts.scheme, parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        usual = parts.port is None or parts.port == (443 if parts.scheme == "https" else 80)
        name = f"[{self._name}]" if ":" in self._name else self._name
        self.host = name if usual else f"{name}:{parts.port}"
        self.path = parts.path.rstrip("/")
        self._trusted, self._timeout_s, self._keep = trusted, timeout_s, keep
        self._context: ssl.SSLContext | None = None
        self._idle: list[tuple[float, socket.socket]] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self.opened = 0

    def take(self) -> socket.socket | None:
        """Return an idle connection that is still good, the one used last; None: there is none."""
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._idle = os.getpid(), []
            while self._idle:
                since, connection = self._idle.pop()
                if 0 <= time.time() - since < _IDLE_S and alive(connection):
                    return connection
                connection.close()
        return None

    def give(self, connection: socket.socket) -> None:
        """Take back a connection on which nothing is outstanding."""
        with self._lock:
            if not self._closed and self._pid == os.getpid() and len(self._idle) < self._keep:
                self._idle.append((time.time(), connection))
                return
        connection.close()

    def open(self) -> socket.socket:
        """Return a new connection. Raises OSError."""
        connection = self._connector()
        connection.connect()
        opened: socket.socket = connection.sock
        self.opened += 1
        return opened

    def close(self) -> None:
        """Close the idle connections, and from now on any that is given back."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop()[1].close()

    def _connector(self) -> http.client.HTTPConnection:
        if self._scheme == "http":
            return http.client.HTTPConnection(self._name, self._port, timeout=self._timeout_s)
        with self._lock:
            context = self._context = self._context or self._trusted()
        proxy = _proxy(self._name)
        if proxy is None:
            return http.client.HTTPSConnection(self._name, self._port, timeout=self._timeout_s, context=context)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or 80
        connection = http.client.HTTPSConnection(parts.hostname or "", port, timeout=self._timeout_s, context=context)
        headers = {}
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        connection.set_tunnel(self._name, self._port, headers)
        return connection


def _proxy(host: str) -> str | None:
    """Return the proxy that the environment (or the system) names for HTTPS to this host."""
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get("https")
    return None if proxy is None or proxy_bypass(host) else proxy


def alive(connection: socket.socket) -> bool:
    """Return whether an idle connection is still open at the other end. Anything that has arrived is a goodbye."""
    timeout_s = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):  # SSLWantReadError also after TLS has read a session ticket
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(timeout_s)
    return False


def read_response(
    connection: socket.socket, *, wait: bool = False
) -> tuple[int, http.client.HTTPMessage, bytes, bool] | None:
    """Return status, headers, the whole body, and whether the connection can be used again, from a readable connection.

    Returns None if only data of TLS's own had arrived; with `wait`, waits for more instead, as long as the connection's
    time limit says. Raises OSError and `http.client.HTTPException`.
    """
    if isinstance(connection, ssl.SSLSocket) and not wait:
        timeout_s = connection.gettimeout()
        connection.settimeout(0.0)
        try:
            first = connection.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        finally:
            connection.settimeout(timeout_s)
    else:
        first = connection.recv(_READ_BYTES)
    stream = _Stream(first, connection)
    response = http.client.HTTPResponse(cast(socket.socket, stream), method="POST")
    try:
        response.begin()
        body = response.read()
        return response.status, response.headers, body, not response.will_close
    finally:
        response.close()


class _Stream(io.RawIOBase):
    """A file of what has been read from a connection already, followed by the connection."""

    def __init__(self, first: bytes, connection: socket.socket) -> None:
        self._first, self._connection = first, connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        if not self._first:
            return self._connection.recv_into(view)
        size = min(len(view), len(self._first))
        view[:size] = self._first[:size]
        self._first = self._first[size:]
        return size

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self, _READ_BYTES)
