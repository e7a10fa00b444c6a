"""The time by which an embedded store's keys expire: one clock for all processes of a machine, which nobody sets.

It goes on after a reboot, and does not follow the system's clock.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import lmdb

from wukong.backends import machine

_CLOCK = b"c"  # the boot that `time.monotonic` counts from, and the offset to add to it
_OFFSET = struct.Struct("<d")
monotonic_s: Callable[[], float] = time.monotonic


def start(txn: lmdb.Transaction[bytes]) -> float:
    """Return the offset to add to `time.monotonic`: the store's own in the same boot; a new one after a reboot."""
    told = machine.boot()
    row = txn.get(_CLOCK)
    if row is not None and row[_OFFSET.size :] == told:
        return float(_OFFSET.unpack_from(row)[0])
    offset_s = time.time() - monotonic_s()
    txn.put(_CLOCK, _OFFSET.pack(offset_s) + told)
    return offset_s


def offset_s(txn: lmdb.Transaction[bytes]) -> float:
    """Return the offset that the store's owner has written."""
    row = txn.get(_CLOCK)
    return 0.0 if row is None else float(_OFFSET.unpack_from(row)[0])
