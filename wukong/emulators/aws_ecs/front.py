"""The HTTP server. It answers calls about tasks, and passes all others unchanged to moto's server."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from wukong.emulators.aws_ecs.moto_server import ErrorAnswer, forward

__all__ = ["AwsCall", "Front"]

_ECS = "AmazonEC2ContainerServiceV20141113."
_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_MOST_BYTES = 256 << 20


class AwsCall(NamedTuple):
    """A call of AWS: its service, its region, its access key; its parameters only if they are text."""

    service: str
    action: str
    region: str
    access_key: str
    parameters: Mapping[str, Any]


class Front:
    """A server on a free port of 127.0.0.1.

    Args:
        answer: returns the answer to an ECS call; None: moto answers. Raises `ErrorAnswer`, for any service.
        amend: takes moto's answer to a call, and returns the final one.
    """

    def __init__(
        self, answer: Callable[[AwsCall], dict[str, Any] | None], amend: Callable[[AwsCall, bytes], bytes]
    ) -> None:
        class Handler(_Handler):
            ask_here = staticmethod(answer)
            changed = staticmethod(amend)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="ecs-front", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing about a client that has left, as an interrupted one does."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    ask_here: Callable[[AwsCall], dict[str, Any] | None]
    changed: Callable[[AwsCall, bytes], bytes]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        body = self._body()
        call = _call(self.headers, body)
        try:
            answer = None if call is None else self.ask_here(call)
        except ErrorAnswer as error:
            assert call is not None
            status, kind, text = _refusal(call, error)
            self._send(status, [("Content-Type", kind)], text)
            return
        if answer is not None:
            self._send(200, [("Content-Type", "application/x-amz-json-1.1")], json.dumps(answer).encode())
            return
        status, headers, theirs = forward(self.command, self.path, dict(self.headers.items()), body)
        self._send(status, headers, theirs if call is None else self.changed(call, theirs))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _handle  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            del self.headers["Transfer-Encoding"]
            return b"".join(iter(self._chunk, b""))
        return self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _MOST_BYTES))

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().partition(b";")[0], 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _call(headers: Any, body: bytes) -> AwsCall | None:
    signed = _CREDENTIAL.search(headers.get("Authorization", ""))
    if signed is None:
        return None
    access_key, region, service = signed.groups()
    target = headers.get("X-Amz-Target", "")
    if target:
        parameters = json.loads(body or b"{}") if target.startswith(_ECS) else {}
        return AwsCall(service, target.rpartition(".")[2], region, access_key, parameters)
    if headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        return AwsCall(service, form.pop("Action", ""), region, access_key, form)
    return AwsCall(service, "", region, access_key, {})


def _refusal(call: AwsCall, error: ErrorAnswer) -> tuple[int, str, bytes]:
    if call.service in ("ec2", "iam", "sts"):
        code, message = escape(error.code), escape(error.message)
        status = 400 if call.service == "ec2" else 403
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if call.service == "ec2":
            text = f"<Response><Errors>{text}</Errors><RequestID>stand-in</RequestID></Response>"
        else:
            text = f"<ErrorResponse>{text}<RequestId>stand-in</RequestId></ErrorResponse>"
        return status, "text/xml", text.encode()
    said = {"__type": error.code, "message": error.message, **error.more}
    return 400, "application/x-amz-json-1.1", json.dumps(said).encode()
