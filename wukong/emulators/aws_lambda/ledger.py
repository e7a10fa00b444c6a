"""Records: counters, failed attempts and dead letters, which `status` reports."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter, deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from wukong.emulators.aws_lambda.invocation import AttemptOutcome, LambdaInvocation

_LETTERS = 1_000
"""Dead letters hold whole payloads."""


class ServiceLedger:
    """Counters, and the last failures and dead letters. Each has a number, so that a caller can ask for new ones only.

    Attributes:
        counts: ``requests`` (Invoke calls), ``events``, ``duplicates``, ``lost``, ``throttled``, ``attempts``,
            ``succeeded``, ``failed``, one for each reason of failure, ``retries``, ``dead_letters``, ``recursive``
            (calls of chains that were too long), ``cold_starts``, ``billed_ms``.
        billed_gb_s: memory times billed time, GB of 1,024 MB times seconds.
    """

    def __init__(self, kept: int) -> None:
        self.counts: Counter[str] = Counter()
        self.billed_gb_s = 0.0
        self._failures: deque[dict[str, Any]] = deque(maxlen=kept)
        self._dead_letters: deque[dict[str, Any]] = deque(maxlen=_LETTERS)

    def attempted(self, invocation: LambdaInvocation, outcome: AttemptOutcome, billed_ms: int, *, cold: bool) -> None:
        """Record the end of an attempt."""
        counts = self.counts
        counts["attempts"] += 1
        counts["billed_ms"] += billed_ms
        counts["cold_starts"] += cold
        self.billed_gb_s += billed_ms * invocation.version.memory_mb / 1_024_000
        if outcome.reason is None:
            counts["succeeded"] += 1
            return
        counts["failed"] += 1
        counts[outcome.reason] += 1
        told = _json(outcome.payload)
        self._failures.append(
            {
                "number": counts["failed"],
                "time_s": time.time(),
                "function": invocation.version.function.name,
                "request_id": invocation.id,
                "event": invocation.event,
                "attempt": invocation.attempt,
                "reason": outcome.reason,
                "error": told if isinstance(told, dict) else {"errorMessage": told},
            }
        )

    def gave_up(self, invocation: LambdaInvocation, outcome: AttemptOutcome | None, condition: str) -> None:
        """Record an event that is given up, in the form that Lambda sends to an on-failure destination."""
        self.counts["dead_letters"] += 1
        record: dict[str, Any] = {
            "number": self.counts["dead_letters"],
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": invocation.id,
                "functionArn": f"{invocation.version.function.arn}:{invocation.version.number}",
                "condition": condition,
                "approximateInvokeCount": invocation.attempt + (outcome is not None),
            },
            "requestPayload": _json(invocation.payload),
        }
        if outcome is not None:
            record["responseContext"] = {
                "statusCode": 200,
                "executedVersion": invocation.version.number,
                "functionError": "Unhandled",
            }
            record["responsePayload"] = _json(outcome.payload)
        self._dead_letters.append(record)

    def failures(self, after: int) -> list[dict[str, Any]]:
        """Return the failed attempts with a number above `after`."""
        return _after(self._failures, after)

    def dead_letters(self, after: int) -> list[dict[str, Any]]:
        """Return the dead letters with a number above `after`."""
        return _after(self._dead_letters, after)


def _after(records: Iterable[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    return [record for record in records if record["number"] > number]


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return {"base64": base64.b64encode(data).decode()}
