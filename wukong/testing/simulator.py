"""The protocol under every interleaving: many `Walk` generators carried out at once, from one seed.

A `World` is the model of everything an executor can reach: the store (values, fan-in records whose claims are bound
to the invocation, orders of invocations), the platform, and one strict cache per executor. It carries out effects and
holds them against the protocol's promises; what breaks one raises `Violation`, which tells the whole story.

    Case (DAG, sizes, policy, ...) --simulate(seed)--> steps in random order --> Trace, or Violation

One step is one effect of one executor, and for effects of several keys (`Put`, `Get`, `Incr`) one key of it, because a
store need not make a batch atomic. The scheduler picks who is next: at random, or by priorities that change now and
then (which starves executors for long). While a task runs it may let the watcher in (`Walk.overdue`), as the real
executor does. Time is virtual and passes in random leaps.

Held at every step: a value is read only where it was written and not yet dropped; an arrival's values are in the
store, or ride, or are with the claimant; what is handed over is on record, with all its inputs; the cache holds just
what `uses` says. At the end: each task ran exactly once, `Finish` came exactly once with every requested value right,
every record is complete, and nobody has anything left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

from wukong.core.dag import Dag
from wukong.core.effects import (
    Abort,
    Arrive,
    Arrived,
    Drop,
    Effect,
    Finish,
    Get,
    Incr,
    Invoke,
    LoadPage,
    Now,
    Part,
    Pause,
    Put,
    Record,
    Run,
    Size,
    Slots,
)
from wukong.core.policy import Costs, Policy
from wukong.core.protocol import Effects, Walk
from wukong.testing.graphs import pages_of, random_dag

__all__ = ["Case", "Faults", "Trace", "Violation", "World", "random_case", "simulate"]

WalkType: TypeAlias = Callable[..., Walk]

_MAX_LOOKS = 3
_SHOWN_STEPS = 80


class Violation(AssertionError):
    """The protocol broke a promise. The text tells which, on which DAG, and the steps that led there."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated.

    Attributes:
        dag: the structure.
        sizes: size of each task's value, bytes.
        policy, costs: as the job would give them; costs are the fields of `Costs`.
        page_tasks: tasks in one page.
        slots: answers to `Slots`, in turn and then again from the first.
        leaps_s: how long an effect takes: one of these at random, times a random fraction.
        stream: see `Walk`.
    """

    dag: Dag
    sizes: tuple[int, ...]
    policy: Policy = Policy()
    costs: tuple[float, float, float] = (0.01, 0.001, 1e8)
    page_tasks: int = 512
    slots: tuple[int | None, ...] = (None,)
    leaps_s: tuple[float, ...] = (1e-6, 1e-3, 0.1)
    stream: bool = False

    def roots(self) -> list[tuple[int, ...]]:
        """Start tasks of the first invocations, as a job makes them."""
        leaves = self.dag.leaves()
        return [(leaf,) for leaf in leaves] if self.policy.fan_out == "eager" else [tuple(leaves)]

    def __str__(self) -> str:
        dag = self.dag
        rows = [
            f"    {task} <- {', '.join(map(str, dag.parents_of(task))) or '(leaf)'}   [{self.sizes[task]} B]"
            for task in range(len(dag))
        ]
        return "\n".join(
            [
                f"DAG of {len(dag)} tasks, requested: {', '.join(map(str, dag.outputs))}",
                *rows,
                f"{self.policy}",
                f"costs={self.costs} page_tasks={self.page_tasks} slots={self.slots} leaps_s={self.leaps_s} "
                f"stream={self.stream}",
            ]
        )


class Faults:
    """What goes wrong. This one: nothing. The simulator asks it wherever a fault can strike."""

    def deliveries(self, invocation: str) -> int:
        """How many executors an accepted invocation starts: 1; 0 if it is lost, 2 if it is delivered twice."""
        return 1

    def dies(self, invocation: str, effect: Effect) -> bool:
        """Whether the executor dies before this effect."""
        return False


FaultsOf: TypeAlias = Callable[[int], Faults]


@dataclass(slots=True)
class Trace:
    """What happened.

    Attributes:
        seed: what it came from.
        steps: effects carried out (several keys count as several).
        executors: how many there were.
        put, got, arrived, paused: values stored, values fetched, arrivals recorded, pauses.
        peak_values: the most values that one executor's cache held.
        story: one line for each step, where asked for.
    """

    seed: int
    steps: int = 0
    executors: int = 0
    put: int = 0
    got: int = 0
    arrived: int = 0
    paused: int = 0
    peak_values: int = 0
    story: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FanIn:
    """A fan-in's record, as a store keeps it."""

    of: int
    members: set[int] = field(default_factory=set)
    claimant: str | None = None
    riding: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ordered:
    """An invocation on record: what it starts from, and the values in its payload."""

    start: tuple[int, ...]
    values: dict[int, int]
    alone: bool = False


