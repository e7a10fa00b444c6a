"""The record of a wide fan-in: a root, and leaves of `LEAF_MEMBERS` members each. Pure.

    root   of       how many members the fan-in has
           token    random, another one for each record that is made under this key; the leaves' names begin with it
           got      which leaves are complete and have been counted
           who      in whose name the last of them was counted: the claimant, once all have been
           notes    as in `record`, but each claimant's next note takes the place of its last one
           held     how many bytes the notes weigh, which are bounded
    leaf   a record like that of a small fan-in, under a name of its own

An arrival reads the root and writes its leaf. Whoever completes a leaf counts it at the root, *in the name of who has
completed it*. So does everybody who finds a complete leaf that has not been counted, as its own executor may have died
between the two writes. Members only ever arrive, and leaves are only ever counted. Hence what is known of a part of the
record stays true while another part is read: an arrival that may only be the last one (``only_if_last``) can look at
all others, and then arrive as any other.

An arrival costs what its leaf weighs, however wide the fan-in is, and a read of the root, which has some bytes for
each complete leaf, and the notes. The root is written once in `LEAF_MEMBERS` arrivals, and for each note.

To delete a record is to delete its root; a new one has another token, so nobody finds the old leaves. Leaves live
longer than their root says that all of them do, see `root_lives` and `leaf_lives`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from wukong.backends.storage.dynamodb.client import DynamoCall
from wukong.backends.storage.dynamodb.items import binary, expires, key_of
from wukong.backends.storage.dynamodb.record import MOST_MEMBERS, TableRecord, packed, who_of
from wukong.core.storage import Arrival, bitmap

__all__ = [
    "LEAF_MEMBERS",
    "arrived_in",
    "counted",
    "counted_in",
    "is_whole",
    "is_wide",
    "leaf_lives",
    "leaf_of",
    "leaf_record",
    "n_leaves",
    "part_of",
    "planted",
    "prolonged",
    "rider_lives",
    "root_lives",
    "root_noted",
]

LEAF_MEMBERS = 32
"""An arrival is billed by its leaf's size, which half of the leaf's members weigh on average: with riders of 30 bytes
each 1.4 units of writing, with 64 members in a leaf 1.9. Smaller leaves make a larger root."""

_ROOT_LIVES, _LEAF_LIVES = 2, 3
"""Times to live, as multiples of the record's own: so roots are seldom prolonged, and with each all of its leaves."""


def is_wide(of: int) -> bool:
    """Return whether a fan-in of `of` members has leaves."""
    return of > MOST_MEMBERS


