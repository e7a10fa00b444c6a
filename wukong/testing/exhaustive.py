"""The protocol under *every* interleaving, at small scale: each way in which two executors and some faults can meet.

    Case --explore(faults)--> choices, one after another --> Explored, or Violation with its choices

It is `wukong.testing.recovery` (world, executors, client, faults, promises) with a `Chooser` in place of the random
source. Generators cannot be copied, so a run is a list of choices, carried out from the start; the next list differs in
the last choice that has an alternative (depth first). A run that comes to a state which was seen before ends there.

A *state* is what the store holds, what is queued, late or reported, which faults are left, how often each task ran, and
of each executor its cache and all it was ever answered, on which alone it depends. Two orders of operations on
different keys end in one state; that is the whole reduction, besides these:

- An executor goes on to its next operation on the store or the platform in one piece; what is its own (`Run`, `Size`,
  `Drop`, ...) commutes with everything. The keys of a batch are one operation each, in every order.
- Each executor has a clock of its own, which ticks with its effects. A pause ends when a fan-in's record has changed
  meanwhile, or when all patience is over: to ask again in between is to be told the same.
- Of two deliveries that have been answered the same, one goes first.

What is not explored: more than two executors at once (a third waits until one ends); the client's steps are one piece,
at any moment after it has something to do (the random simulator lets executors in between); heartbeats; and the faults
that are not among `KINDS`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import inf
from random import Random
from typing import Any, TypeAlias, TypeVar, cast

from wukong.core.effects import (
    Abort,
    Beat,
    Delete,
    Effect,
    Fail,
    Finish,
    Get,
    Incr,
    Invoke,
    LeaveWord,
    LoadPage,
    Pause,
    Put,
    Read,
    Record,
)
from wukong.core.events import Done, End, Heartbeat
from wukong.core.invocation import Execution, WalkType
from wukong.core.order import Order
from wukong.core.policy import Policy
from wukong.core.walk import Walk
from wukong.testing.customer import Customer
from wukong.testing.faults import Script
from wukong.testing.faulty import Delivery, FaultyWorld
from wukong.testing.graphs import every_dag
from wukong.testing.platform import Platform, Reported
from wukong.testing.recovery import Survival, Survivor
from wukong.testing.world import Case, Violation, check

__all__ = ["KINDS", "Explored", "cases", "explore", "replay"]

KINDS = ("crash", "retry", "duplicate", "lose", "delay", "cut off", "stale", "forget", "record", "error")

_SHARED = (Read, Put, Get, Incr, Record, Invoke, Finish, Abort, Delete, Beat, LeaveWord, Fail, LoadPage, Pause)
_TICK_S = 1e-3
_LOOKS = 20
_LONG_S = 1e6
_MOST_STEPS = 1_000

T = TypeVar("T")
Move: TypeAlias = tuple[str, int]
Choice: TypeAlias = tuple[int, Sequence[Any]]


class _Pruned(Exception):
    """From here on everything is explored already, or is being explored."""


class Chooser:
    """Takes each choice: first those that are given, then always the first option.

    Attributes:
        taken: each choice so far, and what there was to choose from.
    """

    def __init__(self, given: Sequence[Choice] = ()) -> None:
        self.given = given
        self.taken: list[Choice] = []

    @property
    def new(self) -> bool:
        """Whether all given choices are taken."""
        return len(self.taken) >= len(self.given)

    def choose(self, n: int) -> int:
        """Return one of ``range(n)``."""
        return self.pick(lambda: range(n)) if n > 1 else 0

    def pick(self, options: Callable[[], Sequence[T]]) -> T:
        """Return one of these; they are not asked for if the choice is given."""
        at = len(self.taken)
        self.taken.append(self.given[at] if at < len(self.given) else (0, options()))
        choice, known = self.taken[-1]
        taken: T = (known or options())[choice]
        return taken

    def following(self) -> list[Choice] | None:
        """Return the choices of the run to come after this one; None: there is none."""
        taken = list(self.taken)
        while taken:
            last, options = taken.pop()
            if last + 1 < len(options):
                return [*taken, (last + 1, options)]
        return None


class _Calm(Random):
    """In place of a random source that only decides what is not explored."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]
        return seq[0]


