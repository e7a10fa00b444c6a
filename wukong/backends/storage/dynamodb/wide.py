"""Arrivals at a wide fan-in: a root and leaves, see `roots`.

    read the root    or make it; large riders are written meanwhile
    write the leaf   one write, whose answer is the whole leaf
    count the leaf   if it is complete and has not been counted; whose answer is the root
    read the leaves  only the claimant, for what rode in

An arrival of members of several leaves reads these first, writes the value with one that its members are new to, and
then all others at once. It is not atomic, but like several arrivals in one name: others may see a part of it. If it
breaks off in between and is made again, its value is written again under the same name, and the claimant takes one of
the two. What it has written beside the record and nobody reads is left to its time to live. An arrival that holds notes
that first, and then looks whether all others have arrived.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from secrets import token_bytes
from typing import Any, cast

from wukong.backends.storage.dynamodb.answers import BACKEND, ConditionFailed
from wukong.backends.storage.dynamodb.client import DynamoCall, DynamoClient, Told
from wukong.backends.storage.dynamodb.items import expires, is_there, key_of, unbinary
from wukong.backends.storage.dynamodb.record import Ride, Rider, TableRecord, added
from wukong.backends.storage.dynamodb.rides import Rides, Turns, getting, living
from wukong.backends.storage.dynamodb.roots import (
    LEAF_MEMBERS,
    arrived_in,
    counted,
    counted_in,
    is_whole,
    leaf_lives,
    leaf_of,
    leaf_record,
    n_leaves,
    part_of,
    planted,
    prolonged,
    rider_lives,
    root_lives,
    root_noted,
)
from wukong.core.storage import Arrival, FanInRecord, Outcome, arrive, bitmap
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["WideArrivals"]

_INSIDE_BYTES = 2_560
"""Values ride inside a leaf if all of the leaf's would not be larger: up to 80 bytes each. Beyond, a write of its own
is cheaper than a heavier leaf, and it takes no round trip more."""

_MOST_NOTES_BYTES = 32_768
"""How large all notes at one fan-in may be together. A claimant without room for its note gives way, which is always
right: of many that hold large values all but one have to, and every arrival reads the root. A note has up to a bit for
each member of the fan-in, so their number alone is no bound."""

_TRIES = 100
_NOT_YET = Outcome(False, False)


class WideArrivals:
    """The arrivals of one batch at one record, one after the other.

    What has been read of the root serves the whole batch, and is renewed with every write to the root.

    Args:
        client: of the table.
        rides: the values.
        ttl_s: how long records live from their last write.
        inside_bytes: values ride in a leaf if all of the leaf's values together would not be larger than this.
    """

    def __init__(self, client: DynamoClient, rides: Rides, ttl_s: float | None, inside_bytes: int) -> None:
        self._client, self._rides, self._ttl_s = client, rides, ttl_s
        self._inside_bytes = min(inside_bytes, _INSIDE_BYTES)
        self._root: TableRecord | None = None

    def arrive(self, arrival: Arrival) -> Turns[Outcome]:
        """Record one arrival."""
        if arrival.only_if_last:
            root = yield from self._rooted(arrival)
            if not is_whole(root) and not (yield from self._is_last(arrival, root)):
                outcome = yield from self._hold(arrival, root)
                if outcome is not None:
                    return outcome
        ride, rider = self._ride(arrival)
        parts = self._rides.parts(rider, cast("bytes", arrival.value)) if rider is not None else []
        root = yield from self._rooted(arrival, parts)
        if is_whole(root):
            return (yield from self._told(arrival, root))
        if rider is not None and not _lasts(rider, root):
            yield [living(b"q", part, root.expires_s) for part in rider.parts()]
        root = yield from self._prolong(arrival, root)
        if is_whole(root):
            return (yield from self._told(arrival, root))
        return (yield from self._bring(arrival, root, ride))

    def _ride(self, arrival: Arrival) -> tuple[Ride | None, Rider | None]:
        """Return how the value rides. Its name is the same whenever this arrival is made again."""
        value = arrival.value
        if value is None:
            return None, None
        said = repr((arrival.record, arrival.claimant, sorted(arrival.members))).encode()
        name = urlsafe_b64encode(blake2b(said + value, digest_size=9).digest()).decode()
        if len(value) * LEAF_MEMBERS <= self._inside_bytes:
            return Ride.inside(name, value), None
        rider = self._rides.beside(name, len(value), rider_lives(self._client.now_s, self._ttl_s))
        return Ride.beside(rider), rider

    # The root

    def _rooted(self, arrival: Arrival, meanwhile: Iterable[DynamoCall] = ()) -> Turns[TableRecord]:
        """Return the root; make it if there is none. Raises ValueError if the arrival contradicts it."""
        calls = list(meanwhile)
        if self._root is None:
            told = yield [_get(arrival.record), *calls]
            self._root = yield from self._planted(arrival, _item(told[0]))
        elif calls:
            yield calls
        arrive(FanInRecord(self._root.of), arrival)
        return self._root

    def _planted(self, arrival: Arrival, item: Mapping[str, Any] | None) -> Turns[TableRecord]:
        for _ in range(_TRIES):
            before = None
            if item:
                before = TableRecord.read(item, arrival.record)
                if is_there(item, self._client.now_s):
                    return before
            call = planted(arrival, before, root_lives(self._client.now_s, self._ttl_s), token_bytes(9))
            [told] = yield [call]
            if not isinstance(told, ConditionFailed):
                return TableRecord.read(call.parameters["Item"], arrival.record)
            item = yield from self._seen(told, arrival.record)
        raise self._overtaken(arrival)

    def _changed(self, arrival: Arrival, root: TableRecord, told: Told) -> Turns[TableRecord | None]:
        """Return the root after a write, whether that was made or not; None if this record is not there any more."""
        item = yield from self._seen(told, arrival.record)
        now = TableRecord.read(item, arrival.record) if item else None
        self._root = now if now is not None and now.token == root.token else None
        return self._root

    def _prolong(self, arrival: Arrival, root: TableRecord) -> Turns[TableRecord]:
        """Have all of the record live for as long as it has to from now on, if its root does not say so.

        Returns the root as it is then, or as it was if it is not there any more.
        """
        now_s = self._client.now_s
        needed_s = expires(now_s, self._ttl_s)
        if root.expires_s is None or (needed_s is not None and needed_s <= root.expires_s):
            return root
        lives_s = leaf_lives(root, now_s, self._ttl_s)
        leaves = yield from self._leaves(arrival, root, range(n_leaves(root.of)))
        yield [
            *[living(b"r", leaf_record(arrival.record, root, leaf), lives_s) for leaf in leaves],
            *[
                living(b"q", part, lives_s)
                for each in leaves.values()
                for rider in each.riders
                for part in rider.parts()
            ],
        ]
        [told] = yield [prolonged(arrival.record, root, root_lives(now_s, self._ttl_s))]
        return (yield from self._changed(arrival, root, told)) or root

    # Arriving

    def _bring(self, arrival: Arrival, root: TableRecord, ride: Ride | None) -> Turns[Outcome]:
        """Write the leaves, count those that are complete."""
        leaves = sorted({leaf_of(member) for member in arrival.members} - counted_in(root))
        parts = {leaf: part_of(arrival, root, leaf) for leaf in leaves}
        states: dict[int, TableRecord] = {}
        if len(leaves) > 1:
            states = yield from self._leaves(arrival, root, leaves)
        waiting = [leaf for leaf in leaves if leaf not in states or _brings(parts[leaf], states[leaf])]
        is_new = False
        while waiting:
            carrying = {waiting.pop(0): ride} if ride is not None else dict.fromkeys(waiting)
            written = yield from self._written(root, {leaf: (parts[leaf], each) for leaf, each in carrying.items()})
            if ride is None:
                waiting = []
            if any(fresh for _, fresh in written.values()):
                is_new, ride = True, None
            states |= {leaf: record for leaf, (record, _) in written.items()}
        outcome = yield from self._count(arrival, root, states)
        return _NOT_YET if is_new and not outcome.claimed else outcome  # others came after this had been counted

    def _count(self, arrival: Arrival, root: TableRecord, leaves: Mapping[int, TableRecord]) -> Turns[Outcome]:
        """Count those of these leaves that are complete, none of which the root has; return the arrival's outcome."""
        complete = {leaf: record.who for leaf, record in leaves.items() if record.is_complete}
        if not complete:
            return _NOT_YET
        told = yield [counted(arrival.record, root, leaf, who) for leaf, who in complete.items()]
        latest = root
        for each in told:
            if (now := (yield from self._changed(arrival, root, each))) is None:
                return _NOT_YET  # it was deleted after this had arrived
            latest = max(latest, now, key=lambda root: root.n)
        self._root = latest
        return (yield from self._told(arrival, latest)) if is_whole(latest) else _NOT_YET

    def _written(
        self, root: TableRecord, wanted: Mapping[int, tuple[Arrival, Ride | None]]
    ) -> Turns[dict[int, tuple[TableRecord, bool]]]:
        """Arrive at leaves; return each as it is now, and whether a member was new to it."""
        now_s = self._client.now_s
        lives_s = leaf_lives(root, now_s, self._ttl_s)
        told = yield [added(part, ride, lives_s, now_s, b"leaf") for part, ride in wanted.values()]
        written = {}
        for (leaf, (part, _)), each in zip(wanted.items(), told, strict=True):
            item = yield from self._seen(each, part.record)
            record = TableRecord.read(item, part.record) if item else None
            if record is None or _brings(part, record):
                raise self._lost(part.record)
            written[leaf] = record, not isinstance(each, ConditionFailed)
        return written

    def _told(self, arrival: Arrival, root: TableRecord) -> Turns[Outcome]:
        """Return the outcome of an arrival at a record that is complete."""
        if root.who != arrival.claimant:
            return Outcome(True, False)
        leaves = yield from self._leaves(arrival, root, range(n_leaves(root.of)))
        if sum(leaf.is_complete for leaf in leaves.values()) < n_leaves(root.of):
            raise self._lost(arrival.record)
        return Outcome(True, True, (yield from self._rides.collected(list(leaves.values()))))

    # Holding

    def _is_last(self, arrival: Arrival, root: TableRecord) -> Turns[bool]:
        """Return whether all members have arrived but those that arrive now. Once true, it stays so."""
        mine, whole = bitmap(arrival.members, arrival.of), (1 << arrival.of) - 1
        if mine == whole:
            return True
        uncounted = set(range(n_leaves(root.of))) - counted_in(root)
        if not uncounted <= {leaf_of(member) for member in arrival.members}:
            return False
        leaves = yield from self._leaves(arrival, root, uncounted)
        return arrived_in(root, leaves) | mine == whole

    def _hold(self, arrival: Arrival, root: TableRecord) -> Turns[Outcome | None]:
        """Note what the claimant holds; return whether it is to give way. None: all others have arrived meanwhile."""
        members, whole = bitmap(arrival.members, arrival.of), (1 << arrival.of) - 1
        for _ in range(_TRIES):
            notes = root.noted
            if is_whole(root) or notes.noted(arrival.claimant, members) is notes:
                break
            root = yield from self._prolong(arrival, root)
            if (call := root_noted(arrival, root, _MOST_NOTES_BYTES)) is None:
                return Outcome(False, False, (), give_way=True)
            [told] = yield [call]
            if (now := (yield from self._changed(arrival, root, told))) is None:
                now = yield from self._rooted(arrival)
            root = now
        else:
            raise self._overtaken(arrival)
        if is_whole(root):
            return (yield from self._told(arrival, root))
        if notes.held[0][0] == arrival.claimant:
            return _NOT_YET
        leaves = yield from self._leaves(arrival, root, set(range(n_leaves(root.of))) - counted_in(root))
        if (outcome := (yield from self._count(arrival, root, leaves))).complete:
            return outcome  # what is seen here is counted, or it would be seen before it happens
        arrived = arrived_in(root, leaves)
        if arrived | members == whole:
            return None
        return Outcome(False, False, (), notes.gives_way(arrival.claimant, arrived, whole))

    # Reading

    def _leaves(self, arrival: Arrival, root: TableRecord, leaves: Iterable[int]) -> Turns[dict[int, TableRecord]]:
        """Return those of these leaves that are there."""
        names = {leaf_record(arrival.record, root, leaf): leaf for leaf in leaves}
        keys = {unbinary(key_of(b"r", name)["k"]): name for name in names}
        told = yield getting(b"r", list(names))
        found = {}
        for each in told:
            for item in cast("Mapping[str, Any]", each)["Items"]:
                name = keys[unbinary(item["k"])]
                found[names[name]] = TableRecord.read(item, name)
        return found

    def _seen(self, told: Told, record: bytes) -> Turns[Mapping[str, Any] | None]:
        """Return an item after a write, or what is there instead."""
        if not isinstance(told, ConditionFailed):
            return cast("Mapping[str, Any]", told["Attributes"])
        if told.item is not None:
            return told.item
        [told] = yield [_get(record)]
        return _item(told)

    def _overtaken(self, arrival: Arrival) -> StoreUnavailable:
        return StoreUnavailable(
            f"the fan-in {arrival.record!r} in the table {self._client.table} could not be written: others came first "
            f"{_TRIES} times",
            backend=BACKEND,
            hint="something else deletes or writes it all the time",
        )

    def _lost(self, record: bytes) -> StoreError:
        return StoreError(
            f"a part of the fan-in {record!r} in the table {self._client.table} was lost before its time",
            backend=BACKEND,
            hint="something else writes into the table",
        )


def _lasts(rider: Rider, root: TableRecord) -> bool:
    """Return whether a value lives as long as its root says that all of the record does."""
    return rider.expires_s is None or (root.expires_s is not None and root.expires_s <= rider.expires_s)


def _brings(part: Arrival, leaf: TableRecord) -> bool:
    return not set(part.members) <= set(map(int, leaf.members))


def _get(record: bytes) -> DynamoCall:
    return DynamoCall("GetItem", {"Key": key_of(b"r", record), "ConsistentRead": True})


def _item(told: Told) -> Mapping[str, Any] | None:
    assert not isinstance(told, ConditionFailed)
    return cast("Mapping[str, Any] | None", told.get("Item"))
