"""The model of everything that an executor can reach; it checks that the protocol keeps its promises.

A `World` is the store (values, fan-in records, orders of invocations), the platform, and one strict cache for each
executor. It knows no time and no order: `wukong.testing.simulator` explores orders at random, and
`wukong.planning.clockwork` follows a virtual clock. A value is symbolic: the hash of its task and of the task's
inputs, so that a wrong one is noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from wukong.core.dag import Limits
from wukong.core.effects import (
    Abort,
    Arrive,
    Arrived,
    Drop,
    Effect,
    Fail,
    FetchAhead,
    Finish,
    FreeSeats,
    Get,
    GiveSeats,
    KeepSeats,
    LeaveWord,
    LoadPage,
    Now,
    Part,
    Pause,
    Read,
    Record,
    Run,
    Size,
    TakeSeats,
    Unpack,
    WriteBehind,
    claimant,
)
from wukong.core.invocation import Execution, WalkType
from wukong.core.names import Names
from wukong.core.payload import Order
from wukong.core.policy import Costs
from wukong.core.storage import Arrival, FanInRecord, arrive
from wukong.core.walk import Walk
from wukong.planning.case import FUNCTIONS, Case, pages_of
from wukong.planning.model_executor import ModelExecutor, Request, Violation, check
from wukong.planning.seat_model import SeatModel

__all__ = ["Case", "Faults", "ModelExecutor", "Request", "Violation", "World", "check", "pages_of", "riding"]


_AROUND = (Read, Unpack, LeaveWord)


class Faults:
    """What goes wrong; in this class nothing does. The simulator asks wherever a fault can strike."""

    def deliveries(self, invocation: str) -> int:
        """Return how many executors an accepted invocation starts: 1; 0 if it is lost, 2 if it is delivered twice."""
        return 1

    def dies(self, invocation: str, effect: Effect) -> bool:
        """Whether the executor dies before it carries out this effect."""
        return False


FaultsOf: TypeAlias = Callable[[int], Faults]


def riding(fan_in: FanInRecord) -> dict[int, int]:
    """Return the values that have ridden in at a fan-in, by task."""
    rides: Any = fan_in.values
    return {task: value for ride in rides for task, value in ride}


class World:
    """The store, the platform and the caches; carries out effects. The caller decides on time and order.

    Args:
        case: what is carried out.
        walk: the protocol; tests give another one than `Walk`.
        faults: what goes wrong.
        strict: at the begin of each task the cache holds exactly what the walk counts uses of.
    """

    def __init__(self, case: Case, *, walk: WalkType = Walk, faults: Faults | None = None, strict: bool = True) -> None:
        self.case, self.faults, self.strict = case, faults or Faults(), strict
        self.dag = case.dag
        self.walk = walk
        self.pages = pages_of(case.dag, case.page_tasks, case.exclusive, case.larger, case.limits)
        self.parents = [row for page in self.pages for row in page.parents]
        self.right: list[int] = []
        for task, row in enumerate(self.parents):
            self.right.append(hash((task, *[self.right[parent] for parent in row])))
        self.values: dict[int, int] = {}
        self.fan_ins: dict[int, FanInRecord] = {}
        self.names = Names("job")
        self.orders: dict[str, Order] = {}
        self.made: dict[str, int] = {}
        self.ran = [0] * len(self.dag)
        self.finished: dict[int, int] | None = None
        self.finisher: ModelExecutor | None = None
        self.executors: list[ModelExecutor] = []
        self.seats = SeatModel(case.policy.lease_s)
        self.parked: list[Part] = []
        self.woken: dict[ModelExecutor, Limits] = {}
        self.n_put = self.n_got = self.n_arrived = 0

    def start_roots(self) -> list[ModelExecutor]:
        """Start the job's first executors."""
        roots = self.case.roots()
        started = []
        for i, start in enumerate(roots):
            self.orders[str(i)] = self.order_of(str(i), start, {}, alone=len(roots) == 1)
            started += self.start(str(i))
        return started

    def start(self, invocation: str) -> list[ModelExecutor]:
        """Deliver an invocation, as often as `faults` says. Returns the new executors."""
        order = self.orders[invocation]
        started = []
        for _ in range(self.faults.deliveries(invocation)):
            execution = Execution(order, Costs(*order.costs), walk=self.walk, **self.place_of(order))
            started.append(ModelExecutor(execution))
        self.executors += started
        return started

    def wake_next(self) -> list[ModelExecutor]:
        """Start the parked invocation that was parked first, of those for which there is a seat, if there is any."""
        self.woken = {each: limits for each, limits in self.woken.items() if not each.done}
        come = Counter(self.woken.values())  # who will take what is free now
        found = next((part for part in self.parked if self.seats.free(part.parked) > come[part.parked]), None)
        if found is None:
            return []
        self.parked.remove(found)
        started = self.start(found.invocation)
        self.woken.update(dict.fromkeys(started, found.parked))
        return started

    def place_of(self, order: Order) -> dict[str, Any]:
        """Return the arguments of `Execution` that tell which function carries an order out."""
        sizes = {"functions": FUNCTIONS, "function": order.size} if self.case.larger else {}
        return {"room_bytes": self.case.room_bytes, **sizes}

    def order_of(
        self,
        invocation: str,
        start: tuple[int, ...],
        values: dict[int, int],
        *,
        alone: bool,
        size: int = 0,
        parked: Limits = (),
    ) -> Order:
        """Return an order as a client or an executor makes it."""
        case = self.case
        given: Any = values
        return Order(
            self.names.job,
            invocation,
            start,
            len(self.dag),
            case.page_tasks,
            case.policy,
            case.costs,
            values=given,
            alone=alone,
            stream=case.stream,
            size=size,
            limited=bool(case.limits),
            parked=parked,
        )

    def read(self, key: bytes) -> Any:
        """Return what is under a key: the client's sign of life, an invocation's record or number; otherwise None."""
        _, kind, *rest = key.decode().split("/")
        match kind:
            case "job":
                return b"a sign"
            case "n":
                return self.made.get(rest[0])
            case "i":
                return self.orders.get(rest[0])
        return None

    def unpack(self, executor: ModelExecutor) -> tuple[int, ...]:
        """Take the values in a payload into the cache; return their tasks."""
        values: Any = executor.execution.order.values
        executor.cache.update(values)
        return tuple(values)

    def advance(self, executor: ModelExecutor, answer: Any, now: float) -> None:
        """Send an answer in. What an executor does before and after its walk is carried out at once."""
        executor.advance(answer)
        while isinstance(executor.effect, _AROUND) or (executor.walk is None and not executor.done):
            effect = executor.effect
            assert effect is not None
            executor.advance(now if isinstance(effect, Now) else self.at_once(executor, effect))
        self.validate(executor, executor.effect)

    def validate(self, executor: ModelExecutor, effect: Effect | None) -> None:
        """Check the invariants of an executor's walk, which asks for `effect`."""
        walk = executor.walk
        if walk is None or executor.done:
            return
        begins = isinstance(effect, Run) and executor.busy is None and walk.frontier.task == effect.task
        try:
            rests = isinstance(effect, Pause) and walk.overlap.lands
            walk.validate(self.parents, settled=begins or rests)
        except AssertionError as error:
            raise Violation(f"{executor.invocation}: {error}, before {effect}") from error

    # --- effects, whole or by key

    def begin(self, executor: ModelExecutor, run: Run) -> None:
        """Begin a task. Checks that its inputs are in the cache, and that it runs only once."""
        cache, uses = executor.cache, executor.walk.frontier.uses
        for parent in self.parents[run.task]:
            check(parent in cache, f"task {run.task} runs without its input {parent}")
        if self.strict and cache.keys() != uses.keys() | set(run.last_use):
            raise Violation(f"the cache holds {sorted(cache)}, uses says {sorted(uses)} besides {sorted(run.last_use)}")
        self.unshared(executor, run.task)
        self.room_for(executor, run.task)
        self.seat_for(executor, run.task)
        small = executor.execution.order.size == 0
        check(run.task not in self.case.larger or not small, f"task {run.task} begins on too small a function")
        self.ran[run.task] += 1
        check(self.ran[run.task] == 1, f"task {run.task} runs again")

    def unshared(self, executor: ModelExecutor, task: int) -> None:
        """Check that no input of a task is being written behind as one that no task reads meanwhile."""
        for request in executor.requests:
            if isinstance(request.effect, WriteBehind):
                torn = set(request.effect.put).difference(request.effect.shared).intersection(self.parents[task])
                check(not torn, f"task {task} runs, and may change {sorted(torn)}, which is being stored")

    def room_for(self, executor: ModelExecutor, task: int) -> None:
        """Check that there is a lane for this task, and that it may run beside the tasks in the other lanes."""
        away, most = executor.away, executor.walk.lanes.most
        check(len(away) < most, f"task {task} begins besides {sorted(away)}, in {most} lanes")
        alone = self.case.exclusive.intersection([task, *away]) if away else ()
        check(not alone, f"{set(alone)} are to run alone, and {[task, *away]} run at once")

    def seat_for(self, executor: ModelExecutor, task: int) -> None:
        """Check that a task has its seats, and that no more tasks of a limit run at once than it says."""
        limits = self.case.limits
        for name, n in limits.get(task, ()):
            running = [
                each for one in self.executors for each in self.counted(one) if (name, n) in limits.get(each, ())
            ]
            check(len(running) < n, f"task {task} begins besides {running}, and {name} allows {n}")

    def counted(self, executor: ModelExecutor) -> Sequence[int]:
        """Return the tasks that run in an executor which has not lost its seats."""
        if executor.died or executor.done:
            return ()
        return [*executor.away, *([] if executor.busy is None else [executor.busy.task])]

    def land(self, executor: ModelExecutor, tasks: Sequence[int]) -> None:
        """End tasks that run in other lanes."""
        for task in tasks:
            self.end(executor, executor.away.pop(task))

    def end(self, executor: ModelExecutor, run: Run) -> None:
        """End a task: its value comes into the cache, and those of which it was the last use are dropped."""
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

    def put(self, executor: ModelExecutor, task: int) -> None:
        """Store one value."""
        check(task in executor.cache, f"Put of {task}, which is not in the cache")
        check(task not in executor.put, f"Put of {task} again by the same executor")
        executor.put.add(task)
        self.values[task] = executor.cache[task]
        self.n_put += 1

    def get(self, executor: ModelExecutor, task: int, into: dict[int, int] | None = None) -> None:
        """Fetch one value. If it is missing, rule 1 is broken, for this store loses nothing."""
        check(task in self.values, f"Get of {task}, which nobody has stored")
        if into is None:
            check(task not in executor.cache, f"Get of {task}, which is in the cache")
            into = executor.cache
        into[task] = self.values[task]
        self.n_got += 1

    def sizes_of(self, tasks: Sequence[int]) -> list[int]:
        """Return the sizes of these tasks' values, bytes."""
        return [self.case.sizes[task] for task in tasks]

    def got(self, executor: ModelExecutor, effect: Get) -> None:
        """Note that an executor has fetched these values."""
        executor.walk.frontier.costs.fetched(self.sizes_of(effect.tasks))

    def request(self, executor: ModelExecutor, effect: FetchAhead | WriteBehind) -> Request:
        """Begin a request. Checks that it asks for something, and for nothing twice."""
        if isinstance(effect, FetchAhead):
            tasks = effect.tasks
            check(len(tasks) > 0, "nothing is fetched ahead")
        else:
            tasks = effect.put
            check(bool(tasks or effect.arrivals), "nothing is written behind")
        check(len(set(tasks)) == len(tasks), f"a batch of {tasks}")
        request = Request(effect)
        request.fetched = self.sizes_of(effect.tasks) if isinstance(effect, FetchAhead) else ()
        executor.requests.append(request)
        return request

    def go_on(self, executor: ModelExecutor, request: Request) -> None:
        """Carry out the next step of a request: the last one of `left`."""
        effect, step = request.effect, request.left.pop()
        if isinstance(step, Arrive):
            request.answers.append(self.arrive(executor, step, request.brought))
        elif isinstance(effect, WriteBehind):
            self.put(executor, step)
        else:
            self.get(executor, step, request.brought)
        if not request.left:
            executor.end_request(request)

    def arrive(self, executor: ModelExecutor, effect: Arrive, into: dict[int, int] | None = None) -> Arrived:
        """Record one arrival, atomically, as the store contract demands. What rides in comes into the cache.

        Checks that every member's value is stored, or rides in, before the member has arrived.
        """
        child, members = effect.child, effect.members
        before = self.fan_ins.get(child) or FanInRecord(effect.of)
        inputs: Sequence[int] = self.dag.outputs if child == self.dag.sink else self.parents[child]
        check(effect.of == len(inputs) == before.of, f"fan-in {child} has {len(inputs)} inputs, not {effect.of}")
        check(bool(members) and len(set(members)) == len(members), f"arrival at {child} names {members}")
        for task in effect.carry:
            check(task in executor.cache, f"{task} rides to {child}, but is not in the cache")
        self.n_arrived += 1
        # What rides is not packed here. A mutation of the claims gives executors names of their own.
        rides: Any = tuple((task, executor.cache[task]) for task in effect.carry) or None
        name = self.claimant(executor, effect)
        arrival = Arrival(b"", members, effect.of, name, rides, effect.only_if_last)
        after, outcome = arrive(before, arrival)
        if after is not before:
            self.fan_ins[child] = after
        carried = riding(after) if outcome.claimed else {}
        brought = executor.cache if into is None else into
        for task, value in carried.items():
            brought.setdefault(task, value)
        if after.arrived != before.arrived:
            for member in members:
                task = inputs[member]
                there = self.told(task) or task in riding(after)
                here = outcome.claimed and child != self.dag.sink and task in executor.cache
                check(there or here, f"member {member} (task {task}) arrived at {child} before its value")
        return Arrived(outcome.complete, outcome.claimed, tuple(carried), outcome.give_way)

    def claimant(self, executor: ModelExecutor, effect: Arrive) -> bytes:
        """Return in whose name an executor arrives."""
        return claimant(effect)

    def told(self, task: int) -> bool:
        """Whether a task's value may be announced as stored."""
        return task in self.values

    def drop(self, executor: ModelExecutor, effect: Drop) -> None:
        """Forget values. Checks that none is an input of the running task."""
        running = self.parents[executor.busy.task] if executor.busy is not None else ()
        for task in effect.tasks:
            check(task in executor.cache, f"Drop of {task}, which is not in the cache")
            check(task not in running, f"Drop of {task}, an input of the running task")
            del executor.cache[task]

    def record(self, executor: ModelExecutor, effect: Record) -> None:
        """Write the records of invocations. Checks that all their inputs are stored, or travel in them."""
        for part in effect.parts:
            check(part.invocation not in self.orders, f"invocation {part.invocation} is on record already")
            self.orders[part.invocation] = self.order_for(executor, part, executor.invocation)
            if part.parked:
                self.parked.append(part)
        self.made[executor.invocation] = effect.n

    def order_for(self, executor: ModelExecutor, part: Part, maker: str) -> Order:
        """Return the order of a part. Checks that all that it needs is there, and that its id begins with `maker`."""
        check(part.invocation.rpartition(".")[0] == maker, f"{part.invocation} is another's child")
        check(len(set(part.tasks)) == len(part.tasks) > 0, f"a part of {part.tasks}")
        for task in part.inline:
            check(task in executor.cache, f"{task} travels to {part.invocation}, but is not in the cache")
        for task in part.tasks:
            for parent in self.parents[task]:
                there = self.is_made(parent) or parent in part.inline
                check(there, f"{task} is handed over before its input {parent} is there")
        values = {task: executor.cache[task] for task in part.inline}
        return self.order_of(part.invocation, part.tasks, values, alone=False, size=part.size, parked=part.parked)

    def is_made(self, task: int) -> bool:
        """Whether others may count on a task's value."""
        return task in self.values

    def invoke(self, parts: Sequence[Part]) -> list[ModelExecutor]:
        """Start recorded invocations. Returns the new executors."""
        started = []
        for part in parts:
            check(part.invocation in self.orders, f"{part.invocation} is invoked before it is on record")
            started += self.start(part.invocation)
        return started

    def finish(self, executor: ModelExecutor, effect: Finish) -> None:
        """End the job. Checks that every requested value is there and right."""
        check(self.finished is None, "Finish comes twice")
        self.finisher = executor
        for task in effect.inline:
            check(task in executor.cache, f"Finish with {task}, which is not in the cache")
        self.finished = {task: executor.cache[task] for task in effect.inline}
        for task in self.dag.outputs:
            value = self.finished.get(task, self.values.get(task))
            check(value is not None, f"Finish without the requested value {task}")
            check(value == self.right[task], f"the requested value {task} is wrong")

    def at_once(self, executor: ModelExecutor, effect: Effect) -> Any:
        """Carry out an effect that neither takes time nor comes in keys; return its answer."""
        match effect:
            case LoadPage(task):
                return self.pages[task // self.case.page_tasks]
            case Size(tasks):
                for task in tasks:
                    check(task in executor.cache, f"Size of {task}, which is not in the cache")
                return tuple(self.case.sizes[task] for task in tasks)
            case TakeSeats(limits):
                if (refused := self.seats.take(executor, limits)) is None:
                    self.woken.pop(executor, None)
                return refused
            case GiveSeats(limits):
                return self.seats.give(executor, limits)
            case FreeSeats(limits):
                return self.seats.free(limits)
            case KeepSeats():
                return self.seats.keep(executor)
            case Drop():
                return self.drop(executor, effect)
            case Record():
                return self.record(executor, effect)
            case Finish():
                return self.finish(executor, effect)
            case Read(keys):
                return [self.read(key) for key in keys]
            case Unpack():
                return self.unpack(executor)
            case LeaveWord():
                return None
            case Fail(error):
                raise Violation(f"{executor.invocation} raised {type(error).__name__}: {error}") from error
            case Abort(task, lost):
                raise Violation(f"the job is aborted at task {task}, lost: {lost}")
            case _:
                raise Violation(f"an effect that nobody carries out: {effect}")

    def close(self) -> None:
        """Check the promises when all executors have ended."""
        check(self.finished is not None, "the job never ends: all executors have, and none came to Finish")
        missed = [task for task, n in enumerate(self.ran) if n != 1]
        check(not missed, f"tasks {missed} never ran")
        for child, fan_in in self.fan_ins.items():
            complete = fan_in.claimant is not None
            only_noted = not fan_in.arrived  # a holder may come to have all inputs itself, and needs no fan-in then
            check(complete or only_noted, f"fan-in {child} is not complete")
        told = self.finished or {}
        for executor in self.executors:
            if executor.died:
                continue
            walk, who = executor.walk, executor.invocation
            check(not executor.requests and not executor.ended, f"{who} ends, and requests are under way")
            for name, there in walk.left().items():
                check(not there, f"{who} ends with {name} = {there}")
            check(walk.frontier.uses.keys() <= told.keys(), f"{who} ends with uses = {walk.frontier.uses}")
            check(executor.cache.keys() <= told.keys(), f"{who} ends with {sorted(executor.cache)} in its cache")
