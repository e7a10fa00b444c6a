"""Dask's own callbacks (`dask.callbacks`) around one job: progress bars, profilers, caches and what users write.

The client does not schedule, so it hears of each task when the job has ended: from the executors, which say when it ran
by their own clocks. It has the values of requested keys only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Hashable, Mapping
from contextlib import suppress
from timeit import default_timer
from typing import TYPE_CHECKING, Any

from dask.callbacks import local_callbacks

if TYPE_CHECKING:
    from wukong.core.dag import Graph
    from wukong.core.job import Job


class _Now(threading.local):
    s: float | None = None
    """The time that a callback sees when it is told of the past; None: the present."""


_now = _Now()
_TIMED = ("dask.diagnostics.profile", "dask.cache")
"""Their callbacks do not take a time but look at the clock."""


def _timer() -> float:
    return default_timer() if _now.s is None else _now.s


class Callbacks:
    """The callbacks that are active in this thread, called as by Dask's own schedulers.

    While the job runs, the counts in ``state`` follow the executors' heartbeats, which is what
    `dask.diagnostics.ProgressBar` looks at. ``pretask`` and ``posttask`` are called for every task, in the order in
    which the executors ended them, when the job has ended. The result passed on is None except for requested keys;
    `dask.cache.Cache` hears of those only.
    """

    def __init__(self) -> None:
        with local_callbacks() as active:
            self._active = list(active or ())
        self._started: list[Any] = []
        self._state: dict[str, Any] = {}
        self._dsk: dict[Hashable, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._active)

    def start(self, dsk: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Show the graph to the callbacks; return the values that they put in the place of tasks (a cache does)."""
        self._dsk = dict(dsk)
        for callback in self._active:
            if callback[0]:
                callback[0](self._dsk)
            self._started.append(callback)
        return {key: node for key, node in self._dsk.items() if key not in dsk or node is not dsk[key]}

    def begin(self, graph: Graph) -> None:
        """Fill the state: these tasks are to run, about in the order of their numbers."""
        keys, dag = graph.keys, graph.dag
        parents = {key: {keys[each] for each in dag.parents_of(task)} for task, key in enumerate(keys)}
        self._state = {
            "ready": [],
            "waiting": {key: set(needed) for key, needed in parents.items()},
            "running": set(),
            "finished": set(),
            "cache": {},
            "released": set(),
            "dependencies": parents,
            "dependents": {key: {keys[each] for each in dag.children_of(task)} for task, key in enumerate(keys)},
            "waiting_data": {key: {keys[each] for each in dag.children_of(task)} for task, key in enumerate(keys)},
        }
        for callback in self._active:
            if callback[1]:
                callback[1](self._dsk, self._state)

    def tick(self, job: Job) -> None:
        """Bring the counts in the state up to date with the job."""
        waiting, finished = self._state["waiting"], self._state["finished"]
        for _ in range(job.progress() - len(finished)):
            with suppress(KeyError):
                key = next(iter(waiting), None)
                waiting.pop(key)
                finished.add(key)

    def replay(self, job: Job, values: Mapping[Hashable, Any]) -> None:
        """Tell the callbacks what ran: the job has ended."""
        for name in _TIMED:
            if name in sys.modules:
                sys.modules[name].default_timer = _timer  # type: ignore[attr-defined]
        since_s = default_timer() - time.time()
        self._state["finished"].clear()
        self._state["waiting"].clear()
        since_s += job.began_at
        try:
            for key, begun_s, ended_s, invocation in job.record.in_order():
                _now.s = begun_s + since_s
                for callback in self._active:
                    if callback[2]:
                        callback[2](key, self._dsk, self._state)
                _now.s = ended_s + since_s
                self._end(key, values)
                for callback in self._active:
                    if callback[3] and (key in values or not _keeps_values(callback[3])):
                        callback[3](key, values.get(key), self._dsk, self._state, invocation)
        finally:
            _now.s = None

    def _end(self, key: Any, values: Mapping[Hashable, Any]) -> None:
        """Note in the state that a task has ended, and that what only this task needed has been released."""
        state = self._state
        state["finished"].add(key)
        if key in values:
            state["cache"][key] = values[key]
        for needed in state["dependencies"].get(key, ()):
            state["waiting_data"][needed].discard(key)
            if not state["waiting_data"][needed] and needed not in values:
                state["released"].add(needed)

    def finish(self, *, errored: bool) -> None:
        """Tell the callbacks that the job has ended, one way or the other."""
        for callback in self._started:
            if callback[4]:
                callback[4](self._dsk, self._state, errored)


def _keeps_values(function: Any) -> bool:
    """Whether a callback is a cache's: it would take None for the value of a task."""
    cache = sys.modules.get("dask.cache")
    return cache is not None and isinstance(getattr(function, "__self__", None), cache.Cache)