class Executor:
    """One invocation being carried out: its walk, its cache, and where it stands."""

    __slots__ = (
        "answers", "busy", "cache", "done", "effect", "invocation", "left", "looks", "main", "priority", "put", "since",
        "walk", "watcher",
    )  # fmt: skip

    def __init__(self, invocation: str, walk: Walk, cache: dict[int, int]) -> None:
        self.invocation, self.walk, self.cache = invocation, walk, cache
        self.main: Effects = walk.run()
        self.watcher: Effects | None = None
        self.effect: Effect | None = None
        self.left: list[Any] | None = None
        self.answers: list[Any] = []
        self.busy: Run | None = None
        self.since = 0.0
        self.looks = 0
        self.priority = 0.0
        self.put: set[int] = set()
        self.done = False

    def advance(self, answer: Any) -> None:
        """Send an answer in; `effect` is what comes back, or the task that runs on, or None at the end."""
        try:
            if self.watcher is not None:
                self.effect = self.watcher.send(answer)
                check(type(self.effect) is not Run, "the watcher runs a task")
                return
            self.effect = self.main.send(answer)
        except StopIteration:
            if self.watcher is not None:
                self.watcher, self.effect = None, self.busy
            else:
                self.effect, self.done = None, True
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"the protocol raised {type(error).__name__}: {error}") from error


def check(held: bool, promise: str) -> None:
    """Raise `Violation` unless it held."""
    if not held:
        raise Violation(promise)


