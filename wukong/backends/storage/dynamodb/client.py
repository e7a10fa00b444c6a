"""Calls of DynamoDB's API on one table: signed here, sent many at once, throttled ones again.

boto3 makes the same calls, at six times the CPU time, and takes a cold start a third of a second to import.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias, cast

from wukong.backends.aws_access import LOG_IN, AwsAccess
from wukong.backends.aws_calls import CONFIGURATION, is_about_credentials
from wukong.backends.aws_signing import Signer
from wukong.backends.http_connections import EndpointConnections
from wukong.backends.storage.dynamodb.answers import BACKEND, ConditionFailed, DynamoAnswer, Place, error_of, read
from wukong.backends.storage.dynamodb.exchange import Exchange
from wukong.backends.storage.dynamodb.price import RequestMeter
from wukong.core.time_left import time_left_s
from wukong.errors import ConfigError, StoreError, StoreUnavailable, WukongError

__all__ = ["DynamoAccess", "DynamoCall", "DynamoClient", "Told", "mapped", "translated"]

_VERSION = "DynamoDB_20120810"
_TRIES = 7
_PAUSE_S = (0.025, 0.8)
_SKEW_S = 5.0
_sleep: Callable[[float], None] = time.sleep
_unix_s: Callable[[], float] = time.time

Told: TypeAlias = "Mapping[str, Any] | ConditionFailed"
"""What a call is told: DynamoDB's answer, or that its condition does not hold."""


class DynamoCall(NamedTuple):
    """One call: an operation of DynamoDB's API, and its parameters without the table's name."""

    operation: str
    parameters: dict[str, Any]


class DynamoAccess(AwsAccess):
    """Access to DynamoDB."""

    backend, service = BACKEND, "dynamodb"

    def error(self, text: str, hint: str) -> StoreError:
        """See `AwsAccess.error`."""
        return StoreError(text, backend=BACKEND, hint=hint)

    def mapped(self) -> AbstractContextManager[None]:
        """See `AwsAccess.mapped`."""
        return mapped()