class _Chosen(_Calm):
    """In place of the platform's: whether an operation that raised took effect, and the order of a batch."""

    def __init__(self, chooser: Chooser) -> None:
        super().__init__()
        self.chooser = chooser

    def random(self) -> float:
        return float(self.chooser.choose(2))

    def shuffle(self, x: Any) -> None:
        for at in range(len(x) - 1):
            taken = at + self.chooser.choose(len(x) - at)
            x[at], x[taken] = x[taken], x[at]


class _Budget(Script):
    """Up to so many faults in all, each wherever it can strike."""

    def __init__(self, chooser: Chooser, kinds: Collection[str], most: int) -> None:
        super().__init__(0, ())
        self.chooser, self.allowed, self.n_left = chooser, frozenset(kinds), most

    def may(self, kind: str) -> bool:
        """Whether a fault of this kind can strike."""
        return self.n_left > 0 and kind in self.allowed

    def strike(self, kind: str) -> None:
        """One strikes."""
        self.n_left -= 1
        self.struck[kind] += 1

    def strikes(self, kind: str) -> bool:
        """Whether one strikes here and now: both are explored."""
        struck = self.may(kind) and self.chooser.choose(2) == 1
        if struck:
            self.strike(kind)
        return struck

    def calm(self) -> None:
        """From now on nothing goes wrong."""
        self.n_left, self.quiet = 0, True


class _Run(Delivery):
    """One delivery, and what it depends on: `past`, of all its answers, and `partial`, since the last one."""

    __slots__ = ("asked", "clock", "partial", "past")

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self.effect = None
        self.past = hash((self.life, tuple(order.start), order.alone, *(order.values or ())))
        self.partial: list[Any] = []
        self.clock = 100.0
        self.asked = 0

    def state(self) -> int:
        """Return a hash of all that it depends on."""
        return hash(
            (self.past, self.asked, *self.partial, frozenset(self.cache), self.known, self.broken, self.cut_off)
        )


