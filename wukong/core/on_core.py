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


class CoreClocks:
    """The clocks of all threads in which an executor runs its walk and tasks: each thread reads its own."""

    def __init__(self) -> None:
        self._clocks: dict[int, CoreClock] = {}
        self._read: dict[int, tuple[OnCore, OnCore]] = {}

    def begin(self) -> None:
        """Have the calling thread's clock read from now on."""
        clock = self._clocks[threading.get_ident()] = CoreClock()
        if (now := clock.read()) is not None:
            self._read[threading.get_ident()] = now, now

    def read(self) -> OnCore | None:
        """Return what the calling thread has had up to now. None: not known, or it has not begun."""
        ident = threading.get_ident()
        if ident not in self._read or (now := self._clocks[ident].read()) is None:
            return None
        self._read[ident] = self._read[ident][0], now
        return now

    def had(self) -> OnCore | None:
        """Return what all threads have had since they began, each when it was read last; None: not known."""
        if not self._read or len(self._read) < len(self._clocks):
            return None
        pairs = list(self._read.values())
        ran, waited, in_system = (sum(now[i] - then[i] for then, now in pairs) for i in range(3))
        return ran, waited, in_system

    def close(self) -> None:
        """Read no more."""
        for clock in self._clocks.values():
            clock.close()


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
