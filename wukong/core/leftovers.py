"""What a job leaves in the store, by key, so that its client can delete it.

end reports -> keys that executors name --all is told?--> these are all
                                        `-> else, whatever the job may have written: listed, or guessed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from wukong.core.invocation_tree import InvocationState
from wukong.core.names import Names
from wukong.core.shipment import Manifest

_FIRST_PAUSE_S = 0.001
_LAST_PAUSE_S = 0.1


def last_reports(look: Callable[[], Sequence[InvocationState]], wait_s: float) -> Sequence[InvocationState]:
    """Look at a job's invocations until all that were made have ended, for up to `wait_s` seconds; return the last."""
    until = time.monotonic() + wait_s
    pause_s = _FIRST_PAUSE_S
    while True:
        states = look()
        if all(state.end is not None or state.parked for state in states) or time.monotonic() >= until:
            return states
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LAST_PAUSE_S)


class Leftovers:
    """The keys of one job.

    Args:
        names, manifest: the job's.
        kept: requested tasks whose values stay in the store.
        release: executors release large values, and so may have touched the records of their readers.

    Attributes:
        failures: keys of what is kept of failed tasks, as far as `told` and `possible` have found any. They stay.
    """

    def __init__(self, names: Names, manifest: Manifest, kept: Collection[int], *, release: bool) -> None:
        self._names, self._manifest, self._kept, self._release = names, manifest, kept, release
        self.failures: dict[bytes, None] = {}

    def told(self, states: Sequence[InvocationState]) -> list[bytes]:
        """Return the keys that the client has shipped, and those that executors have named at their ends."""
        names, manifest = self._names, self._manifest
        keys = [names.done, names.plan, names.modules]
        keys += map(names.page, range(-(-manifest.n_tasks // manifest.page_tasks)))
        keys += map(names.object, range(manifest.n_objects))
        for state in states:
            keys += [f(state.invocation) for f in (names.invocation, names.end, names.heartbeat)]
            keys += [names.n_offloads(names.attempt_id(state.invocation, n)) for n in range(state.attempts + 1)]
            if state.attempts:
                keys.append(names.attempts(state.invocation))
            if state.end is not None:
                keys += [names.value(task) for task in state.end.stored if task not in self._kept]
                keys += [names.record(child) for child in set(state.end.arrived)]
                keys += [names.readers(task) for task in state.end.read]
                self.failures.update(dict.fromkeys(state.end.failed))
        return keys

    def possible(self, listed: Iterable[bytes] | None) -> list[bytes]:
        """Return all keys that the job has, of those that the store has `listed`; None: that it may have at all."""
        names, n_tasks = self._names, self._manifest.n_tasks
        if listed is not None:
            kept = {names.modules, *map(names.value, self._kept)}  # `told` names the modules
            failures: list[bytes] = []
            left: list[bytes] = []
            for key in listed:
                if key.partition(b"~")[0] not in kept:  # and none of their chunks
                    (failures if key.startswith(names.failures) else left).append(key)
            self.failures.update(dict.fromkeys(key for key in failures if b"~" not in key))
            return left
        keys = [names.value(task) for task in range(n_tasks) if task not in self._kept]
        keys += [names.record(child) for child in range(n_tasks + 1)]
        if self._release:
            keys += map(names.readers, range(n_tasks))
        return keys


def all_told(states: Sequence[InvocationState]) -> bool:
    """Whether these end reports name all that the executors have written.

    A job's only executor, which has handed nothing over and has told the result, names all. If the platform has
    delivered that invocation twice, the other run has written no other keys: it would have said so first
    (`InvocationState.shares`). Several executors may have had runs whose reports were written over, and the store may
    have lost reports.
    """
    if len(states) != 1 or (end := states[0].end) is None:
        return False
    return end.finished and not end.report.invocations and not states[0].shares
