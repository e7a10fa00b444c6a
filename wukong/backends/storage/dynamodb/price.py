"""What requests to DynamoDB and S3 cost, and what those of one process have cost so far.

DynamoDB bills units, and tells how many a request was: of writing for each kB begun of an item, of reading for each 4
kB. S3 bills requests, except those that delete. Not in here: storage, which is a cent a day for a GB; a free tier.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from wukong.backends.storage import Spent

__all__ = ["RATES", "RequestMeter"]

RATES = "us-east-1, November 2026"
WRITE_UNIT_USD, READ_UNIT_USD = 0.625e-6, 0.125e-6
"""On demand."""
PUT_USD, GET_USD = 5.0e-6, 0.4e-6
"""S3 Standard."""

_READS = frozenset({"BatchGetItem", "GetItem"})
_BY_METHOD = {"GET": GET_USD, "PUT": PUT_USD, "DELETE": 0.0}


class RequestMeter:
    """Adds up. Safe in several threads. `what`: what the requests go to."""

    def __init__(self, what: str) -> None:
        self._what, self._usd, self._lock = what, 0.0, threading.Lock()

    def table(self, operation: str, answer: Mapping[str, Any]) -> None:
        """Add a request to DynamoDB, by the units that its answer tells; one, if it tells none."""
        units = sum(_units(answer.get("ConsumedCapacity"))) or 1.0
        self._add(units * (READ_UNIT_USD if operation in _READS else WRITE_UNIT_USD))

    def bucket(self, method: str) -> None:
        """Add a request to S3."""
        self._add(_BY_METHOD[method])

    def spent(self) -> Spent:
        """Return the sum."""
        return Spent(self._usd, self._what, RATES)

    def _add(self, usd: float) -> None:
        with self._lock:
            self._usd += usd


def _units(told: Any) -> Iterator[float]:
    """Yield the units of an answer: one account for a request, a list of them for a batch."""
    for each in told if isinstance(told, list) else [told]:
        if isinstance(each, Mapping):
            yield float(each.get("CapacityUnits", 0.0))
