"""How long a thread has been on a core, and has waited for one: if others use the machine, wall clocks lie.

Linux tells both of each thread (``schedstat``). On other systems nothing is known.
"""

from __future__ import annotations

import os
import resource
import threading
from contextlib import suppress
from typing import TypeAlias

OnCore: TypeAlias = tuple[float, float, float]
"""Seconds on a core; seconds waiting for one; of the former, those in the system, most of all for new memory."""

_LETTERS = 64


class CoreClock:
    """The clock of the thread that makes it."""

    def __init__(self) -> None:
        self._file, self._thread = -1, threading.get_ident()
        if not hasattr(resource, "RUSAGE_THREAD"):
            return
        with suppress(OSError):
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> OnCore | None:
        """Return what the thread has had up to now. None: not known, or another thread asks."""
        if self._file < 0 or threading.get_ident() != self._thread:
            return None
        try:
            ran, waited, *_ = os.pread(self._file, _LETTERS, 0).split()
            return int(ran) / 1e9, int(waited) / 1e9, resource.getrusage(resource.RUSAGE_THREAD).ru_stime
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Read no more."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
