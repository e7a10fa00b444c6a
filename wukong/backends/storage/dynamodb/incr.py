"""Arrivals at fan-ins, many at once: each is a conversation with the table, and all of a batch take turns together.

    added      one write; its answer is the whole record, so whoever completes a set has all that rode in
    noted      one write for a claimant that holds, as long as it cannot be the last
    swapped    judged here, and written if nobody has come between; else judged anew
    begun      a record whose time was over is replaced

A value that is large for its fan-in lies beside the record, in items of its own, and is written before the record
names it. DynamoDB bills a write by the size of the whole item: if all values rode in the record, each arrival would pay
for all that came before.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, cast

from wukong.backends.storage.dynamodb.answers import BACKEND, ConditionFailed
from wukong.backends.storage.dynamodb.client import DynamoCall, DynamoClient, Told
from wukong.backends.storage.dynamodb.items import expires, is_there, item_of, key_of, unbinary, value_of
from wukong.backends.storage.dynamodb.record import (
    MOST_MEMBERS,
    Ride,
    Rider,
    TableRecord,
    added,
    begun,
    noted,
    renewed,
    swapped,
)
from wukong.core.storage import Arrival, FanInRecord, Outcome, arrive, bitmap
from wukong.errors import StoreUnavailable

__all__ = ["Arrivals", "getting", "writing"]

logger = logging.getLogger(__name__)

Turns: TypeAlias = "Generator[Sequence[DynamoCall], Sequence[Told], Outcome]"

_GET_KEYS, _WRITE_ITEMS = 100, 25
_RENEWED_AT_ONCE = 40
_TRIES = 400
_PAUSE_S = (0.002, 0.1)
_RIDERS_LIVE = 2
"""The time to live of values beside a record, as a multiple of the record's: so they are seldom renewed."""
_sleep: Callable[[float], None] = time.sleep


