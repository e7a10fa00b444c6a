"""A fan-in's record as an item, and the writes that change it. Pure.

    of        how many members the fan-in has
    got       the set of those that have arrived
    who       in whose name the last one of them arrived: the claimant, once the set is complete
    v<name>   a value that rides in the record
    r<name>   a value that rides beside it: in how many parts, and when they expire
    notes     who holds what, in the order of the first notes: claimant and bitmap
    token     random, another one for each record that is made under this key
    n         how many writes the record has seen

An arrival is *one* write, under the condition that it brings a member which has not arrived. So it adds its value once,
however often it is made, and the claimant in ``who`` when the set becomes complete has completed it: nobody can write
after that. The claim needs no write of its own. A write whose condition fails is answered with the item, which says
why.

Arrivals that hold (``only_if_last``) depend on more than a condition can say. They are judged here, by
`wukong.core.storage.arrive`, and written if the record has not changed since. A note that surely completes nothing is
appended in one write, too.

An item is rewritten, and billed, as a whole by each arrival, and takes 1,000 writes a second. So only fan-ins of up to
`MOST_MEMBERS` are one item; larger ones are a root with leaves, see `roots`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wukong.backends.storage.dynamodb.client import DynamoCall
from wukong.backends.storage.dynamodb.items import Item, binary, key_of, unbinary
from wukong.core.storage import Arrival, FanInRecord, Notes, bitmap
from wukong.errors import StoreError

__all__ = [
    "MOST_MEMBERS",
    "Ride",
    "Rider",
    "TableRecord",
    "added",
    "begun",
    "noted",
    "numbers",
    "packed",
    "renewed",
    "swapped",
    "who_of",
]

MOST_MEMBERS = 60
"""An arrival of up to this many members is one write (an expression has at most 4,096 characters). More are wide."""

_NOTE = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Rider:
    """A value beside a record: its name, in how many parts, and when they expire (Unix time; None: never)."""

    name: str
    n_parts: int
    expires_s: int | None

    def parts(self) -> list[bytes]:
        """Return the keys of its parts."""
        return [b"%b.%d" % (self.name.encode(), n) for n in range(self.n_parts)]

    def attribute(self) -> dict[str, str]:
        return {"S": f"{self.n_parts} {'' if self.expires_s is None else self.expires_s}"}


@dataclass(frozen=True, slots=True)
class Ride:
    """What an arrival's value becomes in its record: an attribute's name and the attribute."""

    name: str
    attribute: Mapping[str, Any]

    @classmethod
    def inside(cls, name: str, value: bytes) -> Ride:
        """Return a value that is in the record itself."""
        return cls(f"v{name}", binary(value) if value else {"NULL": True})

    @classmethod
    def beside(cls, rider: Rider) -> Ride:
        """Return a value that lies beside the record."""
        return cls(f"r{rider.name}", rider.attribute())


@dataclass(frozen=True)
class TableRecord:
    """A record as it was read.

    Attributes:
        of, token, n, who, expires_s: as in the module's docstring.
        members: the numbers of those that have arrived, as texts.
        values: what rides inside, by name. riders: what rides beside.
        notes: packed.
    """

    of: int
    token: str
    n: int
    who: bytes
    expires_s: int | None
    members: Sequence[str]
    values: Mapping[str, bytes]
    riders: tuple[Rider, ...]
    notes: Sequence[bytes] = field(default=())

    @classmethod
    def read(cls, item: Item, key: bytes) -> TableRecord:
        """Return the record that an item is; errors name it by `key`. Raises `StoreError` if it is none."""
        try:
            return cls(
                int(item["of"]["N"]),
                item["token"]["B"],
                int(item["n"]["N"]),
                unbinary(item["who"]) if "who" in item else b"",
                int(item["expires"]["N"]) if "expires" in item else None,
                item["got"]["NS"] if "got" in item else (),
                {name[1:]: unbinary(each) for name, each in item.items() if name[0] == "v"},
                tuple(_rider(name[1:], each["S"]) for name, each in item.items() if name[0] == "r"),
                [unbinary(each) for each in item["notes"]["L"]] if "notes" in item else (),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"the record of the fan-in {key!r} is damaged: {type(error).__name__}: {error}",
                hint="something else writes into the table",
            ) from error

    @property
    def is_complete(self) -> bool:
        return len(self.members) >= self.of

    def judged(self) -> FanInRecord:
        """Return the record as `arrive` takes it, without values."""
        bits = bytearray(self.of // 8 + 1)
        for member in map(int, self.members):
            bits[member >> 3] |= 1 << (member & 7)
        arrived = int.from_bytes(bits, "little")
        if self.is_complete:
            return FanInRecord(self.of, arrived, self.who)
        return FanInRecord(self.of, arrived, None, (), self.noted)

    @property
    def noted(self) -> Notes:
        """Who holds what."""
        held: dict[bytes, int] = {}
        for note in self.notes:
            claimant, members = _unpacked(note)
            held[claimant] = members  # a later note of the same claimant replaces the first in its place
        return Notes(tuple(held.items()))

    def noted_at(self, claimant: bytes) -> int | None:
        """Return at which place of `notes` a claimant's last note is; None: it has none."""
        return max((at for at, note in enumerate(self.notes) if _unpacked(note)[0] == claimant), default=None)


