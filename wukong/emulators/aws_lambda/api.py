"""The public HTTP API: routes, and Invoke. All other operations are in `control` and `status`."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from functools import partial
from random import Random
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote

from wukong.backends.machine import loopback
from wukong.emulators.aws_lambda.control import Control
from wukong.emulators.aws_lambda.events import EventQueues
from wukong.emulators.aws_lambda.functions import Functions
from wukong.emulators.aws_lambda.invocation import AttemptOutcome, LambdaInvocation
from wukong.emulators.aws_lambda.ledger import ServiceLedger
from wukong.emulators.aws_lambda.names import LATEST, Name, arn, parse
from wukong.emulators.aws_lambda.recursion import CONDITION, TERMINATE, passed_on, recursive
from wukong.emulators.aws_lambda.refusal import (
    CALLER_LIMIT,
    Refusal,
    denied,
    invalid,
    not_in,
    not_json,
    not_ready,
    payload_too_large,
    throttled,
)
from wukong.emulators.aws_lambda.scaling import Scaler
from wukong.emulators.aws_lambda.script import ServiceScript
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.signature import Signatures
from wukong.emulators.aws_lambda.status import StatusPages
from wukong.emulators.aws_lambda.surroundings import Surroundings
from wukong.emulators.aws_lambda.wire import HttpConnection, HttpRequest

_FUNCTIONS = "/2015-03-31/functions/"
_INVOCATIONS = "/invocations"
_OWN = "/_wukong/"
_CONTEXT_BYTES = 3_583
_RANDOM = Random()


class Api:
    """What all connections share.

    Args:
        functions, ledger, script: the service's.
        scaler, queues: they take invocations and events.
        control, status, surroundings: they answer what is not an invocation.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        loop: asyncio.AbstractEventLoop,
        *,
        functions: Functions,
        ledger: ServiceLedger,
        script: ServiceScript,
        scaler: Scaler,
        queues: EventQueues,
        control: Control,
        status: StatusPages,
        surroundings: Surroundings,
    ) -> None:
        self.settings, self.loop = settings, loop
        self.functions, self.ledger, self.script = functions, ledger, script
        self.scaler, self.queues = scaler, queues
        self.control, self.status, self.surroundings = control, status, surroundings
        self.signatures = Signatures(settings)
        self._hosts: dict[str, bool] = {}

    def local(self, host: str) -> bool:
        """Return whether a Host header names this machine. A web page in a browser here could send another name."""
        known = self._hosts.get(host)
        if known is None:
            name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
            known = loopback(name) or name.endswith(".localhost")
            if len(self._hosts) < 1_000:
                self._hosts[host] = known
        return known


