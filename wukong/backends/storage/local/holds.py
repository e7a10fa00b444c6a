"""The notes of a fan-in's record in LMDB: what claimants hold that came with ``only_if_last`` and were not the last.

    s<id>n<claimant>      a note: the members that the claimant holds
    s<id>o<place>         the key of a note; places sort as the claimants' first notes came
    s<id>h                members that some note names

A note is found by its claimant, and the union of all notes at once. The order is read from its beginning only if
everything has arrived or is held. So to ask again costs the same however many claimants hold members, and writes
nothing. Members that have arrived may stay in the notes and in their union.
"""

from __future__ import annotations

import hashlib

import lmdb

from wukong.core.storage import Notes

NO_ID = bytes(12)
_LONG_CLAIMANT = 256  # a key of LMDB has 511 bytes at most


def number(txn: lmdb.Transaction[bytes], nth: int) -> bytes:
    """Return 12 bytes that are larger than all earlier ones in the store's life.

    The count of transactions starts again after records have moved, so `nth` then contains the last one before the
    move, shifted by 32 bits.
    """
    return ((txn.id() << 32) + nth).to_bytes(12, "big")


class Holds(Notes):
    """The notes of the record with the id `record`; if that is `NO_ID`, there is none yet, and the first one makes it.

    `nth` distinguishes the notes that one transaction makes, see `number`.
    """

    def __init__(self, txn: lmdb.Transaction[bytes], record: bytes, nth: int) -> None:
        super().__init__()
        self.txn, self.record, self.nth = txn, record, nth

    def noted(self, claimant: bytes, members: int) -> Holds:
        """See `Notes.noted`. Writes the note."""
        txn, note = self.txn, _packed(members)
        before = None if self.record == NO_ID else txn.get(_note_key(self.record, claimant))
        if before == note:
            return self
        record = number(txn, self.nth) if self.record == NO_ID else self.record
        key = _note_key(record, claimant)
        if before is None:
            txn.put(b"s" + record + b"o" + number(txn, self.nth), key)
        txn.put(key, note)
        held = members
        if before is None or not _unpacked(before) & ~members:
            held |= _unpacked(txn.get(b"s" + record + b"h", b""))
        else:
            cursor, prefix = txn.cursor(), b"s" + record + b"n"
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                held |= _unpacked(cursor.value())
                found = cursor.next()
        txn.put(b"s" + record + b"h", _packed(held))
        return Holds(txn, record, self.nth)

    def gives_way(self, claimant: bytes, arrived: int, whole: int) -> bool:
        """See `Notes.gives_way`."""
        txn, prefix = self.txn, b"s" + self.record
        if arrived | _unpacked(txn.get(prefix + b"h", b"")) != whole:
            return False
        mine = _note_key(self.record, claimant)
        cursor = txn.cursor()
        found = cursor.set_range(prefix + b"o")
        while found and (key := cursor.value()) != mine:
            if _unpacked(txn.get(key, b"")) & ~arrived:
                return True
            found = cursor.next()
        return False


def _note_key(record: bytes, claimant: bytes) -> bytes:
    return b"s" + record + b"n" + (claimant if len(claimant) < _LONG_CLAIMANT else hashlib.blake2b(claimant).digest())


def _packed(members: int) -> bytes:
    """Return a bitmap as bytes: its first member, and what follows from there."""
    first = max(0, (members & -members).bit_length() - 1)
    return first.to_bytes(4, "little") + (members >> first).to_bytes(-(-members.bit_length() // 8), "little")


def _unpacked(note: bytes) -> int:
    return int.from_bytes(note[4:], "little") << int.from_bytes(note[:4], "little")