class _Explored(Platform):
    """The platform, whose every decision is a choice."""

    script: _Budget

    def __init__(self, case: Case, chooser: Chooser, budget: _Budget, world: FaultyWorld, how: _How) -> None:
        super().__init__(0, case, budget, world, execution=how.execution, limit_s=inf, told=how.told)
        self.rng, self.chooser, self.how = _Chosen(chooser), chooser, how
        self.tells = True
        self.failing = None
        self.waiting: list[bytes] = []
        self.looks_left = how.looks
        self.current: _Run | None = None
        self.long = False
        self.suspects = False
        self.client_state: Callable[[], int] = lambda: 0
        self.client_clock = 100.0
        self.orders = world.names.invocation("")

    # --- deliveries: two at once

    def deliver(self, payload: bytes) -> None:
        """Start an executor, or let it wait for one of two places."""
        if len(self.live) >= self.how.executors:
            self.waiting.append(payload)
            return
        delivery = _Run(self.world.opened(payload))
        n = self.delivered[delivery.invocation] = self.delivered.get(delivery.invocation, 0) + 1
        self.extra += n > 1 or "~" in delivery.life
        delivery.stage = self.carry_out(delivery)
        self.live.append(delivery)
        self.tell(delivery.life, "begins")
        self._go_on(delivery)

    def known(self, labels: Sequence[str]) -> Collection[str]:
        """Which of these run, or wait for a place."""
        waiting = {self.world.opened(payload).invocation for payload in self.waiting}
        here = {*waiting, *(delivery.invocation for delivery in self.live)}
        return [label for label in labels if label.partition("/")[2] in here]

    def hit(self, invocation: str) -> None:
        """Something happened that the client may come to know."""
        super().hit(invocation)
        self.suspects = True

    def _gone(self, delivery: Delivery) -> None:
        super()._gone(delivery)
        self.suspects = bool(self.hits)
        if self.waiting and len(self.live) < self.how.executors:
            self.deliver(self.waiting.pop(0))

    # --- one executor goes on

    def _go_on(self, delivery: _Run) -> None:
        """To its next operation on what others see."""
        before, now, self.current = self.current, self.now, delivery
        try:
            while True:
                self.now = delivery.clock = delivery.clock + _TICK_S
                effect = next(delivery.stage)
                delivery.clock = self.now
                if isinstance(effect, _SHARED):
                    delivery.partial.append(type(effect))
                    delivery.effect, delivery.asked = effect, self._records() if isinstance(effect, Pause) else 0
                    break
        except StopIteration:
            self._gone(delivery)
        except Violation:
            raise
        except (_Pruned, RecursionError):
            raise
        except Exception as error:
            raise Violation(f"{delivery.life} raised {type(error).__name__}: {error}") from error
        finally:
            self.current, self.now = before, now

    def pass_time(self, seconds: float) -> None:
        """One executor's clock goes on; there are no heartbeats."""
        self.now += _LONG_S if self.long else seconds

    def looks(self) -> bool:
        """Whether the watcher looks at the running task now: both are explored."""
        looks = self.looks_left > 0 and self.chooser.choose(2) == 1
        self.looks_left -= looks
        if looks and self.current is not None:
            self.current.partial.append("looks")
        return looks

    def answer(self, delivery: Delivery, effect: Effect, answer: object) -> None:
        """All that an executor depends on is what it was answered."""
        assert isinstance(delivery, _Run)
        delivery.past = hash((delivery.past, type(effect), _word(answer)))
        delivery.partial.clear()
        super().answer(delivery, effect, answer)

    def validate(self, delivery: Delivery, effect: Effect) -> None:
        """The same choices were held against all promises before."""
        if self.chooser.new:
            super().validate(delivery, effect)

    def _patiently(
        self, delivery: Delivery, operation: Callable[[], Any], effect: Effect
    ) -> Generator[Effect, None, Any]:
        answer = yield from super()._patiently(delivery, operation, effect)
        assert isinstance(delivery, _Run)
        delivery.partial.append(answer)
        return answer

    def _shuffled(self, tasks: Sequence[int]) -> list[int]:
        order = super()._shuffled(tasks)
        if self.current is not None:
            self.current.partial.extend(order)
        return order

    # --- moves

    def moves(self, *, client: bool) -> list[Move]:
        """Return what may happen next."""
        script, live = self.script, cast("list[_Run]", self.live)
        moves: list[Move] = []
        first = {delivery.state(): i for i, delivery in reversed([*enumerate(live)])}
        for i, delivery in enumerate(live):
            if first[delivery.state()] != i:
                continue
            if not isinstance(delivery.effect, Pause):
                moves.append(("goes on", i))
                continue
            if delivery.asked != self._records():
                moves.append(("goes on", i))
            moves.append(("has waited long", i))
        if script.may("crash"):
            moves += [("dies", i) for i in first.values()]
        if script.may("cut off"):
            moves += [("is cut off", i) for i in first.values() if live[i].beats and not live[i].cut_off]
        if script.may("forget"):
            moves += [("loses the value of", task) for task in sorted(self.world.values)]
        if script.may("record"):
            moves += [("loses the record of", child) for child in sorted(self.world.fan_ins)]
        if client:
            moves += [("comes late", i) for i in range(len(self.late))]
            done = self.world.names.done in self.world.words
            if self.reports or done or not live or (self.suspects and self._lost()):
                moves.append(("client", 0))
        return moves

    def step(self) -> bool:
        """Let one executor do one thing. Returns whether there was one."""
        if self.live:
            self.move(client=False)
        return bool(self.live)

    def move(self, *, client: bool) -> bool:
        """Let one thing happen. Returns whether the client is next."""
        self.steps += 1
        check(self.steps <= _MOST_STEPS, f"no end after {self.steps} steps")
        if self.chooser.new:
            self.how.visit(self.state())
        what, i = self.chooser.pick(lambda: self.moves(client=client))
        world, script = self.world, self.script
        match what:
            case "client":
                return True
            case "goes on" | "has waited long":
                delivery = cast("_Run", self.live[i])
                self.long = what != "goes on"
                self._go_on(delivery)
                self.long = False
            case "dies":
                script.strike("crash")
                self.kill(self.live[i], "crash", reported=True)
            case "is cut off":
                script.strike("cut off")
                delivery = cast("_Run", self.live[i])
                delivery.cut_off = True
                self.hit(delivery.invocation)
                self.reports.append(Reported(world.names.label(delivery.invocation), "crash"))
                self.tell(delivery.life, "is taken for dead")
            case "loses the value of":
                script.strike("forget")
                del world.values[i]
                self.tell("store", f"{what} {i}")
            case "loses the record of":
                script.strike("record")
                del world.fan_ins[i]
                self.tell("store", f"{what} {i}")
            case "comes late":
                self.deliver(self.late.pop(i)[1])
        return False

    def _lost(self) -> bool:
        """Whether an invocation has not ended, and does not run either."""
        words, names = self.world.words, self.world.names
        made = [key[len(self.orders) :].decode() for key in words if key.startswith(self.orders)]
        labels = [names.label(each) for each in made if names.end(each) not in words]
        return len(self.known(labels)) < len(labels)

    # --- states

    def _records(self) -> int:
        return hash(
            tuple(
                (
                    child,
                    frozenset(fan_in.members),
                    fan_in.claimant,
                    frozenset(fan_in.riding),
                    *((who, frozenset(held)) for who, held in fan_in.notes.items()),
                )
                for child, fan_in in sorted(self.world.fan_ins.items())
            )
        )

    def state(self) -> int:
        """Return a hash of everything on which the rest of the run depends."""
        world, script = self.world, self.script
        return hash(
            (
                frozenset(world.values),
                self._records(),
                frozenset((key, self._stored(key, word)) for key, word in world.words.items()),
                tuple(world.ran),
                frozenset(world.written),
                frozenset(world.computed),
                tuple(sorted(delivery.state() for delivery in cast("list[_Run]", self.live))),
                tuple(_word(world.opened(payload)) for payload in self.waiting),
                tuple(_word(world.opened(payload)) for _, payload in self.late),
                tuple(report.invocation for report in self.reports),
                (
                    script.n_left,
                    script.quiet,
                    self.looks_left,
                    self.suspects,
                    self.extra,
                    self.deaths,
                    self.client_state(),
                ),
                frozenset(script.struck.items()),
            )
        )

    def _stored(self, key: bytes, word: Any) -> Any:
        if key == self.world.names.alive:
            return True  # how often the client has looked does not matter
        return _word(self.world.opened(word) if key.startswith(self.orders) else word)


