"""Where a walk stands: the ready tasks, the rows of the DAG around them, and the values that are needed here.

States of a task in this executor, and what moves it (most tasks of the DAG are in none):

    state       where it shows                     comes to it by                            leaves it by
    ready       in `ready`                         start; its last parent runs here; claim   pop; hand over
    running     `task`; `running` are its inputs   pop                                       the answer of `Run`
    away        `Lanes.away`                       running, and another lane takes the walk  `Landed`
    landed      `Lanes.landed`                     away, and has ended                       its edges are followed
    awaited     `awaited[v]` ready tasks need its  a claim, or a start with inline values,   Get: cached; hand over of
                value, which is not here           that needs it                             all who need it: none
    cached      `uses[v]` ready tasks and pending  it has run; Get; it came inline or rode   the last use: dropped;
                arrivals need its value            in with a claim                           release of the last one
    stored      in `stored`: cached, and in the    Put; Get; WriteBehind, once it has `Came` (stays)
                store too
    storing     in `storing`: cached, and a        WriteBehind                               `Came`: stored
                request to store it is under way
    fetching    in `fetching`: awaited, and a      FetchAhead                                `Came`: cached; or it is
                request to get it is under way                                               lost: awaited
    handed over none                               hand over (on record, then invoked)       -
    handed on   `Lanes.handed_on`                  leaving, while it runs here               its value here is dropped

A value's uses are counted: one for each ready task, each pending arrival and each task in another lane that needs it.
A *cold* task is a start task none of whose inputs came with it; its uses are counted only when it is popped, or when
its inputs are fetched ahead.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

from wukong.core.dag import Limits, Out
from wukong.core.effects import Abort, Drop, Effects, LoadPage, Put, Size
from wukong.core.ledger import Ledger
from wukong.core.policy import Costs, Policy

ELSEWHERE = -1
"""Stands in a pending arrival for a task whose value is in the store and no longer counted in `uses`."""

RESTORING, RESTING = -1, -2
"""In place of the running task: values are restored; nothing runs but in other lanes."""


class Frontier:
    """What all rooms of a walk read and write.

    Args:
        start: the ready tasks it starts from, the one to begin with first.
        sink: number of the job's own fan-in, which is the number of tasks.
        policy, costs: the job's settings, and what moving things costs here (kept up to date from outside).
        inline: tasks whose values came in the payload and are in the cache.
        stream: every requested value is stored at once.
        ledger: notes what this executor leaves in the store.
        offloaded: tasks that earlier runs of this same invocation have handed over.
        functions: memory of each of the platform's sizes of function, bytes, the smallest first; (): there is one.
        function: on which of them this executor runs, counted from 0.

    Attributes:
        ready: the next one last.
        parents, out: rows of the DAG: the inputs of each task that has not run here, and the edges that leave it; as
            far as its page is loaded.
        exclusive: tasks that run only while no other task runs in this process.
        larger: tasks that need more memory than this function has; for each the size of function that it needs.
        fitting: tasks that need a function as large as this one, or smaller, but not the smallest; as `larger`, and as
            far as their pages are loaded.
        limited: the limits of tasks that have any, as far as their pages are loaded (`wukong.core.walk.seats`).
        uses: how many uses each cached value has here. awaited: the same for each value that is to be fetched.
        stored: tasks whose values are in the store, as far as this executor knows.
        storing, fetching: tasks whose values requests that are under way store, and fetch.
        ahead: ready tasks for which something was fetched ahead, or is being fetched. put_back: those of them that had
            been popped, and wait for it.
        sizes: of cached values, as far as the walk has asked for them, bytes.
        task: the one that runs, or ran last; or `RESTORING`, or `RESTING`.
        running: its inputs, while it runs. last_use: values, its inputs or others, that are dropped when it has run.
        told: the client has been told the job's outcome. failed: that the job has failed.
    """

    def __init__(
        self,
        start: Sequence[int],
        sink: int,
        policy: Policy,
        costs: Costs,
        *,
        inline: Collection[int] = (),
        stream: bool = False,
        ledger: Ledger | None = None,
        offloaded: Collection[int] = (),
        functions: Sequence[int] = (),
        function: int = 0,
    ) -> None:
        self.offloaded = offloaded
        self.functions, self.function = functions, function
        self.larger: dict[int, int] = {}
        self.fitting: dict[int, int] = {}
        self.start, self.sink, self.inline, self.stream = start, sink, inline, stream
        self.policy, self.costs = policy, costs
        self.ledger = Ledger() if ledger is None else ledger
        self.started = frozenset(start)
        self.cold = set() if inline else set(start)
        self.ready = list(reversed(start))
        self.parents: dict[int, tuple[int, ...]] = {}
        self.out: dict[int, Out] = {}
        self.exclusive: set[int] = set()
        self.limited: dict[int, Limits] = {}
        self.uses: dict[int, int] = dict.fromkeys(inline, 0)
        self.awaited: dict[int, int] = {}
        self.stored: set[int] = {ELSEWHERE}
        self.storing: set[int] = set()
        self.fetching: set[int] = set()
        self.ahead: set[int] = set()
        self.put_back: set[int] = set()
        self.sizes: dict[int, int] = {}
        self.task = RESTORING
        self.running: Sequence[int] = ()
        self.last_use: list[int] = []
        self.told = self.failed = False

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        ready, uses, awaited = self.ready, self.uses, self.awaited
        assert len(set(ready)) == len(ready), f"ready twice: {ready}"
        assert not uses.keys() & awaited.keys(), f"here {uses} and awaited {awaited}"
        assert all(n >= 1 for counts in (awaited, uses) for n in counts.values()) or self.inline, f"{uses}, {awaited}"
        assert self.told or self.storing <= uses.keys(), f"here {uses}, and {self.storing} are being stored"
        assert not self.storing & self.stored, f"being stored {self.storing}, and stored"

    def begin(self) -> Effects:
        """Count what start tasks need of the values that came in the payload."""
        if not self.inline:
            return
        for task in self.start:
            yield from self.need(task)
            self.count(task)

    def need(self, task: int) -> Effects:
        """Load the page that holds this task."""
        page = yield LoadPage(task)
        low, high = page.first, page.first + len(page.out)
        self.parents.update(zip(range(low, high), page.parents, strict=True))
        self.out.update(zip(range(low, high), page.out, strict=True))
        self.exclusive.update(page.exclusive)
        self.limited.update(page.limits)
        if page.memory and self.functions:
            largest = len(self.functions) - 1
            sizes = {task: min(bisect_left(self.functions, need), largest) for task, need in page.memory.items()}
            self.larger.update((task, size) for task, size in sizes.items() if size > self.function)
            self.fitting.update((task, size) for task, size in sizes.items() if 0 < size <= self.function)

    def skip(self) -> Effects:
        """Let go of the ready tasks that an earlier run of this invocation has handed over."""
        theirs = [task for task in self.ready if task in self.offloaded]
        if theirs:
            self.ready[:] = [task for task in self.ready if task not in self.offloaded]
            self.ahead.difference_update(theirs)
            self.put_back.difference_update(theirs)
            for task in theirs:
                if task not in self.cold:
                    if task not in self.parents:
                        yield from self.need(task)
                    yield from self.release(self.parents[task])

    def warm(self, task: int) -> None:
        """Count now what a cold task needs: other lanes may use it too, or it is to be fetched ahead."""
        if task in self.cold:
            self.cold.discard(task)
            self.count(task)

    def count(self, task: int) -> None:
        """Count one use more of each input of a task."""
        for parent in self.parents[task]:
            counts = self.uses if parent in self.uses else self.awaited
            counts[parent] = counts.get(parent, 0) + 1

    def take(self, parents: Sequence[int]) -> list[int] | None:
        """Count one use less of each of these inputs; return those of which it was the last. None: not all are here."""
        uses = self.uses
        for parent in parents:
            if parent not in uses:
                return None
        last_use = []
        for parent in parents:
            n = uses[parent]
            if n == 1:
                last_use.append(parent)
                del uses[parent]
            else:
                uses[parent] = n - 1
        return last_use

    def untake(self, task: int) -> None:
        """Undo `take` of a task's inputs: it is ready again."""
        for parent in self.parents[task]:
            self.uses[parent] = self.uses.get(parent, 0) + 1
        self.ready.append(task)

    def measure(self, tasks: Iterable[int]) -> Effects:
        """Ask for the sizes of those of these cached values whose sizes are not known."""
        unknown = tuple(dict.fromkeys(task for task in tasks if task not in self.sizes))
        if unknown:
            self.sizes.update(zip(unknown, (yield Size(unknown)), strict=True))

    def put(self, tasks: tuple[int, ...], *, requested: bool = False) -> Effects:
        """Store the values of these tasks."""
        self.wrote(tasks, requested=requested)
        yield Put(tasks, requested)

    def wrote(self, tasks: Sequence[int], *, requested: bool) -> None:
        """Note in the ledger that these values may be in the store from now on, whatever happens."""
        self.ledger.stored.extend(tasks)
        if requested:
            self.ledger.requested.update(tasks)

    def release(self, tasks: Sequence[int]) -> Effects:
        """Count one use less of each of these values, whether they are here or still to be fetched."""
        uses = self.uses
        drop: list[int] = []
        for task in tasks:
            counts = uses if task in uses else self.awaited
            n = counts.get(task)
            if n is None:
                continue
            if n > 1:
                counts[task] = n - 1
                continue
            del counts[task]
            if counts is uses:
                self.sizes.pop(task, None)
                (self.last_use if task in self.running else drop).append(task)
        if drop:
            yield Drop(drop)

    def abort(self, task: int, lost: tuple[int, ...] = ()) -> Effects:
        """Tell the client that the job has failed, at this task."""
        self.told = self.failed = True
        self.ready.clear()
        yield Abort(task, lost)
