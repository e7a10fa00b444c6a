"""The protocol under every fault: random DAGs x interleavings x faults, all from one seed.

    seed -> Case, SimulatedFaults -> SimulatedPlatform (executors) + SimulatedClient -> Survival, or Violation

The faults are those of `wukong.testing.faults`. What is checked: every requested value is right, or the job ends with
an error that its faults explain; a value is announced only after it was written; no task runs more often than the
faults explain; the job ends; when the client has settled and everything late has been delivered, the store holds no key
of the job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from wukong.core.invocation import Execution, WalkType
from wukong.core.walk import Walk
from wukong.errors import InvocationFailed, JobStalled, ValueLost
from wukong.planning.world import Case, Violation, check
from wukong.testing.faults import SimulatedFaults
from wukong.testing.faulty import FaultyWorld
from wukong.testing.graphs import random_dag
from wukong.testing.interpreter import SimulatedLoss, SimulatedTaskError
from wukong.testing.platform import SimulatedPlatform
from wukong.testing.simulated_client import Cancelled, ClientDied, SimulatedClient, Unending
from wukong.testing.simulator import random_case

__all__ = ["SimulatedFaults", "Survival", "Violation", "rough_case", "survive"]

_SHOWN_STEPS = 120
_LIMITS = 3


@dataclass(slots=True)
class Survival:
    """What happened.

    Attributes:
        seed: the seed of the run.
        outcome: ``right``, or the name of the error.
        steps, deliveries, clients: how many there were. repeated: invocations that a client made again.
        rounds: how often all invocations had ended without a result, and were all made again.
        faults: how often each kind struck.
        restored: tasks run again because their values were lost.
        story: one line for each thing that happened, if asked for.
    """

    seed: int
    outcome: str = ""
    steps: int = 0
    deliveries: int = 0
    repeated: int = 0
    clients: int = 1
    rounds: int = 0
    restored: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)


def rough_case(seed: int, max_tasks: int = 10, lanes: int = 1, overlap: Literal["on", "off"] = "off") -> Case:
    """A DAG with everything around it, from a seed, for a job in which heartbeats count."""
    rng = Random(f"rough case of {seed}")
    case = random_case(seed, max_tasks, lanes, overlap)
    dag = random_dag(rng, max_tasks)
    policy = replace(
        case.policy,
        patience_s=rng.choice((None, 0.0, 0.0, 1e-5, 0.01, 1.0)),
        delay_budget_s=rng.choice((None, None, 0.0, 1e-3, 1.0)),
        heartbeat_s=1.0,
        silence_s=4.0,
        orphan_s=20.0,
    )
    costs = *case.costs[:2], max(case.costs[2], 1e6)  # so that nothing is held back for an hour
    sizes = tuple(rng.choice(case.sizes) for _ in range(len(dag)))
    leaps_s = rng.choice(((1e-6,), (1e-6, 1e-3, 0.1), (0.1,), (1e-3, 0.5)))
    exclusive = frozenset(task for task in case.exclusive if task < len(dag))
    larger = frozenset(task for task in case.larger if task < len(dag))
    case = replace(case, dag=dag, sizes=sizes, exclusive=exclusive, larger=larger)
    return replace(case, policy=policy, leaps_s=leaps_s, costs=costs)


class Survivor:
    """One job."""

    def __init__(
        self,
        seed: int,
        case: Case,
        script: SimulatedFaults,
        world: FaultyWorld,
        execution: type[Execution],
        *,
        told: bool,
    ) -> None:
        self.rng = rng = Random(f"client of {seed}")
        self.case, self.script = case, script
        limit_s = rng.choice((30, 100, 300)) * max(case.leaps_s) if script.strikes("limit") else math.inf
        if case.limits:  # a job of shorter functions would be refused: see `wukong.core.seats.leased`
            limit_s = max(limit_s, 10 * case.policy.heartbeat_s)
        self.platform = SimulatedPlatform(seed, case, script, world, execution=execution, limit_s=limit_s, told=told)
        self.seen = Survival(seed, story=self.platform.story)
        self.repeated = self.rounds = 0

    def client(self) -> SimulatedClient:
        """Return a client; if one has died, the next one."""
        return SimulatedClient(self.platform, self.rng)

    def run(self) -> Survival:
        platform, seen = self.platform, self.seen
        client = self.client()
        try:
            client.ship()
            client = self._wait(client)
        except Cancelled:
            seen.outcome = "cancelled"
        self._hold_runs()  # a later delivery finds no values, and computes them again until it sees the job's end
        self._settle(client)
        world = platform.world
        seen.steps, seen.deliveries, seen.faults = platform.steps, sum(platform.delivered.values()), self.script.struck
        seen.restored = world.restored.total()
        seen.repeated = self.repeated + client.watch.repeated
        seen.rounds = self.rounds + client.watch.rounds
        return seen

    def _wait(self, client: SimulatedClient) -> SimulatedClient:
        """Wait until the job has ended; return the client that saw it."""
        platform, seen, world = self.platform, self.seen, self.platform.world
        taking_over = False
        while True:
            try:
                if taking_over:
                    client.take_over()
                    taking_over = False
                values = client.result()
                break
            except ClientDied:
                self.platform.tell("client", "dies")
                self.repeated += client.watch.repeated
                self.rounds += client.watch.rounds
                until = platform.now + self.rng.choice((0.0, 3.0, 60.0))
                while platform.now < until and platform.step():
                    pass
                platform.now = max(platform.now, until)
                client, taking_over = self.client(), True
                seen.clients += 1
            except Cancelled:
                seen.outcome = "cancelled"
                return client
            except (InvocationFailed, JobStalled, ValueLost, SimulatedLoss, SimulatedTaskError, Unending) as error:
                self._explain(error)
                seen.outcome = type(error).__name__
                return client
        for task in world.dag.outputs:
            check(values[task] == world.right[task], f"the requested value {task} is wrong")
        check(platform.failing is None, "a job with a failing task succeeds")
        seen.outcome = "right"
        return client

    def _explain(self, error: Exception) -> None:
        """Check an error: it is right only if the faults explain it."""
        platform = self.platform
        if isinstance(error, SimulatedTaskError):
            check(str(error) == str(platform.failing), f"task {error} has not failed")
        elif isinstance(error, InvocationFailed):
            hits = max(platform.hits.values(), default=0) + self.script.struck["shard"]
            least = _LIMITS if "timeout" not in str(error) else 2
            check(hits >= least, f"given up after {hits} faults: {error}")
        elif isinstance(error, JobStalled | ValueLost) and self.seen.clients > 1 and self.script.struck["shard"]:
            pass  # a client that has taken a job over cannot ship again what the store has lost
        elif isinstance(error, JobStalled):
            lost = self.script.struck["forget"] + self.script.struck["record"] + self.script.struck["shard"]
            check(lost >= _LIMITS, f"given up after {lost} losses: {error}")
        else:
            raise Violation(f"the job ends with {type(error).__name__}: {error}")

    def _settle(self, client: SimulatedClient) -> None:
        platform = self.platform
        client.settle(cancelled=self.seen.outcome == "cancelled")
        for _, payload in platform.late:
            platform.deliver(payload)
        platform.late.clear()
        while platform.live:
            platform.step()
        left = platform.world.left_over()
        check(not left, f"left over: {', '.join(left)}")

    def _hold_runs(self) -> None:
        platform, struck = self.platform, self.script.struck
        lost = struck["forget"] + struck["record"] + struck["stale"] + struck["shard"]
        # A value may be gone from the store, or with the executor that died, or another delivery of the same invocation
        # holds it and never stored it. An executor that needs it may compute it again.
        gone = (lost + platform.deaths + platform.extra) * sum(platform.delivered.values())
        most = 1 + platform.extra + platform.begun_again + gone
        for task, n in enumerate(platform.world.ran):
            check(
                n <= most,
                f"task {task} runs {n} times; {platform.extra} deliveries, {lost} losses, "
                f"{platform.deaths} deaths explain {most}",
            )


def survive(
    seed: int,
    case: Case | None = None,
    script: SimulatedFaults | None = None,
    *,
    lanes: int = 1,
    overlap: Literal["on", "off"] = "off",
    walk: WalkType = Walk,
    execution: type[Execution] = Execution,
    world: type[FaultyWorld] = FaultyWorld,
    story: bool = False,
) -> Survival:
    """Carry out one job with faults; the same arguments give the same steps.

    Args:
        seed: decides everything that is not given.
        case, script: what is simulated, and its faults. lanes, overlap: of the case, if none is given.
        walk, execution, world: the protocol, what is around it, and the store; others than the right ones in tests of
            the simulator itself.
        story: keep one line for each thing that happens.

    Raises Violation if a promise is broken, with the case and the last of what happened.
    """
    case = rough_case(seed, lanes=lanes, overlap=overlap) if case is None else case
    kinds, most = (None, 3) if script is None else (script.kinds, script.most)
    run = Survivor(seed, case, SimulatedFaults(seed, kinds, most), world(case, walk=walk), execution, told=story)
    try:
        return run.run()
    except Violation as first:
        violation = first
    if not story:
        run = Survivor(seed, case, SimulatedFaults(seed, kinds, most), world(case, walk=walk), execution, told=True)
        try:
            run.run()
        except Violation as again:
            violation = again
    steps = run.seen.story
    raise Violation(
        f"{violation}\n\nsurvive({seed}{case.how}) of a {case}\nfaults {run.script}\n"
        f"the last {min(len(steps), _SHOWN_STEPS)} of {len(steps)} lines:\n" + "\n".join(steps[-_SHOWN_STEPS:])
    ) from violation.__cause__
