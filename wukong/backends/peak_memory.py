"""The most memory that this process has had in use for a while: a task may have given back most of it at its end.

Linux keeps the highest mark, of all resident pages; it is set back each time it is read. Where it cannot be set back,
what is in use at the moment stands for it.
"""

from __future__ import annotations

import os
import sys

if sys.platform != "win32":
    import resource

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096


class PeakMemory:
    """Measure from now on. Not for several threads at once."""

    def __init__(self) -> None:
        self._resets = sys.platform == "linux"
        self._reset()

    def __call__(self) -> int:
        """Return how many bytes this process had in use at most since the last call; 0: not known.

        What it shares with others does not count; how much that is, is seen now.
        """
        try:
            with open("/proc/self/statm", "rb", 0) as file:
                _, resident, shared, *_ = map(int, file.read().split())
        except (OSError, ValueError):
            return 0
        most_bytes = resident * _PAGE_BYTES
        if self._resets:
            most_bytes = max(most_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024)
            self._reset()
        return most_bytes - shared * _PAGE_BYTES

    def _reset(self) -> None:
        if self._resets:
            try:
                with open("/proc/self/clear_refs", "wb", 0) as file:
                    file.write(b"5")
            except OSError:
                self._resets = False
