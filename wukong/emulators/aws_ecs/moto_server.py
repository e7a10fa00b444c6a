"""moto's server, one for each process, and calls of it in AWS's protocols."""

from __future__ import annotations

import functools
import http.client
import json
import logging
from typing import Any
from urllib.parse import urlencode, urlsplit

__all__ = ["ACCOUNT", "ErrorAnswer", "ask", "ask_query", "forward", "moto_url", "reset"]

ACCOUNT = "123456789012"
"""moto's account id."""
_TARGETS = {
    "ecs": "AmazonEC2ContainerServiceV20141113",
    "logs": "Logs_20140328",
    "secretsmanager": "secretsmanager",
    "ssm": "AmazonSSM",
}
_VERSIONS = {"ec2": "2016-11-15", "iam": "2010-05-08"}
_PATIENCE_S = 60.0
_HOPS = frozenset({"connection", "content-length", "keep-alive", "server", "date", "transfer-encoding"})


class ErrorAnswer(Exception):
    """An error as an answer: its code, its message, and further fields."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.more = code, message, more


@functools.cache
def moto_url() -> str:
    """Start the server, once, and return its address. Raises RuntimeError if moto is not installed."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise RuntimeError(
            f"a stand-in for ECS needs moto, and {error.name} is not installed: "
            "pip install 'wukong-serverless[testing-ecs]'"
        ) from error
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it writes a line for each request
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def reset() -> None:
    """Empty the account."""
    status, _, answer = forward("POST", "/moto-api/reset", {}, b"")
    if status != 200:
        raise RuntimeError(f"moto's server does not empty its account: {status} {answer[:200]!r}")


def forward(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Pass a request on unchanged; return status, headers (except those of the connection) and body of the answer."""
    parts = urlsplit(moto_url())
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_PATIENCE_S)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        return response.status, [each for each in response.getheaders() if each[0].lower() not in _HOPS], answer
    finally:
        connection.close()


def ask(service: str, action: str, region: str, **what: Any) -> dict[str, Any]:
    """Make a call of a service that speaks JSON; return its answer. Raises `ErrorAnswer`."""
    headers = {"X-Amz-Target": f"{_TARGETS[service]}.{action}", "Content-Type": "application/x-amz-json-1.1"}
    status, _, answer = forward("POST", "/", {**headers, **_signed(service, region)}, json.dumps(what).encode())
    said: dict[str, Any] = json.loads(answer or b"{}")
    if status != 200:
        code = str(said.get("__type", status)).rpartition("#")[2]
        raise ErrorAnswer(code, str(said.get("message") or said.get("Message") or answer[:200]))
    return said


def ask_query(service: str, action: str, region: str, **what: str) -> str | None:
    """Make a call of a service that speaks XML; return its answer, None for an error."""
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8", **_signed(service, region)}
    body = urlencode({"Action": action, "Version": _VERSIONS[service], **what}).encode()
    status, _, answer = forward("POST", "/", headers, body)
    return answer.decode() if status == 200 else None


def _signed(service: str, region: str) -> dict[str, str]:
    """Return the header from which moto's server reads service and region, and nothing else."""
    scope = f"AKIDSTANDIN/20260101/{region}/{service}/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"}
