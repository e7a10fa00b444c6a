"""What the host imports, so that the workers which it forks from then on have it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import site
import sys
import sysconfig
from collections import deque
from collections.abc import Sequence

_IDLE_S = 0.02
"""How long nothing has to happen before the host begins to import ahead; it hears nothing while it imports."""


class Preloading:
    """Import modules here, each once. A broken one is the affair of the task that imports it.

    Args:
        ahead: modules that functions are going to need, none of which takes long.

    Attributes:
        ahead: those that are still to be imported while nobody asks for anything.
        pause_s: how long nothing has to happen before the next one of these.
    """

    def __init__(self, ahead: Sequence[str] = ()) -> None:
        self.ahead = deque(ahead)
        self.pause_s = _IDLE_S
        self._unimportable: set[str] = set()
        self._n_shared = len(sys.modules)

    def load(self, modules: Sequence[str]) -> bool:
        """Import these; return whether there is anything new for workers, the pieces ahead included."""
        for name in modules:
            self._import(name)
        return self._new()

    def expect(self, modules: Sequence[str]) -> None:
        """Have these imported ahead, as far as they are installed.

        A file of the user's of the same name is not for a host to run.
        """
        for name in modules:
            if self._missing(name) and name not in self.ahead and _installed(name):
                self.ahead.append(name)

    def load_next(self) -> bool:
        """Import the next one of those ahead; return whether it was the last, and there is anything new for workers."""
        self._import(self.ahead.popleft())
        self.pause_s = 0.0
        return not self.ahead and self._new()

    def disturbed(self) -> None:
        """Something has happened: pause before the next one."""
        self.pause_s = _IDLE_S

    def _new(self) -> bool:
        before, self._n_shared = self._n_shared, len(sys.modules)
        return before != self._n_shared

    def _missing(self, name: str) -> bool:
        return name not in sys.modules and name not in self._unimportable

    def _import(self, name: str) -> None:
        if self._missing(name):
            try:
                importlib.import_module(name)
            except BaseException:  # the task that imports it will raise the same, and the user sees that
                self._unimportable.add(name)


def _installed(name: str) -> bool:
    """Whether this module comes with the interpreter, or lies in one of the folders for installed packages."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])  # which imports nothing
    except (ImportError, ValueError):
        return False
    if spec is None or spec.origin is None:
        return False
    kept = [sysconfig.get_path(each) for each in ("purelib", "platlib", "stdlib", "platstdlib")]
    kept += [*site.getsitepackages(), site.getusersitepackages()]
    origin = os.path.realpath(spec.origin)
    return any(origin.startswith(os.path.join(os.path.realpath(folder), "")) for folder in kept)
