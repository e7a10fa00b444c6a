"""The rows of an embedded store's database: their keys, what their first bytes say, and what goes with a row.

v<key>   _SMALL, expires at, the value                 V<hash of the key>: a key that is too long for LMDB
v<key>   _LARGE, expires at, size, name of its file
r<key>   a fan-in's record (`fanin`); its parts under s (`fanin`, `holds`)
m        the sum of the large values' sizes            c   the clock (`clock`)
"""

from __future__ import annotations

import hashlib
import struct

import lmdb

from wukong.core.storage import Buffer

SMALL, LARGE = 0, 1
_LARGE_KIND = bytes([LARGE])
HEAD = struct.Struct("<Bd")  # kind, expires at
_LARGE_HEAD = struct.Struct("<BdQ")  # and size; the file's name follows
DAMAGE = struct.error, IndexError, OverflowError, ValueError
"""What reading a damaged row raises."""
_LARGE_TOTAL = b"m"
_MAX_KEY_BYTES = 500


def value_key(key: bytes) -> bytes:
    """Return the row's key of the value under `key`."""
    return b"v" + key if len(key) <= _MAX_KEY_BYTES else b"V" + hashlib.blake2b(key).digest()


def record_key(key: bytes) -> bytes:
    """Return the row's key of the fan-in's record under `key`."""
    return b"r" + key if len(key) <= _MAX_KEY_BYTES else b"R" + hashlib.blake2b(key).digest()


def large_row(expires_s: float, size_bytes: int, file: str) -> bytes:
    """Return the row of a large value."""
    return _LARGE_HEAD.pack(LARGE, expires_s, size_bytes) + file.encode()


def large(row: bytes) -> tuple[float, int, str]:
    """Return when a large value expires, its size in bytes and its file. Raises one of `DAMAGE`."""
    _, expires_s, size_bytes = _LARGE_HEAD.unpack_from(row)
    return expires_s, size_bytes, row[_LARGE_HEAD.size :].decode()


def file_of(row: Buffer) -> tuple[int, str] | None:
    """Return a large value's size in bytes and its file; None: it is a small value, or damaged."""
    if row[:1] != _LARGE_KIND or len(row) <= _LARGE_HEAD.size:
        return None
    return _LARGE_HEAD.unpack_from(row)[2], bytes(row[_LARGE_HEAD.size :]).decode(errors="replace")


def expired(row: Buffer, now_s: float) -> bool:
    """Return whether a value has expired; a damaged one counts as expired."""
    return len(row) < HEAD.size or bool(HEAD.unpack_from(row)[1] <= now_s)


def large_total(txn: lmdb.Transaction[bytes]) -> int:
    """Return the sum of the large values' sizes, in bytes."""
    return int.from_bytes(txn.get(_LARGE_TOTAL, b""), "little")


class Replaced:
    """What one transaction removes from the store.

    Attributes:
        files: those of the large values; whoever makes the transaction deletes them when it is over.
    """

    def __init__(self, txn: lmdb.Transaction[bytes]) -> None:
        self._txn = txn
        self._bytes = 0
        self.files: list[str] = []

    def add(self, row: bytes) -> None:
        """Note a value's row that is replaced or deleted."""
        if (found := file_of(row)) is not None:
            self._bytes += found[0]
            self.files.append(found[1])

    def settle(self, added_bytes: int) -> None:
        """Bring the store's total of large values up to date; `added_bytes`: of those that the transaction adds."""
        if added_bytes or self._bytes:
            total_bytes = max(0, large_total(self._txn) + added_bytes - self._bytes)
            self._txn.put(_LARGE_TOTAL, total_bytes.to_bytes(8, "little"))