def added(arrival: Arrival, ride: Ride | None, expires_s: int | None, now_s: float, token: bytes) -> DynamoCall:
    """Return the write that records an arrival if it brings a new member; at most `MOST_MEMBERS`."""
    members = sorted({*arrival.members})
    values = {f":m{n}": {"N": str(member)} for n, member in enumerate(members)}
    known = " AND ".join(f"contains(#got, {name})" for name in values)
    update = _Update(arrival, expires_s, now_s, token)
    update.condition(f"NOT ({known})")
    update.values |= values
    update.add_members(members)
    update.set_who(arrival.claimant)
    update.set_ride(ride)
    return update.call()


def noted(arrival: Arrival, expires_s: int | None, now_s: float, token: bytes) -> DynamoCall:
    """Return the write that notes what a claimant holds, if that is new and surely completes nothing."""
    members = {*arrival.members}
    update = _Update(arrival, expires_s, now_s, token)
    update.condition("NOT contains(#notes, :note)")
    update.condition("(attribute_not_exists(#got) OR size(#got) < :room)")
    update.values |= {
        ":note": binary(packed(arrival.claimant, bitmap(arrival.members, arrival.of))),
        ":notes": {"L": []},
        ":room": {"N": str(arrival.of - len(members))},
    }
    update.values[":new"] = {"L": [update.values[":note"]]}
    update.names["#notes"] = "notes"
    update.names["#got"] = "got"
    update.sets.append("#notes = list_append(if_not_exists(#notes, :notes), :new)")
    return update.call()


def swapped(
    arrival: Arrival, before: TableRecord, after: FanInRecord, ride: Ride | None, expires_s: int | None
) -> DynamoCall:
    """Return the write that makes a record what it was judged to be, if it has not changed since it was read."""
    update = _Update(arrival, expires_s, None, b"")
    update.conditions = ["#token = :token", "#n = :n"]
    update.values |= {":token": {"B": before.token}, ":n": {"N": str(before.n)}}
    arrived = after.arrived ^ before.judged().arrived
    if arrived:
        update.add_members(numbers(arrived))
        update.set_who(arrival.claimant)
        update.set_ride(ride)
    if after.notes.held or before.notes:
        update.names["#notes"] = "notes"
        if after.notes.held:
            update.sets.append("#notes = :notes")
            update.values[":notes"] = {"L": [binary(packed(*each)) for each in after.notes.held]}
        else:
            update.removes.append("#notes")
    return update.call()