class DynamoClient:
    """Calls on one table. Safe in several threads, and in a forked child. Nothing is looked up before the first call.

    `meter` adds up what they cost.

    Args:
        access: region, endpoint, credentials.
        table: its name.
        at_once: calls of one batch that are under way at the same time, at most.
        timeout_s, answer_timeout_s: how long DynamoDB may be silent, see `Exchange`.
        connect_timeout_s: how long connecting may take.
    """

    def __init__(
        self,
        access: DynamoAccess,
        table: str,
        *,
        at_once: int,
        timeout_s: float,
        answer_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self.access, self.table = access, table
        self._at_once, self._times = at_once, (timeout_s, answer_timeout_s)
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._signers: dict[str, Signer] = {}
        self._ahead_s: float | None = None
        self.meter = RequestMeter("requests to DynamoDB")

    @cached_property
    def place(self) -> Place:
        """Where the table is."""
        return Place(self.table, self.access.region, self.access.endpoint_url)

    @cached_property
    def _exchange(self) -> Exchange:
        endpoint_url = self.place.endpoint_url  # a region that is missing is an error of its own
        try:
            connections = EndpointConnections(
                endpoint_url, self.access.trusted, self._connect_timeout_s, 2 * self._at_once
            )
        except ValueError as error:
            raise ConfigError(str(error), backend=BACKEND, hint="check the option endpoint_url") from error
        return Exchange(connections, self._at_once, *self._times, self._unreachable)

    @property
    def now_s(self) -> float:
        """Unix time, by DynamoDB's clock if this machine's is wrong."""
        return _unix_s() + (self._ahead_s or 0.0)

    def ask(self, calls: Sequence[DynamoCall]) -> list[Told]:
        """Make all calls, many at once; return what they are told, in order.

        What is throttled, and what a batch leaves unprocessed, is asked again for about two seconds. Raises
        `StoreUnavailable` if that does not help, or if DynamoDB does not answer; `StoreError` if it refuses a call.
        All calls may be repeated: those that change something say under which condition.
        """
        told: dict[int, Told] = {}
        wanted = dict(enumerate(calls))
        late: DynamoAnswer | None = None
        for tried in range(_TRIES):
            if tried:
                self._pause(tried)
            late, ahead_s = None, self._ahead_s or 0.0
            for n, answer in zip(list(wanted), self._answers(list(wanted.values())), strict=True):
                call = wanted[n]
                if answer.verdict in ("good", "condition"):
                    self.meter.table(call.operation, answer.told)
                if answer.verdict == "good":
                    left = _unprocessed(call, answer.told)
                    told[n] = _merged(told.get(n), answer.told)
                    if left is None:
                        del wanted[n]
                    else:
                        wanted[n] = left
                elif answer.verdict == "condition":
                    told[n] = ConditionFailed(answer.told.get("Item"))
                    del wanted[n]
                elif answer.verdict == "final" or (
                    answer.verdict == "skewed" and not (tried == 0 and self._was_skewed(answer, ahead_s))
                ):
                    raise error_of(answer, self.place, call.operation)
                else:
                    late = answer
            if not wanted:
                return [told[n] for n in range(len(calls))]
        operation = next(iter(wanted.values())).operation
        busy = "some items of a batch were not processed, time and again"
        raise error_of(
            late or DynamoAnswer(400, "ThrottlingException", busy, "throttled", {}, None), self.place, operation
        )

    def close(self) -> None:
        """Close all connections that are not in use. Closing twice is no error."""
        if (exchange := self.__dict__.get("_exchange")) is not None:
            exchange.connections.close()
        self.access.close()

    def _answers(self, calls: Sequence[DynamoCall]) -> list[DynamoAnswer]:
        with self._lock:
            exchange = self._exchange
        path = exchange.connections.path or "/"
        requests = [partial(_request, self._signer(call.operation), path, self._body(call)) for call in calls]
        answers = [read(each.status, each.body, each.date) for each in exchange.send(requests)]
        if self._ahead_s is None and answers:
            self._set_clock(answers[0].date)
        return answers

    def _body(self, call: DynamoCall) -> bytes:
        parameters: Mapping[str, Any] = call.parameters
        if call.operation.startswith("Batch"):
            parameters = {"RequestItems": {self.table: parameters["RequestItems"]}}
        else:
            parameters = {"TableName": self.table, **parameters}
        return json.dumps({**parameters, "ReturnConsumedCapacity": "TOTAL"}, separators=(",", ":")).encode()

    def _signer(self, operation: str) -> Signer:
        with self._lock:
            if operation not in self._signers:
                headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"{_VERSION}.{operation}"}
                host = self._exchange.connections.host
                self._signers[operation] = Signer(
                    host, self.place.region, self.access.keys, headers, lambda: self.now_s, "dynamodb"
                )
            return self._signers[operation]

    def _pause(self, tried: int) -> None:
        """Wait before the next attempt, with jitter, no longer than the caller still has."""
        pause_s = random.uniform(0.5, 1.0) * min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** (tried - 1))
        _sleep(min(pause_s, time_left_s()))

    def _was_skewed(self, answer: DynamoAnswer, ahead_s: float) -> bool:
        """Whether DynamoDB's clock was not `ahead_s` ahead, as a request was signed; from now on it counts."""
        self._set_clock(answer.date)
        return self._ahead_s is not None and abs(self._ahead_s - ahead_s) > _SKEW_S

    def _set_clock(self, date: str | None) -> None:
        try:
            ahead_s = parsedate_to_datetime(date or "").timestamp() - _unix_s()
        except ValueError:
            return
        self._ahead_s = ahead_s if abs(ahead_s) > _SKEW_S else 0.0

    def _unreachable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"no answer from DynamoDB: {type(error).__name__}: {error} [{self.place}]",
            backend=BACKEND,
            hint="check the network and the region; in a VPC, DynamoDB needs a gateway endpoint or a NAT gateway",
        )


def _request(signer: Signer, path: str, body: bytes) -> tuple[bytes]:
    return (signer.request(path, "", body),)


def _unprocessed(call: DynamoCall, told: Mapping[str, Any]) -> DynamoCall | None:
    """Return a call for what a batch has left; None if that is nothing."""
    if call.operation == "BatchGetItem":
        for keys in (told.get("UnprocessedKeys") or {}).values():
            return DynamoCall(call.operation, {"RequestItems": keys})
    elif call.operation == "BatchWriteItem":
        for requests in (told.get("UnprocessedItems") or {}).values():
            return DynamoCall(call.operation, {"RequestItems": requests})
    return None


def _merged(before: Told | None, told: Mapping[str, Any]) -> Told:
    """Return the items of both answers to a batch, as ``{"Items": [...]}``; any other answer as it is."""
    if "Responses" not in told:
        return told if before is None else before
    items = [item for found in told["Responses"].values() for item in found]
    return {"Items": [*cast("Mapping[str, Any]", before or {}).get("Items", ()), *items]}


@contextmanager
def mapped() -> Iterator[None]:
    """Translate boto3's exceptions into ours."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("botocore", "boto3"):
            raise
        raise translated(error) from error


def translated(error: Exception) -> WukongError:
    """Return our error for one of boto3's that is no answer of AWS's."""
    name = type(error).__name__
    if name in CONFIGURATION:
        return ConfigError(f"{name}: {error}", backend=BACKEND, hint="see the options profile and region, and ~/.aws")
    if is_about_credentials(error):
        return StoreError(f"there are no usable AWS credentials: {error}", backend=BACKEND, hint=LOG_IN)
    return StoreError(f"{name}: {error}", backend=BACKEND)
