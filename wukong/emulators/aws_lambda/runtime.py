"""The public Runtime API, which `awslambdaric` calls. Each environment has a port of its own."""

from __future__ import annotations

from typing import Protocol

from wukong.emulators.aws_lambda.invocation import LambdaInvocation
from wukong.emulators.aws_lambda.wire import HttpConnection, HttpRequest

_ROOT = "/2018-06-01/runtime/"
_NEXT = _ROOT + "invocation/next"
_INVOCATION = _ROOT + "invocation/"
_INIT_ERROR = _ROOT + "init/error"
_RESTORE_NEXT, _RESTORE_ERROR = _ROOT + "restore/next", _ROOT + "restore/error"
CREDENTIALS = "/2021-04-23/credentials"


class RuntimeRequests(Protocol):
    """What answers an environment's runtime, by the connection that each request came on."""

    def next(self, poll: RuntimeConnection) -> None:
        """The runtime wants the next event; it is answered when there is one."""

    def respond(self, poll: RuntimeConnection, request_id: str, payload: bytes, content_type: str) -> None:
        """The function has returned."""

    def fail(self, poll: RuntimeConnection, request_id: str, payload: bytes) -> None:
        """The function has raised."""

    def fail_to_start(self, poll: RuntimeConnection, payload: bytes) -> None:
        """The function could not be initialised; the runtime is about to exit."""

    def credentials(self, poll: RuntimeConnection, token: str) -> None:
        """A function that was restored from a snapshot wants the credentials of its role."""


class RuntimeConnection(HttpConnection):
    """One connection of an environment's runtime."""

    def __init__(self, environment: RuntimeRequests) -> None:
        super().__init__()
        self._environment = environment

    def handle(self, request: HttpRequest) -> None:
        """See `HttpConnection.handle`."""
        method, target, headers, body = request
        if method == "GET" and target == _NEXT:
            self._environment.next(self)
        elif method == "POST" and target in (_INIT_ERROR, _RESTORE_ERROR):
            self._environment.fail_to_start(self, body)
        elif method == "GET" and target == _RESTORE_NEXT:
            self.respond(200, {})
        elif method == "GET" and target == CREDENTIALS:
            self._environment.credentials(self, headers.get("authorization", ""))
        elif method == "POST" and target.startswith(_INVOCATION):
            request_id, _, verb = target[len(_INVOCATION) :].partition("/")
            if verb == "response":
                self._environment.respond(self, request_id, body, headers.get("content-type", "application/json"))
            elif verb == "error":
                self._environment.fail(self, request_id, body)
            else:
                self.refuse(404, "NotFound", target)
        else:
            self.refuse(404, "NotFound", target)

    def give(self, invocation: LambdaInvocation, deadline_ms: int) -> None:
        """Answer the request for the next event with one."""
        headers = (
            f"Lambda-Runtime-Aws-Request-Id: {invocation.id}\r\n"
            f"Lambda-Runtime-Deadline-Ms: {deadline_ms}\r\n"
            f"Lambda-Runtime-Invoked-Function-Arn: {invocation.arn}\r\n"
            f"Lambda-Runtime-Trace-Id: {invocation.trace}\r\n"
        )
        if invocation.client_context is not None:
            headers += f"Lambda-Runtime-Client-Context: {invocation.client_context}\r\n"
        self.respond(200, invocation.payload, headers)

    def accept(self) -> None:
        """Accept what the runtime has posted."""
        self.respond(202, b'{"status":"OK"}\n')

    def refuse(self, status: int, kind: str, message: str) -> None:
        """Refuse a request of the runtime."""
        self.respond(status, {"errorMessage": message, "errorType": kind})
