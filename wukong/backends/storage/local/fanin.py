"""The record of a fan-in in LMDB: the set of members that arrived, and the values that rode in with them.

    r<record>             head: expiry, counts, claimant, members 0..4095 as a bitmap, small riding values
    s<id>m<page>          members 4096 * page .. as a bitmap, for fan-ins larger than that
    s<id>a<member>        one riding value that the head has no room for; `member` is the first new one it came with

A head stays small however many arrive, so each of 10,000 arrivals costs the same, and the claimant collects the riding
values with one pass over neighbouring keys. `id` is unique in the store's life (`holds.number`), so a new record never
takes over what a deleted record has left. Notes of members that are held without having arrived have the same `id`
(`holds`).

All functions here run inside one write transaction of the caller's, which makes an arrival atomic.
"""

from __future__ import annotations

import struct

import lmdb

from wukong.backends.storage.local import holds
from wukong.backends.storage.local.holds import PAGE
from wukong.core.storage import Arrival, Buffer, Outcome

_HEAD = struct.Struct("<dII12sHH")  # expires at, of, arrived, id, length of claimant, length of bitmap
_LENGTH = struct.Struct("<I")
_NO_ID = bytes(12)
_HEAD_BYTES = 1800  # a node of LMDB takes no more than about 2,000 bytes without a page of its own


def arrive(
    txn: lmdb.Transaction[bytes], key: bytes, arrival: Arrival, expires_s: float, now_s: float, nth: int
) -> Outcome:
    """Record one arrival under `key`; `nth` distinguishes the records that one transaction makes, see `holds.number`.

    Raises ValueError if the arrival contradicts itself or the record, before anything is changed by it.
    """
    of = arrival.of
    if not arrival.members:
        raise ValueError("An arrival has at least one member.")
    if min(arrival.members) < 0 or max(arrival.members) >= of:
        raise ValueError(f"Members {min(arrival.members)} to {max(arrival.members)} are not all in a fan-in of {of}.")
    raw = txn.get(key)
    if raw is not None and _HEAD.unpack_from(raw)[0] <= now_s:
        delete(txn, key)
        raw = None
    if raw is None:
        arrived, record, claimant, rest = 0, _NO_ID, b"", b""
        bitmap = 0
    else:
        _, recorded_of, arrived, record, claimant_bytes, bitmap_bytes = _HEAD.unpack_from(raw)
        if recorded_of != of:
            raise ValueError(f"The fan-in has {recorded_of} members, and an arrival says {of}.")
        start = _HEAD.size + claimant_bytes
        claimant = raw[_HEAD.size : start]
        bitmap = int.from_bytes(raw[start : start + bitmap_bytes], "little")
        rest = raw[start + bitmap_bytes :]
        if arrived == of:
            if claimant != arrival.claimant:
                return Outcome(True, False)
            return Outcome(True, True, _values(txn, record, rest))

    if of <= PAGE:
        mask = 0
        for member in arrival.members:
            mask |= 1 << member
        new = mask & ~bitmap
        pages = {0: bitmap | mask}
        n_new = new.bit_count()
        first = (new & -new).bit_length() - 1
    else:
        pages, first, n_new = _union(txn, arrival, record, bitmap)
    complete = arrived + n_new == of
    if not complete and arrival.only_if_last:
        if record == _NO_ID or not holds.known(txn, record, arrival):
            if record == _NO_ID:
                record = holds.number(txn, nth)
            holds.note(txn, record, arrival, nth)
            bitmap_raw = bitmap.to_bytes(-(-min(of, PAGE) // 8), "little")
            txn.put(key, _HEAD.pack(expires_s, of, arrived, record, 0, len(bitmap_raw)) + bitmap_raw + rest)
        return Outcome(False, False, (), holds.give_way(txn, record, of, bitmap, arrival.claimant))
    if not n_new:
        return Outcome(False, False)

    if complete:
        claimant = arrival.claimant
    bitmap_raw = pages[0].to_bytes(-(-min(of, PAGE) // 8), "little")
    value = arrival.value
    inline = value is None or len(rest) + len(value) + len(claimant) + len(bitmap_raw) + 4 <= _HEAD_BYTES
    if record == _NO_ID and (len(pages) > 1 or not inline):
        record = holds.number(txn, nth)
    if value is not None:
        if inline:
            rest += _LENGTH.pack(len(value)) + value
        else:
            txn.put(b"s" + record + b"a" + first.to_bytes(4, "big"), value)
    for page, bits in pages.items():
        if page:
            txn.put(b"s" + record + b"m" + page.to_bytes(4, "big"), bits.to_bytes(PAGE // 8, "little"))
    head = _HEAD.pack(expires_s, of, arrived + n_new, record, len(claimant), len(bitmap_raw))
    txn.put(key, head + claimant + bitmap_raw + rest)
    if not complete:
        return Outcome(False, False)
    return Outcome(True, True, _values(txn, record, rest))


def delete(txn: lmdb.Transaction[bytes], key: bytes) -> None:
    """Delete a record with all its rows. A missing record is no error."""
    raw = txn.get(key)
    if raw is None:
        return
    txn.delete(key)
    record = _HEAD.unpack_from(raw)[3] if len(raw) >= _HEAD.size else _NO_ID
    if record != _NO_ID:
        prefix = b"s" + record
        cursor = txn.cursor()
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            found = cursor.delete()


def expired(raw: Buffer, now_s: float) -> bool:
    """Return whether a head has expired; a damaged one counts as expired."""
    return len(raw) < _HEAD.size or bool(_HEAD.unpack_from(raw)[0] <= now_s)


def _union(
    txn: lmdb.Transaction[bytes], arrival: Arrival, record: bytes, bitmap: int
) -> tuple[dict[int, int], int, int]:
    """Return page 0 and the pages that the arrival touches, changed by it; its first new member; how many are new."""
    pages = {0: bitmap}
    first, n_new = -1, 0
    for member in arrival.members:
        page, bit = divmod(member, PAGE)
        bits = pages.get(page)
        if bits is None:
            bits = 0 if record == _NO_ID else holds.bitmap(txn, record, b"m", page)
        if not bits >> bit & 1:
            n_new += 1
            first = member if first < 0 else min(first, member)
        pages[page] = bits | 1 << bit
    return pages, first, n_new


def _values(txn: lmdb.Transaction[bytes], record: bytes, rest: bytes) -> tuple[bytes, ...]:
    values = []
    at = 0
    while at < len(rest):
        (length,) = _LENGTH.unpack_from(rest, at)
        at += _LENGTH.size
        values.append(rest[at : at + length])
        at += length
        if at > len(rest):
            raise struct.error("a value that rode in is cut off")
    if record != _NO_ID:
        prefix = b"s" + record + b"a"
        cursor = txn.cursor()
        if cursor.set_range(prefix):
            for key, value in cursor:
                if not key.startswith(prefix):
                    break
                values.append(value)
    return tuple(values)
