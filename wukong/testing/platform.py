"""One simulated job with faults: the platform, its executors, time. `wukong.testing.simulated_client` is its client.

Each delivery of an invocation is a Python generator (`wukong.testing.interpreter`). The platform resumes a random one
at a time, or kills it there. Time is virtual and passes in random leaps; heartbeats come whenever they are due.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from wukong.core.effects import Effect, Pause
from wukong.core.invocation import Execution
from wukong.core.payload import Sent
from wukong.planning.world import Case, Violation
from wukong.testing.faults import SimulatedFaults
from wukong.testing.faulty import SERVERS, Delivery, FaultyWorld
from wukong.testing.interpreter import Interpreter

__all__ = ["Reported", "SimulatedPlatform"]


@dataclass(frozen=True, slots=True)
class Reported:
    """A failure as the platform reports it; see `wukong.core.lost.FailurePort`."""

    invocation: str
    reason: str
    detail: str = "simulated"
    task: str | None = None


class SimulatedPlatform(Interpreter):
    """Carries deliveries out, one step at a time.

    Attributes:
        live: what has been delivered and has not ended.
        late: payloads that are delivered later, and when.
        reports: failures that the client has not taken yet.
        hits: for each invocation, how often something happened that the client's watch may count.
        extra: deliveries beyond the first of each invocation, and all that a later attempt made.
        deaths: executors that died.
        tells: whether it can tell which invocations it still has.
        failing: the task that always raises, if any.
    """

    def __init__(
        self,
        seed: int,
        case: Case,
        script: SimulatedFaults,
        world: FaultyWorld,
        *,
        execution: type[Execution],
        limit_s: float,
        told: bool,
    ) -> None:
        self.rng = rng = Random(f"steps of {seed}")
        self.case, self.script, self.execution, self.limit_s = case, script, execution, limit_s
        self.world = world
        self.now = 100.0
        world.seats.clock = lambda: self.now
        self.live: list[Delivery] = []
        self.late: list[tuple[float, bytes]] = []
        self.reports: list[Reported] = []
        self.hits: dict[str, int] = {}
        self.delivered: dict[str, int] = {}
        self.extra = self.deaths = 0
        self._begun_again = 0
        self.steps = 0
        self.story: list[str] = []
        self.told = told
        self.by_priority = rng.random() < 0.4
        self.change = rng.choice((0.3, 0.1, 0.02))
        self.look = rng.choice((0.0, 0.2, 0.5, 0.9))
        self.n_slots = 0
        self.tells = Random(f"platform of {seed}").random() < 0.5
        self.most_steps = 20_000 + 3_000 * (len(case.dag) + case.dag.n_edges)
        self.failing = rng.randrange(len(case.dag)) if script.strikes("task") else None

    # --- invoking

    def send(self, invocations: Sequence[tuple[str, bytes]], size: int = 0) -> Sent:
        """Accept invocations, and deliver them: once, more often, late, or never."""
        script = self.script
        for invocation, payload in invocations:
            if script.strikes("lose"):
                self.hit(invocation)
                self.tell(invocation, "is lost")
                continue
            if script.strikes("duplicate"):
                self._deliver_some_time(payload)
            self._deliver_some_time(payload)
        return Sent(len(invocations))

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
        n = self.delivered[delivery.invocation] = self.delivered.get(delivery.invocation, 0) + 1
        self.extra += n > 1 or "~" in delivery.attempt_id
        delivery.priority = self.rng.random()
        delivery.stage = self.carry_out(delivery)
        delivery.began, delivery.until = self.now, self.now + self.limit_s
        self.live.append(delivery)
        self.tell(delivery.attempt_id, "begins")

    def known(self, labels: Sequence[str]) -> Collection[str] | None:
        """Return which of these run, or will; None if this platform cannot tell."""
        if not self.tells:
            return None
        coming = [self.world.opened(payload).invocation for at, payload in self.late if at < inf]
        here = {*coming, *(delivery.invocation for delivery in self.live)}
        return [label for label in labels if label.partition("/")[2] in here]

    def hit(self, invocation: str) -> None:
        """Note that an invocation may have to be made again, for what has happened to it."""
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
        if script.strikes("shard"):
            server = Random(f"{self.steps}").randrange(SERVERS)
            world.lose_server(server)
            self.tell("store", f"server {server} starts again empty")
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
                self.tell(delivery.attempt_id, "is cut off")
            try:
                if delivery.requests and rng.random() < 0.4:
                    self.go_on(delivery, rng.choice(delivery.first()))
                else:
                    effect = next(delivery.stage)
                    if self.by_priority and self.case.limits and isinstance(effect, Pause):
                        # Who waits for a seat lets its holder run, however low that one's priority is.
                        delivery.priority = min(one.priority for one in self.live) / 2
            except StopIteration:
                self._gone(delivery)
            except Violation:
                raise
            except Exception as error:
                raise Violation(f"{delivery.attempt_id} raised {type(error).__name__}: {error}") from error
        return True

    @property
    def begun_again(self) -> int:
        """How many running tasks were handed on near the time limit, to begin again elsewhere."""
        return self._begun_again + sum(map(_handed_on, self.live))

    def _gone(self, delivery: Delivery) -> None:
        delivery.done = True
        self._begun_again += _handed_on(delivery)
        self.live.remove(delivery)
        self.tell(delivery.attempt_id, "is gone")

    def kill(self, delivery: Delivery, reason: str, *, reported: bool) -> None:
        """Let an executor die here."""
        delivery.died = True
        self.deaths += 1
        delivery.stage.close()
        delivery.requests.clear()
        self._gone(delivery)
        self.tell(delivery.attempt_id, f"has died: {reason}, reported: {reported}")
        self.hit(delivery.invocation)
        if reported:
            running = delivery.busy
            named = str(running.task) if running is not None and delivery.order.attempt else None
            self.reports.append(Reported(self.world.names.label(delivery.invocation), reason, task=named))
        if self.script.strikes("retry"):
            self.deliver(self.world.packed(delivery.order))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; heartbeats that are due come."""
        now = self.now + seconds
        for delivery in self.live:
            if delivery.beats and not delivery.cut_off and now >= delivery.beat_at:
                self.world.seats.keep(delivery, now)  # one beat stands for all that come meanwhile
        self.now = now
        for delivery in self.live:
            if delivery.beats and now >= delivery.beat_at:
                delivery.beat_at = now + self.case.policy.heartbeat_s
                self.beat(delivery)

    def _deliver_late(self) -> None:
        due = [payload for at, payload in self.late if at <= self.now]
        if due:
            self.late = [(at, payload) for at, payload in self.late if at > self.now]
            for payload in due:
                self.deliver(payload)

    def answer(self, delivery: Delivery, effect: Effect, answer: object) -> None:
        """Keep it for the story."""
        if self.told:
            self.tell(delivery.attempt_id, f"{effect} -> {answer!r:.200}")

    def looks(self) -> bool:
        """Whether the watcher looks at the running task now."""
        return self.rng.random() < self.look

    def room(self) -> bool:
        """Whether there is room for what a request brings, or holds."""
        return self.rng.random() < 0.9

    def takes_in(self) -> bool:
        """Whether what has come of requests is taken in now."""
        return self.rng.random() < 0.7

    def event(self, delivery: Delivery, events: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
        """Choose what happens to an executor with lanes: None: nothing; (): it overstays; or these tasks land."""
        chosen = self.rng.choice(events)
        if chosen and len(chosen) == 1 and len(delivery.away) > 1 and self.rng.random() < 0.5:
            return tuple(dict.fromkeys([*chosen, self.rng.choice(list(delivery.away))]))
        return chosen

    def tell(self, who: str, what: str) -> None:
        """Keep one line of the story, if asked for."""
        if self.told:
            self.story.append(f"#{self.steps:<4} {self.now:14.6f}  {who:<12} {what}")


def _handed_on(delivery: Delivery) -> int:
    return 0 if delivery.walk is None else len(delivery.walk.lanes.handed_on)
