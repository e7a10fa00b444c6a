"""How many slots are free: one number that all processes read without asking anybody."""

from __future__ import annotations

import mmap
import os
import struct

_NUMBER = struct.Struct("q")


class Gauge:
    """A number in memory that is shared through the open file `descriptor`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.ftruncate(descriptor, _NUMBER.size)
        self._memory = mmap.mmap(descriptor, _NUMBER.size)

    def read(self) -> int:
        """Return the number."""
        return int(_NUMBER.unpack_from(self._memory)[0])

    def write(self, number: int) -> None:
        """Replace the number."""
        _NUMBER.pack_into(self._memory, 0, number)
