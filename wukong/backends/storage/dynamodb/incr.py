"""Arrivals at fan-ins, many at once: each is a conversation with the table, and all of a batch take turns together.

    added      one write; its answer is the whole record, so whoever completes a set has all that rode in
    noted      one write for a claimant that holds, as long as it cannot be the last
    swapped    judged here, and written if nobody has come between; else judged anew
    begun      a record whose time was over is replaced

Those at wide fan-ins are in `wide`, and values that ride in `rides`.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import cast

from wukong.backends.storage.dynamodb.answers import BACKEND, ConditionFailed
from wukong.backends.storage.dynamodb.client import DynamoCall, DynamoClient
from wukong.backends.storage.dynamodb.items import expires, is_there, key_of
from wukong.backends.storage.dynamodb.record import Ride, Rider, TableRecord, added, begun, noted, swapped
from wukong.backends.storage.dynamodb.rides import Rides, Turns
from wukong.backends.storage.dynamodb.roots import is_wide
from wukong.backends.storage.dynamodb.wide import WideArrivals
from wukong.core.storage import Arrival, FanInRecord, Outcome, arrive, bitmap
from wukong.errors import StoreUnavailable

__all__ = ["Arrivals"]

_TRIES = 400
_PAUSE_S = (0.002, 0.1)
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
        self._client, self._ttl_s, self._inside_bytes = client, ttl_s, inside_bytes
        self._rides = Rides(client, ttl_s, part_bytes)
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

    def _one_by_one(self, arrivals: Sequence[tuple[int, Arrival]], outcomes: dict[int, Outcome]) -> Turns[None]:
        wide = WideArrivals(self._client, self._rides, self._ttl_s, self._inside_bytes)
        for n, arrival in arrivals:
            outcomes[n] = yield from (wide.arrive(arrival) if is_wide(arrival.of) else self._arrive(arrival))

    def _arrive(self, arrival: Arrival) -> Turns[Outcome]:
        """Record one arrival."""
        ride, rider = None, None
        if arrival.value is not None:
            name = secrets.token_urlsafe(9)
            if len(arrival.value) * arrival.of <= self._inside_bytes:
                ride = Ride.inside(name, arrival.value)
            else:
                rider = self._rides.beside(name, len(arrival.value), self._rides.until_s())
                ride = Ride.beside(rider)
        holds = arrival.only_if_last and len({*arrival.members}) < arrival.of
        if rider is not None and not holds:
            yield self._rides.parts(rider, cast("bytes", arrival.value))
        now_s, token = self._client.now_s, secrets.token_bytes(8)
        if holds:
            call = noted(arrival, expires(now_s, self._ttl_s), now_s, token)
        else:
            call = added(arrival, ride, expires(now_s, self._ttl_s), now_s, token)
        [told] = yield [call]
        if not isinstance(told, ConditionFailed):
            record = TableRecord.read(told["Attributes"], arrival.record)
            yield from self._rides.renew(arrival.record, record, rider)
            if record.is_complete and not holds:
                return (yield from self._claimed(record))
            return Outcome(False, False, (), holds and _gives_way(record, arrival))
        before, found = yield from self._read(arrival, told)
        return (yield from self._swap(arrival, before, found, ride, rider))

    def _swap(
        self, arrival: Arrival, record: TableRecord | None, found: bool, ride: Ride | None, rider: Rider | None
    ) -> Turns[Outcome]:
        """Judge an arrival by the record as it is and write it, until nobody comes between.

        `record`: what is there; `found`: its time is not over.
        """
        stored = not arrival.only_if_last or len({*arrival.members}) == arrival.of
        for tried in range(_TRIES):
            before = record.judged() if record is not None and found else FanInRecord(arrival.of)
            after, outcome = arrive(before, arrival)
            if after is before and record is not None and found:
                yield from self._rides.drop(record, rider if stored else None)
                return (yield from self._claimed(record)) if outcome.claimed else outcome
            if rider is not None and after.arrived != before.arrived and not stored:
                yield self._rides.parts(rider, cast("bytes", arrival.value))
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
                    yield from self._rides.renew(arrival.record, now, rider)
                return (yield from self._claimed(now)) if outcome.claimed else outcome
            if tried:
                self._conflicts += 1
            record, found = yield from self._read(arrival, told)
        raise StoreUnavailable(
            f"the fan-in {arrival.record!r} in the table {self._client.table} could not be written: others came first "
            f"{_TRIES} times",
            backend=BACKEND,
        )

    def _read(self, arrival: Arrival, failed: ConditionFailed) -> Turns[tuple[TableRecord | None, bool]]:
        """Return the record, and whether its time is not over; `failed`: what a write was told that did nothing."""
        item = failed.item
        if item is None:
            [told] = yield [DynamoCall("GetItem", {"Key": key_of(b"r", arrival.record), "ConsistentRead": True})]
            assert not isinstance(told, ConditionFailed)
            item = told.get("Item")
        if not item:
            return None, False
        return TableRecord.read(item, arrival.record), is_there(item, self._client.now_s)

    def _claimed(self, record: TableRecord) -> Turns[Outcome]:
        """Return the outcome for the claimant: all values."""
        return Outcome(True, True, (yield from self._rides.collected([record])))

    def _pause(self) -> None:
        """Let the others go first, for a moment, if they came between."""
        if self._conflicts:
            _sleep(random.uniform(0, min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** min(self._conflicts, 16))))


def _gives_way(record: TableRecord, arrival: Arrival) -> bool:
    """Return whether a claimant that has just noted its hold is to give way."""
    judged = record.judged()
    return judged.notes.gives_way(arrival.claimant, judged.arrived, (1 << record.of) - 1)