def begun(
    arrival: Arrival,
    before: TableRecord | None,
    after: FanInRecord,
    ride: Ride | None,
    expires_s: int | None,
    token: bytes,
) -> DynamoCall:
    """Return the write that begins a new record, in place of none or of one whose time is over."""
    item: dict[str, Any] = {
        **key_of(b"r", arrival.record),
        "of": {"N": str(after.of)},
        "token": binary(token),
        "n": {"N": "1"},
    }
    if after.arrived:
        item["got"] = {"NS": [str(member) for member in numbers(after.arrived)]}
        item["who"] = who_of(arrival.claimant)
        if ride is not None:
            item[ride.name] = ride.attribute
    if after.notes.held:
        item["notes"] = {"L": [binary(packed(*each)) for each in after.notes.held]}
    if expires_s is not None:
        item["expires"] = {"N": str(expires_s)}
    parameters: dict[str, Any] = {"Item": item, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    if before is None:
        parameters |= {"ConditionExpression": "attribute_not_exists(#k)", "ExpressionAttributeNames": {"#k": "k"}}
    else:
        parameters |= {
            "ConditionExpression": "#token = :token AND #n = :n",
            "ExpressionAttributeNames": {"#token": "token", "#n": "n"},
            "ExpressionAttributeValues": {":token": {"B": before.token}, ":n": {"N": str(before.n)}},
        }
    return DynamoCall("PutItem", parameters)


def renewed(key: bytes, token: str, riders: Sequence[Rider]) -> DynamoCall:
    """Return the write that says until when riders are kept now."""
    names = {f"#r{n}": f"r{rider.name}" for n, rider in enumerate(riders)}
    values = {f":r{n}": rider.attribute() for n, rider in enumerate(riders)}
    return DynamoCall(
        "UpdateItem",
        {
            "Key": key_of(b"r", key),
            "UpdateExpression": "SET " + ", ".join(f"#r{n} = :r{n}" for n in range(len(riders))),
            "ConditionExpression": "#token = :token",
            "ExpressionAttributeNames": {**names, "#token": "token"},
            "ExpressionAttributeValues": {**values, ":token": {"B": token}},
        },
    )


class _Update:
    """An `UpdateItem` of a record that makes it if there is none, and does nothing to one that differs in its size."""

    def __init__(self, arrival: Arrival, expires_s: int | None, now_s: float | None, token: bytes) -> None:
        self._key = key_of(b"r", arrival.record)
        self.names = {"#of": "of", "#n": "n", "#expires": "expires", "#token": "token"}
        self.values: dict[str, Any] = {":one": {"N": "1"}}
        self.sets: list[str] = []
        self.removes: list[str] = []
        self.adds = ["#n :one"]
        self.conditions: list[str] = []
        self._anew = now_s is not None
        if now_s is not None:
            self.conditions = ["#of = :of", "(attribute_not_exists(#expires) OR #expires > :now)"]
            self.values |= {
                ":of": {"N": str(arrival.of)},
                ":now": {"N": f"{now_s:.3f}"},
                ":token": binary(token),
            }
            self.sets += ["#of = :of", "#token = if_not_exists(#token, :token)"]
        if expires_s is None:
            self.removes.append("#expires")
        else:
            self.sets.append("#expires = :expires")
            self.values[":expires"] = {"N": str(expires_s)}

    def condition(self, text: str) -> None:
        self.conditions.append(text)

    def add_members(self, members: Sequence[int]) -> None:
        self.names["#got"] = "got"
        self.values[":got"] = {"NS": [str(member) for member in members]}
        self.adds.append("#got :got")

    def set_who(self, claimant: bytes) -> None:
        self.names["#who"] = "who"
        self.values[":who"] = who_of(claimant)
        self.sets.append("#who = :who")

    def set_ride(self, ride: Ride | None) -> None:
        if ride is not None:
            self.names["#ride"] = ride.name
            self.values[":ride"] = ride.attribute
            self.sets.append("#ride = :ride")

    def call(self) -> DynamoCall:
        whole = " AND ".join(self.conditions)
        if self._anew:
            whole = f"attribute_not_exists(#token) OR ({whole})"
        elif ":of" not in self.values:
            del self.names["#of"]
        parts = [
            f"{word} {', '.join(each)}"
            for word, each in (("SET", self.sets), ("REMOVE", self.removes), ("ADD", self.adds))
            if each
        ]
        return DynamoCall(
            "UpdateItem",
            {
                "Key": self._key,
                "UpdateExpression": " ".join(parts),
                "ConditionExpression": whole,
                "ExpressionAttributeNames": self.names,
                "ExpressionAttributeValues": self.values,
                "ReturnValues": "ALL_NEW",
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            },
        )


def who_of(claimant: bytes) -> dict[str, Any]:
    """Return a claimant as an attribute."""
    return dict(binary(claimant)) if claimant else {"NULL": True}


def _rider(name: str, text: str) -> Rider:
    n_parts, _, expires_s = text.partition(" ")
    return Rider(name, int(n_parts), int(expires_s) if expires_s else None)


def packed(claimant: bytes, members: int) -> bytes:
    """Return a note: who holds which members, a bitmap of which the bytes before the first member are left out."""
    before = ((members & -members).bit_length() - 1) // 8
    held = members >> 8 * before
    return b"".join((_NOTE.pack(len(claimant), before), claimant, held.to_bytes(-(-held.bit_length() // 8), "little")))


def _unpacked(note: bytes) -> tuple[bytes, int]:
    size, before = _NOTE.unpack_from(note)
    end = _NOTE.size + size
    return note[_NOTE.size : end], int.from_bytes(note[end:], "little") << 8 * before


def numbers(bits: int) -> list[int]:
    """Return the members of a bitmap."""
    return [number for number in range(bits.bit_length()) if bits >> number & 1]
