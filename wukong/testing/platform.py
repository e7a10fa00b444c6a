"""One simulated job where things go wrong: the platform, its executors, time. The client's side is `testing.customer`.

Each delivery of an invocation is a Python generator that does what `wukong.core.executor` does, and yields between any
two things that happen at once; the platform resumes a random one at a time, and there they may die as well. Time is
virtual and passes in random leaps; heartbeats come whenever they are due.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Any

from wukong.core.effects import (
    Abort,
    Effect,
    Failed,
    Finish,
    Get,
    Incr,
    Invoke,
    Now,
    Pause,
    Put,
    Record,
    Run,
    Slots,
)
from wukong.core.events import Done, End, Heartbeat, Report
from wukong.core.protocol import Effects, Walk
from wukong.testing.faults import Script
from wukong.testing.faulty import Delivery, FaultyWorld
from wukong.testing.world import Case, Violation, WalkType, check

__all__ = ["Habits", "Platform", "Reported", "Stopped", "TaskError"]

_MARGIN = 0.1
_MAX_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Habits:
    """What the interpreter of the protocol does besides carrying effects out. Tests break them one by one.

    Attributes:
        looks_for_job: at its start it looks whether the job is wanted, and at its end whether it still is.
        claims_by_root: it claims under its id up to the first life, so that what a replay hands on can claim as well.
        records_offloads: what is handed over is written down.
        reads_all_lives: a replay looks at what all earlier lives have handed over.
        merges_ends: an end report takes in the one that another delivery of this invocation has left.
        tidies_when_finished: it looks whether the job is still wanted after it has told of the job's end, too.
    """

    looks_for_job: bool = True
    claims_by_root: bool = True
    records_offloads: bool = True
    reads_all_lives: bool = True
    merges_ends: bool = True
    tidies_when_finished: bool = True


@dataclass(frozen=True, slots=True)
class Reported:
    """A failure as the platform reports it; see `wukong.core.watch.FailurePort`."""

    invocation: str
    reason: str
    detail: str = "simulated"
    task: str | None = None


class Stopped(Exception):
    """An executor stops: the job is not wanted any more, or its client is silent."""


class TaskError(Exception):
    """What the failing task raises."""


class Platform:
    """Carries deliveries out, one step at a time.

    Attributes:
        live: what has been delivered and has not ended.
        late: payloads that are delivered later, and when.
        reports: failures that the client has not taken yet.
        hits: how often something happened to each invocation that its watcher may count.
        extra: deliveries beyond the first of each invocation, and all that a later life made.
        failing: the task that always raises, if any.
    """

    def __init__(
        self, seed: int, case: Case, script: Script, *, walk: WalkType, habits: Habits, limit_s: float, told: bool
    ) -> None:
        self.rng = rng = Random(f"steps of {seed}")
        self.case, self.script, self.habits, self.limit_s = case, script, habits, limit_s
        self.world = FaultyWorld(case, walk=walk)
        self.now = 100.0
        self.live: list[Delivery] = []
        self.late: list[tuple[float, bytes]] = []
        self.reports: list[Reported] = []
        self.hits: dict[str, int] = {}
        self.delivered: dict[str, int] = {}
        self.extra = 0
        self.steps = 0
        self.story: list[str] = []
        self.told = told
        self.by_priority = rng.random() < 0.4
        self.change = rng.choice((0.3, 0.1, 0.02))
        self.look = rng.choice((0.0, 0.2, 0.5, 0.9))
        self.n_slots = 0
        self.most_steps = 20_000 + 3_000 * (len(case.dag) + case.dag.n_edges)
        self.failing = rng.randrange(len(case.dag)) if script.strikes("task") else None

    # --- invoking

    def send(self, invocations: Sequence[tuple[str, bytes]]) -> None:
        """Accept invocations, and deliver them as it pleases the platform."""
        script = self.script
        for invocation, payload in invocations:
            if script.strikes("lose"):
                self.hit(invocation)
                self.tell(invocation, "is lost")
                continue
            if script.strikes("duplicate"):
                self._deliver_some_time(payload)
            self._deliver_some_time(payload)

    def _deliver_some_time(self, payload: bytes) -> None:
        if self.script.strikes("delay"):
            order = self.world.opened(payload)
            self.hit(order.invocation)
            self.tell(order.invocation, "is delayed")
            self.late.append((self.now + self.rng.choice((1.0, 10.0, inf)), payload))
        else:
            self.deliver(payload)

    def deliver(self, payload: bytes) -> None:
        """Start an executor."""
        delivery = Delivery(self.world.opened(payload))
        if not self.habits.claims_by_root:
            delivery.claimant = delivery.invocation
        n = self.delivered[delivery.invocation] = self.delivered.get(delivery.invocation, 0) + 1
        self.extra += n > 1 or "~" in delivery.life
        delivery.priority = self.rng.random()
        delivery.stage = self._carry_out(delivery)
        delivery.began, delivery.until = self.now, self.now + self.limit_s
        self.live.append(delivery)
        self.tell(delivery.life, "begins")

    def hit(self, invocation: str) -> None:
        """Something happened to an invocation for which it may have to be made again."""
        self.hits[invocation] = self.hits.get(invocation, 0) + 1

    # --- stepping

    def step(self) -> bool:
        """Let one executor do one thing. Returns whether there was one."""
        rng, script, world = self.rng, self.script, self.world
        self.steps += 1
        if self.steps > self.most_steps:
            raise Violation(f"no end after {self.steps} steps")
        if world.values and script.strikes("forget"):
            task = rng.choice(sorted(world.values))
            del world.values[task]
            self.tell("store", f"loses the value of {task}")
        if world.fan_ins and script.strikes("record"):
            child = rng.choice(sorted(world.fan_ins))
            del world.fan_ins[child]
            self.tell("store", f"loses the record of {child}")
        if self.late:
            self._deliver_late()
        if not self.live:
            return False
        if self.by_priority:
            delivery = max(self.live, key=lambda one: one.priority)
            if rng.random() < self.change:
                delivery.priority = rng.random()
        else:
            delivery = self.live[int(rng.random() * len(self.live))]
        self.pass_time(rng.choice(self.case.leaps_s) * rng.random())
        if self.now > delivery.until and not script.quiet:
            self.kill(delivery, "timeout", reported=True)
        elif script.strikes("crash"):
            self.kill(delivery, "crash", reported=rng.random() < 0.6)
        else:
            if delivery.beats and not delivery.cut_off and script.strikes("cut off"):
                delivery.cut_off = True
                self.hit(delivery.invocation)
                self.tell(delivery.life, "is cut off")
            try:
                next(delivery.stage)
            except StopIteration:
                self._gone(delivery)
            except Violation:
                raise
            except Exception as error:
                raise Violation(f"{delivery.life} raised {type(error).__name__}: {error}") from error
        return True

    def _gone(self, delivery: Delivery) -> None:
        delivery.done = True
        self.live.remove(delivery)
        self.tell(delivery.life, "is gone")

    def kill(self, delivery: Delivery, reason: str, *, reported: bool) -> None:
        """An executor dies here."""
        delivery.died = True
        delivery.stage.close()
        self._gone(delivery)
        self.tell(delivery.life, f"has died: {reason}, reported: {reported}")
        self.hit(delivery.invocation)
        if reported:
            running = delivery.busy
            named = str(running.task) if running is not None and delivery.order.attempt else None
            self.reports.append(Reported(self.world.names.label(delivery.invocation), reason, task=named))
        if self.script.strikes("retry"):
            self.deliver(self.world.packed(delivery.order))

    def pass_time(self, seconds: float) -> None:
        """Time passes; heartbeats that are due come."""
        self.now = now = self.now + seconds
        for delivery in self.live:
            if delivery.beats and now >= delivery.beat_at:
                delivery.beat_at = now + self.case.policy.heartbeat_s
                self._beat(delivery)

    def _beat(self, delivery: Delivery) -> None:
        world, names = self.world, self.world.names
        alive = world.read(names.alive)
        if alive is None and self.habits.looks_for_job:
            delivery.broken = True
        elif alive != delivery.sign:
            delivery.sign, delivery.sign_at = alive, self.now
        elif self.now - delivery.sign_at > self.case.policy.orphan_s:
            delivery.broken = True
        if not delivery.broken and not delivery.cut_off:
            world.write({names.heartbeat(delivery.invocation): Heartbeat(self.now, 0, None)})

    def _deliver_late(self) -> None:
        due = [payload for at, payload in self.late if at <= self.now]
        if due:
            self.late = [(at, payload) for at, payload in self.late if at > self.now]
            for payload in due:
                self.deliver(payload)

    # --- one executor

    def _carry_out(self, delivery: Delivery) -> Iterator[None]:
        """What `wukong.core.executor.Executor.execute` does."""
        world, names, habits = self.world, self.world.names, self.habits
        order = delivery.order
        yield
        lives = range(order.attempt + 1) if habits.reads_all_lives else range(order.attempt, order.attempt + 1)
        labels = [names.life(order.invocation, attempt) for attempt in lives]
        n_of_life = [world.read(names.n_offloads(label)) or 0 for label in labels]
        if any(n_of_life) and self.script.strikes("stale"):
            n_of_life = [0] * len(n_of_life)
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
        delivery.began = self.now
        deadline = self.now + (1 - _MARGIN) * self.limit_s
        delivery.until = self.now + self.limit_s
        walk = delivery.walk = world.walk_of(delivery, n_of_life, frozenset(handed_over), deadline)
        delivery.sign_at, delivery.beat_at = self.now, self.now + self.case.policy.heartbeat_s
        delivery.beats = True
        told = False
        try:
            for effect in self._drive(delivery, walk.run()):
                told = told or isinstance(effect, Finish | Abort)
                yield
        except Stopped:
            pass
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
        world, names, habits = self.world, self.world.names, self.habits
        key = names.end(delivery.invocation)
        yield
        if habits.merges_ends:
            yield from self._write_end(delivery, world.read(key))
        else:
            world.write({key: End(Report(), [*delivery.stored], [*delivery.arrived])})
        yield
        if world.read(names.alive) is None and habits.looks_for_job:
            self._clear(delivery)

    def _write_end(self, delivery: Delivery, before: End | None) -> Iterator[None]:
        """Write what this delivery leaves together with what another delivery has left, whoever comes first."""
        world, key = self.world, self.world.names.end(delivery.invocation)
        stored, arrived = {*delivery.stored}, {*delivery.arrived}
        while True:
            if before is not None:
                stored |= {*before.stored}
                arrived |= {*before.arrived}
            yield
            world.write({key: End(Report(), sorted(stored), sorted(arrived))})
            yield
            before = world.read(key)
            if before is None or (stored <= {*before.stored} and arrived <= {*before.arrived}):
                return

    def _clear(self, delivery: Delivery) -> None:
        names, invocation = self.world.names, delivery.invocation
        keys = [f(invocation) for f in (names.invocation, names.end, names.heartbeat)]
        keys += [names.done, names.n_offloads(delivery.life)]
        keys += [names.value(task) for task in delivery.stored] + [names.record(child) for child in delivery.arrived]
        keys += [f(made) for made in delivery.made for f in (names.invocation, names.end, names.heartbeat)]
        self.world.delete(keys)

    def _nothing_left(self, delivery: Delivery) -> None:
        walk = delivery.walk
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
    ) -> Iterator[Any]:  # a generator whose answer is that of the effect
        """Effects on the store: several keys in any order with others in between, and each may have to be repeated."""
        world = self.world
        match effect:
            case Put(tasks):
                check(len(set(tasks)) == len(tasks) > 0, f"a batch of {tasks}")
                for task in self._shuffled(tasks):
                    yield from self._patiently(lambda task=task: world.put(delivery, task), effect)
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
                    answer = yield from self._patiently(lambda arrive=arrive: world.arrive(delivery, arrive), effect)
                    answers.append(answer)
                return tuple(answers)
            case Record():
                recorded = self.habits.records_offloads
                yield from self._patiently(lambda: world.hand_over(delivery, effect, recorded=recorded), effect)
                return None
        done = Done({task: delivery.cache[task] for task in effect.inline})
        yield from self._tell_client(delivery, done, effect)
        return None

    def _tell_client(self, delivery: Delivery, done: Done, effect: Effect) -> Iterator[Any]:
        world, names = self.world, self.world.names
        key = names.end(delivery.invocation)
        yield effect
        before = world.read(key) if self.habits.merges_ends else None
        for _ in self._write_end(delivery, before):
            yield effect
        world.write({names.done: done})

    def _patiently(self, operation: Callable[[], Any], effect: Effect) -> Iterator[Any]:
        """Do something on the store, and again where it raised, before it took effect or after."""
        answer = None
        while True:
            yield effect
            fails = self.script.strikes("error")
            if not fails or self.rng.random() < 0.5:
                answer = operation()
            if not fails:
                return answer

    def _shuffled(self, tasks: Sequence[int]) -> list[int]:
        order = list(tasks)
        if len(order) > 1:
            self.rng.shuffle(order)
        return order

    def _at_once(self, delivery: Delivery, effect: Effect) -> Any:
        match effect:
            case Now():
                return self.now
            case Pause(seconds):
                check(0 <= seconds < inf, f"a pause of {seconds} s")
                self.pass_time(seconds)
                return self.now
            case Slots():
                self.n_slots += 1
                return self.case.slots[self.n_slots % len(self.case.slots)]
            case Invoke(parts):
                self.send([(part.invocation, delivery.payloads.pop(part.invocation)) for part in parts])
                return None
            case Abort(task, lost):
                error = Lost(str(lost)) if lost else TaskError(str(task))
                self._say_failed(delivery, str(task), error)
                return None
        return self.world.at_once(delivery, effect)

    def _say_failed(self, delivery: Delivery, task: str, error: Exception) -> None:
        names = self.world.names
        end = End(Report(), [*delivery.stored], [*delivery.arrived])
        self.world.write({names.end(delivery.invocation): end, names.done: Done(failed=task, error=error)})

    def tell(self, who: str, what: str) -> None:
        """Keep one line of the story, where asked for."""
        if self.told:
            self.story.append(f"#{self.steps:<4} {self.now:14.6f}  {who:<12} {what}")


class Lost(Exception):
    """Inputs are lost for good."""
