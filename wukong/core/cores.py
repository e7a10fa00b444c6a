"""The cores of a function, shared between its lanes and the threads that numerical libraries start in each of them.

Lanes times threads of BLAS never exceed the cores, unless there are more lanes than cores: then it is one thread each.
No library gets more threads than it had. Nothing is done if nobody here has imported NumPy, or if `threadpoolctl`,
which knows the libraries, is missing or older than 3.8: those can lock up with a thread that loads a library meanwhile.

OpenBLAS has one number for the process, which one thread at a time may set: here the watcher. In other libraries each
thread has its own.
"""

from __future__ import annotations

import sys
from typing import Any

_SOUND = (3, 8)


class CoreShares:
    """See the module's docstring. One thread at a time may call it, except for `enter`.

    Args:
        cores: those of the function.
    """

    def __init__(self, cores: int) -> None:
        self._cores = max(1, cores)
        self._each: int | None = None
        self._libraries: list[tuple[Any, int]] = []
        self._n_modules = self._n_seen = 0
        self._lanes = 1

    def find(self) -> None:
        """Find the libraries that are loaded by now. Takes 10 ms once modules were imported; not while some are."""
        n_seen, self._n_seen = self._n_seen, len(sys.modules)
        if "numpy" not in sys.modules or self._n_modules == self._n_seen or (self._n_modules and n_seen < self._n_seen):
            return
        self._n_modules = self._n_seen
        try:
            import threadpoolctl  # type: ignore[import-untyped]

            if tuple(map(int, threadpoolctl.__version__.split(".")[:2])) < _SOUND:
                return
            found = threadpoolctl.ThreadpoolController().lib_controllers
        except Exception:  # it is missing, or does not get on with a library: all stay as they are
            return
        had = {library.filepath: n for library, n in self._libraries}
        self._libraries = [(each, had.get(each.filepath, each.num_threads or 1)) for each in found]
        self._n_modules = self._n_seen = len(sys.modules)
        self._each = None
        if self._lanes > 1:
            self.share(self._lanes)

    def share(self, lanes: int) -> None:
        """Have `lanes` lanes share the cores from now on; those that sleep may be among them."""
        each, self._lanes = self._cores // max(1, min(lanes, self._cores)), lanes
        if each == self._each:
            return
        self._each = each
        for library, had in self._libraries:
            library.set_num_threads(min(had, each))

    def enter(self) -> None:
        """Tell the libraries in which each thread has a number of its own what is the calling lane's."""
        for library, had in self._libraries:
            library.set_num_threads(min(had, self._each or had))

    def end(self) -> None:
        """Give the libraries back what they had. The watcher has ended."""
        for library, had in self._libraries:
            library.set_num_threads(had)
            getattr(library, "clear_controlling_thread", lambda: None)()
        self._each, self._libraries, self._lanes = None, [], 1
        self._n_modules = self._n_seen = 0
