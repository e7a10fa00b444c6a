"""What the host imports, so that the workers which it forks from then on have it."""

from __future__ import annotations

import importlib
import sys
from collections import deque
from collections.abc import Sequence


class Preloading:
    """Import modules here, each once. A broken one is the affair of the task that imports it.

    Args:
        ahead: modules that functions are going to need, none of which takes long.

    Attributes:
        ahead: those that are still to be imported while nobody asks for anything.
    """

    def __init__(self, ahead: Sequence[str] = ()) -> None:
        self.ahead = deque(ahead)
        self._unimportable: set[str] = set()

    def load(self, modules: Sequence[str]) -> bool:
        """Import these; return whether there is anything new for workers."""
        before = len(sys.modules)
        for name in modules:
            self._import(name)
        return len(sys.modules) != before

    def load_next(self) -> bool:
        """Import the next one of those ahead; return whether it was the last."""
        self._import(self.ahead.popleft())
        return not self.ahead

    def _import(self, name: str) -> None:
        if name not in sys.modules and name not in self._unimportable:
            try:
                importlib.import_module(name)
            except BaseException:  # the task that imports it will raise the same, and the user sees that
                self._unimportable.add(name)