class Arrivals:
    """A batch of arrivals.

    Args:
        client: of the table.
        ttl_s: how long records live from their last write.
        inside_bytes: values ride in the record if all values of its fan-in together would not be larger than this.
        part_bytes: the largest part of a value beside a record.
    """

    def __init__(self, client: DynamoClient, ttl_s: float | None, inside_bytes: int, part_bytes: int) -> None:
        self._client, self._ttl_s = client, ttl_s
        self._inside_bytes, self._part_bytes = inside_bytes, part_bytes
        self._conflicts = 0

    def record(self, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """Record all; return what each is told, in order. Those at one record arrive one after the other."""
        for arrival in arrivals:
            bitmap(arrival.members, arrival.of)
        outcomes: dict[int, Outcome] = {}
        by_record: dict[bytes, list[tuple[int, Arrival]]] = {}
        for n, arrival in enumerate(arrivals):
            by_record.setdefault(arrival.record, []).append((n, arrival))
        talks = [self._one_by_one(each, outcomes) for each in by_record.values()]
        wanted = {talk: calls for talk in talks if (calls := next(talk, None)) is not None}
        while wanted:
            told = self._client.ask([call for calls in wanted.values() for call in calls])
            self._pause()
            at, following = 0, {}
            for talk, calls in wanted.items():
                with suppress(StopIteration):
                    following[talk] = talk.send(told[at : at + len(calls)])
                at += len(calls)
            wanted = following
        return [outcomes[n] for n in range(len(arrivals))]

    def _one_by_one(
        self, arrivals: Sequence[tuple[int, Arrival]], outcomes: dict[int, Outcome]
    ) -> Generator[Sequence[DynamoCall], Sequence[Told], None]:
        for n, arrival in arrivals:
            outcomes[n] = yield from self._arrive(arrival)

    def _arrive(self, arrival: Arrival) -> Turns:
        """Record one arrival: yields calls, is sent what they are told, returns the outcome."""
        ride, rider = None, None
        if arrival.value is not None:
            name = secrets.token_urlsafe(9)
            if len(arrival.value) * arrival.of <= self._inside_bytes:
                ride = Ride.inside(name, arrival.value)
            else:
                rider = self._rider(name, len(arrival.value))
                ride = Ride.beside(rider)
        holds = arrival.only_if_last and len({*arrival.members}) < arrival.of
        if rider is not None and not holds:
            yield self._parts(rider, cast("bytes", arrival.value))
        now_s, token = self._client.now_s, secrets.token_bytes(8)
        if holds:
            call: DynamoCall | None = noted(arrival, expires(now_s, self._ttl_s), now_s, token)
        elif len(arrival.members) <= MOST_MEMBERS:
            call = added(arrival, ride, expires(now_s, self._ttl_s), now_s, token)
        else:
            call = None
        if call is None:
            record, found = yield from self._read(arrival)
        else:
            [told] = yield [call]
            if not isinstance(told, ConditionFailed):
                record = TableRecord.read(told["Attributes"], arrival.record)
                yield from self._renew(arrival.record, record, rider)
                if record.is_complete and not holds:
                    return (yield from self._claimed(record))
                return Outcome(False, False, (), holds and _gives_way(record, arrival))
            record, found = yield from self._read(arrival, told)
        return (yield from self._swap(arrival, record, found, ride, rider))

    def _swap(
        self, arrival: Arrival, record: TableRecord | None, found: bool, ride: Ride | None, rider: Rider | None
    ) -> Turns:
        """Judge an arrival by the record as it is and write it, until nobody comes between.

        `record`: what is there; `found`: its time is not over.
        """
        stored = not arrival.only_if_last or len({*arrival.members}) == arrival.of
        for tried in range(_TRIES):
            before = record.judged() if record is not None and found else FanInRecord(arrival.of)
            after, outcome = arrive(before, arrival)
            if after is before and record is not None and found:
                yield from self._drop(record, rider if stored else None)
                return (yield from self._claimed(record)) if outcome.claimed else outcome
            if rider is not None and after.arrived != before.arrived and not stored:
                yield self._parts(rider, cast("bytes", arrival.value))
                stored = True
            expires_s = expires(self._client.now_s, self._ttl_s)
            rides = ride if after.values else None
            if record is not None and found:
                call = swapped(arrival, record, after, rides, expires_s)
            else:
                call = begun(arrival, record, after, rides, expires_s, secrets.token_bytes(8))
            [told] = yield [call]
            if not isinstance(told, ConditionFailed):
                if call.operation == "PutItem":
                    now = TableRecord.read(call.parameters["Item"], arrival.record)
                else:
                    now = TableRecord.read(told["Attributes"], arrival.record)
                    yield from self._renew(arrival.record, now, rider)
                return (yield from self._claimed(now)) if outcome.claimed else outcome
            if tried:
                self._conflicts += 1
            record, found = yield from self._read(arrival, told)
        raise StoreUnavailable(
            f"the fan-in {arrival.record!r} in the table {self._client.table} could not be written: others came first "
            f"{_TRIES} times",
            backend=BACKEND,
            hint="very many executors arrive at one fan-in at the same time: give the graph a tree of smaller ones",
        )

    def _read(
        self, arrival: Arrival, failed: ConditionFailed | None = None
    ) -> Generator[Sequence[DynamoCall], Sequence[Told], tuple[TableRecord | None, bool]]:
        """Return the record, and whether its time is not over; `failed`: what a write was told that did nothing."""
        item = None if failed is None else failed.item
        if item is None:
            [told] = yield [DynamoCall("GetItem", {"Key": key_of(b"r", arrival.record), "ConsistentRead": True})]
            assert not isinstance(told, ConditionFailed)
            item = told.get("Item")
        if not item:
            return None, False
        return TableRecord.read(item, arrival.record), is_there(item, self._client.now_s)

    def _claimed(self, record: TableRecord) -> Turns:
        """Return the outcome for the claimant: all values."""
        if not record.riders:
            return Outcome(True, True, record.values)
        wanted = [key for rider in record.riders for key in rider.parts()]
        told = yield getting(b"q", wanted)
        now_s = self._client.now_s
        found: dict[bytes, bytes] = {}
        for each in told:
            for item in cast("Mapping[str, Any]", each)["Items"]:
                if (value := value_of(item, now_s)) is not None:
                    found[unbinary(item["k"])[1:]] = value
        whole = [
            b"".join([found[key] for key in rider.parts()])
            for rider in record.riders
            if all(key in found for key in rider.parts())
        ]
        if len(whole) < len(record.riders):
            logger.warning(
                "%d of %d values that rode in arrivals are lost", len(record.riders) - len(whole), len(record.riders)
            )
        return Outcome(True, True, (*record.values, *whole))

    def _rider(self, name: str, size_bytes: int) -> Rider:
        life_s = None if self._ttl_s is None else _RIDERS_LIVE * self._ttl_s
        return Rider(name, max(1, -(-size_bytes // self._part_bytes)), expires(self._client.now_s, life_s))

    def _parts(self, rider: Rider, value: bytes) -> list[DynamoCall]:
        size = self._part_bytes
        return [
            DynamoCall("PutItem", {"Item": item_of(b"q", key, value[n * size : (n + 1) * size], rider.expires_s)})
            for n, key in enumerate(rider.parts())
        ]

    def _drop(self, record: TableRecord, rider: Rider | None) -> Generator[Sequence[DynamoCall], Sequence[Told], None]:
        """Delete a value that was stored beside a record which does not name it."""
        if rider is not None and all(each.name != rider.name for each in record.riders):
            yield writing([{"DeleteRequest": {"Key": key_of(b"q", key)}} for key in rider.parts()])

    def _renew(
        self, key: bytes, record: TableRecord, mine: Rider | None
    ) -> Generator[Sequence[DynamoCall], Sequence[Told], None]:
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
        longer = [self._rider(rider.name, rider.n_parts * self._part_bytes) for rider in short]
        yield [_living(part, rider.expires_s) for rider in longer for part in rider.parts()]
        yield [
            renewed(key, record.token, longer[at : at + _RENEWED_AT_ONCE])
            for at in range(0, len(longer), _RENEWED_AT_ONCE)
        ]

    def _pause(self) -> None:
        """Let the others go first, for a moment, if they came between."""
        if self._conflicts:
            _sleep(random.uniform(0, min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** min(self._conflicts, 16))))


def _gives_way(record: TableRecord, arrival: Arrival) -> bool:
    """Return whether a claimant that has just noted its hold is to give way."""
    judged = record.judged()
    return judged.notes.gives_way(arrival.claimant, judged.arrived, (1 << record.of) - 1)


def _living(key: bytes, expires_s: int | None) -> DynamoCall:
    """Return the write that lets an item live until then, if it is there."""
    names, values = {"#k": "k", "#expires": "expires"}, {":expires": {"N": str(expires_s)}}
    more: dict[str, Any] = {"UpdateExpression": "REMOVE #expires"}
    if expires_s is not None:
        more = {"UpdateExpression": "SET #expires = :expires", "ExpressionAttributeValues": values}
    condition = {"ConditionExpression": "attribute_exists(#k)", "ExpressionAttributeNames": names}
    return DynamoCall("UpdateItem", {"Key": key_of(b"q", key), **condition, **more})


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
