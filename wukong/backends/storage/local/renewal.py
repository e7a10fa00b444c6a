"""Times to live in LMDB, set anew: of all rows whose keys begin alike, some hundred in one transaction.

Values and heads of records say when they expire, in their first bytes, and what belongs to a record goes with its head.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import lmdb

from wukong.backends.storage.local.environment import Environment

__all__ = ["HEADS", "renew"]

HEADS = {b"v": struct.Struct("<Bd"), b"r": struct.Struct("<d")}
"""What rows of each kind begin with; the last of it is when they expire."""

_ROWS, _BYTES = 512, 1 << 20


def renew(
    env: Environment,
    write: Callable[[Callable[[lmdb.Transaction[bytes]], None], int], None],
    begin: bytes,
    expires_s: float,
    now_s: float,
) -> None:
    """Let rows that begin so, kind and key, expire then, unless their time is over.

    `write` carries out a change that makes the file grow by so many bytes at most.
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
