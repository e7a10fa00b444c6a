"""Answers that end only when their invocations have: kept open, and read as they come, by one thread."""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import threading
from collections import deque

from wukong.backends.faas import Failure
from wukong.backends.faas.http import wire
from wukong.backends.faas.http.endpoint import HttpEndpoint, ServerAnswer
from wukong.backends.faas.http.wire import Posted
from wukong.core.interrupts import start_thread

_JOIN_S = 1.0


class HeldAnswers:
    """Safe in several threads; the one that reads is started with the first answer, and is a daemon."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._failures: deque[Failure] = deque()
        self._new: deque[tuple[socket.socket, http.client.HTTPResponse, str]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, endpoint: HttpEndpoint, posted: Posted) -> ServerAnswer:
        """Post one invocation; return the begin of its answer, and keep the rest if it has been taken.

        Raises OSError and `http.client.HTTPException`.
        """
        connection, response = endpoint.open("invoke", wire.pack(posted))
        taken = False
        try:
            text = response.readline() if response.status == 202 else response.read()
            answer = endpoint.understood(response.status, response.headers, text)
            taken = answer.status == 202 and "server" in answer.told
            if taken:
                self.add(connection, response, posted.invocation.id)
            return answer
        finally:
            if not taken:
                response.close()
                connection.close()

    def add(self, connection: socket.socket, response: http.client.HTTPResponse, invocation: str) -> None:
        """Keep an answer of which the first line has been read."""
        with self._lock:
            if self._closed:
                response.close()
                connection.close()
                return
            self._new.append((connection, response, invocation))
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, name="wukong-held", daemon=True)
                start_thread(self._thread)
            self._wake.send(b"x")

    def failures(self) -> list[Failure]:
        """Return what has failed since the last call."""
        taken = []
        while self._failures:
            taken.append(self._failures.popleft())
        return taken

    def close(self) -> None:
        """Close all connections; the invocations go on, as far as their platform lets them."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
            self._wake.close()
        if thread is not None:
            thread.join(_JOIN_S)
        else:
            self._woken.close()
            self._selector.close()

    def _read(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                if key.fileobj is self._woken:
                    with contextlib.suppress(OSError):
                        self._woken.recv(4_096)
                    while self._new:
                        connection, response, invocation = self._new.popleft()
                        self._selector.register(connection, selectors.EVENT_READ, (connection, response, invocation))
                elif self._has_ended(*key.data):
                    self._selector.unregister(key.fileobj)
                    key.data[1].close()
                    key.data[0].close()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data[0].close()
        self._woken.close()
        self._selector.close()

    def _has_ended(self, connection: socket.socket, response: http.client.HTTPResponse, invocation: str) -> bool:
        """Read a line of an answer; return whether there is no more to come."""
        try:
            line = response.readline()
        except (OSError, http.client.HTTPException):
            line = b""
        if line == b"\n":
            return False  # a sign of life
        told = wire.plain(line)
        if "ended" not in told:
            self._failures.append(Failure(invocation, "crash", "its answer broke off before it had ended"))
        elif told["ended"] is not None:
            reason, detail, task = told["ended"]
            self._failures.append(Failure(invocation, reason, detail, task))
        return True
