"""New times to live in LMDB, for all rows whose keys share a prefix, some hundred rows in one transaction.

The first bytes of a value or of a record's head say when it expires; the rows of a record expire with its head.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import lmdb

from wukong.backends.storage.local.environment import LmdbEnvironment
from wukong.backends.storage.local.rows import HEAD

__all__ = ["HEADS", "renew"]

HEADS = {b"v": HEAD, b"r": struct.Struct("<d")}
"""The head of the rows of each kind; its last field is when they expire."""

_ROWS, _BYTES = 512, 1 << 20


def renew(
    env: LmdbEnvironment,
    write: Callable[[Callable[[lmdb.Transaction[bytes]], None], int], None],
    begin: bytes,
    expires_s: float,
    now_s: float,
) -> None:
    """Set `expires_s` for all rows whose kind and key begin with `begin`, unless they have expired.

    `write` carries out a change; its second argument is the most bytes by which the change makes the file grow.
    """
    head = HEADS[begin[:1]]
    first = begin
    while True:
        names: list[bytes] = []
        size_bytes = 0
        with env.lock, env.begin() as txn:
            cursor = txn.cursor()
            there = cursor.set_range(first)
            while there and len(names) < _ROWS and size_bytes < _BYTES and cursor.key().startswith(begin):
                names.append(cursor.key())
                size_bytes += 4096 + 2 * len(cursor.value())
                there = cursor.next()
        if not names:
            return

        def work(txn: lmdb.Transaction[bytes], names: list[bytes] = names) -> None:
            for name in names:
                row = txn.get(name)
                if row is not None and len(row) >= head.size:
                    *kind, at_s = head.unpack_from(row)
                    if at_s > now_s:
                        txn.put(name, head.pack(*kind, expires_s) + row[head.size :])

        write(work, size_bytes)
        first = names[-1] + b"\0"
