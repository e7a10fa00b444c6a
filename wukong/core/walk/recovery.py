"""Recovery: what an earlier run of this invocation has done is not done again; what the store has lost is.

A task that an earlier run has handed over is skipped. In a *replay* a task whose value is stored is not run. A value
that is asked for and not there any more is *restored*: its task runs here again, from what is still there. No task runs
in another lane meanwhile: any of those that are restored may be one that is to run alone. Nor is any value being
stored: a task that runs again may read it, and may change it in place.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import inf
from typing import Any

from wukong.core.effects import Drop, Effect, Effects, Failed, Get, Run
from wukong.core.walk.frontier import RESTORING, Frontier
from wukong.core.walk.lanes import Lanes
from wukong.core.walk.seats import Seats

_RESTORED_AT_MOST = 3


class Recovery:
    """What an earlier run of this invocation, or a store that forgets, has changed.

    Args:
        frontier, lanes: where the walk stands, and what runs besides.
        seats: those that tasks need which run again.
        replay: an earlier run may have stored values.

    Attributes:
        run_s: in a replay, how long the task that ran last took, seconds.
        n_restored: how many tasks have run again here, for values that the store has lost.
    """

    def __init__(self, frontier: Frontier, lanes: Lanes, seats: Seats, *, replay: bool = False) -> None:
        self.frontier, self.lanes, self.seats = frontier, lanes, seats
        self.replay = replay
        self.n_restored = 0
        self.run_s = inf

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        most = _RESTORED_AT_MOST * self.frontier.sink + 1
        assert self.n_restored <= most, f"{self.n_restored} values restored, more than {most}"

    def is_stored(self, task: int, parents: Sequence[int]) -> Generator[Effect, Any, bool]:
        """Take the value of a ready task from the store, if an earlier run has put it there.

        Asking costs a round trip, so the walk does not ask if its last task took less than that.
        """
        frontier = self.frontier
        if self.run_s < frontier.costs.round_trip_s or (yield Get((task,))):
            return False
        frontier.stored.add(task)
        yield from frontier.release(parents)
        return True

    def fetch(self, task: int, parents: Sequence[int]) -> Generator[Effect, Any, bool]:
        """Fetch the inputs of `task` that are not in the cache, and restore those that are lost.

        False: it does not run now. The job has ended; or tasks run in other lanes, or values are being stored which a
        task that runs again might change in place. Then it is ready again, to run alone.
        """
        frontier = self.frontier
        missing = tuple(parent for parent in parents if parent not in frontier.uses)
        lost: tuple[int, ...] = yield Get(missing)
        if lost and (self.lanes.away or frontier.storing):
            yield from self._put_back(task, [parent for parent in missing if parent not in lost])
            return False
        if lost and not (yield from self._restore(task, lost, missing)):
            return False
        frontier.stored.update(missing)
        for parent in missing:
            frontier.uses[parent] = frontier.awaited.pop(parent, 1)
        return True

    def _put_back(self, task: int, got: Sequence[int]) -> Effects:
        """Make a task, whose inputs have to be restored, ready again, to run alone; drop those that it has `got`."""
        frontier = self.frontier
        frontier.exclusive.add(task)
        frontier.ready.append(task)
        if got:
            yield Drop(got)

    def _restore(self, wanted_by: int, lost: Sequence[int], wanted: Sequence[int]) -> Generator[Effect, Any, bool]:
        """Recompute values that the store has lost, from what is still there, however deep; store them again.

        `wanted` are all that were asked for; those of them that are not lost are here. Each task runs at most once in a
        call, and all calls together run at most `_RESTORED_AT_MOST` times as many tasks as the DAG has.
        """
        frontier, uses = self.frontier, self.frontier.uses
        here: set[int] = set(wanted).difference(lost)
        asked: set[int] = set()
        todo = list(lost)
        restored: list[int] = []
        while todo:
            task = todo[-1]
            if task in uses or task in here:
                todo.pop()
                continue
            if self.n_restored > _RESTORED_AT_MOST * frontier.sink:
                yield from frontier.abort(wanted_by, tuple(lost))
                return False
            yield from frontier.need(task)
            parents = frontier.parents[task]
            missing = tuple(parent for parent in parents if parent not in uses and parent not in here)
            if missing and task not in asked:
                asked.add(task)
                gone: tuple[int, ...] = yield Get(missing)
                here.update(parent for parent in missing if parent not in gone)
                todo.extend(gone)
                continue
            frontier.running, frontier.last_use, frontier.task = parents, [], RESTORING
            if task in frontier.limited:
                yield from self.seats.await_seats(task)
            answer: float | Failed = yield Run(task, frontier.last_use)
            frontier.running = ()
            if task in frontier.limited:
                self.seats.ended(task)
                yield from self.seats.give_back()
            if isinstance(answer, Failed):
                yield from frontier.abort(task)
                return False
            del frontier.parents[task], frontier.out[task]
            self.n_restored += 1
            restored.append(todo.pop())
            here.add(task)
        yield from frontier.put(tuple(restored))
        extra = [task for task in here if task not in wanted and task not in uses]
        if extra:
            yield Drop(extra)
        return True
