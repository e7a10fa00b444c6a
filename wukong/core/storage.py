"""What the core and an intermediate store exchange: bytes under keys, and arrivals at fan-ins.

`wukong.backends.storage` exports all of this for the authors of stores, beside `Store` itself. `arrive` is the
definition of a fan-in: stores that can hold a record as a whole use it, others do the same in a language of their own
(`redis`: Lua), and the conformance suite compares every store with it.

    arrival     members 0..of-1 of one fan-in, in a claimant's name; a value may ride along
    record      the set of members that have arrived, never a bare count: a repeated arrival changes nothing
    claim       belongs to the claimant that completes the set. The record has its name, so whoever asks in that name
                is told so again
    note        left by a claimant that came ``only_if_last`` and was not the last: it holds members that have not
                arrived. It is asked to give way if every member has arrived or is held, and another one noted first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
Blob: TypeAlias = "bytes | bytearray | memoryview | tuple[Buffer, ...]"
"""A value as a store takes it: one buffer, or several that are to be stored back to back."""


def joined(blob: Blob) -> Buffer:
    """Return a blob as one contiguous buffer (a copy only if it came in several parts)."""
    return b"".join(blob) if isinstance(blob, tuple) else blob


def blob_size(blob: Blob) -> int:
    """Return the size of a blob in bytes."""
    if isinstance(blob, bytes):
        return len(blob)
    if isinstance(blob, tuple):
        return sum(map(blob_size, blob))
    return memoryview(blob).nbytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """One executor's arrival at a fan-in's record, as the store sees it.

    Attributes:
        record: key of the record. Records and values are separate name spaces.
        members: which of the fan-in's inputs arrive, each in ``range(of)``; at least one, none twice.
        of: how many members make the set complete; the same in every arrival at this record.
        claimant: in whose name the arrival is made. If the claim belongs to this claimant, every later arrival in its
            name is told so again.
        value: bytes that ride along; the claimant gets them when the set is complete. A store takes at least a million
            bytes, or as many as its `put` takes if that is less, and may refuse more.
        only_if_last: record this arrival only if it completes the set. Otherwise only note that the claimant *holds*
            these members (in place of what it noted before at this record); a note is not an arrival.
    """

    record: bytes
    members: tuple[int, ...]
    of: int
    claimant: bytes
    value: bytes | None = None
    only_if_last: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the store answers to one `Arrival`.

    Attributes:
        complete: the set is complete after this call.
        claimed: this claimant has completed it, now or by an earlier call.
        give_way: only for ``only_if_last``, if the set is not complete: every member has arrived or is held, and
            another claimant, some of whose members have not arrived, noted its hold before this one did. Nobody will
            come to this claimant; the other one waits for it to arrive.
        values: only if claimed: every value that rode in, in no particular order. A value rides in once: an arrival
            that adds no new member leaves the recorded values as they are.
    """

    complete: bool
    claimed: bool
    values: tuple[bytes, ...] = ()
    give_way: bool = False


@dataclass(frozen=True)
class Notes:
    """Who holds which members of a fan-in without having arrived, in the order of the claimants' first notes.

    Sets of members are bitmaps: bit ``m`` stands for member ``m``. A store that has each note in a place of its own may
    derive its own kind, with `noted` and `gives_way`.
    """

    held: tuple[tuple[bytes, int], ...] = ()

    def noted(self, claimant: bytes, members: int) -> Notes:
        """Return the notes with this one, which takes the place of the claimant's last; itself if nothing is new."""
        held = dict(self.held)
        if held.get(claimant) == members:
            return self
        held[claimant] = members
        return Notes(tuple(held.items()))

    def gives_way(self, claimant: bytes, arrived: int, whole: int) -> bool:
        """Whether all of `whole` has arrived or is held, and a claimant that noted before this one still waits."""
        there, before, waits = arrived, True, False
        for who, members in self.held:
            there |= members
            before = before and who != claimant
            waits = waits or (before and bool(members & ~arrived))
        return waits and there == whole


_NOBODY = Notes()
_NOT_YET, _ANOTHERS = Outcome(False, False), Outcome(True, False)


class FanInRecord(NamedTuple):
    """The record of one fan-in.

    Attributes:
        of: how many members it has.
        arrived: a bitmap of those that have arrived.
        claimant: who has completed the set; None until somebody has.
        values: what rode in, in the order of arrival.
        notes: who holds which members; none once the set is complete.
    """

    of: int
    arrived: int = 0
    claimant: bytes | None = None
    values: tuple[bytes, ...] = ()
    notes: Notes = _NOBODY


def arrive(record: FanInRecord, arrival: Arrival) -> tuple[FanInRecord, Outcome]:
    """Return the record after an arrival, and the arrival's outcome; the same record if nothing changes.

    A store need not read all of a record. `notes` matter only for `Arrival.only_if_last`, and `values` are only added
    to. If it leaves values out, the new record has only the one that rides in now, and the outcome lacks the others.

    Raises ValueError if the arrival contradicts itself or the record.
    """
    of, before, claimant, values, notes = record
    members = bitmap(arrival.members, arrival.of)
    if arrival.of != of:
        raise ValueError(f"The fan-in has {of} members, and an arrival says {arrival.of}.")
    whole = (1 << of) - 1
    if before == whole:
        return record, Outcome(True, True, values) if arrival.claimant == claimant else _ANOTHERS
    arrived = before | members
    if arrived != whole and arrival.only_if_last:
        now = notes.noted(arrival.claimant, members)
        if now is not notes:
            record = FanInRecord(of, before, None, values, now)
        return record, Outcome(False, False, (), now.gives_way(arrival.claimant, before, whole))
    if arrived == before:
        return record, _NOT_YET
    if arrival.value is not None:
        values = (*values, arrival.value)
    if arrived != whole:
        return FanInRecord(of, arrived, None, values, notes), _NOT_YET
    return FanInRecord(of, arrived, arrival.claimant, values), Outcome(True, True, values)


def bitmap(members: Sequence[int], of: int) -> int:
    """Return members as a bitmap. Raises ValueError if there is none, or one that is not in ``range(of)``."""
    if not members:
        raise ValueError("An arrival has at least one member.")
    bits = 0
    for member in members:
        if not 0 <= member < of:
            raise ValueError(f"Member {member} is not in a fan-in of {of}.")
        bits |= 1 << member
    return bits


class StorePort(Protocol):
    """What the core needs of a store; the contract is `wukong.backends.storage.Store`."""

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """Return the value of each key; None if there is none."""
        ...

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """Store all items."""
        ...

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete values and records."""
        ...

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """Return the value as soon as there is one; None when `timeout_s` seconds are over."""
        ...

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """Record arrivals; return one outcome each."""
        ...
