"""The protocol under *every* interleaving, at small scale: each way in which two executors and some faults can meet.

    Case --explore(faults)--> choices, one after another --> Explored, or Violation with its choices

It is `wukong.testing.recovery` (world, executors, client, faults, promises) with a `Chooser` in place of the random
source. Generators cannot be copied, so a run is a list of choices, carried out from the start; the next list differs in
the last choice that has an alternative (depth first). A run that comes to a state which was seen before ends there.

A *state* is what the store holds, what is queued, late or reported, which faults are left, how often each task ran, and
of each executor its cache and all it was ever answered, on which alone it depends. Two orders of operations on
different keys end in one state. Steps that commute are made in one order only (sleep sets, Godefroid 1996; what a step
touches is noted while it is made, see `wukong.testing.footprints`): as many states are reached as without, in fewer
runs. Besides:

- An executor goes on to its next operation on the store or the platform in one piece; what is its own (`Run`, `Size`,
  `Drop`, ...) commutes with everything. The keys of a batch are one operation each, in every order. What runs in other
  lanes ends in every order, each while a task runs or the executor pauses.
- Each executor has a clock of its own, which ticks with its effects. A pause ends when the record of a fan-in at which
  it will ask again has changed meanwhile, or when all patience is over: to ask in between is to be told the same.
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
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

from wukong.core.invocation import Execution, WalkType
from wukong.core.policy import Policy
from wukong.core.walk import Walk
from wukong.planning.world import Case, Violation, check
from wukong.testing.branching import Bounds, BranchingPlatform, Pruned
from wukong.testing.branching_client import BranchingClient
from wukong.testing.choices import KINDS, Budget, Calm, Choice, Chooser
from wukong.testing.faulty import FaultyWorld
from wukong.testing.graphs import every_dag
from wukong.testing.recovery import Survival, Survivor
from wukong.testing.simulated_client import SimulatedClient

__all__ = ["KINDS", "Explored", "cases", "explore", "replay"]


class _Job(Survivor):
    """One job, and the choices that it is."""

    def __init__(self, case: Case, chooser: Chooser, how: Bounds) -> None:
        self.rng, self.case = Calm(), case
        self.script = budget = Budget(chooser, how.kinds, how.faults)
        world = how.world(case, walk=how.walk)
        self.platform: BranchingPlatform = BranchingPlatform(case, chooser, budget, world, how)
        self.seen = Survival(0, story=self.platform.story)
        self.repeated = self.rounds = 0

    def client(self) -> SimulatedClient:
        return BranchingClient(self.platform)

    def run(self) -> Survival:
        seen, world = super().run(), self.platform.world
        if not self.script.struck:
            check(world.ran == [1] * len(world.ran), f"without a fault the tasks ran {world.ran} times")
            check(not seen.repeated, "without a fault an invocation was made again")
            check(world.n_put <= len(world.ran), "without a fault a value is stored twice")
        return seen


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

    Raises Violation if a promise is broken, with the choices that lead there (see `replay`) and what happened.
    """
    how = Bounds(faults, kinds, executors, looks, walk, execution, world)
    explored = Explored(cases=1)
    given: list[Choice] | None = []
    while given is not None:
        chooser = Chooser(given)
        try:
            _Job(case, chooser, how).run()
            explored.interleavings += 1
        except Pruned:
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
    return _story(case, [(choice, ()) for choice in choices], Bounds(faults, **{**settings, **how}))


def _story(case: Case, choices: Sequence[Choice], how: Bounds) -> list[str]:
    told = Bounds(how.faults, how.kinds, how.executors, how.looks, how.walk, how.execution, how.world, told=True)
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


def cases(
    n_tasks: int, *, mixed: bool = False, lanes: int = 1, overlap: Literal["on", "off"] = "off"
) -> Iterator[Case]:
    """Yield every DAG of `n_tasks` tasks with one or two outputs, its values small or large, under both fan-outs.

    All values are of one size, or each is of either (`mixed`). Small ones ride, large ones are held back. All that is
    ready is handed over at once: with ``eager`` from the start, with ``patience`` as soon as a task has taken a while.
    Each executor has this many `lanes`. With `overlap` a request takes long enough for any value to be written behind.
    """
    for dag in every_dag(n_tasks):
        for sizes in product((_SMALL, _LARGE), repeat=n_tasks) if mixed else ((_SMALL,) * n_tasks, (_LARGE,) * n_tasks):
            for policy in _POLICIES:
                yield Case(dag, tuple(sizes), replace(policy, lanes=lanes, overlap=overlap))


def _explored(case: Case, faults: int, looks: int) -> tuple[Explored, str]:
    logging.getLogger("wukong").setLevel(logging.ERROR)  # that things are made again is what is explored
    try:
        return explore(case, faults, looks=looks), ""
    except Violation as violation:
        return Explored(), str(violation)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; exits with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m wukong.testing.exhaustive", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=4, help="of each DAG, at most (default: %(default)s)")
    parser.add_argument("--faults", type=int, default=1, help="in each run, at most (default: %(default)s)")
    parser.add_argument("--looks", type=int, default=0, help="of a watcher at a running task (default: %(default)s)")
    parser.add_argument("--lanes", type=int, default=1, help="of each executor (default: %(default)s)")
    parser.add_argument(
        "--overlap", choices=("on", "off"), default="off", help="of I/O with work (default: %(default)s)"
    )
    parser.add_argument("--mixed", action="store_true", help="small and large values in one DAG as well")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at once (default: all cores)")
    given = parser.parse_args(arguments)
    explore_one = partial(_explored, faults=given.faults, looks=given.looks)
    with ProcessPoolExecutor(given.processes) as pool:
        for n_tasks in range(1, given.tasks + 1):
            total, all_cases = (
                Explored(),
                list(cases(n_tasks, mixed=given.mixed, lanes=given.lanes, overlap=given.overlap)),
            )
            for explored, story in pool.map(explore_one, all_cases):
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