def n_leaves(of: int) -> int:
    """Return how many leaves a fan-in has."""
    return -(-of // LEAF_MEMBERS)


def leaf_of(member: int) -> int:
    """Return the number of the leaf that a member belongs to."""
    return member // LEAF_MEMBERS


def leaf_record(record: bytes, root: TableRecord, leaf: int) -> bytes:
    """Return the key of a leaf's record."""
    return b"%b/%b/%d" % (record, root.token.encode(), leaf)


def part_of(arrival: Arrival, root: TableRecord, leaf: int) -> Arrival:
    """Return what an arrival is at one leaf: members counted from the leaf's first, and no value."""
    first = leaf * LEAF_MEMBERS
    of = min(LEAF_MEMBERS, arrival.of - first)
    members = tuple(member - first for member in arrival.members if 0 <= member - first < of)
    return replace(
        arrival,
        record=leaf_record(arrival.record, root, leaf),
        members=members,
        of=of,
        value=None,
        only_if_last=False,
    )


def is_whole(root: TableRecord) -> bool:
    """Return whether all leaves have been counted."""
    return len(root.members) >= n_leaves(root.of)


def counted_in(root: TableRecord) -> set[int]:
    """Return which leaves have been counted."""
    return set(map(int, root.members))


def arrived_in(root: TableRecord, leaves: dict[int, TableRecord]) -> int:
    """Return a bitmap of the members that have arrived; `leaves`: those that are there and have not been counted."""
    bits = 0
    for leaf in counted_in(root):
        first = leaf * LEAF_MEMBERS
        bits |= ((1 << min(LEAF_MEMBERS, root.of - first)) - 1) << first
    for leaf, record in leaves.items():
        bits |= bitmap([int(member) for member in record.members], record.of) << leaf * LEAF_MEMBERS
    return bits


def root_lives(now_s: float, ttl_s: float | None) -> int | None:
    """Return until when a root says that all of the record is there, Unix time; None: for ever."""
    return expires(now_s, None if ttl_s is None else _ROOT_LIVES * ttl_s)


def rider_lives(now_s: float, ttl_s: float | None) -> int | None:
    """Return until when a value beside a leaf is there if its root is not known yet, Unix time; None: for ever."""
    return expires(now_s, None if ttl_s is None else _LEAF_LIVES * ttl_s)


def leaf_lives(root: TableRecord, now_s: float, ttl_s: float | None) -> int | None:
    """Return until when a leaf, and what rides beside it, is there: at least as long as its root says."""
    until_s = rider_lives(now_s, ttl_s)
    return None if until_s is None or root.expires_s is None else max(until_s, root.expires_s)


def planted(arrival: Arrival, before: TableRecord | None, expires_s: int | None, token: bytes) -> DynamoCall:
    """Return the write that makes a root, in place of none or of one whose time was over."""
    item: dict[str, Any] = {
        **key_of(b"r", arrival.record),
        "of": {"N": str(arrival.of)},
        "token": binary(token),
        "n": {"N": "1"},
    }
    if expires_s is not None:
        item["expires"] = {"N": str(expires_s)}
    parameters: dict[str, Any] = {
        "Item": item,
        "ConditionExpression": "attribute_not_exists(#k)",
        "ExpressionAttributeNames": {"#k": "k"},
    }
    if before is not None:
        parameters["ConditionExpression"] = "#token = :token"
        parameters["ExpressionAttributeNames"] = {"#token": "token"}
        parameters["ExpressionAttributeValues"] = {":token": {"B": before.token}}
    return DynamoCall("PutItem", {**parameters, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"})


def counted(record: bytes, root: TableRecord, leaf: int, who: bytes) -> DynamoCall:
    """Return the write that counts a complete leaf, once."""
    values = {":who": who_of(who), ":leaf": {"N": str(leaf)}, ":leaves": {"NS": [str(leaf)]}}
    names = {"#who": "who", "#got": "got"}
    return _changed(record, root, "SET #who = :who ADD #got :leaves,", "NOT contains(#got, :leaf)", names, values)


def root_noted(arrival: Arrival, root: TableRecord, most_bytes: int) -> DynamoCall | None:
    """Return the write that notes what a claimant holds, in place of its last note if there is one.

    None: all notes together would be larger than `most_bytes`. Nor does the write do anything if they would be by then.
    Notes of others do not hinder it.
    """
    note = packed(arrival.claimant, bitmap(arrival.members, arrival.of))
    values: dict[str, Any] = {":note": binary(note)}
    at = root.noted_at(arrival.claimant)
    if at is None:
        more_bytes = _weighs(note)
        values |= {":notes": {"L": []}, ":new": {"L": [binary(note)]}}
        update = "SET #notes = list_append(if_not_exists(#notes, :notes), :new)"
        condition = "NOT contains(#notes, :note) AND (attribute_not_exists(#held) OR #held <= :room)"
    else:
        more_bytes = _weighs(note) - _weighs(root.notes[at])
        values[":old"] = binary(root.notes[at])
        update = f"SET #notes[{at}] = :note"
        condition = f"#notes[{at}] = :old AND #held <= :room"
    if sum(map(_weighs, root.notes)) + more_bytes > most_bytes:
        return None
    values |= {":more": {"N": str(more_bytes)}, ":room": {"N": str(most_bytes - more_bytes)}}
    names = {"#notes": "notes", "#held": "held"}
    return _changed(arrival.record, root, f"{update} ADD #held :more,", condition, names, values)


def _weighs(note: bytes) -> int:
    """Return what a note adds to the size of its root; a list has a byte for each of its elements."""
    return len(note) + 1


def prolonged(record: bytes, root: TableRecord, expires_s: int | None) -> DynamoCall:
    """Return the write that says until when all of a record is there now."""
    if expires_s is None:
        return _changed(
            record, root, "REMOVE #expires ADD", "#n > :zero", {"#expires": "expires"}, {":zero": {"N": "0"}}
        )
    values = {":expires": {"N": str(expires_s)}}
    return _changed(record, root, "SET #expires = :expires ADD", "#expires < :expires", {"#expires": "expires"}, values)


def _changed(
    record: bytes, root: TableRecord, update: str, condition: str, names: dict[str, str], values: dict[str, Any]
) -> DynamoCall:
    """Return an `UpdateItem` of a root that is still the same record."""
    return DynamoCall(
        "UpdateItem",
        {
            "Key": key_of(b"r", record),
            "UpdateExpression": f"{update} #n :one",
            "ConditionExpression": f"#token = :token AND {condition}",
            "ExpressionAttributeNames": {"#token": "token", "#n": "n", **names},
            "ExpressionAttributeValues": {":token": {"B": root.token}, ":one": {"N": "1"}, **values},
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        },
    )
