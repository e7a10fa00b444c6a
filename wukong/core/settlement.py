"""The end of a job: its executors' last reports are taken in, and all that it has in the store is deleted.

last looks at the tree of invocations -> no sign of life any more -> last look -> sums, rates, keys -> delete
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from wukong.core import seats
from wukong.core.ground import Ground
from wukong.core.history import History
from wukong.core.invocation_tree import InvocationState
from wukong.core.leftovers import Leftovers, all_told, last_reports
from wukong.core.names import Names
from wukong.core.targets import Targets
from wukong.core.watch import Watch
from wukong.errors import StoreError, StoreFull

logger = logging.getLogger(__name__)

_WAIT_S = 2.0
_DELETE_BATCH = 2_000
_LATE_S = 60.0
"""By how much clocks may differ, and a platform may be late to end what is over its limit."""


class Settlement:
    """The end of one job that has been shipped.

    Args:
        ground, names, watch, history: the job's.
        left: what it may leave in the store.
        targets: what its tasks write to. limits: how many may run at once.
        known: the client has seen the job from its beginning.
        ttl_s: the time to live of what is written.

    Attributes:
        held: the keys of what stays, as far as they are known, and the tasks whose values are said to be stored; None:
            nothing stays.
    """

    def __init__(
        self,
        ground: Ground,
        names: Names,
        watch: Watch,
        history: History,
        left: Leftovers,
        *,
        targets: Targets | None,
        limits: Mapping[str, int],
        known: bool,
        ttl_s: float,
    ) -> None:
        self._ground, self._names, self._watch, self._history, self._left = ground, names, watch, history, left
        self._targets, self._limits = targets, limits
        self._known, self._ttl_s = known, ttl_s
        self.held: tuple[list[bytes], set[int]] | None = None
        self._doomed: tuple[list[bytes], set[str], float | None] | None = None

    def settle(
        self,
        look: Callable[[], Sequence[InvocationState]],
        *,
        stopped: bool,
        cancelled: bool,
        stays: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Take in the reports and delete the keys. Raises StoreError; called again, goes on with what was not deleted.

        `look` returns the job's invocations. `stopped`: whoever has left no report by now will leave none. `stays`:
        tells of a key whether it stays, so that another job can go on with this one (see `held`); None: none does.
        """
        store, names = self._ground.store, self._names
        if self._doomed is None:
            if stays is not None:
                try:
                    store.put({names.held: b"1"}, self._ttl_s)
                except StoreFull:
                    stays = None
            states = self._last(look, 0.0 if stopped else _WAIT_S)
            keys = self._keys(states, cancelled)
            if stays is not None:
                left = [*filter(stays, keys)]
                if any(map(names.holds_values, left)):
                    stored = {task for state in states if state.end is not None for task in state.end.stored}
                    self.held = left, stored
                    keys = [key for key in keys if key != names.held and not stays(key)]
                else:
                    keys.append(names.held)
            self._doomed = keys, self._taken_in(states), self._over(states)
        keys, used, over = self._doomed
        for at in range(0, 0 if self._ground.leaves else len(keys), _DELETE_BATCH):
            store.delete(keys[at : at + _DELETE_BATCH])
        self._ground.locks.leave(
            store, names, used, over, self._ttl_s, lambda prefix: self._ground.listed(prefix, True)
        )
        self._doomed = None

    def _last(self, look: Callable[[], Sequence[InvocationState]], wait_s: float) -> list[InvocationState]:
        states = last_reports(look, wait_s)
        self._ground.store.delete([self._names.alive])  # from here on, whoever comes late leaves nothing
        found = {state.invocation: state for state in (*self._history.known, *states)}
        for state in look():  # once more, for what was made meanwhile
            found.setdefault(state.invocation, state).shares |= state.shares
        return list(found.values())

    def _taken_in(self, states: Sequence[InvocationState]) -> set[str]:
        """Learn from the reports; return the locks that were used."""
        ends = [state.end for state in states if state.end is not None]
        self._ground.costs.learn(end.measured for end in ends)
        self._history.settled(states)
        return {lock for end in ends for lock in end.locks}

    def _over(self, states: Sequence[InvocationState]) -> float | None:
        """Return since or from when on no run goes on that has left no last report, Unix time; None: all have left one.

        Inf: nobody knows.
        """
        silent = [state for state in states if state.attempts or _goes_on(state)]
        if not silent:
            return None
        known = self._ground.known([self._names.label(state.invocation) for state in silent])
        if known is not None and not known:
            return 0.0
        limit_s = self._ground.limit_s()
        return math.inf if limit_s is None else time.time() + limit_s + _LATE_S

    def _keys(self, states: Sequence[InvocationState], cancelled: bool) -> list[bytes]:
        keys, again = self._left.told(states), self._watch.repeated > 0
        if again or not self._known or not all_told(states):
            harmed = again or cancelled or any(state.end is None for state in states)
            keys += self._left.possible(self._listed(harmed))
        if self._targets is not None:
            keys += self._targets.keys(self._names)
        if self._limits:
            keys += seats.keys_of(self._names, self._ground.store, self._limits)
        if self._left.failures:
            keys.remove(self._names.modules)
        return keys

    @property
    def failures(self) -> Sequence[bytes]:
        """Keys of what stays of failed tasks, with the modules that they import."""
        return [*self._left.failures, self._names.modules] if self._left.failures else ()

    def _listed(self, harmed: bool) -> Iterable[bytes] | None:
        try:
            return self._ground.listed(self._names.prefix + b"/", harmed)
        except StoreError as error:
            logger.info("job %s: its keys are guessed, since they cannot be listed: %s", self._names.job, error.message)
            return None


def _goes_on(state: InvocationState) -> bool:
    return not state.parked if state.end is None else state.end.runs
