"""The cores that an executor uses besides those of its function, and what tasks that run at once have of them.

On one machine functions share the cores. A platform that does so (`wukong.core.task_context.set_use_cores`) is told how
many the lanes of an executor compute on, and says how many nobody uses.
"""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from wukong.core.width import Together, telling


class MoreCores:
    """The cores that one executor uses besides its function's. Only the watcher may call it, but for `bound`.

    Args:
        use: takes how many it uses, and returns how many it may use beyond those; None: there are none.

    Attributes:
        used, most: how many it uses now, and has used at most.
    """

    def __init__(self, use: Callable[[int], int] | None) -> None:
        self._use = use
        self.used = self.most = self._before = 0
        self._used_s, self._since = 0.0, time.perf_counter()
        self._lock = threading.Lock()

    def bound(self) -> int:
        """Return how many it may use now."""
        if self._use is None:
            return 0
        with self._lock:
            return self.used + self._use(self.used)

    def take(self, n: int) -> None:
        """Use `n` of them from now on."""
        self._before = n
        self._set(n)

    def needs(self, n: int) -> None:
        """Give back those above `n`, unless the call before said more: between two tasks a lane computes nothing."""
        n, self._before = max(0, n, self._before), n
        if n < self.used:
            self._set(n)

    def used_s(self) -> float:
        """Return how much the cores that it has used could have given, seconds of CPU time."""
        return self._used_s + self.used * (time.perf_counter() - self._since)

    def _set(self, n: int) -> None:
        if n != self.used and self._use is not None:
            self._used_s, self._since = self.used_s(), time.perf_counter()
            with self._lock:
                self.used, self.most = n, max(self.most, n)
                self._use(n)


class TogetherClock:
    """What tasks have of the cores that run at once. Only the watcher may use it: its own waits do not count.

    Attributes:
        told: what they have had lately; None: not known yet.
    """

    def __init__(self) -> None:
        self.told: Together | None = None
        self._at: tuple[float, float, int] | None = None
        self._among: Mapping[str, int] = {}

    def look(self, n_running: int, among: Mapping[str, int] = MappingProxyType({})) -> None:
        """Read what this process has had, if at least two tasks run. `among`: one of each kind."""
        if n_running < 2:
            self.told = self._at = None
            return
        now, had_s, yields = time.perf_counter(), time.process_time(), _yields()
        if self._at is None:
            self._at, self._among = (now, had_s, yields), among
            return
        then, before_s, before = self._at
        had_s, cores = had_s - before_s, (had_s - before_s) / (now - then)
        if telling(cores, had_s, yields - before):
            of = {kind: task for kind, task in among.items() if kind in self._among}
            only = among.keys() == self._among.keys()
            self.told = Together(cores, (yields - before) / had_s, of, only)
            self._at = None


def _yields() -> int:
    """Return how often threads of this process, but not the calling one, have given up a core."""
    n = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    return n - (resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if hasattr(resource, "RUSAGE_THREAD") else 0)
