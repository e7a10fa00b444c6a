"""The record of a fan-in in LMDB: the set of members that arrived, and the values that rode in with them.

    r<record>             head: expiry, claimant, members as a bitmap, small riding values
    s<id>a<member>        one riding value that the head has no room for; `member` is the first new one it came with

A head stays small however many values ride in, so each of 10,000 arrivals costs the same, and the claimant collects
them with one pass over neighbouring keys. `id` is unique in the store's life (`holds.number`), so a new record never
takes over what a deleted record has left. Notes of members that are held without having arrived have the same `id`
(`holds`). What an arrival does to all this, and what it is told, `wukong.core.storage.arrive` says.

All functions here run inside one write transaction of the caller's, which makes an arrival atomic.
"""

from __future__ import annotations

import struct

import lmdb

from wukong.backends.storage.local.holds import NO_ID, Holds, number
from wukong.core import storage
from wukong.core.storage import Arrival, Buffer, FanInRecord, Outcome

_HEAD = struct.Struct("<dI12sII")  # expires at, of, id, length of claimant, length of bitmap
_LENGTH = struct.Struct("<I")
_HEAD_BYTES = 1800  # a node of LMDB takes no more than about 2,000 bytes without a page of its own


def arrive(
    txn: lmdb.Transaction[bytes], key: bytes, arrival: Arrival, expires_s: float, now_s: float, nth: int
) -> Outcome:
    """Record one arrival under `key`; `nth` distinguishes the records that one transaction makes, see `holds.number`.

    Raises ValueError if the arrival contradicts itself or the record, before anything is changed by it.
    """
    raw = txn.get(key)
    if raw is not None and _HEAD.unpack_from(raw)[0] <= now_s:
        delete(txn, key)
        raw = None
    if raw is None:
        of, record, arrived, claimant, riding = arrival.of, NO_ID, 0, b"", b""
    else:
        _, of, record, claimant_bytes, bitmap_bytes = _HEAD.unpack_from(raw)
        start = _HEAD.size + claimant_bytes
        claimant = raw[_HEAD.size : start]
        arrived = int.from_bytes(raw[start : start + bitmap_bytes], "little")
        riding = raw[start + bitmap_bytes :]
    before = FanInRecord(of, arrived, claimant)
    if arrival.only_if_last:
        before = before._replace(notes=Holds(txn, record, nth))
    after, outcome = storage.arrive(before, arrival)
    if after is not before:
        bits = after.arrived.to_bytes(-(-of // 8), "little")
        claimant = after.claimant or b""
        if isinstance(after.notes, Holds):
            record = after.notes.record
        for value in after.values:  # the one that rode in now
            if len(riding) + len(value) + len(claimant) + len(bits) + _LENGTH.size <= _HEAD_BYTES:
                riding += _LENGTH.pack(len(value)) + value
            else:
                if record == NO_ID:
                    record = number(txn, nth)
                new = after.arrived ^ arrived
                txn.put(b"s" + record + b"a" + ((new & -new).bit_length() - 1).to_bytes(4, "big"), value)
        head = _HEAD.pack(expires_s, of, record, len(claimant), len(bits))
        txn.put(key, b"".join((head, claimant, bits, riding)))
    return Outcome(True, True, _values(txn, record, riding)) if outcome.claimed else outcome


def delete(txn: lmdb.Transaction[bytes], key: bytes) -> None:
    """Delete a record with all its rows. A missing record is no error."""
    raw = txn.get(key)
    if raw is None:
        return
    txn.delete(key)
    record = _HEAD.unpack_from(raw)[2] if len(raw) >= _HEAD.size else NO_ID
    if record != NO_ID:
        prefix = b"s" + record
        cursor = txn.cursor()
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            found = cursor.delete()


def expired(raw: Buffer, now_s: float) -> bool:
    """Return whether a head has expired; a damaged one counts as expired."""
    return len(raw) < _HEAD.size or bool(_HEAD.unpack_from(raw)[0] <= now_s)


def _values(txn: lmdb.Transaction[bytes], record: bytes, riding: bytes) -> tuple[bytes, ...]:
    values = []
    at = 0
    while at < len(riding):
        (length,) = _LENGTH.unpack_from(riding, at)
        at += _LENGTH.size
        values.append(riding[at : at + length])
        at += length
        if at > len(riding):
            raise struct.error("a value that rode in is cut off")
    if record != NO_ID:
        prefix = b"s" + record + b"a"
        cursor = txn.cursor()
        if cursor.set_range(prefix):
            for key, value in cursor:
                if not key.startswith(prefix):
                    break
                values.append(value)
    return tuple(values)