def _word(answer: Any) -> Any:
    """Return what counts of an answer, or of a word in the store, as something that can be hashed."""
    match answer:
        case None | int() | float() | bytes() | str():
            return answer
        case tuple():
            return answer
        case list():
            return tuple(True if type(each) is bytes else _word(each) for each in answer)  # the sign of life
        case Order():
            return answer.invocation, answer.attempt, tuple(answer.start), answer.alone, tuple(answer.values or ())
        case Heartbeat():
            return answer.attempt, answer.at, answer.sent
        case End():
            return frozenset(answer.stored), frozenset(answer.arrived), answer.missing
        case Done():
            return tuple(answer.inline), answer.raised is None
    return type(answer)


class _Client(Customer):
    """The client, whose turn comes when it is chosen. It looks until it has done something."""

    platform: _Explored

    def __init__(self, platform: _Explored) -> None:
        super().__init__(platform, _Calm())
        self.to_look = self.before = 0
        platform.client_state = self.state

    def state(self) -> int:
        """Return a hash of all that the client remembers; times count from now."""
        watch, now = self.watch, self.platform.client_clock
        seen = {(name, _word(seen.beat), round(now - seen.since), seen.missed) for name, seen in watch._seen.items()}
        memory = (watch._attempts, watch._made, watch._failed)
        return hash(
            (
                frozenset(seen),
                *(frozenset(counter.items()) for counter in memory),
                frozenset(watch._replaced),
                (watch._stalled, watch.rounds, watch.repeated, round(watch._look_at - now)),
            )
        )

    def _turn(self) -> None:
        self.turns += 1
        check(self.turns <= 20 * _LOOKS, "the client waits for ever")
        platform, names = self.platform, self.names
        heartbeat_s = platform.case.policy.heartbeat_s
        if self.to_look and self.watch.repeated == self.before:
            self.to_look -= 1
            platform.client_clock += heartbeat_s
        else:
            self.to_look, self.before = 0, self.watch.repeated
            while not platform.move(client=True):
                pass
            if not platform.reports and names.done not in self.world.words:
                self.to_look, platform.suspects = _LOOKS, False
                platform.client_clock += heartbeat_s
        platform.now = platform.client_clock


