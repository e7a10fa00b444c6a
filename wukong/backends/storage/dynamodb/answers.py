"""What DynamoDB's answers mean: good, a condition that does not hold, try again, or an error that says what to do.

The codes are those of DynamoDB's API reference and of AWS's common errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from wukong.backends.aws_access import LOG_IN
from wukong.backends.aws_calls import DENIED, STALE
from wukong.errors import StoreError, StoreUnavailable

__all__ = [
    "BACKEND",
    "NO_TABLE",
    "UNKNOWN_CREDENTIALS",
    "ConditionFailed",
    "DynamoAnswer",
    "Place",
    "Verdict",
    "error_of",
    "read",
]

BACKEND = "storage: dynamodb"

Verdict: TypeAlias = Literal["good", "condition", "throttled", "again", "skewed", "final"]

_THROTTLED = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_PASSING = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_SKEWED = frozenset(
    {"InvalidSignatureException", "RequestTimeTooSkewed", "SignatureDoesNotMatch", "RequestInTheFuture"}
)
NO_TABLE = (
    "'wukong deploy --storage dynamodb' makes it; else check the options table and region: a table is known only in "
    "its own region, and a table that is being made is not there yet"
)
UNKNOWN_CREDENTIALS = f"AWS does not know the credentials, or they have expired: {LOG_IN}"
_SLOW = (
    "a table takes 1,000 writes of 1 kB a second for one key, and a new one 4,000 in all, and grows with what it is "
    "asked: let fewer executors run at once, or warm the table (its warm throughput)"
)
_SIGNED = "the secret key is wrong, or the region is not the endpoint's, or the clock of this machine is"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table is, as errors name it."""

    table: str
    region: str
    endpoint_url: str

    def __str__(self) -> str:
        return f"table {self.table}, region {self.region}, endpoint {self.endpoint_url}"


@dataclass(frozen=True, slots=True)
class ConditionFailed:
    """The condition of a write did not hold. `item`: what is there instead; None: DynamoDB has not told."""

    item: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class DynamoAnswer:
    """One answer.

    Attributes:
        status: of HTTP.
        code: the name of the error; "" if there is none.
        message: what DynamoDB says about it.
        verdict: ``good``; ``condition``: a write's condition did not hold; ``throttled`` and ``again``: retry later;
            ``skewed``: a signature that was refused, perhaps for its time; ``final``: trying again is no use.
        told: the answer itself.
        date: the header ``Date``.
    """

    status: int
    code: str
    message: str
    verdict: Verdict
    told: Mapping[str, Any]
    date: str | None


def read(status: int, body: bytes, date: str | None) -> DynamoAnswer:
    """Return what a whole HTTP response means."""
    try:
        told = json.loads(body) if body else {}
    except ValueError:  # a proxy's page
        told = None
    if not isinstance(told, dict):
        text = body[:200].decode("utf-8", "replace").strip()
        return DynamoAnswer(status, "", text, "again" if status == 200 or status >= 500 else "final", {}, date)
    if status == 200:
        return DynamoAnswer(status, "", "", "good", told, date)
    code = str(told.get("__type") or told.get("code") or "").rpartition("#")[2]
    message = str(told.get("message") or told.get("Message") or "")
    verdict: Verdict = "final"
    if code == "ConditionalCheckFailedException":
        verdict = "condition"
    elif code in _THROTTLED or status == 429:
        verdict = "throttled"
    elif code in _SKEWED:
        verdict = "skewed"
    elif code in _PASSING or status >= 500 or status == 408:
        verdict = "again"
    return DynamoAnswer(status, code, message, verdict, told, date)


def error_of(answer: DynamoAnswer, place: Place, operation: str) -> StoreError:
    """Return the error to raise for an answer that is neither good nor a condition."""
    what = answer.code or f"HTTP {answer.status}"
    message = f"DynamoDB refuses {operation}: {what}{f': {answer.message}' if answer.message else ''} [{place}]"
    if answer.verdict == "throttled":
        return StoreUnavailable(message, backend=BACKEND, hint=_SLOW)
    if answer.verdict == "again":
        return StoreUnavailable(message, backend=BACKEND, hint="the service keeps failing; try again later")
    return StoreError(message, backend=BACKEND, hint=_hint(answer, operation))


def _hint(answer: DynamoAnswer, operation: str) -> str | None:
    code = answer.code
    if code == "ResourceNotFoundException":
        return NO_TABLE
    if answer.verdict == "skewed":
        return _SIGNED
    if code in DENIED:
        return f"its policy must allow dynamodb:{operation} on this table, for the user or role that is logged in"
    if code in STALE or code in ("MissingAuthenticationToken", "MissingAuthenticationTokenException"):
        return UNKNOWN_CREDENTIALS
    if code == "ValidationException" and "size" in answer.message:
        return "an item holds 400 kB with its names: set ride_bytes lower"
    if not code and answer.status in (301, 302, 307, 308, 400, 403, 404, 405):
        return "the endpoint does not seem to be DynamoDB's; check the option endpoint_url"
    return None
