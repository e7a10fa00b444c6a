"""What this process imports, told to the hosts of its emulators, which import it at the same time.

    import dask.dataframe --as it begins--> every open emulator --> its host, piece by piece while nobody asks for more

A job's functions need the libraries that its program has imported. Without this, its first job waits for a second
import of the same. Only what is in `LIBRARIES` is told: nearly every job needs it whose program has it. It comes in
pieces, for a host hears nothing while it imports one; invocations come between them, and the rest waits until nothing
has happened for a moment. A host itself tells no other of what it imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

Tell = Callable[[Sequence[str]], None]

_ARRAYS = ("numpy", "threadpoolctl", "scipy.sparse", "sparse", "scipy.fft", "dask.array")
_TABLES = ("pyarrow.compute", "pandas")
LIBRARIES: dict[str, tuple[str, ...]] = {
    "numpy": _ARRAYS[:2],
    "dask.array": _ARRAYS,
    "pandas": (*_ARRAYS[:2], *_TABLES),
    "dask.dataframe": (*_ARRAYS, *_TABLES, "fsspec", "dask.dataframe", "dask.dataframe.io.parquet.arrow"),
    "dask.bag": ("fsspec", "dask.bag"),
}
"""For each library the modules to import for it, in order. One that is not installed is passed over."""


class _Finder:
    """Finds no module, but sees which are looked for."""

    def __init__(self) -> None:
        self.listeners: dict[object, tuple[int, Tell]] = {}
        self.off = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Tell all listeners of this process if `name` is one of the libraries."""
        if name in LIBRARIES:
            for pid, tell in list(self.listeners.values()):
                if pid == os.getpid():  # not a forked child, whose parent's the emulators are
                    tell(LIBRARIES[name])


_finder = _Finder()


def off() -> None:
    """Have nothing told from here, nor from what is forked from here: this process is a host."""
    _finder.off = True


def watch(owner: object, tell: Tell) -> None:
    """Have `tell` called with the modules for each library that is imported here already, or will be; returns at once.

    In a host it is never called.

    Args:
        owner: for `unwatch`.
        tell: called by whoever imports, in any thread; raises nothing.
    """
    if _finder.off:
        return
    _finder.listeners[owner] = os.getpid(), tell
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name in [each for each in LIBRARIES if each in sys.modules]:
        tell(LIBRARIES[name])


def unwatch(owner: object) -> None:
    """Tell this owner's no more. Twice is no error."""
    _finder.listeners.pop(owner, None)
    if not _finder.listeners and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