class World:
    """The store, the platform and the caches; carries out effects. Knows no time and no order: that is the caller's."""

    def __init__(self, case: Case, *, walk: WalkType = Walk, faults: Faults | None = None) -> None:
        self.case, self.faults = case, faults or Faults()
        self.dag = case.dag
        self._walk = walk
        self.pages = pages_of(case.dag, case.page_tasks)
        self.parents = [row for page in self.pages for row in page.parents]
        self.right: list[int] = []
        for task, row in enumerate(self.parents):
            self.right.append(hash((task, *[self.right[parent] for parent in row])))
        self.values: dict[int, int] = {}
        self.fan_ins: dict[int, FanIn] = {}
        self.orders: dict[str, Ordered] = {}
        self.made: dict[str, int] = {}
        self.ran = [0] * len(self.dag)
        self.finished: dict[int, int] | None = None
        self.executors: list[Executor] = []
        self.n_put = self.n_got = self.n_arrived = 0

    def start_roots(self) -> list[Executor]:
        """Start the job's first executors."""
        roots = self.case.roots()
        started = []
        for i, start in enumerate(roots):
            self.orders[str(i)] = Ordered(start, {}, alone=len(roots) == 1)
            started += self.start(str(i))
        return started

    def start(self, invocation: str) -> list[Executor]:
        """Deliver an invocation, as often as it pleases the platform. Returns the new executors."""
        order, started = self.orders[invocation], []
        for _ in range(self.faults.deliveries(invocation)):
            n = self.made.get(invocation, 0)
            offloaded = frozenset(task for i in range(n) for task in self.orders[f"{invocation}.{i}"].start)
            walk = self._walk(
                invocation,
                order.start,
                len(self.dag),
                self.case.policy,
                Costs(*self.case.costs),
                inline=order.values,
                alone=order.alone,
                offloaded=offloaded,
                n_offloads=n,
                stream=self.case.stream,
            )
            started.append(Executor(invocation, walk, dict(order.values)))
        self.executors += started
        return started

    # --- effects, whole or by key

    def begin(self, executor: Executor, run: Run) -> None:
        """A task begins: its inputs are in the cache, and the cache holds what `uses` says."""
        cache, walk = executor.cache, executor.walk
        for parent in self.parents[run.task]:
            check(parent in cache, f"task {run.task} runs without its input {parent}")
        check(
            cache.keys() == walk.uses.keys() | set(run.last_use),
            f"the cache holds {sorted(cache)}, uses says {sorted(walk.uses)} besides {sorted(run.last_use)}",
        )
        self.ran[run.task] += 1
        check(self.ran[run.task] == 1, f"task {run.task} runs again")

    def end(self, executor: Executor, run: Run) -> None:
        """A task has run: its value is in the cache, and what it was the last use of is not."""
        cache = executor.cache
        inputs = []
        for parent in self.parents[run.task]:
            check(parent in cache, f"input {parent} was dropped while task {run.task} ran")
            inputs.append(cache[parent])
        check(run.task not in cache, f"the value of task {run.task} was there before it ran")
        cache[run.task] = hash((run.task, *inputs))
        for task in run.last_use:
            check(task in cache, f"{task} is dropped after its last use, but is not in the cache")
            del cache[task]

    def put(self, executor: Executor, task: int) -> None:
        """Store one value."""
        check(task in executor.cache, f"Put of {task}, which is not in the cache")
        check(task not in executor.put, f"Put of {task} again by the same executor")
        executor.put.add(task)
        self.values[task] = executor.cache[task]
        self.n_put += 1

    def get(self, executor: Executor, task: int) -> None:
        """Fetch one value; a missing one breaks rule 1, for nothing loses values here."""
        check(task in self.values, f"Get of {task}, which nobody has stored")
        check(task not in executor.cache, f"Get of {task}, which is in the cache")
        executor.cache[task] = self.values[task]
        self.n_got += 1

    def arrive(self, executor: Executor, arrive: Arrive) -> Arrived:
        """Record one arrival, atomically, as the store contract has it."""
        child, members = arrive.child, set(arrive.members)
        fan_in = self.fan_ins.get(child) or FanIn(arrive.of)
        inputs: Sequence[int] = self.dag.outputs if child == self.dag.sink else self.parents[child]
        check(arrive.of == len(inputs) == fan_in.of, f"fan-in {child} has {len(inputs)} inputs, not {arrive.of}")
        check(bool(members) and len(members) == len(arrive.members), f"arrival at {child} names {arrive.members}")
        for task in arrive.carry:
            check(task in executor.cache, f"{task} rides to {child}, but is not in the cache")
        self.n_arrived += 1
        if fan_in.claimant is not None:
            mine = fan_in.claimant == executor.invocation
            return Arrived(True, mine, self._take(executor, fan_in) if mine else ())
        new = members - fan_in.members
        complete = len(fan_in.members) + len(new) == fan_in.of
        if not new or (arrive.only_if_last and not complete):
            return Arrived(False, False)
        self.fan_ins[child] = fan_in
        fan_in.members |= new
        fan_in.riding.update((task, executor.cache[task]) for task in arrive.carry)
        if complete:
            fan_in.claimant = executor.invocation
            carried = self._take(executor, fan_in)
        for member in members:
            task = inputs[member]
            there = task in self.values or task in fan_in.riding
            here = complete and child != self.dag.sink and task in executor.cache
            check(there or here, f"member {member} (task {task}) arrived at {child} before its value")
        return Arrived(True, True, carried) if complete else Arrived(False, False)

    def _take(self, executor: Executor, fan_in: FanIn) -> tuple[int, ...]:
        for task, value in fan_in.riding.items():
            executor.cache.setdefault(task, value)
        return tuple(fan_in.riding)

    def drop(self, executor: Executor, effect: Drop) -> None:
        """Forget values; an input of the running task stays until it has run."""
        running = self.parents[executor.busy.task] if executor.busy is not None else ()
        for task in effect.tasks:
            check(task in executor.cache, f"Drop of {task}, which is not in the cache")
            check(task not in running, f"Drop of {task}, an input of the running task")
            del executor.cache[task]

    def record(self, executor: Executor, effect: Record) -> None:
        """Write the records of invocations: all their inputs are stored by now, or travel in them."""
        for part in effect.parts:
            check(part.invocation not in self.orders, f"invocation {part.invocation} is on record already")
            check(part.invocation.rpartition(".")[0] == executor.invocation, f"{part.invocation} is another's child")
            check(bool(part.tasks) and list(part.tasks) == sorted(set(part.tasks)), f"a part of {part.tasks}")
            for task in part.inline:
                check(task in executor.cache, f"{task} travels to {part.invocation}, but is not in the cache")
            for task in part.tasks:
                for parent in self.parents[task]:
                    there = parent in self.values or parent in part.inline
                    check(there, f"{task} is handed over before its input {parent} is stored")
            self.orders[part.invocation] = Ordered(part.tasks, {task: executor.cache[task] for task in part.inline})
        self.made[executor.invocation] = int(effect.parts[-1].invocation.rpartition(".")[2]) + 1

    def invoke(self, parts: Sequence[Part]) -> list[Executor]:
        """Start recorded invocations."""
        started = []
        for part in parts:
            check(part.invocation in self.orders, f"{part.invocation} is invoked before it is on record")
            started += self.start(part.invocation)
        return started

    def finish(self, executor: Executor, effect: Finish) -> None:
        """The job ends: every requested value is there and right."""
        check(self.finished is None, "Finish comes twice")
        for task in effect.inline:
            check(task in executor.cache, f"Finish with {task}, which is not in the cache")
        self.finished = {task: executor.cache[task] for task in effect.inline}
        for task in self.dag.outputs:
            value = self.finished.get(task, self.values.get(task))
            check(value is not None, f"Finish without the requested value {task}")
            check(value == self.right[task], f"the requested value {task} is wrong")

    def at_once(self, executor: Executor, effect: Effect) -> Any:
        """Carry out an effect that neither takes time nor comes in keys; return its answer."""
        match effect:
            case LoadPage(task):
                return self.pages[task // self.case.page_tasks]
            case Size(tasks):
                for task in tasks:
                    check(task in executor.cache, f"Size of {task}, which is not in the cache")
                return tuple(self.case.sizes[task] for task in tasks)
            case Drop():
                return self.drop(executor, effect)
            case Record():
                return self.record(executor, effect)
            case Finish():
                return self.finish(executor, effect)
            case Abort(task, lost):
                raise Violation(f"the job is aborted at task {task}, lost: {lost}")
            case _:
                raise Violation(f"an effect that nobody carries out: {effect}")

    def close(self) -> None:
        """All executors have ended: hold the end against the promises."""
        check(self.finished is not None, "the job never ends: all executors have, and none came to Finish")
        missed = [task for task, n in enumerate(self.ran) if n != 1]
        check(not missed, f"tasks {missed} never ran")
        for child, fan_in in self.fan_ins.items():
            check(len(fan_in.members) == fan_in.of and fan_in.claimant is not None, f"fan-in {child} is not complete")
        told = self.finished or {}
        for executor in self.executors:
            walk, who = executor.walk, executor.invocation
            for name in ("ready", "pending", "of", "held", "absent"):
                check(not getattr(walk, name), f"{who} ends with {name} = {getattr(walk, name)}")
            check(walk.uses.keys() <= told.keys(), f"{who} ends with uses = {walk.uses}")
            check(executor.cache.keys() <= told.keys(), f"{who} ends with {sorted(executor.cache)} in its cache")


class _Exploration:
    """One random run through one case."""

    def __init__(self, seed: int, case: Case, walk: WalkType, faults: FaultsOf | None, *, told: bool) -> None:
        self.rng = rng = Random(f"steps of {seed}")
        self.case = case
        self.world = World(case, walk=walk, faults=faults(seed) if faults is not None else None)
        self.trace = Trace(seed)
        self.told = told
        self.now = 100.0
        self.live: list[Executor] = []
        self.by_priority = rng.random() < 0.4
        self.change = rng.choice((0.3, 0.1, 0.02))
        self.look = rng.choice((0.0, 0.2, 0.5, 0.9))
        self.n_slots = 0
        self.most_steps = 2_000 + 600 * (len(case.dag) + case.dag.n_edges)

    def run(self) -> Trace:
        trace, world, rng = self.trace, self.world, self.rng
        self._join(world.start_roots())
        while self.live:
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
                executor.done = True
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

    def _join(self, started: Sequence[Executor]) -> None:
        for executor in started:
            executor.priority = self.rng.random()
            executor.advance(None)
            self.live.append(executor)

    def _step(self, executor: Executor) -> None:
        world, effect = self.world, executor.effect
        answer: Any = None
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
                answer = None if isinstance(effect, Put) else ()
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
            case Pause(seconds):
                check(seconds >= 0 and not math.isnan(seconds), f"a pause of {seconds} s")
                self.now = answer = self.now + seconds
                self.trace.paused += 1
            case Slots():
                answer = self.case.slots[self.n_slots % len(self.case.slots)]
                self.n_slots += 1
            case Invoke(parts):
                self._join(world.invoke(parts))
            case None:
                raise Violation("an executor that has ended is asked for its next effect")
            case _:
                answer = world.at_once(executor, effect)
        executor.left = None
        self._tell(executor, effect, answer)
        executor.advance(answer)

    def _next_key(self, executor: Executor, tasks: Sequence[int]) -> int:
        """The store takes the keys of a batch in any order, and may let others in between."""
        if executor.left is None:
            check(len(set(tasks)) == len(tasks) > 0, f"a batch of {tasks}")
            executor.left = list(tasks)
            if len(tasks) > 1:
                self.rng.shuffle(executor.left)
        task: int = executor.left.pop()
        return task

    def _look(self, executor: Executor) -> None:
        """The watcher wakes during a task."""
        walk = executor.walk
        executor.looks += 1
        self.now = max(self.now, executor.since + min(walk.patience, 1e6))
        executor.watcher = walk.overdue(self.now - executor.since, self.now)
        self._tell(executor, executor.busy, "is overdue")
        executor.advance(None)

    def _tell(self, executor: Executor, effect: object, answer: object) -> None:
        if self.told:
            who = f"{executor.invocation}{' (watcher)' if executor.watcher is not None else ''}"
            shown = f"{type(answer).__name__} from {answer.first}" if isinstance(effect, LoadPage) else repr(answer)
            self.trace.story.append(f"#{self.trace.steps:<4} {self.now:14.6f}  {who:<12} {effect} -> {shown}")


def random_case(seed: int, max_tasks: int = 14) -> Case:
    """A DAG with everything around it, from a seed."""
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
    )
    return Case(
        dag,
        tuple(rng.choice(sizes) for _ in range(len(dag))),
        policy,
        (rng.choice((0.0, 0.01, 1.0)), rng.choice((1e-6, 1e-3, 0.1)), rng.choice((1e4, 1e8))),
        rng.choice((1, 2, 5, 512)),
        rng.choice(((None,), (0,), (1,), (3,), (0, 1, 0, 2), (None, 0))),
        rng.choice(((1e-6,), (1e-6, 1e-3, 0.1), (1e-6, 10.0), (100.0,))),
        stream=rng.random() < 0.1,
    )


def simulate(
    seed: int,
    case: Case | None = None,
    *,
    walk: WalkType = Walk,
    faults: Faults | None = None,
    story: bool = False,
) -> Trace:
    """Carry out one case under one random interleaving; the same arguments give the same steps.

    Args:
        seed: decides the interleaving, and the case where none is given.
        case: what to simulate; None: `random_case(seed)`.
        walk: the protocol; another one than `Walk` in tests of the simulator itself.
        faults: makes what goes wrong, from the seed.
        story: keep one line for each step in the trace.

    Raises Violation where a promise is broken, with the case and its last steps.
    """
    case = random_case(seed) if case is None else case
    run = _Exploration(seed, case, walk, faults, told=True)
    run.told = story
    try:
        return run.run()
    except Violation:
        if not story:
            run = _Exploration(seed, case, walk, faults, told=True)
            try:
                run.run()
            except Violation as again:
                violation = again
        steps = run.trace.story
        raise Violation(
            f"{violation}\n\nsimulate({seed}) of a {case}\n"
            f"the last {min(len(steps), _SHOWN_STEPS)} of {len(steps)} steps:\n" + "\n".join(steps[-_SHOWN_STEPS:])
        ) from violation.__cause__
