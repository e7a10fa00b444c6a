"""Fan-out: become one of the ready tasks and keep the others; hand some over if keeping costs more than invoking."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import inf
from typing import Any

from wukong.core.dag import Limits
from wukong.core.effects import Effect, Effects, FreeSeats, Invoke, Part, Record, Slots
from wukong.core.policy import PINNED, UNKNOWN_BYTES, parts
from wukong.core.walk.fan_in import FanIns
from wukong.core.walk.frontier import Frontier
from wukong.core.walk.lanes import Lanes
from wukong.core.walk.seats import Seats

_UNBOUNDED, _TO_LARGER = 1_000, 64
_LOOK_S, _SETTLE_S = 0.25, 1.0


class FanOut:
    """What this executor hands over to invocations that it makes.

    Args:
        frontier: where the walk stands.
        lanes: how many tasks an executor runs at once.
        seats: which seats of limits this one has.
        fan_ins: knows what is written behind, which has to be stored before anything is handed over.
        attempt_id: the prefix of the ids of the invocations that it makes. It is another one each time the client makes
            this invocation again, so an earlier run that is still alive cannot use the same ids.
        alone: no other executor exists, nor will, unless this one hands something over.
        n_offloads: how many invocations were made under this prefix.
        limited: the job has limits: which tasks have is known only when their pages are loaded.
        room_bytes: what the inputs of tasks that wait for seats may take here.

    Attributes:
        patience_s: how long ready tasks and pending arrivals wait here, seconds; follows the costs at each check.
        task_s: how long a task took on average before the last check, seconds.
        look_at: when to look next for free seats, for tasks of the same limits; seconds.
    """

    def __init__(
        self,
        frontier: Frontier,
        lanes: Lanes,
        seats: Seats,
        fan_ins: FanIns,
        attempt_id: str,
        *,
        alone: bool,
        n_offloads: int,
        limited: bool = False,
        room_bytes: int = UNKNOWN_BYTES,
    ) -> None:
        self.frontier, self.lanes, self.seats, self.fan_ins = frontier, lanes, seats, fan_ins
        self.attempt_id, self.alone, self.n_offloads, self.limited = attempt_id, alone, n_offloads, limited
        self.room_bytes = room_bytes
        self.eager = frontier.policy.fan_out == "eager"
        self.patience_s = frontier.costs.patience(frontier.policy)
        self.task_s = 0.0
        self.look_at: dict[Limits, float] = {}
        self._settled_at = 0.0

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        assert not (self.alone and self.n_offloads), f"alone, with {self.n_offloads} invocations made"

    def measured(self, task_s: float) -> None:
        """Take in how long a task takes here on average, seconds, and what moving things costs by now."""
        self.task_s, self.patience_s = task_s, self.frontier.costs.patience(self.frontier.policy)

    def begins(self, now: float) -> None:
        """Note when the walk begins. Whoever was made together with this executor may have to begin, too."""
        self._settled_at = 0.0 if self.alone else now + _SETTLE_S + self.patience_s

    def split(self, task_s: float, now: float, *, busy: bool) -> Effects:
        """Hand the far end of the ready queue to new executors, if that is cheaper than keeping it.

        `task_s`: how long one of these tasks takes. `busy`: a task runs meanwhile.
        """
        ready = self.frontier.ready
        if self.frontier.offloaded:
            yield from self.frontier.skip()
        if self.limited:
            yield from self._split_limited(max(task_s, self.task_s), now, busy=busy)
            ready = [task for task in ready if task not in self.frontier.limited]
        if len(ready) < (1 if busy else 2):
            return
        free: int | None = yield Slots()
        if not self.eager:
            task_s = max(task_s, self.task_s)
        bound = _UNBOUNDED if free is None else free
        n_parts, keep = self._share(len(ready), task_s, len(ready) if self.eager else bound, busy=busy)
        if n_parts < 1:
            return
        movable = yield from self.movable(ready[: len(ready) - keep], task_s)
        yield from self.hand_over(movable, n_parts)

    def _split_limited(self, task_s: float, now: float, *, busy: bool) -> Effects:
        """Hand limited tasks to no more executors than there are seats free for them, each its share.

        Whoever was made for such tasks takes its seat only when it begins. Until then none is given away again, by this
        executor or by those.
        """
        frontier, seats = self.frontier, self.seats
        for task in [task for task in frontier.ready if task not in frontier.parents]:
            yield from frontier.need(task)
        alike: dict[Limits, list[int]] = {}
        for task in frontier.ready:
            if task in frontier.limited:
                alike.setdefault(frontier.limited[task], []).append(task)
        for limits, tasks in alike.items():
            if now < self.look_at.get(limits, self._settled_at):
                continue
            if self._share(len(tasks), task_s, _UNBOUNDED, busy=busy)[0] < 1:
                continue
            slots: int | None = yield Slots()
            free: int = yield FreeSeats(limits)
            self.look_at[limits] = now + _LOOK_S
            bound = min(free, _UNBOUNDED if slots is None else slots)
            n_parts, keep = self._share(len(tasks), task_s, bound, busy=busy)
            if keep and free == bound and not seats.has(limits):  # one seat is for those that stay here
                n_parts, keep = self._share(len(tasks), task_s, bound - 1, busy=busy)
            if n_parts < 1:
                continue
            movable = yield from self.movable(tasks[: len(tasks) - keep], task_s)
            yield from self.hand_over(movable, n_parts)
            self.look_at[limits] = now + _SETTLE_S + self.patience_s

    def _share(self, n: int, task_s: float, bound: int, *, busy: bool) -> tuple[int, int]:
        """Return to how many executors, `bound` at most, to hand some of `n` ready tasks, and how many to keep."""
        if self.eager:
            return min(bound, n - (0 if busy else 1)), 0 if busy else 1
        handover_s, lanes = self.frontier.policy.handover_s, self.lanes.most
        n_parts = parts(n, task_s, self.patience_s, handover_s, bound, busy=busy, lanes=lanes)
        return n_parts, 0 if busy and n_parts * lanes >= n else max(1, n // (n_parts + 1))

    def movable(self, candidates: Sequence[int], task_s: float) -> Generator[Effect, Any, list[int]]:
        """Return the tasks that may go: not those whose local inputs cost more to move than that gains (clustering)."""
        frontier = self.frontier
        warm = [task for task in candidates if task not in frontier.cold]
        if not warm:
            return list(candidates)
        parents = frontier.parents
        for task in warm:
            if task not in parents:
                yield from frontier.need(task)
        sizes, stored = frontier.sizes, frontier.stored
        local = dict.fromkeys(
            parent
            for task in warm
            for parent in parents[task]
            if parent in frontier.uses and parent not in stored and parent not in frontier.storing
        )
        yield from frontier.measure(local)
        worth_s = max(task_s, self.patience_s)
        heavy = set()
        for task in warm:
            size = sum(sizes[parent] for parent in parents[task] if parent in local)
            if size >= PINNED or (not self.eager and frontier.costs.move_s(size) > worth_s):
                heavy.add(task)
        return [task for task in candidates if task not in heavy]

    def to_larger(self) -> Effects:
        """Hand each ready task that needs a larger function to a new executor on one; of many, some to each.

        Nobody knows yet how long such tasks take. Who gets several splits them by that.
        A task that has an input which cannot be stored stays, and runs here.
        """
        frontier, larger = self.frontier, self.frontier.larger
        if frontier.offloaded:
            yield from frontier.skip()
        wanted = [task for task in frontier.ready if task in larger]
        movable = yield from self.movable(wanted, inf)
        sizes = {task: larger.pop(task) for task in wanted}
        for size in sorted({sizes[task] for task in movable}):
            alike = [task for task in movable if sizes[task] == size]
            limited = [task for task in alike if task in frontier.limited]
            yield from self.hand_over([task for task in alike if task not in frontier.limited], _TO_LARGER, size)
            most = min((n for task in limited for _, n in frontier.limited[task]), default=1)
            yield from self.hand_over(limited, most, size)

    def park(self, waited_s: float) -> Effects:
        """Leave limited tasks on record, an invocation for each kind; the client makes it when there is a seat.

        `waited_s`: how long they have waited here. What costs more to move than that stays.
        """
        if self.frontier.offloaded:
            yield from self.frontier.skip()
        yield from self._park([task for task in self.frontier.ready if task in self.frontier.limited], waited_s)
        if not any(map(self.seats.waits, self.frontier.ready)):
            self.seats.rests_since = None

    def park_beyond(self) -> Effects:
        """Leave limited tasks that wait for a seat on record, if the inputs that they hold here take too much room."""
        frontier, room_bytes = self.frontier, self.room_bytes
        if frontier.offloaded:
            yield from frontier.skip()
        refused = [each for each in frontier.ready if each not in frontier.cold and self.seats.waits(each)]
        far: list[int] = []
        seen: set[int] = set()
        for task in reversed(refused):
            local = [each for each in frontier.parents[task] if each in frontier.uses and each not in seen]
            yield from frontier.measure(local)
            seen.update(local)
            room_bytes -= sum(frontier.sizes[each] for each in local if frontier.sizes[each] < PINNED)
            if local and room_bytes < 0:
                far.append(task)
        yield from self._park(far, inf)

    def _park(self, waiting: Sequence[int], waited_s: float) -> Effects:
        alike: dict[Limits, list[int]] = {}
        for task in waiting:
            alike.setdefault(self.frontier.limited[task], []).append(task)
        for limits, tasks in alike.items():
            movable = yield from self.movable(tasks, waited_s)
            yield from self.hand_over(movable, 1, parked=limits)

    def hand_over(self, movable: Sequence[int], n_parts: int, size: int = 0, parked: Limits = ()) -> Effects:
        """Record and make `n_parts` invocations for these ready tasks, on functions of this size, counted from 0.

        On larger ones, as far as the tasks are known to need those. `parked`: record them only, see `Part`.
        """
        frontier, ready, fitting = self.frontier, self.frontier.ready, self.frontier.fitting
        if movable and frontier.storing:
            yield from self.fan_ins.settle([each for task in movable for each in frontier.parents.get(task, ())])
        if not movable or frontier.told:
            return
        n_parts = min(n_parts, len(movable))
        if frontier.function and not size:
            for task in movable:
                if task not in frontier.parents:
                    yield from frontier.need(task)
        inline_of, put = yield from self._inputs(movable)
        groups = [movable[len(movable) * i // n_parts : len(movable) * (i + 1) // n_parts] for i in range(n_parts)]
        made: list[Part] = []
        for group in groups:
            inline = dict.fromkeys(task for ready_task in group for task in inline_of.get(ready_task, ()))
            label = f"{self.attempt_id}.{self.n_offloads + len(made)}"
            needed = max(size, *(fitting.get(task, 0) for task in group))
            made.append(Part(label, tuple(reversed(group)), tuple(inline), needed, parked))
        if put:
            yield from self.share()
            yield from frontier.put(tuple(put))
            frontier.stored.update(put)
        gone = set(movable)
        ready[:] = [task for task in ready if task not in gone]
        self.fan_ins.overlap.forget(gone)
        self.n_offloads += len(made)
        self.alone = False
        parts_made = tuple(made)
        frontier.ledger.made.extend(part.invocation for part in parts_made)
        yield Record(parts_made, self.n_offloads)
        if not parked:
            yield Invoke(parts_made)
        frontier.ledger.sent = self.n_offloads
        warm = (task for task in movable if task not in frontier.cold)
        yield from frontier.release([parent for task in warm for parent in frontier.parents[task]])

    def share(self) -> Effects:
        """Be alone no more, and put that on record. Call it before anything is stored that the client did not request.

        The platform may deliver this invocation twice, and a run that has done the whole job alone names in its report
        only what it has stored itself. By this record the client knows that another run may have left more.
        """
        if self.alone:
            self.alone = False
            yield Record((), self.n_offloads)

    def _inputs(self, tasks: Sequence[int]) -> Generator[Effect, Any, tuple[dict[int, list[int]], dict[int, None]]]:
        """Return the local inputs of each task that travel in the payload, and those that have to be stored before."""
        frontier = self.frontier
        inline_of: dict[int, list[int]] = {}
        put: dict[int, None] = {}
        for task in tasks:
            if task in frontier.cold:
                continue
            for parent in frontier.parents[task]:
                if parent not in frontier.uses or parent in frontier.stored or parent in put:
                    continue
                yield from frontier.measure((parent,))
                if frontier.sizes[parent] * frontier.uses[parent] <= frontier.policy.ride_bytes:
                    inline_of.setdefault(task, []).append(parent)
                else:
                    put[parent] = None
        return inline_of, put
