"""The page of an embedded store: what all its processes have to know at once, in memory that they share.

    <directory>/page    byte 0: the records are on disk; byte 1: values go there; the last transaction before that;
                        most bytes of the records where they begin, and on disk

To look whether something has changed is one memory read, which every operation can afford.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence

PAGE = "page"
_LAST, _LAST_AT = struct.Struct("<Q"), 8
_LIMITS, _LIMITS_AT = struct.Struct("<2Q"), 16
_BYTES = 4096


class Page:
    """The page of the store in the directory `path`. Raises OSError: there is none.

    Attributes:
        changes: its first item changes with anything that other processes change.
        limits_bytes: most bytes that the records may take where they begin, and on disk.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(os.path.join(path, PAGE), os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        self.changes: Sequence[int] = memoryview(self._map).cast("H")
        self.limits_bytes: tuple[int, int] = _LIMITS.unpack_from(self._map, _LIMITS_AT)

    @staticmethod
    def make(path: str, first_bytes: int, disk_bytes: int) -> None:
        """Write a new store's page, whole: a hole in what is mapped is a bus error once the file system is full.

        In one that is there, from a dead owner, only the limits are set.
        """
        fd = os.open(os.path.join(path, PAGE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            page = bytearray(os.read(fd, _BYTES).ljust(_BYTES, b"\0"))
            _LIMITS.pack_into(page, _LIMITS_AT, first_bytes, disk_bytes)
            os.pwrite(fd, page, 0)
        finally:
            os.close(fd)

    @property
    def records_moved(self) -> bool:
        """Whether the records are on disk."""
        return self._map[0] != 0

    @property
    def last_transaction(self) -> int:
        """The number of the last transaction before the records moved; 0: they have not."""
        return int(_LAST.unpack_from(self._map, _LAST_AT)[0]) if self.records_moved else 0

    def move_records(self, last_transaction: int) -> None:
        """From now on the records are on disk. Call it in a write transaction where they were, when they are there."""
        _LAST.pack_into(self._map, _LAST_AT, last_transaction)
        self._map[0] = 1  # a byte of its own for each: no process undoes what another says

    def spill_values(self) -> None:
        """From now on large values may be on disk."""
        if not self._map[1]:
            self._map[1] = 1
