"""The protocol under every interleaving: many `Walk` generators carried out at once, from one seed.

    Case (DAG, sizes, policy, ...) --simulate(seed)--> steps in random order --> Trace, or Violation

One step is one effect of one executor, or one key of an effect of several keys (`Put`, `Get`, `Incr`), because a store
need not make a batch atomic. The scheduler picks the next executor: at random, or by priorities that change now and
then (which starves executors for long). While a task runs it may let the watcher in (`Walk.overdue`), as the real
executor does, or another lane (`Overstays`); what runs in other lanes ends in any order, at any time (`Landed`). Time
is virtual and passes in random leaps.

Checked at every step (`wukong.planning.world`): a value is read only if it was written and not yet dropped; an
arrival's values are in the store, or ride, or are with the claimant; what is handed over is on record, with all its
inputs; the cache holds just what `uses` says. Checked at the end: each task ran exactly once, `Finish` came exactly
once with every requested value right, every record is complete, and no executor has anything left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal, TypeAlias

from wukong.core.dag import Page
from wukong.core.effects import (
    CoreWaits,
    FetchAhead,
    Get,
    Incr,
    Invoke,
    Landed,
    Now,
    Overstays,
    Pause,
    Put,
    Run,
    Slots,
    TakeIn,
    WriteBehind,
)
from wukong.core.invocation import WalkType
from wukong.core.policy import UNKNOWN_BYTES, Policy
from wukong.core.walk import Walk
from wukong.planning.world import Case, Faults, ModelExecutor, Violation, World, check
from wukong.testing.graphs import random_dag

__all__ = ["Case", "Faults", "Trace", "Violation", "limited", "random_case", "simulate"]

_MAX_LOOKS = 3
_SHOWN_STEPS = 80

FaultsOf: TypeAlias = Callable[[int], Faults]


@dataclass(slots=True)
class Trace:
    """What happened.

    Attributes:
        seed: the seed of the run.
        steps: effects carried out (several keys count as several).
        executors: how many there were.
        put, got, arrived, paused: values stored, values fetched, arrivals recorded, pauses.
        parted: tasks that went on while another lane took the walk.
        requests: values fetched ahead, or written behind, together. refused: those for which there was no room.
        peak_values: the most values that one executor's cache held.
        story: one line for each step, if asked for.
    """

    seed: int
    steps: int = 0
    executors: int = 0
    put: int = 0
    got: int = 0
    arrived: int = 0
    paused: int = 0
    parted: int = 0
    requests: int = 0
    refused: int = 0
    peak_values: int = 0
    story: list[str] = field(default_factory=list)


class _Exploration:
    """One random run through one case."""

    def __init__(self, seed: int, case: Case, walk: WalkType, faults: FaultsOf | None, *, told: bool) -> None:
        self.rng = rng = Random(f"steps of {seed}")
        self.case = case
        self.world = World(case, walk=walk, faults=faults(seed) if faults is not None else None)
        self.trace = Trace(seed)
        self.told = told
        self.now = 100.0
        self.live: list[ModelExecutor] = []
        self.by_priority = rng.random() < 0.4
        self.change = rng.choice((0.3, 0.1, 0.02))
        self.look = rng.choice((0.0, 0.2, 0.5, 0.9))
        self.n_slots = 0
        self.most_steps = 2_000 + 600 * (len(case.dag) + case.dag.n_edges)

    def run(self) -> Trace:
        trace, world, rng = self.trace, self.world, self.rng
        self._join(world.start_roots())
        while self.live or world.parked:
            if world.parked and (not self.live or rng.random() < 0.05):  # the client does that some time
                self._join(world.start(world.parked.pop(rng.randrange(len(world.parked))).invocation))
            if self.by_priority:
                executor = max(self.live, key=lambda one: one.priority)
                if rng.random() < self.change:
                    executor.priority = rng.random()
            else:
                executor = self.live[int(rng.random() * len(self.live))]
            trace.steps += 1
            check(trace.steps <= self.most_steps, f"no end after {trace.steps} steps: a livelock")
            self.now += rng.choice(self.case.leaps_s) * rng.random()
            if executor.effect is not None and world.faults.dies(executor.invocation, executor.effect):
                executor.done = executor.died = True
                self._tell(executor, executor.effect, "dies")
            else:
                self._step(executor)
            if len(executor.cache) > trace.peak_values:
                trace.peak_values = len(executor.cache)
            if executor.done:
                self.live.remove(executor)
        world.close()
        trace.executors = len(world.executors)
        trace.put, trace.got, trace.arrived = world.n_put, world.n_got, world.n_arrived
        return trace

    def _join(self, started: Sequence[ModelExecutor]) -> None:
        for executor in started:
            executor.priority = self.rng.random()
            self.world.advance(executor, None, self.now)
            self.live.append(executor)

    def _step(self, executor: ModelExecutor) -> None:
        world, effect = self.world, executor.effect
        answer: Any = None
        if (executor.requests or executor.ended) and self._goes_on(executor):
            return
        if executor.walk is not None and executor.walk.lanes.most > 1 and self._moves_lanes(executor):
            return
        match effect:
            case Run() if executor.busy is None:
                world.begin(executor, effect)
                executor.busy, executor.since, executor.looks = effect, self.now, 0
                return self._tell(executor, effect, "begins")
            case Run():
                if executor.looks < _MAX_LOOKS and self.rng.random() < self.look:
                    return self._look(executor)
                world.end(executor, effect)
                executor.busy, answer = None, self.now
            case Put(tasks) | Get(tasks):
                task = self._next_key(executor, tasks)
                if isinstance(effect, Put):
                    world.put(executor, task)
                else:
                    world.get(executor, task)
                if executor.left:
                    return self._tell(executor, effect, f"{task} done")
                answer = None
                if isinstance(effect, Get):
                    world.got(executor, effect)
                    answer = ()
            case Incr(arrivals):
                if executor.left is None:
                    executor.left = list(reversed(arrivals))
                arrive = executor.left.pop()
                executor.answers.append(world.arrive(executor, arrive))
                if executor.left:
                    return self._tell(executor, arrive, executor.answers[-1])
                answer, executor.answers = tuple(executor.answers), []
            case Now():
                answer = self.now
            case FetchAhead() | WriteBehind():
                answer = self._begun(executor, effect)
            case TakeIn():
                answer = executor.take_in()
            case Pause(seconds):
                check(seconds < math.inf, "a pause that nothing ends")
                check(seconds >= 0 and not math.isnan(seconds), f"a pause of {seconds} s")
                if self.rng.random() < 0.5:  # a machine may sleep longer than it was told to
                    seconds = max(seconds, 10.0 ** self.rng.uniform(-6, 6))
                self.now = answer = self.now + seconds
                self.trace.paused += 1
                if self.case.limits:  # who waits for a seat lets its holder run, however low that one's priority is
                    executor.priority = min(one.priority for one in self.live) / 2
            case Slots():
                answer = self.case.slots[self.n_slots % len(self.case.slots)]
                self.n_slots += 1
            case CoreWaits():
                answer = self.now * self.rng.random()
            case Invoke(parts):
                self._join(world.invoke(parts))
            case None:
                raise Violation("an executor that has ended is asked for its next effect")
            case _:
                answer = world.at_once(executor, effect)
        executor.left = None
        self._tell(executor, effect, answer)
        world.advance(executor, answer, self.now)

    def _begun(self, executor: ModelExecutor, effect: FetchAhead | WriteBehind) -> bool:
        """Begin a request, if there is room for it."""
        if self.rng.random() < 0.1:
            self.trace.refused += 1
            return False
        request = self.world.request(executor, effect)
        self.trace.requests += 1
        request.left = list(effect.put if isinstance(effect, WriteBehind) else effect.tasks)
        self.rng.shuffle(request.left)
        if isinstance(effect, WriteBehind):
            request.left = [*reversed(effect.arrivals), *request.left]
        return True

    def _goes_on(self, executor: ModelExecutor) -> bool:
        """Have a request go on, or the walk take in what has come. Returns whether either happened."""
        rng, effect, walk = self.rng, executor.effect, executor.walk
        pauses = isinstance(effect, Pause)
        waits = (pauses and not executor.away and effect.seconds == math.inf) or (  # type: ignore[union-attr]
            isinstance(effect, TakeIn) and effect.wait
        )
        if executor.requests and (rng.random() < 0.4 or (waits and not executor.ended)):
            request = rng.choice(executor.first())
            step = request.left[-1]
            self.world.go_on(executor, request)
            self._tell(executor, request.effect, f"{step} done")
            return True
        if not executor.ended or executor.watcher is not None or not walk.overlap.lands:
            return False
        if pauses and (waits or rng.random() < 0.5):
            event = Landed(self.now, (), (), executor.take_in())
        elif isinstance(effect, Run) and executor.busy is effect and rng.random() < 0.5:
            self.world.end(executor, effect)
            event = Landed(self.now, (effect.task,), (), executor.take_in())
            executor.busy = None
        else:
            return False
        self._tell(executor, effect, event)
        self.world.advance(executor, event, self.now)
        return True

    def _moves_lanes(self, executor: ModelExecutor) -> bool:
        """Have another lane take the walk, if one can and chance has it. Returns whether one did."""
        rng, effect, away, walk = self.rng, executor.effect, executor.away, executor.walk
        runs = effect is executor.busy is not None
        if executor.watcher is not None or not (runs or isinstance(effect, Pause)):
            return False
        landed = [task for task in away if rng.random() < 0.25]
        if isinstance(effect, Pause) and effect.seconds == math.inf and not landed and away:
            landed = [rng.choice(list(away))]
        event: Landed | Overstays
        if runs and not landed:
            if not walk.lanes.spare or rng.random() < 0.5:
                return False
            event = Overstays(self.now)
        elif not landed:
            return False
        else:
            tasks = list(landed)
            if runs and rng.random() < 0.25:
                world_ends: Any = effect
                self.world.end(executor, world_ends)
                tasks.insert(rng.randrange(len(tasks) + 1), world_ends.task)
            self.world.land(executor, landed)
            event = Landed(self.now, tuple(tasks), (), executor.take_in() if rng.random() < 0.5 else ())
            runs = runs and len(tasks) == len(landed)
        if runs and executor.busy is not None:
            away[executor.busy.task] = executor.busy
            self.trace.parted += 1
        executor.busy = None
        self._tell(executor, effect, event)
        self.world.advance(executor, event, self.now)
        return True

    def _next_key(self, executor: ModelExecutor, tasks: Sequence[int]) -> int:
        """Choose a key: the store takes the keys of a batch in any order, and may let others in between."""
        if executor.left is None:
            check(len(set(tasks)) == len(tasks) > 0, f"a batch of {tasks}")
            executor.left = list(tasks)
            if len(tasks) > 1:
                self.rng.shuffle(executor.left)
        task: int = executor.left.pop()
        return task

    def _look(self, executor: ModelExecutor) -> None:
        """Wake the watcher during a task."""
        walk = executor.walk
        executor.looks += 1
        self.now = max(self.now, executor.since + min(walk.patience_s, 1e6))
        executor.watcher = executor.execution.overdue(self.now - executor.since, self.now)
        self._tell(executor, executor.busy, "is overdue")
        executor.advance(None)

    def _tell(self, executor: ModelExecutor, effect: object, answer: object) -> None:
        if self.told:
            who = f"{executor.invocation}{' (watcher)' if executor.watcher is not None else ''}"
            shown = f"Page from {answer.first}" if isinstance(answer, Page) else repr(answer)
            self.trace.story.append(f"#{self.trace.steps:<4} {self.now:14.6f}  {who:<12} {effect} -> {shown}")


def random_case(seed: int, max_tasks: int = 14, lanes: int = 1, overlap: Literal["on", "off"] = "off") -> Case:
    """A DAG with everything around it, from a seed; with several lanes, a few tasks are to run alone in theirs."""
    rng = Random(f"case of {seed}")
    dag = random_dag(rng, max_tasks)
    sizes = rng.choice(((16,), (16, 1_000), (16, 1_000, 100_000, 10_000_000), (0, 10_000_000)))
    policy = Policy(
        fan_out=rng.choice(("patience", "patience", "patience", "eager")),
        patience_s=rng.choice((None, 0.0, 0.0, 1e-5, 0.01, 1.0, math.inf)),
        large_object_bytes=rng.choice((None, None, 0, 1, 1_000, 1 << 50)),
        delay_budget_s=rng.choice((None, None, 0.0, 1e-3, 10.0, 1e5)),
        ride_bytes=rng.choice((0, 16, 2_000, 16_384, 1 << 40)),
        handover_s=rng.choice((20e-6, 0.0)),
        lanes=lanes,
        overlap=overlap,
    )
    exclusive = frozenset(Random(f"lanes of {seed}").choices(range(len(dag)), k=seed % 3) if lanes > 1 else ())
    larger = Random(f"larger of {seed}").choices(range(len(dag)), k=1 + seed % 3)
    return Case(
        dag,
        tuple(rng.choice(sizes) for _ in range(len(dag))),
        policy,
        (rng.choice((0.0, 0.01, 1.0)), rng.choice((1e-6, 1e-3, 0.1)), rng.choice((1e4, 1e8))),
        rng.choice((1, 2, 5, 512)),
        rng.choice(((None,), (0,), (1,), (3,), (0, 1, 0, 2), (None, 0))),
        rng.choice(((1e-6,), (1e-6, 1e-3, 0.1), (1e-6, 10.0), (100.0,))),
        stream=rng.random() < 0.1,
        exclusive=exclusive,
        larger=frozenset(larger if seed % 11 == 10 else ()),
    )


def limited(case: Case, seed: int) -> Case:
    """Return the case with limits: of one or two names, and for some of its tasks both."""
    rng = Random(f"limits of {seed}")
    limits = tuple((name, rng.choice((1, 1, 2, 3))) for name in ("a", "b"))
    kinds = rng.choice(((limits[:1],), ((), limits[:1]), ((), limits[:1], limits[1:], limits)))
    drawn = {task: rng.choice(kinds) for task in range(len(case.dag))}
    patience_s = Random(f"patience of {seed}").choice((None, 0.0, 0.0, 0.01, 1.0))
    policy = replace(case.policy, lease_s=3 * case.policy.heartbeat_s, limit_patience_s=patience_s)
    room_bytes = Random(f"room of {seed}").choice((0, 2_000, UNKNOWN_BYTES))
    limits_of = {task: each for task, each in drawn.items() if each}
    return replace(case, policy=policy, limits=limits_of, room_bytes=room_bytes)


def simulate(
    seed: int,
    case: Case | None = None,
    *,
    lanes: int = 1,
    overlap: Literal["on", "off"] = "off",
    walk: WalkType = Walk,
    faults: FaultsOf | None = None,
    story: bool = False,
) -> Trace:
    """Carry out one case under one random interleaving; the same arguments give the same steps.

    Args:
        seed: decides the interleaving, and the case if none is given.
        case: what to simulate; None: `random_case(seed)`, with `lanes` and `overlap`.
        walk: the protocol; another one than `Walk` in tests of the simulator itself.
        faults: returns the faults of a seed.
        story: keep one line for each step in the trace.

    Raises Violation if a promise is broken, with the case and its last steps.
    """
    case = random_case(seed, lanes=lanes, overlap=overlap) if case is None else case
    run = _Exploration(seed, case, walk, faults, told=story)
    try:
        return run.run()
    except Violation as first:
        violation = first
    if not story:  # the same again, told this time
        run = _Exploration(seed, case, walk, faults, told=True)
        try:
            run.run()
        except Violation as again:
            violation = again
    steps = run.trace.story
    raise Violation(
        f"{violation}\n\nsimulate({seed}{case.how}) of a {case}\n"
        f"the last {min(len(steps), _SHOWN_STEPS)} of {len(steps)} steps:\n" + "\n".join(steps[-_SHOWN_STEPS:])
    ) from violation.__cause__


if __name__ == "__main__":
    from wukong.testing.long_run import main

    main()
