"""Parts of other AWS services: as much as `wukong logs` and `wukong status` need.

    CloudWatch Logs   FilterLogEvents, of the functions' logs
    STS               GetCallerIdentity
    CloudFormation    DescribeStacks: there are no stacks

A request's signature names its service, as on AWS; all services have the same address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from wukong.emulators.aws_lambda.functions import Functions
from wukong.emulators.aws_lambda.logs import LogBook
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.wire import HttpRequest

SERVICES = frozenset({"lambda", "logs", "sts", "cloudformation"})
_JSON, _XML = "application/x-amz-json-1.1", "text/xml"
_MOST_EVENTS = 10_000


class Reply(NamedTuple):
    """An answer: HTTP's status, the body, and its content type."""

    status: int
    body: bytes
    content_type: str


class Surroundings:
    """See the module's docstring."""

    def __init__(self, settings: ServiceSettings, functions: Functions, logs: LogBook) -> None:
        self._settings, self._functions, self._logs = settings, functions, logs

    def answer(self, service: str, request: HttpRequest) -> Reply:
        """Return the answer of a service other than Lambda."""
        if service == "logs":
            operation = request.headers.get("x-amz-target", "").rpartition(".")[2]
            if operation != "FilterLogEvents":
                return _refused("UnknownOperationException", f"This service has no operation {operation}")
            try:
                return self._filter_log_events(json.loads(request.body))
            except (ValueError, KeyError, TypeError) as error:
                return _refused("InvalidParameterException", f"The request cannot be read: {error}")
        action = dict(parse_qsl(request.body.decode("utf-8", "replace")))
        match service, action.get("Action"):
            case "sts", "GetCallerIdentity":
                return self._identity()
            case "cloudformation", "DescribeStacks":
                name = action.get("StackName", "")
                return _error("ValidationError", f"Stack with id {name} does not exist")
        return _error("InvalidAction", f"Could not find operation {action.get('Action')}")

    def _filter_log_events(self, asked: Mapping[str, Any]) -> Reply:
        group = str(asked["logGroupName"])
        if group not in {function.log_group for function in self._functions.by_name.values()}:
            return _refused("ResourceNotFoundException", "The specified log group does not exist.")
        if asked.get("filterPattern"):
            return _refused("InvalidParameterException", "This service has no filter patterns")
        since_ms, until_ms = asked.get("startTime", 0), asked.get("endTime", float("inf"))
        after, most = int(asked.get("nextToken", -1)), min(int(asked.get("limit", _MOST_EVENTS)), _MOST_EVENTS)
        wanted = [
            line for line in self._logs.lines(group) if since_ms <= line.time_ms <= until_ms and line.number > after
        ]
        found: dict[str, Any] = {
            "events": [
                {
                    "eventId": str(line.number),
                    "logStreamName": line.stream,
                    "timestamp": line.time_ms,
                    "ingestionTime": line.time_ms,
                    "message": line.text,
                }
                for line in wanted[:most]
            ],
            "searchedLogStreams": [],
        }
        if len(wanted) > most:
            found["nextToken"] = str(wanted[most - 1].number)
        return Reply(200, json.dumps(found).encode(), _JSON)

    def _identity(self) -> Reply:
        account = self._settings.account
        return _xml(
            200,
            f'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
            f"<Arn>arn:aws:iam::{account}:user/emulated</Arn><UserId>AIDAEMULATED</UserId><Account>{account}</Account>"
            "</GetCallerIdentityResult></GetCallerIdentityResponse>",
        )


def _refused(kind: str, message: str) -> Reply:
    return Reply(400, json.dumps({"__type": kind, "message": message}).encode(), _JSON)


def _error(code: str, message: str) -> Reply:
    return _xml(
        400,
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        "</ErrorResponse>",
    )


def _xml(status: int, text: str) -> Reply:
    return Reply(status, text.encode(), _XML)