class _Job(Survivor):
    """One job, and the choices that it is."""

    def __init__(self, case: Case, chooser: Chooser, how: _How) -> None:
        self.rng, self.case = _Calm(), case
        self.script = budget = _Budget(chooser, how.kinds, how.faults)
        world = how.world(case, walk=how.walk)
        self.platform: _Explored = _Explored(case, chooser, budget, world, how)
        self.seen = Survival(0, story=self.platform.story)
        self.repeated = self.rounds = 0

    def customer(self) -> Customer:
        return _Client(self.platform)

    def run(self) -> Survival:
        seen, world = super().run(), self.platform.world
        if not self.script.struck:
            check(world.ran == [1] * len(world.ran), f"without a fault the tasks ran {world.ran} times")
            check(not seen.repeated, "without a fault an invocation was made again")
            check(world.n_put <= len(world.ran), "without a fault a value is stored twice")
        return seen


@dataclass(slots=True)
class _How:
    faults: int
    kinds: Collection[str]
    executors: int
    looks: int
    walk: WalkType
    execution: type[Execution]
    world: type[FaultyWorld]
    told: bool = False
    states: set[int] = field(default_factory=set)

    def visit(self, state: int) -> None:
        if state in self.states:
            raise _Pruned
        self.states.add(state)


@dataclass(slots=True)
class Explored:
    """How much there was.

    Attributes:
        cases: cases explored.
        states: different states, summed over the cases.
        interleavings: runs that came to an end. pruned: runs that came to a state which was seen before.
    """

    cases: int = 0
    states: int = 0
    interleavings: int = 0
    pruned: int = 0

    def add(self, other: Explored) -> None:
        """Add what another one has explored."""
        self.cases += other.cases
        self.states += other.states
        self.interleavings += other.interleavings
        self.pruned += other.pruned


def explore(
    case: Case,
    faults: int = 0,
    *,
    kinds: Collection[str] = KINDS,
    executors: int = 2,
    looks: int = 0,
    walk: WalkType = Walk,
    execution: type[Execution] = Execution,
    world: type[FaultyWorld] = FaultyWorld,
) -> Explored:
    """Carry out one case in every way.

    Args:
        case: what is carried out; its random leaps of time count for nothing.
        faults, kinds: how many faults there are at most, and of which kinds.
        executors: how many run at once at most.
        looks: how often a watcher looks at a running task at most.
        walk, execution, world: as in `wukong.testing.recovery.survive`.

    Raises Violation where a promise is broken, with the choices that lead there (see `replay`) and what happened.
    """
    how = _How(faults, kinds, executors, looks, walk, execution, world)
    explored = Explored(cases=1)
    given: list[Choice] | None = []
    while given is not None:
        chooser = Chooser(given)
        try:
            _Job(case, chooser, how).run()
            explored.interleavings += 1
        except _Pruned:
            explored.pruned += 1
        except Violation as violation:
            choices = [choice for choice, _ in chooser.taken]
            story = "\n".join(_story(case, chooser.taken, how))
            raise Violation(f"{violation}\n\nchoices {choices} of a {case}\n{story}") from violation.__cause__
        given = chooser.following()
    explored.states = len(how.states)
    return explored


