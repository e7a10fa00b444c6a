"""Carries out what `wukong.core.invocation` yields, as a generator that may be stopped anywhere.

It yields between any two things that happen. `wukong.testing.platform` resumes it: it decides which executor goes on
next, and may close the generator instead, which is how executors die.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from math import inf
from random import Random
from typing import Any

from wukong.core.effects import (
    Abort,
    Beat,
    CoreWaits,
    Delete,
    Effect,
    Effects,
    Fail,
    Failed,
    FetchAhead,
    Finish,
    Get,
    Incr,
    Invoke,
    KeepSeats,
    Landed,
    LeaveWord,
    LoadPage,
    Missing,
    Now,
    Overstays,
    Pause,
    Put,
    Read,
    Record,
    Run,
    Slots,
    Stopped,
    TakeIn,
    Unpack,
    Watched,
    WriteBehind,
)
from wukong.core.events import Done, End, Heartbeat, Report
from wukong.core.invocation import Execution
from wukong.core.payload import Sent
from wukong.core.policy import Costs
from wukong.core.raised import Raised
from wukong.core.walk import Walk
from wukong.planning.world import Case, Request, Violation, check
from wukong.testing.faults import SimulatedFaults
from wukong.testing.faulty import Delivery, FaultyWorld

__all__ = ["Interpreter", "SimulatedLoss", "SimulatedTaskError"]

_NOTHING = (Unpack, Watched)
_MAX_LOOKS = 3


class SimulatedTaskError(Exception):
    """What the failing task raises."""


class SimulatedLoss(Exception):
    """Inputs are lost for good."""


class Interpreter(ABC):
    """Carries out one delivery at a time; the attributes are `wukong.testing.platform.SimulatedPlatform`'s."""

    rng: Random
    case: Case
    script: SimulatedFaults
    execution: type[Execution]
    world: FaultyWorld
    limit_s: float
    now: float
    n_slots: int
    failing: int | None

    @abstractmethod
    def send(self, invocations: Sequence[tuple[str, bytes]]) -> Sent:
        """Start invocations."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Let time pass."""

    @abstractmethod
    def tell(self, who: str, what: str) -> None:
        """Keep one line of the story, if asked for."""

    @abstractmethod
    def answer(self, delivery: Delivery, effect: Effect, answer: object) -> None:
        """Learn what an effect was answered."""

    @abstractmethod
    def looks(self) -> bool:
        """Whether the watcher looks at the running task now."""

    @abstractmethod
    def event(self, delivery: Delivery, events: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
        """Choose what happens to an executor with lanes: None: nothing; (): it overstays; or these tasks land."""

    @abstractmethod
    def room(self) -> bool:
        """Whether there is room for what a request brings, or holds."""

    @abstractmethod
    def takes_in(self) -> bool:
        """Whether what has come of requests is taken in now."""

    def validate(self, delivery: Delivery, effect: Effect) -> None:
        """Hold the walk's state against what it promises."""
        self.world.validate(delivery, effect)

    def carry_out(self, delivery: Delivery) -> Generator[Effect, None, None]:
        """Carry out one run of an invocation, as a function does; yield before each thing that happens."""
        order, limit_s = delivery.order, None if self.limit_s == inf else self.limit_s
        costs = Costs(*order.costs)
        execution = delivery.execution = self.execution(
            order, costs, walk=self.world.walk, time_limit_s=limit_s, **self.world.place_of(order)
        )
        yield from self._drive(delivery, execution.run())

    def _end(self, delivery: Delivery, done: Done | None = None) -> None:
        names, ledger = self.world.names, delivery.execution.ledger
        finished = done is not None and done.raised is None
        report = Report(invocations=len(ledger.made))
        attempt = delivery.order.attempt
        end = End(report, ledger.stored, ledger.arrived, missing=ledger.missing, finished=finished, attempt=attempt)
        items: dict[bytes, Any] = {names.end(delivery.invocation): end}
        if done is not None:
            items[names.done] = done
        self.world.write(items)

    def _nothing_left(self, delivery: Delivery) -> None:
        walk, stored = delivery.walk, {*delivery.execution.ledger.stored}
        check(delivery.restored <= stored, f"{delivery.attempt_id} has restored values and not stored them")
        check({*delivery.stored} <= stored, f"{delivery.attempt_id} has stored what it does not report")
        left = walk.left() | {"uses": walk.frontier.uses}
        for name, there in left.items():
            check(not there, f"{delivery.attempt_id} ends with {name} = {there}")
        check(not delivery.cache, f"{delivery.attempt_id} ends with {sorted(delivery.cache)} in its cache")

    def _drive(self, delivery: Delivery, effects: Effects) -> Iterator[Effect]:
        """Carry effects out; yields each between any two things that happen."""
        try:
            effect = next(effects)
            while True:
                self.validate(delivery, effect)
                if not isinstance(effect, _NOTHING) and (delivery.walk or not isinstance(effect, Now)):
                    yield effect
                try:
                    answer = yield from self._answered(delivery, effect)
                except (Missing, Stopped) as error:
                    self.tell(delivery.attempt_id, f"{effect} -> {error!r}")
                    effect = effects.throw(error)
                    continue
                self.answer(delivery, effect, answer)
                if isinstance(effect, Finish | Abort):
                    yield effect
                effect = effects.send(answer)
        except StopIteration:
            return

    def _answered(self, delivery: Delivery, effect: Effect) -> Generator[Effect, None, Any]:
        match effect:
            case Run():
                answer = yield from self._run(delivery, effect)
                if delivery.broken:
                    raise Stopped
                return answer
            case Pause() if delivery.walk.overlap.lands and (delivery.away or delivery.requests or delivery.ended):
                return (yield from self._rest(delivery, effect))
            case FetchAhead() | WriteBehind():
                return self._begun(delivery, effect)
            case TakeIn(wait):
                while wait and not delivery.ended:
                    self.go_on(delivery, delivery.first()[0])
                    yield effect
                return delivery.take_in()
            case Put() | Get() | Incr() | Record() | Finish():
                return (yield from self._store_effect(delivery, effect))
            case Watched(walk):
                delivery.walk = delivery.execution.walk
                delivery.known &= self.world.handed_over(delivery.order, delivery.n_made)  # what was not lost meanwhile
                delivery.beat_at, delivery.beats = self.now + self.case.policy.heartbeat_s, True
                raised: Exception | None = None
                try:
                    yield from self._drive(delivery, walk)
                except (Missing, Stopped) as error:
                    raised = error
                finally:
                    delivery.beats = False
                while delivery.requests:
                    self.go_on(delivery, delivery.first()[0])
                    yield TakeIn(wait=True)
                if raised is not None:
                    raise raised
                if not delivery.execution.told:
                    self._nothing_left(delivery)
                return None
        return self._at_once(delivery, effect)

    def _run(self, delivery: Delivery, effect: Run) -> Generator[Effect, None, Any]:
        world = self.world
        walk: Walk = delivery.walk
        world.begin(delivery, effect)
        delivery.busy, delivery.since = effect, self.now
        looks = 0
        yield effect
        while looks < _MAX_LOOKS and self.looks():
            looks += 1
            self.pass_time(max(0.0, delivery.since + min(walk.patience_s, 0.5) - self.now))
            self.tell(delivery.attempt_id, f"{effect} is overdue")
            yield from self._drive(delivery, delivery.execution.overdue(self.now - delivery.since, self.now))
            yield effect
        if walk.lanes.most > 1:
            events: list[tuple[int, ...] | None] = [
                None,
                None,
                *([()] if walk.lanes.spare else []),
                *((task,) for task in delivery.away),
            ]
            events += [(effect.task, task) for task in delivery.away]
            chosen = self.event(delivery, events) if len(events) > 2 else None
            if chosen is not None:
                delivery.busy = None
                if effect.task not in chosen:
                    delivery.away[effect.task] = effect
                elif effect.task != self.failing:
                    world.end(delivery, effect)
                return self._landed(delivery, chosen) if chosen else Overstays(self.now)
        if effect.task != self.failing:
            world.end(delivery, effect)
        delivery.busy = None
        if delivery.ended and walk.overlap.lands and self.takes_in():
            return self._landed(delivery, (effect.task,))
        return Failed() if effect.task == self.failing else self.now

    def _rest(self, delivery: Delivery, effect: Pause) -> Generator[Effect, None, Any]:
        """Pause while tasks run in other lanes, or requests are under way: one ends meanwhile, or the watcher comes."""
        check(effect.seconds >= 0, f"a pause of {effect.seconds} s")
        walk: Walk = delivery.walk
        while effect.seconds == inf and not delivery.away and not delivery.ended:
            self.go_on(delivery, delivery.first()[0])
            yield effect
        if delivery.away and self.now >= walk.leaving.deadline and self.looks():
            yield from self._drive(delivery, delivery.execution.overdue(0.0, self.now))
            yield effect
        ends: list[tuple[int, ...] | None] = [(task,) for task in delivery.away]
        if delivery.ended:
            ends.append(())
        if effect.seconds < inf:
            ends.insert(0, None)
        chosen = self.event(delivery, ends)
        if chosen is None:
            return self._paused(delivery, effect.seconds)
        if delivery.broken:
            raise Stopped
        return self._landed(delivery, chosen)

    def _landed(self, delivery: Delivery, tasks: Sequence[int]) -> Landed:
        """End tasks that run in other lanes."""
        failed = [task for task in tasks if task == self.failing]
        right = [task for task in tasks if task != self.failing]
        self.world.land(delivery, [task for task in right if task in delivery.away])
        for task in failed:
            delivery.away.pop(task, None)
        came = delivery.take_in() if delivery.ended and (not tasks or self.takes_in()) else ()
        return Landed(self.now, tuple(right), tuple(failed), came)

    # --- requests

    def _begun(self, delivery: Delivery, effect: FetchAhead | WriteBehind) -> bool:
        """Begin a request, if there is room for it."""
        if not self.room():
            return False
        request = self.world.request(delivery, effect)
        request.steps = (self._behind if isinstance(effect, WriteBehind) else self._ahead)(delivery, request)
        self.go_on(delivery, request)
        return True

    def go_on(self, delivery: Delivery, request: Request) -> None:
        """Carry out the next step of a request."""
        try:
            next(request.steps)
        except StopIteration:
            delivery.end_request(request)
            self.tell(delivery.attempt_id, f"{request.effect} has ended: {request.answers!r:.200}")

    def _behind(self, delivery: Delivery, request: Request) -> Iterator[Effect]:
        effect, world = request.effect, self.world
        assert isinstance(effect, WriteBehind)
        for task in self._shuffled(effect.put):
            yield from self._patiently(delivery, partial(world.put, delivery, task), effect)
        for arrive in effect.arrivals:
            arrived = partial(world.arrive, delivery, arrive, request.brought)
            request.answers.append((yield from self._patiently(delivery, arrived, effect)))

    def _ahead(self, delivery: Delivery, request: Request) -> Iterator[Effect]:
        effect = request.effect
        assert isinstance(effect, FetchAhead)
        for task in self._shuffled(effect.tasks):
            yield effect
            if self.script.strikes("stale") or not self.world.found(delivery, task, request.brought):
                request.answers.append(task)

    def _paused(self, delivery: Delivery, seconds: float) -> float:
        check(0 <= seconds < inf, f"a pause of {seconds} s")
        self.pass_time(seconds)
        if delivery.broken:
            raise Stopped
        return self.now

    def _store_effect(
        self, delivery: Delivery, effect: Put | Get | Incr | Record | Finish
    ) -> Generator[Effect, None, Any]:
        """Carry out an effect on the store: its keys in any order, others in between, each perhaps more than once."""
        world = self.world
        match effect:
            case Put(tasks):
                check(len(set(tasks)) == len(tasks) > 0, f"a batch of {tasks}")
                for task in self._shuffled(tasks):
                    yield from self._patiently(delivery, partial(world.put, delivery, task), effect)
                return None
            case Get(tasks):
                check(len(set(tasks)) == len(tasks) > 0, f"a batch of {tasks}")
                missing = []
                for task in self._shuffled(tasks):
                    yield effect
                    if self.script.strikes("stale") or not world.found(delivery, task):
                        missing.append(task)
                world.got(delivery, effect)
                return tuple(task for task in tasks if task in missing)
            case Incr(arrivals):
                answers = []
                for arrive in arrivals:
                    answer = yield from self._patiently(delivery, partial(world.arrive, delivery, arrive), effect)
                    answers.append(answer)
                return tuple(answers)
            case Record():
                yield from self._patiently(delivery, partial(world.hand_over, delivery, effect), effect)
                return None
        done = Done({task: delivery.cache[task] for task in effect.inline})
        yield from self._patiently(delivery, partial(self._end, delivery, done), effect)
        return None

    def _patiently(
        self, delivery: Delivery, operation: Callable[[], Any], effect: Effect
    ) -> Generator[Effect, None, Any]:
        """Do something on the store, and again if it raised, before it took effect or after."""
        answer = None
        while True:
            yield effect
            fails = self.script.strikes("error")
            cache = {**delivery.cache} if fails else delivery.cache
            if not fails or self.rng.random() < 0.5:
                answer = operation()
            if not fails:
                return answer
            delivery.cache.clear()  # what the answer brought never came
            delivery.cache.update(cache)

    def _shuffled(self, tasks: Sequence[int]) -> list[int]:
        order = list(tasks)
        if len(order) > 1:
            self.rng.shuffle(order)
        return order

    def _at_once(self, delivery: Delivery, effect: Effect) -> Any:
        match effect:
            case Now():
                return self.now
            case LoadPage(task):
                key = self.world.names.page(task // self.case.page_tasks)
                if self.world.read(key) is None:
                    raise Missing(key)
            case Pause(seconds):
                return self._paused(delivery, seconds)
            case Slots():
                self.n_slots += 1
                return self.case.slots[self.n_slots % len(self.case.slots)]
            case CoreWaits():
                return 0.0
            case Invoke(parts):
                self.send([(part.invocation, delivery.payloads.pop(part.invocation)) for part in parts])
                return None
            case Abort(task, lost):
                error = SimulatedLoss(str(lost)) if lost else SimulatedTaskError(str(task))
                self._end(delivery, Done(raised=Raised.of(error, str(task))))
                return None
            case Read(keys):
                return self._read(delivery, keys)
            case Delete(keys):
                return self.world.delete(keys)
            case Unpack():
                return self.world.unpack(delivery)
            case Beat():
                if not delivery.cut_off:
                    sent, attempt = delivery.execution.ledger.sent, delivery.order.attempt
                    beat = Heartbeat(self.now, 0, (), sent, attempt=attempt)
                    self.world.write({self.world.names.heartbeat(delivery.invocation): beat})
                return None
            case KeepSeats() if delivery.cut_off:
                return False
            case LeaveWord():
                return self._end(delivery)
            case Fail(error):
                raise Violation(f"{delivery.attempt_id} raised {type(error).__name__}: {error}") from error
        return self.world.at_once(delivery, effect)

    def _read(self, delivery: Delivery, keys: Sequence[bytes]) -> list[Any]:
        world, order = self.world, delivery.order
        found = [world.read(key) for key in keys]
        delivery.n_read += 1
        if delivery.n_read == 1:
            delivery.n_made = world.n_made(order)
            if any(found[1:]) and self.script.strikes("stale"):
                found[1:] = [None] * len(found[1:])
                delivery.n_made = []
        if delivery.n_read <= 2:  # these reads tell it what it has to know; further ones look for more
            delivery.known = world.handed_over(order, delivery.n_made)
        records = world.names.invocation("")
        return [
            world.opened(word) if word and key.startswith(records) else word
            for key, word in zip(keys, found, strict=True)
        ]

    def beat(self, delivery: Delivery) -> None:
        """Have a delivery's watcher give a sign of life, and look for the client's."""
        effects, answer = delivery.execution.beat(), None
        try:
            while True:
                answer = self._at_once(delivery, effects.send(answer))
        except StopIteration:
            pass
        except Stopped:
            delivery.broken = True
