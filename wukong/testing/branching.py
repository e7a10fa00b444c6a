"""The platform and the client of a simulated job whose every decision is a choice, and the states they come to.

    BranchingPlatform.move --choice--> one operation of one executor, or one fault, or: the client is next

A state is a hash of everything on which the rest of the run depends. What an executor depends on is all that it was
ever answered, its cache, and how far it has come with its present effect.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, TypeAlias, cast

from wukong.core.effects import (
    Abort,
    Beat,
    Delete,
    Effect,
    Fail,
    FetchAhead,
    Finish,
    Get,
    Incr,
    Invoke,
    Landed,
    LeaveWord,
    LoadPage,
    Pause,
    Put,
    Read,
    Record,
    TakeIn,
    WriteBehind,
)
from wukong.core.events import Done, End, Heartbeat
from wukong.core.invocation import Execution, WalkType
from wukong.core.payload import Order
from wukong.core.storage import FanInRecord
from wukong.planning.world import Case, Request, Violation, check, riding
from wukong.testing.choices import Budget, Chooser, Chosen
from wukong.testing.faulty import Delivery, FaultyWorld
from wukong.testing.footprints import Footprint, Tracked, TrackedSet, Tracker
from wukong.testing.platform import Reported, SimulatedPlatform

__all__ = ["Answered", "Bounds", "BranchingPlatform", "Pruned", "word_of"]

Move: TypeAlias = tuple[str, int]
Name: TypeAlias = tuple[str, int]
"""A move, as it is called in every state: by the state of who moves."""

_SHARED = (Read, Put, Get, Incr, Record, Invoke, Finish, Abort, Delete, Beat, LeaveWord, Fail, LoadPage, Pause, TakeIn)
_TICK_S = 1e-3
_LONG_S = 1e6
_MOST_STEPS = 1_000
_REQUESTS = {"writes behind": WriteBehind, "fetches ahead": FetchAhead}
_BY_ONE = ("goes on", "has waited long", "dies", "is cut off", *_REQUESTS)


class Pruned(Exception):
    """From here on everything is explored already, or is being explored."""


@dataclass
class Bounds:
    """What is explored, as `wukong.testing.exhaustive.explore` takes it, and the states that were seen.

    Attributes:
        sleeps: leave out moves that commute with those before them.
        states: with what was asleep in each.
    """

    sleeps: ClassVar[bool] = True

    faults: int
    kinds: Collection[str]
    executors: int
    looks: int
    walk: WalkType
    execution: type[Execution]
    world: type[FaultyWorld]
    told: bool = False
    states: dict[int, frozenset[Name]] = field(default_factory=dict)

    def visit(self, state: int, asleep: Collection[Name]) -> Collection[Name] | None:
        """Come to a state in which these moves need not be made. Return those that still have to be; None: all.

        A state that was seen before is done, but for what was asleep then and is not now. Raises Pruned if that is
        nothing.
        """
        before = self.states.get(state)
        if before is None:
            self.states[state] = frozenset(asleep)
            return None
        left = before.difference(asleep)
        if not left:
            raise Pruned
        self.states[state] = before.intersection(asleep)
        return left


class Moves(list[Move]):
    """The moves from one state, in the order in which they are explored, and what those that were touched.

    Attributes:
        asleep: moves that need not be made, for what they lead to is reached by others; what they touch.
        names: of each move. touched: by each that was made, in all ways in which it went on.
    """

    def __init__(self, moves: Sequence[Move], names: Sequence[Name], asleep: Mapping[Name, Footprint]) -> None:
        super().__init__(moves)
        self.names, self.asleep = names, asleep
        self.touched = [Footprint() for _ in moves]

    def made(self, choice: int, footprint: Footprint) -> dict[Name, Footprint]:
        """Note what a move has touched. Return what is asleep after it: what commutes with it, and comes before it."""
        self.touched[choice].add(footprint)
        before = {**self.asleep, **dict(zip(self.names[:choice], self.touched, strict=False))}
        return {name: other for name, other in before.items() if other.apart(footprint)}


class Answered(Delivery):
    """One delivery, and what it depends on: `past`, of all its answers, and `partial`, since the last one."""

    __slots__ = ("asked", "clock", "number", "partial", "past")

    def __init__(self, order: Order, number: int) -> None:
        super().__init__(order)
        self.number = number
        self.effect = None
        self.past = hash((self.attempt_id, tuple(order.start), order.alone, *(order.values or ())))
        self.partial: list[Any] = []
        self.clock = 100.0
        self.asked = 0

    def state(self) -> int:
        """Return a hash of all that it depends on."""
        requests = tuple((request.effect, *request.partial) for request in (*self.requests, *self.ended))
        words = self.past, self.asked, *self.partial, frozenset(self.cache), self.known, self.broken, self.cut_off
        return hash((words, len(self.ended), requests))


class BranchingPlatform(SimulatedPlatform):
    """The platform, whose every decision is a choice."""

    script: Budget

    def __init__(self, case: Case, chooser: Chooser, budget: Budget, world: FaultyWorld, how: Bounds) -> None:
        super().__init__(0, case, budget, world, execution=how.execution, limit_s=inf, told=how.told)
        self.rng, self.chooser, self.how = Chosen(chooser), chooser, how
        self.tells = True
        self.failing = None
        self.waiting: list[bytes] = []
        self.looks_left = how.looks
        self.current: Answered | None = None
        self.long = False
        self.suspects = False
        self.client_state: Callable[[], int] = lambda: 0
        self.client_clock = 100.0
        self.orders = world.names.invocation("")
        self.asleep: dict[Name, Footprint] = {}
        self.tracker = tracker = Tracker()
        world.values = Tracked("value", tracker)
        world.fan_ins = Tracked("record", tracker)
        world.words = Tracked("word", tracker)
        world.computed, world.written = TrackedSet("computed", tracker), TrackedSet("written", tracker)

    # --- deliveries: two at once

    def deliver(self, payload: bytes) -> None:
        """Start an executor, or let it wait for one of two places."""
        if len(self.live) >= self.how.executors:
            self.tracker.footprint.writes.add(("queue", 0))
            self.waiting.append(payload)
            return
        delivery = Answered(self.world.opened(payload), sum(self.delivered.values()))
        n = self.delivered[delivery.invocation] = self.delivered.get(delivery.invocation, 0) + 1
        self.extra += n > 1 or "~" in delivery.attempt_id
        delivery.stage = self.carry_out(delivery)
        self.live.append(delivery)
        self.tell(delivery.attempt_id, "begins")
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

    def _go_on(self, delivery: Answered) -> None:
        """To its next operation on what others see."""
        before, now, self.current = self.current, self.now, delivery
        try:
            while True:
                self.now = delivery.clock = delivery.clock + _TICK_S
                effect = next(delivery.stage)
                delivery.clock = self.now
                if isinstance(effect, _SHARED):
                    delivery.partial.append(type(effect))
                    delivery.effect = effect
                    delivery.asked = self._asks(delivery) if isinstance(effect, Pause) else 0
                    break
        except StopIteration:
            self._gone(delivery)
        except Violation:
            raise
        except (Pruned, RecursionError):
            raise
        except Exception as error:
            raise Violation(f"{delivery.attempt_id} raised {type(error).__name__}: {error}") from error
        finally:
            self.current, self.now = before, now

    def pass_time(self, seconds: float) -> None:
        """One executor's clock goes on; there are no heartbeats."""
        self.now += _LONG_S if self.long else seconds

    def looks(self) -> bool:
        """Whether the watcher looks at the running task now: both are explored."""
        if self.looks_left:
            self.tracker.footprint.writes.add(("looks", 0))
        looks = self.looks_left > 0 and self.chooser.choose(2) == 1
        self.looks_left -= looks
        if looks and self.current is not None:
            self.current.partial.append("looks")
        return looks

    def event(self, delivery: Delivery, events: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
        """Choose what happens to an executor of several lanes: each is explored."""
        return events[self.chooser.choose(len(events))]

    def answer(self, delivery: Delivery, effect: Effect, answer: object) -> None:
        """All that an executor depends on is what it was answered."""
        assert isinstance(delivery, Answered)
        delivery.past = hash((delivery.past, type(effect), word_of(answer)))
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
        assert isinstance(delivery, Answered)
        delivery.partial.append(answer)
        return answer

    def go_on(self, delivery: Delivery, request: Request) -> None:
        """Carry out the next step of a request: what it depends on is its own."""
        assert isinstance(delivery, Answered)
        before, current, self.current = delivery.partial, self.current, delivery
        delivery.partial = request.partial
        try:
            super().go_on(delivery, request)
        finally:
            delivery.partial, self.current = before, current
            request.partial.append(len(request.answers))

    def room(self) -> bool:
        """There is room: without, all is done as if nothing could be under way."""
        return True

    def takes_in(self) -> bool:
        """Whether what has come is taken in now, or comes later: both are explored."""
        taken = self.chooser.choose(2) == 0
        if self.current is not None:
            self.current.partial.append(taken)
        return taken

    def _shuffled(self, tasks: Sequence[int]) -> list[int]:
        order = super()._shuffled(tasks)
        if self.current is not None:
            self.current.partial.extend(order)
        return order

    # --- moves

    def moves(self, *, client: bool) -> list[Move]:
        """Return what may happen next."""
        script, live = self.script, cast("list[Answered]", self.live)
        moves: list[Move] = []
        first = {delivery.state(): i for i, delivery in reversed([*enumerate(live)])}
        for i, delivery in enumerate(live):
            if first[delivery.state()] != i:
                continue
            begun = {type(request.effect) for request in delivery.requests}
            moves += [(what, i) for what, kind in _REQUESTS.items() if kind in begun]
            if isinstance(delivery.effect, TakeIn) and begun and not delivery.ended:
                continue
            if not isinstance(delivery.effect, Pause):
                moves.append(("goes on", i))
                continue
            if delivery.asked != self._asks(delivery) or delivery.ended:
                moves.append(("goes on", i))
            if delivery.effect.seconds < inf or delivery.away:
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
        chooser, tracker = self.chooser, self.tracker
        if chooser.new:
            left = self.how.visit(self.state(), self.asleep.keys())
            what, i = chooser.pick(lambda: self._to_make(client=client, left=left))
        else:
            what, i = chooser.pick(lambda: self.moves(client=client))
        choice, moves = chooser.taken[-1]
        tracker.footprint = footprint = Footprint()
        try:
            return self._make(what, i)
        finally:
            if chooser.new and isinstance(moves, Moves):
                self.asleep = moves.made(choice, footprint)

    def _to_make(self, *, client: bool, left: Collection[Name] | None) -> Moves:
        """Return the moves that have to be made from here. Raises Pruned if there is none."""
        live, asleep = cast("list[Answered]", self.live), self.asleep if self.how.sleeps else {}
        moves, names = [], []
        for what, i in self.moves(client=client):
            name = what, live[i].state() if what in _BY_ONE else i
            if (name in left) if left is not None else name not in asleep:
                moves.append((what, i))
                names.append(name)
        if not moves:
            raise Pruned
        return Moves(moves, names, asleep)

    def _make(self, what: str, i: int) -> bool:
        """Make a move. Returns whether the client is next."""
        world, script, footprint = self.world, self.script, self.tracker.footprint
        if what in _BY_ONE:
            delivery = cast("Answered", self.live[i])
            footprint.writes.add(("executor", delivery.number))
            if isinstance(delivery.effect, Pause):
                self._asks(delivery)
        else:
            footprint.everything = what in ("client", "comes late")
        match what:
            case "client":
                return True
            case "goes on" | "has waited long":
                self.long = what != "goes on"
                self._go_on(delivery)
                self.long = False
            case "writes behind" | "fetches ahead":
                self.go_on(delivery, next(each for each in delivery.requests if type(each.effect) is _REQUESTS[what]))
            case "dies":
                script.strike("crash")
                footprint.writes.add(("reports", 0))
                self.kill(self.live[i], "crash", reported=True)
            case "is cut off":
                script.strike("cut off")
                footprint.writes.add(("reports", 0))
                delivery.cut_off = True
                self.hit(delivery.invocation)
                self.reports.append(Reported(world.names.label(delivery.invocation), "crash"))
                self.tell(delivery.attempt_id, "is taken for dead")
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

    def _asks(self, delivery: Answered) -> int:
        """Return a hash of the records at which an executor that pauses will ask again."""
        return hash(tuple(_of(self.world.fan_ins.get(child)) for child in sorted(delivery.walk.fan_ins.pending)))

    def state(self) -> int:
        """Return a hash of everything on which the rest of the run depends."""
        world, script = self.world, self.script
        return hash(
            (
                frozenset(world.values),
                frozenset((child, _of(record)) for child, record in world.fan_ins.items()),
                frozenset((key, self._stored(key, word)) for key, word in world.words.items()),
                tuple(world.ran),
                frozenset(world.written),
                frozenset(world.computed),
                tuple(sorted(delivery.state() for delivery in cast("list[Answered]", self.live))),
                tuple(word_of(world.opened(payload)) for payload in self.waiting),
                tuple(word_of(world.opened(payload)) for _, payload in self.late),
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
        return word_of(self.world.opened(word) if key.startswith(self.orders) else word)


def _of(record: FanInRecord | None) -> Any:
    """Return what counts of a fan-in's record, as something that can be hashed."""
    if record is None:
        return None
    return record.arrived, record.claimant, frozenset(riding(record)), record.notes


def word_of(answer: Any) -> Any:
    """Return what counts of an answer, or of a word in the store, as something that can be hashed."""
    match answer:
        case None | int() | float() | bytes() | str():
            return answer
        case Landed():
            return answer.now, answer.tasks, answer.failed, answer.came
        case tuple():
            return answer
        case list():
            return tuple(True if type(each) is bytes else word_of(each) for each in answer)  # the sign of life
        case Order():
            return answer.invocation, answer.attempt, tuple(answer.start), answer.alone, tuple(answer.values or ())
        case Heartbeat():
            return answer.attempt, answer.at, answer.sent
        case End():
            return frozenset(answer.stored), frozenset(answer.arrived), answer.missing
        case Done():
            return tuple(answer.inline), answer.raised is None
    return type(answer)