def replay(case: Case, choices: Sequence[int], faults: int = 0, **how: Any) -> list[str]:
    """Carry out one run again, with the arguments of `explore` that it came from; returns what happened, by line."""
    settings: dict[str, Any] = {
        "kinds": KINDS,
        "executors": 2,
        "looks": 0,
        "walk": Walk,
        "execution": Execution,
        "world": FaultyWorld,
    }
    return _story(case, [(choice, ()) for choice in choices], _How(faults, **{**settings, **how}))


def _story(case: Case, choices: Sequence[Choice], how: _How) -> list[str]:
    told = _How(how.faults, how.kinds, how.executors, how.looks, how.walk, how.execution, how.world, told=True)
    job = _Job(case, Chooser(choices), told)
    try:
        job.run()
    except Violation as violation:
        job.platform.story.append(str(violation))
    return job.platform.story


# --- all that is small


_SMALL, _LARGE = 16, 100_000
_POLICIES = tuple(
    Policy(
        fan_out=fan_out,
        patience_s=0.0,
        handover_s=0.0,
        ride_bytes=100,
        large_object_bytes=10_000,
        delay_budget_s=1.0,
    )
    for fan_out in ("patience", "eager")
)


def cases(n_tasks: int, *, mixed: bool = False) -> Iterator[Case]:
    """Yield every DAG of `n_tasks` tasks with one or two outputs, its values small or large, under both fan-outs.

    All values are of one size, or each is of either (`mixed`). Small ones ride, large ones are held back. All that is
    ready is handed over at once: with ``eager`` from the start, with ``patience`` as soon as a task has taken a while.
    """
    for dag in every_dag(n_tasks):
        for sizes in product((_SMALL, _LARGE), repeat=n_tasks) if mixed else ((_SMALL,) * n_tasks, (_LARGE,) * n_tasks):
            for policy in _POLICIES:
                yield Case(dag, tuple(sizes), policy)


def _explored(case: Case, faults: int) -> tuple[Explored, str]:
    logging.getLogger("wukong").setLevel(logging.ERROR)  # that things are made again is what is explored
    try:
        return explore(case, faults), ""
    except Violation as violation:
        return Explored(), str(violation)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; exits with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m wukong.testing.exhaustive", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=4, help="of each DAG, at most (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=1, help="in each run, at most (default: %(default)s)")
    parser.add_argument("--mixed", action="store_true", help="small and large values in one DAG as well")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at once (default: all cores)")
    given = parser.parse_args(arguments)
    with ProcessPoolExecutor(given.processes) as pool:
        for n_tasks in range(1, given.tasks + 1):
            total, all_cases = Explored(), list(cases(n_tasks, mixed=given.mixed))
            for explored, story in pool.map(partial(_explored, faults=given.faults), all_cases):
                if story:
                    pool.shutdown(cancel_futures=True)
                    sys.stdout.write(f"\n{story}\n")
                    sys.exit(1)
                total.add(explored)
                sys.stderr.write(
                    f"\r{n_tasks} tasks: {total.cases:,} of {len(all_cases):,} cases, {total.states:,} states"
                )
                sys.stderr.flush()
            sys.stderr.write("\r")
            sys.stdout.write(
                f"{n_tasks} tasks, up to {given.faults} faults: all promises held in {total.cases:,} cases, "
                f"{total.states:,} states, {total.interleavings + total.pruned:,} runs\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