class ApiConnection(HttpConnection):
    """One connection of a client."""

    def __init__(self, api: Api) -> None:
        super().__init__()
        self._api = api
        self._request_id = ""

    def handle(self, request: HttpRequest) -> None:
        """See `HttpConnection.handle`."""
        self._request_id = new_request_id()
        try:
            if not self._api.local(request.headers.get("host", "")):
                raise denied("AccessDeniedException", "This service answers to this machine's own names only")
            path, _, query = request.target.partition("?")
            if path.startswith(_OWN):
                if not self._api.signatures.permits(request):
                    raise denied("AccessDeniedException", "Send the secret key: Authorization: Bearer <secret key>")
                self._tell(200, self._api.status.answer(request, path[len(_OWN) :], dict(parse_qsl(query))))
                return
            service = self._api.signatures.check(request)
            if service != "lambda":
                reply = self._api.surroundings.answer(service, request)
                told = f"x-amzn-RequestId: {self._request_id}\r\n"
                self.respond(reply.status, reply.body, told, reply.content_type)
            elif request.method == "POST" and path.endswith(_INVOCATIONS) and path.startswith(_FUNCTIONS):
                name = unquote(path[len(_FUNCTIONS) : -len(_INVOCATIONS)])
                self._invoke(request, name, dict(parse_qsl(query)).get("Qualifier") if query else None)
            else:
                self._api.control.answer(request, path, dict(parse_qsl(query)), self._tell, self._refuse)
        except Refusal as refusal:
            self._refuse(refusal)

    def _tell(self, status: int, body: Any) -> None:
        answer = b"" if body is None else json.dumps(body).encode()
        self.respond(status, answer, f"x-amzn-RequestId: {self._request_id}\r\n")

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.status == 429:
            self._api.ledger.counts["throttled"] += 1
        headers = f"x-amzn-RequestId: {self._request_id}\r\nx-amzn-ErrorType: {refusal.kind}\r\n{refusal.headers}"
        self.respond(refusal.status, refusal.body, headers)

    # Invoke.

    def _invoke(self, request: HttpRequest, called: str, qualifier: str | None) -> None:
        api = self._api
        settings, ledger = api.settings, api.ledger
        ledger.counts["requests"] += 1
        name = parse(called, qualifier, settings)
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if kind not in ("Event", "RequestResponse", "DryRun"):
            raise not_in(kind, "invocationType", ("Event", "RequestResponse", "DryRun"))
        version = api.functions.find_version(name if name.qualifier else Name(name.function, LATEST))
        event = kind == "Event"
        _check_payload(request.body, kind, settings.event_bytes if event else settings.request_bytes)
        if kind == "DryRun":
            self.respond(204, b"", f"x-amzn-RequestId: {self._request_id}\r\n")
            return
        if version.state != "Active":
            raise not_ready(version.state)
        if api.script.throttles():
            raise throttled(CALLER_LIMIT)
        function = version.function
        trace, too_long = passed_on(request.headers.get("x-amzn-trace-id") or _new_trace(), function.arn)
        too_long = too_long and function.recursive_loop == TERMINATE
        if too_long:
            ledger.counts["recursive"] += 1
            if not event:
                raise recursive()
        number, fault = api.script.fault()
        invocation = LambdaInvocation(
            self._request_id,
            version,
            arn(settings, name.function, name.qualifier),
            request.body or b"{}",
            trace,
            _unanswered,
            event=event,
            fault=fault,
            qualifier=name.qualifier,
            number=number,
        )
        if event:
            self._accept_event(invocation, too_long)
            return
        tail = request.headers.get("x-amz-log-type") == "Tail"
        invocation.client_context = _client_context(request.headers.get("x-amz-client-context"))
        invocation.answer = partial(self._answer, invocation, tail)
        if fault.delay_s:
            api.loop.call_later(fault.delay_s, self._run, invocation)
        else:
            self._api.scaler.admit(invocation)

    def _run(self, invocation: LambdaInvocation) -> None:
        try:
            self._api.scaler.admit(invocation)
        except Refusal as refusal:
            self._refuse(refusal)

    def _answer(self, invocation: LambdaInvocation, tail: bool, outcome: AttemptOutcome) -> None:
        headers = (
            f"x-amzn-RequestId: {invocation.id}\r\nX-Amzn-Trace-Id: {invocation.trace}\r\n"
            f"X-Amz-Executed-Version: {invocation.version.number}\r\nx-amzn-Remapped-Content-Length: 0\r\n"
        )
        if outcome.reason is not None:
            headers += "X-Amz-Function-Error: Unhandled\r\n"
        if tail:
            headers += f"X-Amz-Log-Result: {base64.b64encode(outcome.tail).decode()}\r\n"
        self.respond(200, outcome.payload, headers, outcome.content_type)

    def _accept_event(self, invocation: LambdaInvocation, too_long: bool) -> None:
        api, fault = self._api, invocation.fault
        counts = api.ledger.counts
        counts["events"] += 1
        self.respond(202, b"", f"x-amzn-RequestId: {invocation.id}\r\nX-Amzn-Trace-Id: {invocation.trace}\r\n")
        if too_long:
            api.ledger.gave_up(invocation, None, CONDITION)
            return
        if fault.lost:
            counts["lost"] += 1
            return
        deliveries = [invocation]
        if fault.duplicate:
            counts["duplicates"] += 1
            deliveries.append(invocation.again())
        queue = api.queues.of(invocation.version.function)
        for delivery in deliveries:
            delivery.answer = partial(queue.answer, delivery)
            if fault.delay_s:
                api.loop.call_later(fault.delay_s, queue.put, delivery)
            else:
                queue.put(delivery)


def _unanswered(_outcome: AttemptOutcome) -> NoReturn:
    raise AssertionError("an invocation was run before anybody wanted to know")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"Unrecognized token '{text}'")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _check_payload(payload: bytes, kind: str, limit_bytes: int) -> None:
    if len(payload) > limit_bytes:
        raise payload_too_large(len(payload), kind, limit_bytes)
    if not payload:
        return
    try:
        _DECODER.decode(payload.decode())
    except UnicodeDecodeError as error:
        raise not_json(f"Invalid UTF-8 start byte 0x{payload[error.start]:02x}") from None
    except (ValueError, RecursionError) as error:
        raise not_json(str(error)) from None


def _client_context(encoded: str | None) -> str | None:
    if encoded is None:
        return None
    if len(encoded) > _CONTEXT_BYTES:
        raise invalid(f"Client context must be no more than {_CONTEXT_BYTES} bytes when base64-encoded")
    try:
        context = json.loads(base64.b64decode(encoded, validate=True))
    except ValueError:
        raise invalid("Client context must be a valid Base64-encoded JSON object.") from None
    return json.dumps(context)


def new_request_id() -> str:
    """Return a new request id: a random UUID of version 4."""
    text = f"{_RANDOM.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _new_trace() -> str:
    noise = f"{_RANDOM.getrandbits(160):040x}"
    return f"Root=1-{int(time.time()):08x}-{noise[:24]};Parent={noise[24:]};Sampled=0"
