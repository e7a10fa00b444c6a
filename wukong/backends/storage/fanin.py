"""A fan-in's record as one small piece of bytes, for a store that can swap a value only if nobody else has.

Pure: no store, no clock, no random source. A plug-in whose store has an atomic compare-and-swap gets `Store.incr` from
it by reading the record, having the arrival judged, and writing the new record if the old one is still there:

    while True:
        raw, version = fetch(record)                      # raw is None if there is no record
        fanin = FanIn.unpack(raw, record) if raw is not None else FanIn(arrival.of, os.urandom(TOKEN_BYTES))
        ruling = fanin.arrive(arrival, alias)             # alias is b"" at first
        if ruling.ride is not None and not add(ruling.ride, arrival.value):
            alias = os.urandom(ALIAS_BYTES)               # somebody else has put a value there: another name
        elif not fanin.changed or swap(record, fanin.pack(), version):
            break                                         # else: somebody came between, so once more
    values = ruling.outcome.values + fetched(ruling.collect)

Values ride in the record itself while they are few and small. Others are stored beside it *before* the record names
them, each under a name of its own. So 10,000 arrivals at one fan-in write a record of 2.5 kB 10,000 times, and not a
record of all values. A value's name is made of

- the record's *token*, which is random: a new record never takes over what a deleted or forgotten record has left;
- the smallest member that is new with the arrival: a member is new once, so no other value is recorded under it.
  If two bring the same member at the same moment, `add` lets one of them have the name;
- for the other, an *alias*, which is random and is written down in the record.

If no record names a value in the end, the one who stored it deletes it (`riders` says which names are in use), or its
time to live ends.

What an arrival does to a record, and what it is told, `wukong.core.storage.arrive` says; here is how the record becomes
bytes. Notes of who holds what (`Arrival.only_if_last`) stay in it until the set is complete.

A record's time to live begins anew with every write, and so must that of the values beside it. To write each of them
again at each arrival would cost too much. So they get a longer life than the record, and the record says how long
(`FanIn.riders_until_s`). An arrival that finds this too short renews all of them.

    head        magic, token, of, riders_until_s, lengths of what follows
    arrived     a bitmap of the members
    riders      a bitmap of the members whose names hold values; empty if there is none
    aliases     member and alias of every value that is stored under an alias
    inside      length and bytes of every value that rides in the record
    claimant    who completed the set
    notes       lengths and bytes of every note's claimant and members, in the order of their first notes
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from wukong.core.storage import Arrival, FanInRecord, Notes, Outcome, arrive
from wukong.errors import StoreError

__all__ = ["ALIAS_BYTES", "TOKEN_BYTES", "FanIn", "Ruling"]

TOKEN_BYTES = 16
ALIAS_BYTES = 8
INSIDE_BYTES = 4_096
"""The most bytes of a record that values may take, unless the caller says otherwise."""

_HEAD = struct.Struct("<4s16sId5I")
_MAGIC = b"fan\x01"
_NOTE = struct.Struct("<II")
_NUMBER = struct.Struct("<I")
_ALIAS = struct.Struct(f"<I{ALIAS_BYTES}s")
_LIST, _BITMAP = b"\x00", b"\x01"


@dataclass(frozen=True, slots=True)
class Ruling:
    """The outcome of one arrival, valid once the record is written.

    Attributes:
        outcome: the answer; if it says ``claimed``, its values are those inside the record.
        ride: the name under which the arrival's value has to be stored before the record is written; None: none.
        collect: if claimed, the names of the values that are stored outside the record, `ride` among them.
    """

    outcome: Outcome
    ride: bytes | None = None
    collect: tuple[bytes, ...] = ()


class FanIn:
    """One fan-in's record, open to be changed.

    Args:
        of: how many members it has.
        token: `TOKEN_BYTES` random bytes; no two records ever have the same.

    Attributes:
        changed: whether there is something to write.
        riders_until_s: until when the values outside the record are kept, by a clock that all callers share. The
            caller reads and sets it; here it is only stored.
    """

    __slots__ = (
        "_aliases",
        "_arrived",
        "_claimant",
        "_inside",
        "_key",
        "_notes",
        "_riders",
        "_token",
        "_whole",
        "changed",
        "of",
        "riders_until_s",
    )

    def __init__(self, of: int, token: bytes) -> None:
        self.of = of
        self.changed = False
        self.riders_until_s = math.inf
        self._key = b""
        self._token = token
        self._whole = (1 << of) - 1
        self._arrived = 0
        self._riders = 0
        self._aliases = b""
        self._inside = b""
        self._claimant = b""
        self._notes = b""

    @classmethod
    def unpack(cls, raw: bytes, key: bytes = b"") -> FanIn:
        """Return the record that `pack` made these bytes of; errors name it by `key`.

        Raises `StoreError` if these bytes are no record, or damaged. So does any method that finds damage later.
        """
        try:
            magic, token, of, riders_until_s, *lengths = _HEAD.unpack_from(raw)
        except struct.error:
            magic, of, lengths = b"", 0, []
        n_bitmap_bytes = -(-of // 8)
        if magic != _MAGIC or len(raw) != _HEAD.size + n_bitmap_bytes + sum(lengths):
            raise _damaged(key, f"{len(raw):,} bytes that are no record")
        parts = []
        at = _HEAD.size
        for length in (n_bitmap_bytes, *lengths):
            parts.append(raw[at : at + length])
            at += length
        record = cls(of, token)
        record.riders_until_s = riders_until_s
        arrived, riders, record._aliases, record._inside, record._claimant, record._notes = parts
        record._arrived = int.from_bytes(arrived, "little")
        record._riders = int.from_bytes(riders, "little")
        record._key = key
        if not of or record._arrived > record._whole or record._riders > record._whole:
            raise _damaged(key, f"members beyond the last of {of}")
        if len(record._aliases) % _ALIAS.size or math.isnan(riders_until_s):
            raise _damaged(key, "no names of what rides beside it")
        return record

    def pack(self) -> bytes:
        """Return the record as bytes, to be written."""
        n_bitmap_bytes = -(-self.of // 8)
        riders = self._riders.to_bytes(n_bitmap_bytes, "little") if self._riders else b""
        rest = (riders, self._aliases, self._inside, self._claimant, self._notes)
        head = _HEAD.pack(_MAGIC, self._token, self.of, self.riders_until_s, *map(len, rest))
        return b"".join((head, self._arrived.to_bytes(n_bitmap_bytes, "little"), *rest))

    def arrive(self, arrival: Arrival, alias: bytes = b"", *, inside_bytes: int = INSIDE_BYTES) -> Ruling:
        """Record an arrival; return its outcome.

        Args:
            arrival: see `Arrival`.
            alias: `ALIAS_BYTES` random bytes if the name without alias is taken; else b"".
            inside_bytes: the most bytes of the record that values may take.

        Raises ValueError if the arrival contradicts itself or the record, which it leaves as it was.
        """
        notes = tuple(self._read_notes()) if arrival.only_if_last else ()
        before = FanInRecord(self.of, self._arrived, self._claimant, (), Notes(notes))
        after, outcome = arrive(before, arrival)
        if after is before:
            return self._claimed() if outcome.claimed else Ruling(outcome)
        self.changed = True
        if after.arrived == before.arrived:
            self._notes = b"".join(_note(who, _packed(held, self.of)) for who, held in after.notes.held)
            return Ruling(outcome)
        ride = (
            self._ride(after.values[0], after.arrived ^ before.arrived, alias, inside_bytes) if after.values else None
        )
        self._arrived = after.arrived
        if not outcome.complete:
            return Ruling(outcome, ride)
        self._claimant, self._notes = arrival.claimant, b""
        return self._claimed(ride)

    def riders(self) -> list[bytes]:
        """Return the names of all values that are stored outside the record."""
        names = [self._token + _NUMBER.pack(member) for member in _numbers(self._riders)]
        return names + [
            self._token + self._aliases[at : at + _ALIAS.size] for at in range(0, len(self._aliases), _ALIAS.size)
        ]

    def _ride(self, value: bytes, new: int, alias: bytes, inside_bytes: int) -> bytes | None:
        if len(self._inside) + _NUMBER.size + len(value) <= inside_bytes:
            self._inside += _NUMBER.pack(len(value)) + value
            return None
        first = (new & -new).bit_length() - 1
        if alias:
            self._aliases += _ALIAS.pack(first, alias)
        else:
            self._riders |= 1 << first
        return self._token + _NUMBER.pack(first) + alias

    def _claimed(self, ride: bytes | None = None) -> Ruling:
        values = []
        at = 0
        while at < len(self._inside):
            start = at + _NUMBER.size
            at = start + int.from_bytes(self._inside[at:start], "little")
            if max(start, at) > len(self._inside):
                raise _damaged(self._key, "a value that is cut off")
            values.append(self._inside[start:at])
        return Ruling(Outcome(True, True, tuple(values)), ride, tuple(self.riders()))

    def _read_notes(self) -> Iterator[tuple[bytes, int]]:
        at = 0
        while at < len(self._notes):
            start = at + _NOTE.size
            if start > len(self._notes):
                raise _damaged(self._key, "a note that is cut off")
            n_who, n_held = _NOTE.unpack_from(self._notes, at)
            at = start + n_who + n_held
            if at > len(self._notes):
                raise _damaged(self._key, "a note that is cut off")
            yield self._notes[start : start + n_who], self._unpacked(self._notes[start + n_who : at])

    def _unpacked(self, packed: bytes) -> int:
        members = int.from_bytes(packed[1:], "little")
        if packed[:1] != _BITMAP:
            numbers = [int.from_bytes(packed[at : at + 4], "little") for at in range(1, len(packed), _NUMBER.size)]
            if max(numbers, default=0) >= self.of:
                raise _damaged(self._key, f"a note of members beyond the last of {self.of}")
            members = sum(1 << member for member in {*numbers})
        if members > self._whole:
            raise _damaged(self._key, f"a note of members beyond the last of {self.of}")
        return members


def _note(who: bytes, held: bytes) -> bytes:
    return b"".join((_NOTE.pack(len(who), len(held)), who, held))


def _numbers(bitmap: int) -> Iterator[int]:
    for n_byte, byte in enumerate(bitmap.to_bytes(-(-bitmap.bit_length() // 8), "little")):
        while byte:
            yield 8 * n_byte + (byte & -byte).bit_length() - 1
            byte &= byte - 1


def _packed(members: int, of: int) -> bytes:
    """Return members as bytes, the same for the same members: their numbers or a bitmap, whichever is shorter."""
    n_members = members.bit_count()
    if n_members * _NUMBER.size < -(-of // 8):
        return _LIST + struct.pack(f"<{n_members}I", *_numbers(members))
    return _BITMAP + members.to_bytes(-(-of // 8), "little")


def _damaged(key: bytes, what: str) -> StoreError:
    return StoreError(
        f"the record of the fan-in {key!r} is damaged: it has {what}",
        hint="something else writes under the store's keys, or the store has lost a part of what it was given",
    )
