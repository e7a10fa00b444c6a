"""The clockwork of a prediction: one job's invocations, in order of virtual time. See `wukong.planning.prediction`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias

from wukong.core.effects import (
    Arrive,
    Arrived,
    Came,
    CoreWaits,
    Drop,
    FetchAhead,
    Finish,
    FreeSeats,
    Get,
    GiveSeats,
    Incr,
    Invoke,
    Landed,
    LeaveWord,
    LoadPage,
    Now,
    Overstays,
    Pause,
    Put,
    Read,
    Record,
    Run,
    Slots,
    TakeIn,
    TakeSeats,
    Unpack,
    WriteBehind,
)
from wukong.core.invocation import WalkType
from wukong.core.policy import SWITCH_S, Costs
from wukong.planning.case import Case
from wukong.planning.cores import Cores, CoreWait
from wukong.planning.effect_times import INLINE_TASKS, EffectTimes, parts_of
from wukong.planning.lock_turns import LockTurns
from wukong.planning.looks import next_look
from wukong.planning.model_executor import ModelExecutor, Request, Violation
from wukong.planning.outline import Outline
from wukong.planning.overhead import Overhead, OverheadCount
from wukong.planning.predicted import Prediction, Rates, critical_path_s
from wukong.planning.slot_model import SlotModel, SpareCores
from wukong.planning.store_model import StoreUse
from wukong.planning.terms import PlaceTerms
from wukong.planning.world import World

_MOST_EVENTS_PER_TASK = 10_000

_What: TypeAlias = str | int | Request
_Work: TypeAlias = tuple[ModelExecutor, _What, float]


class Clockwork:
    """One run: events in order of time. An event is the end of what an executor does: ``(time, n, executor, what)``.

    `what` is "begin", "wake", "look", "effect", "core", the task of another lane that has ended, or a request that
    has. If another lane takes the walk, `steps` of the executor says that its look and its effect are not to come any
    more; `turns` says the same of the next end of what shares the executor's cores.
    """

    gives_way = False
    outline: Outline | None = None
    use: StoreUse | None = None
    lock = LockTurns()

    def __init__(
        self,
        case: Case,
        durations: Sequence[float],
        slots: int | None,
        rates: Rates,
        walk: WalkType,
        overhead: Overhead,
    ) -> None:
        self.case, self.durations, self.n_slots, self.rates = case, durations, slots, rates
        self.costs = Costs(*case.costs)
        self.world = World(case, walk=walk, strict=False)
        self.seen = Prediction(critical_path_s=critical_path_s(case.dag, durations))
        self.now = 0.0
        self.n_events = 0
        self.events: list[tuple[float, int, ModelExecutor, _What, int]] = []
        self.steps: dict[ModelExecutor, int] = {}
        self.landed: dict[ModelExecutor, list[int]] = {}
        self.counted = OverheadCount(overhead)
        self.began: dict[ModelExecutor, float] = {}
        self.ends: dict[ModelExecutor, float] = {}
        self.over: set[ModelExecutor] = set()
        self.n_ran: Counter[ModelExecutor] = Counter()
        self.held: dict[ModelExecutor, int] = {}
        self.waits: defaultdict[ModelExecutor, CoreWait] = defaultdict(CoreWait)

    def at(
        self, terms: PlaceTerms, on_core: Sequence[float] | None, lane_cores: float | None, spare_cores: int = 0
    ) -> None:
        """Hear what the place is like, which part of its time each task is on a core, and what lanes share."""
        self.terms, self.on_core = terms, on_core
        self.takes = EffectTimes(self.costs, terms, self.case.sizes)
        self.cores: Cores[_Work] | None = None if terms.cores is None else Cores(terms.cores)
        self.link: Cores[_Work] | None = None if terms.link_bytes_per_s is None else Cores(1.0)
        self.starts_at = 0.0
        lanes = self.case.policy.lanes
        spare = SpareCores(spare_cores, int(lane_cores or 1), on_core, self.lock.held) if lanes == "auto" else None
        self.slots = SlotModel(self.n_slots, gives_way=self.gives_way, spare=spare)
        self.lane_cores = lane_cores if lanes != "auto" and lane_cores is not None and lane_cores < lanes else None
        self.inside: dict[ModelExecutor, Cores[_Work]] = {}
        self.turns: Counter[ModelExecutor] = Counter()

    def run(self) -> Prediction:
        seen, world = self.seen, self.world
        self.now = self.takes.moving_s(0)
        self._invoked(world.start_roots())
        most = _MOST_EVENTS_PER_TASK * (len(self.case.dag) + 1)
        while self._shared() or self.events:
            self.now, _, executor, what, step = heappop(self.events)
            if self.n_events > most:
                raise Violation(f"no end after {self.n_events} events")
            if what == "begin":
                self._begin(executor)
            elif what == "wake":
                self._invoked([executor])
            elif isinstance(what, int):
                self._ran(executor, what)
            elif isinstance(what, Request):
                self._end_request(executor, what)
            elif what == "core":
                if step == self.turns[executor]:
                    _, what, idle_s = self._off_core(self.inside[executor])
                    self._at(self.now + idle_s, executor, what)
                    self._turn(executor)
            elif step != self.steps[executor]:
                continue
            elif what == "look":
                self._look(executor)
            else:
                self._complete(executor)
        world.close()
        seen.executors = len(world.executors)
        if self.use is not None:
            seen.store_usd = self.use.usd(seen.makespan_s)
        seen.put_bytes += self.counted.put_bytes
        seen.got_bytes += self.counted.got_bytes
        seen.cost = self.rates.cost(seen)
        return seen

    def _at(self, when_s: float, executor: ModelExecutor, what: _What) -> None:
        self.n_events += 1
        heappush(self.events, (when_s, self.n_events, executor, what, self.steps.get(executor, 0)))

    def _shared(self) -> bool:
        """Put the end of what shares the cores or the link on the clock, if that comes next. Returns whether it did."""
        ends = [(due, each) for each in (self.cores, self.link) if each is not None and (due := each.due()) is not None]
        if not ends:
            return False
        due, first = min(ends, key=itemgetter(0))
        if self.events and self.events[0][0] < due:
            return False
        self.now = max(self.now, due)
        executor, what, idle_s = first.end() if first is self.link else self._off_core(first)
        self._at(self.now + idle_s, executor, what)
        return True

    def _works(self, executor: ModelExecutor, what: _What, core_s: float, idle_s: float) -> None:
        """Put on the clock the end of what takes `core_s` on a core, and then `idle_s` without one, seconds."""
        cores = self._cores_of(executor)
        if cores is None or core_s <= 0:
            self._at(self.now + core_s + idle_s, executor, what)
        else:
            cores.begin((executor, what, idle_s), core_s, self.now)
            self.waits[executor].change(1, cores, self.now)
            self._turn(executor)

    def _off_core(self, cores: Cores[_Work]) -> _Work:
        work = cores.end()
        self.waits[work[0]].change(-1, cores, self.now)
        return work

    def _core_waits_s(self, executor: ModelExecutor) -> float:
        """Return for how long an executor's tasks have waited for a core up to now, seconds."""
        cores = self._cores_of(executor) if self.case.policy.lanes == "auto" else None  # else executors do not look
        return 0.0 if cores is None else self.waits[executor].waited_s(cores, self.now)

    def _cores_of(self, executor: ModelExecutor) -> Cores[_Work] | None:
        if self.cores is not None or self.lane_cores is None:
            return self.cores
        return self.inside.setdefault(executor, Cores(self.lane_cores))

    def _turn(self, executor: ModelExecutor) -> None:
        """Put the next end of what shares the executor's own cores on the clock."""
        due = self.inside[executor].due() if executor in self.inside else None
        if due is not None:
            self.n_events += 1
            self.turns[executor] += 1
            heappush(self.events, (due, self.n_events, executor, "core", self.turns[executor]))

    # --- executors come and go

    def _invoked(self, started: Sequence[ModelExecutor]) -> None:
        for executor in started:
            if self.outline is not None:
                self.outline.called(executor.invocation, self.now)
            self.slots.queue.append(executor)
            self._dispatch()

    def _dispatch(self) -> None:
        while (executor := self.slots.next()) is not None:
            self._occupy(executor)

    def _occupy(self, executor: ModelExecutor) -> None:
        self.slots.active += 1
        self.seen.peak_executors = max(self.seen.peak_executors, self.slots.active)
        self.starts_at = max(self.now + self.costs.invoke_s, self.starts_at + 1 / (self.terms.starts_per_s or math.inf))
        self._at(self.starts_at + self.terms.start_s, executor, "begin")

    def _begin(self, executor: ModelExecutor) -> None:
        self.began[executor] = self.now
        if self.outline is not None:
            self.outline.began(executor.invocation, self.now)
        self.held[executor] = self.steps[executor] = 0
        self.landed[executor] = []
        executor.advance(None)
        self._next(executor)

    def _ended(self, executor: ModelExecutor) -> None:
        lived_s = self.now - self.began[executor]
        self.seen.function_s += lived_s
        self.counted.ended(lived_s)
        if self.outline is not None:
            self.outline.ended(executor.invocation, self.now)
        self.slots.active -= 1

    # --- effects

    def _next(self, executor: ModelExecutor) -> None:
        """Put the end of the executor's next effect on the clock."""
        effect = executor.effect
        self.slots.stands(executor)
        if executor.done:
            self._ended(executor)
        self._dispatch()
        if executor.done:
            return
        if isinstance(effect, Run) and executor.busy is None:
            self.world.begin(executor, effect)
            executor.busy, executor.since, executor.looks = effect, self.now, 0
            self.waits[executor].noted_s = self._core_waits_s(executor)
            self.counted.ran(executor.invocation, effect.task)
            self.n_ran[executor] += 1
            self.seen.peak_lanes = max(self.seen.peak_lanes, len(executor.away) + 1)
            takes_s = self.durations[effect.task]
            core_s = takes_s if self.on_core is None else takes_s * self.on_core[effect.task]
            if (work := self.lock.take(executor, effect.task, core_s, takes_s - core_s)) is not None:
                self._works(executor, *work)
            cores = self._cores_of(executor)
            stretch = 1.0 if cores is None else cores.stretch()
            ahead_s = self.lock.ahead_s(executor, effect.task)
            self.ends[executor] = self.now + takes_s + ahead_s + (stretch - 1) * (core_s + ahead_s)
            if self.outline is not None:
                self.outline.runs_task(
                    executor.invocation, effect.task, self.now, takes_s, self.case.sizes[effect.task]
                )
            self._wait(executor)
        elif isinstance(effect, Run):
            if executor in self.over:  # it has ended while the watcher was at work
                self._at(self.now, executor, "effect")
            else:
                self._wait(executor)
        else:
            assert effect is not None
            takes_s = self.takes.effect_s(effect)
            if self.outline is not None:
                self.outline.does(executor.invocation, effect, self.now, takes_s)
            linked_s = self.takes.linked_s(effect)
            if self.link is not None and linked_s > 0:
                self.link.begin((executor, "effect", 0.0), linked_s, self.now)
            elif takes_s < math.inf and not (isinstance(effect, TakeIn) and effect.wait):
                self._at(self.now + takes_s, executor, "effect")
        if self.landed[executor] or executor.ended:
            self._land(executor)

    def _wait(self, executor: ModelExecutor) -> None:
        """Wait, while a task runs, until its end, or until the watcher wakes and has something to do."""
        walk, end = executor.walk, self.ends[executor]
        if walk.lanes.spare:
            switch_s = min(walk.patience_s, SWITCH_S)
            if self.now + switch_s < end:
                self._at(self.now + switch_s, executor, "look")
        elif self.slots.spare is not None and not executor.looks and walk.frontier.ready:
            if (look := self.slots.spare.look_at(executor, self.now)) < end:
                self._at(look, executor, "look")
        elif walk.shareable:
            look = next_look(executor, self.began[executor], self.case.policy.heartbeat_s, self.now)
            if look < end:
                self._at(look, executor, "look")

    def _look(self, executor: ModelExecutor) -> None:
        if self.slots.another_lane(executor, self.now):
            return self._part(executor, Overstays(self.now))
        executor.looks += 1
        if self.now - executor.since < executor.walk.patience_s:
            return self._wait(executor)
        waited_s = self._core_waits_s(executor) - self.waits[executor].noted_s
        executor.watcher = executor.execution.overdue(self.now - executor.since, self.now, waited_s)
        executor.advance(None)
        self._next(executor)

    def _ran(self, executor: ModelExecutor, task: int) -> None:
        """Take in that a task has ended, in the lane that has the walk or in another one."""
        idle_s, following = self.lock.give(executor, task)
        if following is not None:
            self._works(executor, *following)
        if idle_s > 0:
            return self._at(self.now + idle_s, executor, task)
        if executor.busy is None or executor.busy.task != task:
            self.landed[executor].append(task)
            self._land(executor)
        elif executor.effect is executor.busy:
            self.steps[executor] += 1
            self._complete(executor)
        else:
            self.over.add(executor)

    # --- lanes and requests

    def _land(self, executor: ModelExecutor) -> None:
        """Take in the tasks of other lanes and the requests that have ended, if the walk stands at such a place."""
        effect, tasks = executor.effect, tuple(self.landed[executor])
        if isinstance(effect, TakeIn) and effect.wait and executor.ended:
            return self._complete(executor)
        pauses = isinstance(effect, Pause) and executor.watcher is None and executor.walk.overlap.lands
        stands = effect is executor.busy is not None or pauses
        if not stands or not (tasks or (pauses and executor.ended)):
            return
        self.landed[executor].clear()
        for task in tasks:
            self.world.land(executor, (task,))
            self.seen.busy_s += self.durations[task]
            self._hold(executor, self.case.sizes[task])
        came = self._take_in(executor) if executor.walk.overlap.lands else ()
        self._part(executor, Landed(self.now, tasks, (), came))

    def _part(self, executor: ModelExecutor, event: Landed | Overstays) -> None:
        """Have another lane take the walk while the running task goes on in its own."""
        run = executor.busy
        if run is not None:
            executor.away[run.task], executor.busy = run, None
            if executor in self.over:
                self.over.discard(executor)
                self._at(self.now, executor, run.task)
        self.steps[executor] += 1
        executor.advance(event)
        self._next(executor)

    def _request(self, executor: ModelExecutor, effect: FetchAhead | WriteBehind) -> bool:
        """Begin a request. Those of one kind are carried out one after the other."""
        request = self.world.request(executor, effect)
        steps = effect.tasks if isinstance(effect, FetchAhead) else (*effect.put, *effect.arrivals)
        request.left = list(reversed(steps))
        if request in executor.first():
            self._go_on(executor, request)
        return True

    def _go_on(self, executor: ModelExecutor, request: Request) -> None:
        """Put the end of a request, which is the first of its kind, on the clock."""
        parts = parts_of(request.effect)
        takes_s = [self.takes.effect_s(part) for part in parts]
        if self.outline is not None:
            for i, part in enumerate(parts):
                self.outline.does(executor.invocation, part, self.now + sum(takes_s[:i]), takes_s[i])
        linked_s = self.takes.linked_s(parts[0])
        if self.link is not None and linked_s > 0:
            self.link.begin((executor, request, sum(takes_s[1:])), linked_s, self.now)
        else:
            self._at(self.now + sum(takes_s), executor, request)

    def _end_request(self, executor: ModelExecutor, request: Request) -> None:
        while request.left:
            self.world.go_on(executor, request)
        for part in parts_of(request.effect):
            match part:
                case Get(tasks):
                    self._moved(got=self.takes.size(tasks))
                case Put(tasks):
                    self._moved(put=self.takes.size(tasks))
                case Incr(arrivals):
                    self._moved(put=sum(self.takes.size(arrive.carry) for arrive in arrivals))
                    self.seen.got_bytes += sum(self.takes.size(each.carried) for each in request.answers)
            if self.use is not None:
                self.use.count(part, self.n_ran[executor])
        for following in executor.first():
            if type(following.effect) is type(request.effect):
                self._go_on(executor, following)
        self._land(executor)

    def _take_in(self, executor: ModelExecutor) -> tuple[Came, ...]:
        before = len(executor.cache)
        came = executor.take_in()
        self._hold(executor, self.takes.size(tuple(islice(executor.cache, before, None))))
        return came

    def _complete(self, executor: ModelExecutor) -> None:
        world, seen, effect = self.world, self.seen, executor.effect
        answer: Any = None
        match effect:
            case Run(task, last_use):
                world.end(executor, effect)
                executor.busy = None
                self.over.discard(executor)
                seen.busy_s += self.durations[task]
                self._hold(executor, self.case.sizes[task] - self.takes.size(last_use))
                answer = self.now
                if executor.ended and executor.walk.overlap.lands:
                    answer = Landed(self.now, (task,), (), self._take_in(executor))
            case Now() | Pause():
                answer = self.now
            case Get(tasks):
                for task in tasks:
                    world.get(executor, task)
                world.got(executor, effect)
                self._moved(got=self.takes.size(tasks))
                self._hold(executor, self.takes.size(tasks))
                answer = ()
            case Put(tasks):
                for task in tasks:
                    world.put(executor, task)
                self._moved(put=self.takes.size(tasks))
            case Incr(arrivals):
                self._moved(put=sum(self.takes.size(arrive.carry) for arrive in arrivals))
                answer = tuple(self._arrive(executor, arrive) for arrive in arrivals)
                seen.got_bytes += sum(self.takes.size(arrived.carried) for arrived in answer)
            case FetchAhead() | WriteBehind():
                answer = self._request(executor, effect)
            case TakeIn():
                answer = self._take_in(executor)
            case Slots():
                answer = self.slots.free_for(executor, self.n_ran[executor], self.now - self.began[executor])
            case CoreWaits():
                answer = self._core_waits_s(executor)
            case Invoke(parts):
                self._invoked(world.invoke(parts))
            case None:
                raise Violation("an executor that has ended is asked for its next effect")
            case _:
                if isinstance(effect, Drop):
                    self._hold(executor, -self.takes.size(effect.tasks))
                answer = world.at_once(executor, effect)
                if isinstance(effect, Read | LeaveWord | TakeSeats | GiveSeats | FreeSeats):
                    self._moved()
                elif isinstance(effect, Unpack):
                    self._hold(executor, self.takes.size(answer))
                elif isinstance(effect, Record):
                    self._moved(put=sum(self.takes.size(part.inline) for part in effect.parts))
                    self.counted.made(len(effect.parts))
                if isinstance(effect, Record | GiveSeats) and world.parked:
                    for woken in world.wake_next():  # by the client, at its next look
                        self._at(self.now + self.case.policy.heartbeat_s / 2, woken, "wake")
                elif isinstance(effect, Finish):
                    self._moved(put=self.takes.size(effect.inline))
                    stored = [task for task in self.case.dag.outputs if task not in effect.inline]
                    seen.makespan_s = self.now + self.takes.alone_s(stored)
                elif isinstance(effect, LoadPage):
                    by_client = "." not in executor.invocation
                    page = effect.task // self.case.page_tasks
                    self.counted.page(page, by_client=by_client, processes=self.seen.peak_executors)
                    if len(self.case.dag) > INLINE_TASKS:
                        self._moved()
        if self.use is not None and effect is not None:
            self.use.count(effect, self.n_ran[executor])
        executor.advance(answer)
        self._next(executor)

    def _arrive(self, executor: ModelExecutor, arrive: Arrive) -> Arrived:
        before = len(executor.cache)
        arrived = self.world.arrive(executor, arrive)
        # The cache keeps the order in which values came: those beyond its former length are new.
        self._hold(executor, self.takes.size(tuple(islice(executor.cache, before, None))))
        return arrived

    def _moved(self, *, put: int = 0, got: int = 0) -> None:
        self.seen.operations += 1
        self.seen.put_bytes += put
        self.seen.got_bytes += got

    def _hold(self, executor: ModelExecutor, change: int) -> None:
        self.held[executor] += change
        self.seen.peak_held_bytes = max(self.seen.peak_held_bytes, self.held[executor])
