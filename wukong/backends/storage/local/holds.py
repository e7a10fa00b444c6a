"""The notes of a fan-in's record in LMDB: what claimants hold that came with ``only_if_last`` and were not the last.

    s<id>n<claimant>      a note: the members that the claimant holds
    s<id>o<place>         the key of a note; places sort as the claimants' first notes came
    s<id>h<page>          members 4096 * page .. that some note names, as a bitmap

A note is found by its claimant, the union of all notes by page. The order is read from its beginning only if everything
has arrived or is held. So to ask again costs the same however many claimants hold members, and writes nothing. Members
that have arrived may stay in the notes and in their union: every check compares with the members that have arrived.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable

import lmdb

from wukong.core.storage import Arrival

PAGE = 4096
_LONG_CLAIMANT = 256  # a key of LMDB has 511 bytes at most


def number(txn: lmdb.Transaction[bytes], nth: int) -> bytes:
    """Return 12 bytes that are larger than all earlier ones in the store's life.

    The count of transactions starts again after records have moved, so `nth` then contains the last one before the
    move, shifted by 32 bits.
    """
    return ((txn.id() << 32) + nth).to_bytes(12, "big")


def known(txn: lmdb.Transaction[bytes], record: bytes, arrival: Arrival) -> bool:
    """Return whether exactly this note has been made at the record with the id `record`."""
    return txn.get(_note_key(record, arrival.claimant)) == _packed(arrival)


def note(txn: lmdb.Transaction[bytes], record: bytes, arrival: Arrival, nth: int) -> None:
    """Note that the claimant holds the arrival's members, in place of what it noted before.

    `nth` distinguishes the notes that one transaction makes, see `number`.
    """
    key = _note_key(record, arrival.claimant)
    before = txn.get(key)
    if before is None:
        txn.put(b"s" + record + b"o" + number(txn, nth), key)
    txn.put(key, _packed(arrival))
    held = _pages(arrival.members)
    dropped = set(_unpacked(before)).difference(arrival.members) if before is not None else ()
    if dropped:
        for page in _pages(dropped):
            held.setdefault(page, 0)
        cursor = txn.cursor()
        prefix = b"s" + record + b"n"
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix):
            for page, bits in _pages(_unpacked(cursor.value())).items():
                if page in held:
                    held[page] |= bits
            found = cursor.next()
    for page, bits in held.items():
        if not dropped:
            bits |= bitmap(txn, record, b"h", page)
        txn.put(_page_key(record, b"h", page), bits.to_bytes(-(-bits.bit_length() // 8), "little"))


def give_way(txn: lmdb.Transaction[bytes], record: bytes, of: int, arrived: int, claimant: bytes) -> bool:
    """Return whether all members have arrived or are held, and an earlier holder still waits for some.

    `arrived` is page 0 of those that have arrived. The claimant has made its note.
    """
    for page in range(-(-of // PAGE)):
        there = arrived if page == 0 else bitmap(txn, record, b"m", page)
        whole = (1 << min(PAGE, of - page * PAGE)) - 1
        if there != whole and there | bitmap(txn, record, b"h", page) != whole:
            return False
    mine = _note_key(record, claimant)
    cursor = txn.cursor()
    found = cursor.set_range(b"s" + record + b"o")
    while found and (key := cursor.value()) != mine:
        for page, bits in _pages(_unpacked(txn.get(key, b""))).items():
            if bits & ~(arrived if page == 0 else bitmap(txn, record, b"m", page)):
                return True
        found = cursor.next()
    return False


def bitmap(txn: lmdb.Transaction[bytes], record: bytes, kind: bytes, page: int) -> int:
    """Return one page of a record's bitmap as a number: ``m``, those that have arrived, or ``h``, those held."""
    return int.from_bytes(txn.get(_page_key(record, kind, page), b""), "little")


def _page_key(record: bytes, kind: bytes, page: int) -> bytes:
    return b"s" + record + kind + page.to_bytes(4, "big")


def _note_key(record: bytes, claimant: bytes) -> bytes:
    return b"s" + record + b"n" + (claimant if len(claimant) < _LONG_CLAIMANT else hashlib.blake2b(claimant).digest())


def _packed(arrival: Arrival) -> bytes:
    members = arrival.members
    return struct.pack(f"<{len(members)}I", *sorted(members))


def _unpacked(note: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(note) // 4}I", note)


def _pages(members: Iterable[int]) -> dict[int, int]:
    pages: dict[int, int] = {}
    for member in members:
        page, bit = divmod(member, PAGE)
        pages[page] = pages.get(page, 0) | 1 << bit
    return pages
