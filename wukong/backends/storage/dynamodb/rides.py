"""Values that ride in arrivals: inside a record, or beside it in items of their own, and how the claimant gets them.

A value that is large for its fan-in lies beside the record, and is written before the record names it. DynamoDB bills a
write by the size of the whole item: if all values rode inside, each arrival would pay for all that came before.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from wukong.backends.storage.dynamodb.client import DynamoCall, DynamoClient, Told
from wukong.backends.storage.dynamodb.items import expires, item_of, key_of, unbinary, value_of
from wukong.backends.storage.dynamodb.record import Rider, TableRecord, renewed

__all__ = ["Rides", "Turns", "getting", "living", "writing"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

Turns: TypeAlias = "Generator[Sequence[DynamoCall], Sequence[Told], T]"
"""A conversation with the table: yields calls, is sent what they are told, returns something at last."""

_GET_KEYS, _WRITE_ITEMS = 100, 25
_RENEWED_AT_ONCE = 40
_RIDERS_LIVE = 2
"""The time to live of values beside a record, as a multiple of the record's: so they are seldom renewed."""


class Rides:
    """The values that ride in arrivals.

    Args:
        client: of the table.
        ttl_s: how long records live from their last write.
        part_bytes: the largest part of a value beside a record.
    """

    def __init__(self, client: DynamoClient, ttl_s: float | None, part_bytes: int) -> None:
        self._client, self._ttl_s, self._part_bytes = client, ttl_s, part_bytes

    def until_s(self) -> int | None:
        """Return until when a value lies beside a record that is one item; Unix time."""
        return expires(self._client.now_s, None if self._ttl_s is None else _RIDERS_LIVE * self._ttl_s)

    def beside(self, name: str, size_bytes: int, until_s: int | None) -> Rider:
        """Return what a value of this size is called and how it is cut."""
        return Rider(name, max(1, -(-size_bytes // self._part_bytes)), until_s)

    def parts(self, rider: Rider, value: bytes) -> list[DynamoCall]:
        """Return the calls that write a value which lies beside a record."""
        size = self._part_bytes
        return [
            DynamoCall("PutItem", {"Item": item_of(b"q", key, value[n * size : (n + 1) * size], rider.expires_s)})
            for n, key in enumerate(rider.parts())
        ]

    def collected(self, records: Sequence[TableRecord]) -> Turns[tuple[bytes, ...]]:
        """Return all values in these records and beside them; of two with one name, one."""
        inside = {name: value for record in records for name, value in record.values.items()}
        riders = list({rider.name: rider for record in records for rider in record.riders}.values())
        if not riders:
            return tuple(inside.values())
        told = yield getting(b"q", [key for rider in riders for key in rider.parts()])
        now_s = self._client.now_s
        found: dict[bytes, bytes] = {}
        for each in told:
            for item in cast("Mapping[str, Any]", each)["Items"]:
                if (value := value_of(item, now_s)) is not None:
                    found[unbinary(item["k"])[1:]] = value
        whole = [
            b"".join([found[key] for key in rider.parts()])
            for rider in riders
            if all(key in found for key in rider.parts())
        ]
        if len(whole) < len(riders):
            logger.warning("%d of %d values that rode in arrivals are lost", len(riders) - len(whole), len(riders))
        return (*inside.values(), *whole)

    def drop(self, record: TableRecord, rider: Rider | None) -> Turns[None]:
        """Delete a value that was stored beside a record which does not name it."""
        if rider is not None and all(each.name != rider.name for each in record.riders):
            yield writing([{"DeleteRequest": {"Key": key_of(b"q", key)}} for key in rider.parts()])

    def renew(self, key: bytes, record: TableRecord, mine: Rider | None) -> Turns[None]:
        """Let values beside the record live on, if they would not live as long as it does."""
        short = [
            rider
            for rider in record.riders
            if rider.expires_s is not None and (record.expires_s is None or rider.expires_s < record.expires_s)
        ]
        if mine is not None:
            short = [rider for rider in short if rider.name != mine.name]
        if not short:
            return
        longer = [Rider(rider.name, rider.n_parts, self.until_s()) for rider in short]
        yield [living(b"q", part, rider.expires_s) for rider in longer for part in rider.parts()]
        yield [
            renewed(key, record.token, longer[at : at + _RENEWED_AT_ONCE])
            for at in range(0, len(longer), _RENEWED_AT_ONCE)
        ]


def living(kind: bytes, key: bytes, expires_s: int | None) -> DynamoCall:
    """Return the write that lets an item live until then, if it is there."""
    names, values = {"#k": "k", "#expires": "expires"}, {":expires": {"N": str(expires_s)}}
    more: dict[str, Any] = {"UpdateExpression": "REMOVE #expires"}
    if expires_s is not None:
        more = {"UpdateExpression": "SET #expires = :expires", "ExpressionAttributeValues": values}
    condition = {"ConditionExpression": "attribute_exists(#k)", "ExpressionAttributeNames": names}
    return DynamoCall("UpdateItem", {"Key": key_of(kind, key), **condition, **more})


def getting(kind: bytes, keys: Sequence[bytes], at_once: int = _GET_KEYS) -> list[DynamoCall]:
    """Return the calls that read the items under these keys, none of which is twice among them."""
    return [
        DynamoCall(
            "BatchGetItem",
            {
                "RequestItems": {
                    "Keys": [key_of(kind, key) for key in keys[at : at + at_once]],
                    "ConsistentRead": True,
                }
            },
        )
        for at in range(0, len(keys), at_once)
    ]


def writing(requests: Sequence[Mapping[str, Any]]) -> list[DynamoCall]:
    """Return the calls that put and delete items, all under different keys."""
    return [
        DynamoCall("BatchWriteItem", {"RequestItems": list(requests[at : at + _WRITE_ITEMS])})
        for at in range(0, len(requests), _WRITE_ITEMS)
    ]
