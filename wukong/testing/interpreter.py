"""What an executor does, as a generator that may be stopped anywhere: the simulated twin of `wukong.core.executor`.

It yields between any two things that happen at once. Whoever resumes it (`wukong.testing.platform`) decides who is
next, and may close it instead, which is how executors die.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random
from typing import Any

from wukong.core.effects import (
    Abort,
    Effect,
    Effects,
    Failed,
    Finish,
    Get,
    Incr,
    Invoke,
    LoadPage,
    Missing,
    Now,
    Pause,
    Put,
    Record,
    Run,
    Slots,
)
from wukong.core.events import Done, End, Report
from wukong.core.order import Sent
from wukong.core.raised import Raised
from wukong.core.walk import Walk
from wukong.testing.faults import Script
from wukong.testing.faulty import Delivery, FaultyWorld
from wukong.testing.world import Case, check

__all__ = ["Habits", "Interpreter", "Lost", "Stopped", "TaskError"]

_MARGIN = 0.1
_MAX_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Habits:
    """What the interpreter of the protocol does besides carrying effects out. Tests break them one by one.

    Attributes:
        looks_for_job: at its start it looks whether the job is wanted, and at its end whether it still is.
        records_offloads: what is handed over is written down.
        reads_all_lives: a replay looks at what all earlier lives have handed over.
        tidies_when_finished: it looks whether the job is still wanted after it has told of the job's end, too.
    """

    looks_for_job: bool = True
    records_offloads: bool = True
    reads_all_lives: bool = True
    tidies_when_finished: bool = True


class Stopped(Exception):
    """An executor stops: the job is not wanted any more, or its client is silent."""


class TaskError(Exception):
    """What the failing task raises."""


class Lost(Exception):
    """Inputs are lost for good."""


class Interpreter(ABC):
    """Carries out one delivery at a time; the attributes are `wukong.testing.platform.Platform`'s."""

    rng: Random
    case: Case
    script: Script
    habits: Habits
    world: FaultyWorld
    limit_s: float
    now: float
    look: float
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
        """Keep one line of the story, where asked for."""

    def carry_out(self, delivery: Delivery) -> Generator[None, None, None]:
        """What `wukong.core.executor.Executor.execute` does."""
        world, names, habits = self.world, self.world.names, self.habits
        order = delivery.order
        yield
        lives = range(order.attempt + 1) if habits.reads_all_lives else range(order.attempt, order.attempt + 1)
        labels = [names.life(order.invocation, attempt) for attempt in lives]
        n_made = world.n_made(order)
        n_of_life = [world.read(names.n_offloads(label)) or 0 for label in labels]
        if any(n_of_life) and self.script.strikes("stale"):
            n_of_life = [0] * len(n_of_life)
            n_made = []
        if world.read(names.alive) is None and habits.looks_for_job:
            return
        made = [f"{label}.{i}" for label, n in zip(labels, n_of_life, strict=True) for i in range(n)]
        handed_over: set[int] = set()
        if made:
            yield
            for child in made:
                payload = world.read(names.invocation(child))
                if payload is not None:
                    handed_over.update(world.opened(payload).start)
        known = world.handed_over(order, n_made)
        delivery.began = self.now
        deadline = self.now + (1 - _MARGIN) * self.limit_s
        delivery.until = self.now + self.limit_s
        walk = delivery.walk = world.walk_of(delivery, n_of_life, frozenset(handed_over), deadline)
        delivery.known = known
        delivery.sign_at, delivery.beat_at = self.now, self.now + self.case.policy.heartbeat_s
        delivery.beats = True
        told = False
        try:
            for effect in self._drive(delivery, walk.run()):
                told = told or isinstance(effect, Finish | Abort)
                yield
        except Stopped:
            pass
        except Missing as missing:
            delivery.missing = missing.key
            self.tell(delivery.life, f"misses {missing.key!r}")
        else:
            if not told:
                self._nothing_left(delivery)
        delivery.beats = False
        if not told:
            yield from self._leave_word(delivery)
        elif habits.tidies_when_finished:
            yield
            if world.read(names.alive) is None:
                self._clear(delivery)

    def _leave_word(self, delivery: Delivery) -> Iterator[None]:
        """Write the end report, then look whether anybody will read it."""
        yield
        self._end(delivery)
        yield
        if self.world.read(self.world.names.alive) is None and self.habits.looks_for_job:
            self._clear(delivery)

    def _end(self, delivery: Delivery, done: Done | None = None) -> None:
        names = self.world.names
        end = End(Report(), delivery.stored, delivery.arrived, missing=delivery.missing)
        items: dict[bytes, Any] = {names.end(delivery.invocation): end}
        if done is not None:
            items[names.done] = done
        self.world.write(items)

    def _clear(self, delivery: Delivery) -> None:
        """Delete what this delivery wrote, and all below it: its own links to that are going."""
        names = self.world.names
        keys = [names.done, names.n_offloads(delivery.life)]
        keys += [names.value(task) for task in delivery.stored] + [names.record(child) for child in delivery.arrived]
        keys += [f(delivery.invocation) for f in (names.invocation, names.end, names.heartbeat)]
        below = list(delivery.made)
        for made in below:
            keys += [f(made) for f in (names.invocation, names.end, names.heartbeat, names.lives)]
            for attempt in range((self.world.read(names.lives(made)) or 0) + 1):
                label = names.n_offloads(names.life(made, attempt))
                below += [f"{names.life(made, attempt)}.{i}" for i in range(self.world.read(label) or 0)]
                keys.append(label)
        self.world.delete(keys)

    def _nothing_left(self, delivery: Delivery) -> None:
        walk = delivery.walk
        check(delivery.restored <= {*delivery.stored}, f"{delivery.life} has restored values and not stored them")
        for name in ("ready", "pending", "of", "held", "absent", "uses"):
            check(not getattr(walk, name), f"{delivery.life} ends with {name} = {getattr(walk, name)}")
        check(not delivery.cache, f"{delivery.life} ends with {sorted(delivery.cache)} in its cache")

    def _drive(self, delivery: Delivery, effects: Effects) -> Iterator[Effect]:
        """Carry effects out; yields each between any two things that happen."""
        try:
            effect = next(effects)
            while True:
                yield effect
                answer: Any = None
                if isinstance(effect, Run):
                    yield from self._run(delivery, effect)
                    answer = Failed() if effect.task == self.failing else self.now
                    if delivery.broken:
                        raise Stopped
                elif isinstance(effect, Put | Get | Incr | Record | Finish):
                    answer = yield from self._store_effect(delivery, effect)
                else:
                    answer = self._at_once(delivery, effect)
                self.tell(delivery.life, f"{effect} -> {answer!r:.200}")
                if isinstance(effect, Finish | Abort):
                    yield effect
                effect = effects.send(answer)
        except StopIteration:
            return

    def _run(self, delivery: Delivery, effect: Run) -> Iterator[Effect]:
        world, rng = self.world, self.rng
        walk: Walk = delivery.walk
        world.begin(delivery, effect)
        delivery.busy, delivery.since = effect, self.now
        looks = 0
        yield effect
        while looks < _MAX_LOOKS and rng.random() < self.look:
            looks += 1
            self.pass_time(max(0.0, delivery.since + min(walk.patience, 0.5) - self.now))
            self.tell(delivery.life, f"{effect} is overdue")
            yield from self._drive(delivery, walk.overdue(self.now - delivery.since, self.now))
            if walk.handed_on is not None:
                for _ in self._leave_word(delivery):
                    yield effect
            yield effect
        if effect.task != self.failing:
            world.end(delivery, effect)
        delivery.busy = None

    def _store_effect(
        self, delivery: Delivery, effect: Put | Get | Incr | Record | Finish
    ) -> Generator[Effect, None, Any]:
        """Effects on the store: several keys in any order with others in between, and each may have to be repeated."""
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
                return tuple(task for task in tasks if task in missing)
            case Incr(arrivals):
                answers = []
                for arrive in arrivals:
                    delivery.arrived.append(arrive.child)
                    answer = yield from self._patiently(delivery, partial(world.arrive, delivery, arrive), effect)
                    answers.append(answer)
                return tuple(answers)
            case Record():
                recorded = self.habits.records_offloads
                yield from self._patiently(
                    delivery, partial(world.hand_over, delivery, effect, recorded=recorded), effect
                )
                return None
        done = Done({task: delivery.cache[task] for task in effect.inline})
        yield from self._patiently(delivery, partial(self._end, delivery, done), effect)
        return None

    def _patiently(
        self, delivery: Delivery, operation: Callable[[], Any], effect: Effect
    ) -> Generator[Effect, None, Any]:
        """Do something on the store, and again where it raised, before it took effect or after."""
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
                check(0 <= seconds < inf, f"a pause of {seconds} s")
                self.pass_time(seconds)
                return self.now
            case Slots():
                self.n_slots += 1
                return self.case.slots[self.n_slots % len(self.case.slots)]
            case Invoke(parts):
                self.send([(part.invocation, delivery.payloads.pop(part.invocation)) for part in parts])
                delivery.sent = self.world.names.origin(parts[-1].invocation)[1] + 1
                return None
            case Abort(task, lost):
                error = Lost(str(lost)) if lost else TaskError(str(task))
                self._end(delivery, Done(raised=Raised.of(error, str(task))))
                return None
        return self.world.at_once(delivery, effect)
