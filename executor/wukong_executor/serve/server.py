"""HTTP in front of the places: `ExecutorServer`, from the standard library, one thread for each connection.

`wukong.backends.faas.http.wire` says which requests there are. All but ``GET /health`` are signed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from wukong.backends.environment import variable
from wukong.backends.faas.description import describe
from wukong.backends.faas.http import wire
from wukong.errors import BackendError
from wukong_executor.serve.places import Held, Places

_IDLE_S = 75.0
_BREATH_S = 15.0
"""How often a held answer says that it goes on: what stands between ends connections on which nothing comes."""
_LAST_WORDS_S = 2.0
_STATE_BYTES = 16 * 1_048_576

logger = logging.getLogger("wukong_executor")


class ExecutorServer(ThreadingHTTPServer):
    """Listens as soon as it is made. `serve_forever` serves, `shutdown` and `server_close` end that.

    Args:
        address: host and port; port 0: a free one.
        key: the deployment's.
        places: what runs the invocations.
        payload_bytes: the largest payload.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], key: bytes, places: Places, payload_bytes: int) -> None:
        self.key, self.places, self.payload_bytes = key, places, payload_bytes
        self.name = secrets.token_hex(8)
        self._answering = 0
        self._answered = threading.Condition()
        super().__init__(address, _Requests)

    def server_bind(self) -> None:
        """Bind, without asking a name server who this machine is."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a thread has met: mostly a client that has gone."""
        logger.debug("a connection from %s has broken", client_address, exc_info=True)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request as long as it is not answered to its end."""
        with self._answered:
            self._answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()

    def finish(self, grace_s: float) -> bool:
        """Take no more, wait for what runs, and for the answers; return whether all has ended in this time."""
        ended = self.places.finish(grace_s)
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, _LAST_WORDS_S if ended else 0.0)
        return ended

    def told(self, **more: Any) -> dict[str, Any]:
        """Return what every answer tells."""
        free, nth = self.places.free()
        return {"server": self.name, "free": free, "nth": nth, **more}


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wukong-executor", ""
    timeout = _IDLE_S
    disable_nagle_algorithm = True
    server: ExecutorServer

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug(format, *arguments)

    def do_GET(self) -> None:
        if self._word() != "health":
            self._answer(404, {"error": "there is GET /health, and POST for a Wukong client"})
            return
        places = self.server.places
        well = "ends" if places.closing else places.broken or "ok"
        self._answer(200 if well == "ok" else 503, {"status": well})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        with self.server.answering():
            self._post()

    def _post(self) -> None:
        verb = wire.VERBS.get(self._word(), "invoke")
        size = self.headers.get("Content-Length", "")
        most_bytes = self.server.payload_bytes + wire.HEAD_ROOM_BYTES if verb == "invoke" else _STATE_BYTES
        if not size.isdecimal():
            self._refuse(411, "the request does not say how long it is")
            return
        if int(size) > most_bytes:
            self._refuse(413, f"the request has {int(size):,} bytes, over {most_bytes:,}")
            return
        body = self.rfile.read(int(size))
        if len(body) < int(size):
            self.close_connection = True
            return
        refusal = wire.refusal(self.server.key, verb, body, self.headers.get(wire.SIGNATURE_HEADER), time.time())
        if refusal is not None:
            self._answer(401, self.server.told(refused=refusal))
        elif verb == "invoke":
            self._invoke(body)
        else:
            asked = wire.plain(body)
            try:
                answer = {"describe": self._describe, "state": self._state, "cancel": self._cancel}[verb](asked)
            except (KeyError, TypeError, ValueError) as error:
                self._answer(400, self.server.told(error=f"the request makes no sense: {error!r}"))
                return
            self._answer(200, answer)

    def _word(self) -> str:
        return self.path.partition("?")[0].rstrip("/").rpartition("/")[2]

    # --- what is asked

    def _invoke(self, body: bytes) -> None:
        server, places = self.server, self.server.places
        try:
            posted = wire.unpack(body)
            if len(posted.invocation.payload) > server.payload_bytes:
                size = len(posted.invocation.payload)
                self._answer(413, server.told(error=f"a payload of {size:,} bytes, over {server.payload_bytes:,}"))
                return
        except BackendError as error:
            self._answer(400, server.told(error=str(error)))
            return
        try:
            held = places.accept(posted)
        except BackendError as error:
            self._answer(503, server.told(error=error.message), {"Retry-After": "1"})
            return
        if held is not None and posted.wait:
            self._hold(held)
        elif held is not None:
            self._answer(202, server.told())
        elif places.closing:
            self._answer(503, server.told(error="this server is about to end"), {"Retry-After": "1"})
        else:
            self._answer(429, server.told(error="all places of this server are taken"), {"Retry-After": "1"})

    def _hold(self, held: Held) -> None:
        """Answer at once that an invocation is taken; let the answer end when that has."""
        self.close_connection = True
        head = f"{json.dumps(self.server.told())}\n".encode()
        self.wfile.write(
            b"HTTP/1.1 202 Accepted\r\nContent-Type: application/x-ndjson\r\nCache-Control: no-store\r\n"
            b"X-Accel-Buffering: no\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + _chunk(head)
        )
        with contextlib.suppress(OSError):  # who has asked is gone; the invocation goes on
            while not held.ended.wait(_BREATH_S):
                self.wfile.write(_chunk(b"\n"))
            failure = held.failure
            told = None if failure is None else [failure.reason, failure.detail, failure.task]
            self.wfile.write(_chunk(f"{json.dumps({'ended': told})}\n".encode()) + b"0\r\n\r\n")

    def _describe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        server, places = self.server, self.server.places
        missing, differ = [], []
        for name, digest in asked["variables"].items():
            value = variable(name)
            if value is None:
                missing.append(name)
            elif wire.value_digest(server.key, name, value) != digest:
                differ.append(name)
        limits = {
            "payload_bytes": server.payload_bytes,
            "time_s": places.time_s,
            "memory_bytes": places.memory_bytes,
            "cores": places.cores,
        }
        return server.told(
            **describe([str(module) for module in asked["modules"]]),
            variables={"missing": missing, "differ": differ},
            limits=limits,
            places=places.count,
            last=places.last_failure,
        )

    def _state(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        server, places = self.server, self.server.places
        known = places.known([str(each) for each in asked["ids"]])  # before the failures: none may be in neither
        after, last = asked["after"], places.last_failure
        if after is not None and asked["server"] != server.name:
            after = 0  # of another server, in whose place this one is
        found = [] if after is None else places.failures(frozenset(asked["jobs"]), int(after), last)
        failures = [(each.invocation, each.reason, each.detail, each.task) for each in found]
        return server.told(known=known, failures=failures, last=last)

    def _cancel(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.server.places.cancel(str(asked["prefix"]))
        return self.server.told()

    # --- answering

    def _refuse(self, status: int, why: str) -> None:
        """Answer a request whose body is not read: the connection ends with it."""
        self.close_connection = True
        self._answer(status, self.server.told(error=why))

    def _answer(self, status: int, told: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        body = f"{json.dumps(told)}\n".encode()
        head = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **(headers or {}),
            **({"Connection": "close"} if self.close_connection else {}),
        }
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{name}: {value}" for name, value in head.items()),
        ]
        self.wfile.write("\r\n".join([*lines, "", ""]).encode() + (b"" if self.command == "HEAD" else body))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
