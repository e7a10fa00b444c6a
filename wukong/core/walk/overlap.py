"""Overlap: requests to the store that are under way while the walk goes on.

The setting `overlap` switches it on (`wukong.core.policy.Policy`); an invocation that is made again does without.

    ready: the next ones               --FetchAhead--> fetching ------Came--> cached, or lost: fetched when popped
    fan-ins, a large value among them  --WriteBehind-> storing, sent -Came--> stored; claimed, told, or held

Requests to write behind are carried out in the order in which they were begun, so an arrival follows the values that
it announces (rule 1). While one is under way, all further arrivals of this executor go the same way: one of them might
announce a value that is not stored yet. An executor has one arrival under way at each fan-in at most. Until the answer
comes the inputs stay, and those that are added meanwhile wait.

The walk takes in what has come with the end of a task, at a pause, or when it asks for it (`TakeIn`). The interpreter
looks after memory: it refuses a request that it has no room for, and the walk then does the same at once, as without
overlap.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from typing import Any

from wukong.core.effects import Arrive, Came, Drop, Effect, Effects, FetchAhead, WriteBehind
from wukong.core.walk.frontier import RESTORING, Frontier
from wukong.core.walk.lanes import Lanes
from wukong.core.walk.seats import Seats

_NEXT = 2
_AT_ONCE = 2
_ALTERNATIVES = 16


class Overlap:
    """The requests that are under way.

    Args:
        frontier: where the walk stands.
        lanes: how many tasks run at once.
        seats: which tasks wait for a seat.
        on: requests are begun. False: none ever is.

    Attributes:
        n_writes, n_fetches: how many requests of each kind are under way.
        ahead, put_back: see `Frontier`.
        lost: values that were fetched ahead and that the store did not have. The walk asks for them again when it pops
            a task that needs them.
        outputs: requested values that are being stored so that they can be dropped; each counts as one use.
    """

    def __init__(self, frontier: Frontier, lanes: Lanes, seats: Seats, *, on: bool) -> None:
        self.frontier, self.lanes, self.seats, self.on = frontier, lanes, seats, on
        self.n_writes = self.n_fetches = 0
        self.ahead, self.put_back = frontier.ahead, frontier.put_back
        self.lost: set[int] = set()
        self.outputs: list[int] = []

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        frontier = self.frontier
        assert bool(self.n_fetches) == bool(frontier.fetching), f"{self.n_fetches} fetch {frontier.fetching}"
        assert self.n_writes or not frontier.storing, f"nothing is written, and {frontier.storing} are being stored"
        assert self.put_back <= self.ahead, f"{self.put_back} are put back, and only {self.ahead} fetched for"

    @property
    def lands(self) -> bool:
        """Whether the walk may take in now what has come: not while it restores values."""
        return self.frontier.task != RESTORING

    @property
    def under_way(self) -> int:
        """How many requests are under way."""
        return self.n_writes + self.n_fetches

    # --- write-behind

    def behind(self, put: Collection[int]) -> bool:
        """Whether to write these values behind, and the arrivals that announce them. Their sizes have to be known."""
        if not self.on:
            return False
        if self.n_writes:
            return True
        sizes = self.frontier.sizes
        return bool(put) and self.frontier.costs.overlaps(sum(sizes[task] for task in put))

    def write(
        self, put: tuple[int, ...], arrivals: tuple[Arrive, ...], own: Mapping[int, int], *, requested: bool = False
    ) -> Generator[Effect, Any, bool]:
        """Begin to store these values, and then to make these arrivals. Returns whether there is room for that.

        `own`: how many of a value's uses are the request's own, and end with its answer.
        """
        frontier = self.frontier
        frontier.wrote(put, requested=requested)
        begun: bool = yield WriteBehind(put, arrivals, requested, self._shared(put, own))
        if begun:
            self.n_writes += 1
            frontier.storing.update(put)
            if requested:
                self.outputs += put
        return begun

    def _shared(self, put: Sequence[int], own: Mapping[int, int]) -> tuple[int, ...]:
        """Return which of these values a task may read here before the request has ended.

        A small one may have ridden to a fan-in that is claimed here meanwhile.
        """
        frontier = self.frontier
        uses, sizes, running, ride_bytes = frontier.uses, frontier.sizes, frontier.running, frontier.policy.ride_bytes
        return tuple(task for task in put if uses[task] > own[task] or task in running or sizes[task] <= ride_bytes)

    def wrote(self, put: Sequence[int], *, requested: bool) -> Sequence[int]:
        """Take in that these values are stored. Returns those that have one use less now."""
        frontier = self.frontier
        self.n_writes -= 1
        frontier.storing.difference_update(put)
        frontier.stored.update(put)
        if not requested:
            return ()
        for task in put:
            self.outputs.remove(task)
        return put

    # --- prefetch

    @property
    def _fetches(self) -> bool:
        """Whether values are worth a thread that fetches them."""
        return self.on and self.frontier.costs.fetches_ahead(self.frontier.policy)

    def fetch(self, task: int, tasks: tuple[int, ...]) -> Generator[Effect, Any, bool]:
        """Begin to fetch these inputs of a ready task, if that pays. Returns whether it does, and there is room."""
        begun: bool = self._fetches and (yield FetchAhead(tasks))
        if begun:
            self.n_fetches += 1
            self.frontier.fetching.update(tasks)
            self.ahead.add(task)
        return begun

    def fetch_ahead(self) -> Effects:
        """Begin to fetch what the next ready tasks need."""
        frontier, rows = self.frontier, self.frontier.parents
        if not self._fetches:
            return
        for task in reversed(frontier.ready[-max(_NEXT, self.lanes.most) :]):
            if self.n_fetches >= _AT_ONCE:
                return
            if task in self.ahead:
                continue
            if task not in rows:
                yield from frontier.need(task)
            frontier.warm(task)
            missing = self.missing(rows[task])
            if missing and self.lost.isdisjoint(missing) and not (yield from self.fetch(task, missing)):
                return

    def missing(self, parents: Iterable[int]) -> tuple[int, ...]:
        """Return which of these values neither are here nor come."""
        uses, fetching = self.frontier.uses, self.frontier.fetching
        return tuple(parent for parent in parents if parent not in uses and parent not in fetching)

    def postpone(self, task: int, parents: Sequence[int], now: float) -> Generator[Effect, Any, bool]:
        """Put a popped task back if its inputs can come while something else is done. False: fetch them now.

        A ready task all of whose inputs are here, and that waits for no seat `now`, is next then; if there is none
        near, `task` itself.
        """
        frontier, ready = self.frontier, self.frontier.ready
        if not self.on or not self.lost.isdisjoint(parents):
            return False
        comes = any(parent in frontier.fetching for parent in parents)
        if not comes and not self._fetches:
            return False
        other = self._other(now)
        if not comes and other is None and not self.lanes.away:
            return False
        frontier.warm(task)
        missing = self.missing(parents)
        if missing and not (yield from self.fetch(task, missing)) and not comes:
            return False
        self.ahead.add(task)
        self.put_back.add(task)
        ready.append(task)
        if other is not None:
            ready.append(ready.pop(other))
        return True

    def _other(self, now: float) -> int | None:
        """Return the index in `ready` of the next task that lacks no input and no seat; None: there is none near."""
        frontier, ready = self.frontier, self.frontier.ready
        rows, uses = frontier.parents, frontier.uses
        for i in range(len(ready) - 1, max(-1, len(ready) - 1 - _ALTERNATIVES), -1):
            row = rows.get(ready[i])
            if row is not None and all(parent in uses for parent in row) and not self.seats.refuses(ready[i], now):
                return i
        return None

    def fetched(self, came: Came, ran: int | None, rode_in: Collection[int]) -> Effects:
        """Take in what was fetched, and drop what nobody needs any more. Tasks that wait for nothing more are next.

        `ran`: a task that has just ended here. Its value is in its place, as that of an earlier run that was fetched.
        `rode_in`: values that came in at the same time for claims that are still to be taken in.
        """
        frontier = self.frontier
        uses, awaited, running = frontier.uses, frontier.awaited, frontier.running
        tasks, lost = came.request.tasks, frozenset(came.answer)  # type: ignore[union-attr]
        self.n_fetches -= 1
        self.lost |= lost
        frontier.fetching.difference_update(tasks)
        useless = []
        for task in tasks:
            if task in lost or task in uses or task == ran:
                continue
            if n := awaited.pop(task, 0):
                uses[task] = n
                frontier.stored.add(task)
                if task in running and task in frontier.last_use:
                    frontier.last_use.remove(task)
            elif task not in running and task not in rode_in:
                useless.append(task)
        if useless:
            yield Drop(useless)
        if not frontier.told:
            for task in [task for task in self.put_back if all(each in uses for each in frontier.parents[task])]:
                self.put_back.discard(task)
                frontier.ready.remove(task)
                frontier.ready.append(task)

    def forget(self, tasks: Collection[int]) -> None:
        """These tasks are not ready here any more: they are popped, or handed over."""
        self.ahead.difference_update(tasks)
        self.put_back.difference_update(tasks)
