"""The page of an embedded store: state that all its processes see at once, in memory that they share.

    <directory>/page    byte 0: the records are on disk; byte 1: values go to disk; the last transaction before the
                        records moved; most bytes of the records before they move, and on disk

To see whether something has changed costs one memory read, which every operation can afford.
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


class SharedPage:
    """The page of the store in the directory `path`. Raises OSError if there is none.

    Attributes:
        changes: its first item changes whenever another process changes something.
        limits_bytes: most bytes that the records may take before they move, and on disk.
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

        If a dead owner has left a page, only the limits are set.
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
        """The number of the last transaction before the records moved; 0 if they have not."""
        return int(_LAST.unpack_from(self._map, _LAST_AT)[0]) if self.records_moved else 0

    def move_records(self, last_transaction: int) -> None:
        """From now on the records are on disk. Call it after the copy, within a write transaction on the old files."""
        _LAST.pack_into(self._map, _LAST_AT, last_transaction)
        self._map[0] = 1  # each flag has a byte of its own, so no process undoes the other flag

    def spill_values(self) -> None:
        """From now on large values may be on disk."""
        if not self._map[1]:
            self._map[1] = 1
