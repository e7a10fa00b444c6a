"""Lanes: tasks that run on in their threads while another thread of this executor goes on with the walk.

    Run --float--> on it goes, in the same lane (every short task)
     |
     `--Overstays, or Landed of others--> away --Landed--> landed: its value is here, and goes where it is needed

The walk has one owner at a time. While it stands at a `Run` or a `Pause`, another lane may take it: one that is idle,
if the running task overstays, or one whose own task has ended. Whoever runs a task that is *away* has let go of the
walk, and brings back nothing but the value.

The inputs of a task that is away are in use until it lands: nothing drops them, for it may have to begin again. If
several tasks land together, the uses of all their values are counted before any of their inputs is released: one of
those values may be such an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wukong.core.dag import Out
from wukong.core.effects import Drop, Effects, Landed
from wukong.core.walk.frontier import RESTORING, Frontier

READ = -1


@dataclass(frozen=True, slots=True)
class Away:
    """A task in another lane: its inputs, the edges along which its value goes, and when it began, seconds."""

    parents: Sequence[int]
    out: Out
    since: float


class Lanes:
    """What runs besides the task at which the walk stands.

    Args:
        frontier: where the walk stands.
        most: how many tasks may run at once; kept up to date from outside.

    Attributes:
        away: the tasks in other lanes.
        landed: tasks that have ended, each with its edges, which the walk has not followed yet; the next one last.
            Below them, under `READ` in place of a task, the inputs that are to be released.
        handed_on: tasks that ran when the executor left, and were handed on; their values here do not count.
    """

    def __init__(self, frontier: Frontier, most: int = 1) -> None:
        self.frontier, self.most = frontier, most
        self.away: dict[int, Away] = {}
        self.landed: list[tuple[int, Out, Sequence[int]]] = []
        self.handed_on: set[int] = set()

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        frontier, away = self.frontier, self.away
        landed = [task for task, *_ in self.landed if task != READ]
        elsewhere = {*landed, *away}
        assert len(elsewhere) == len(landed) + len(away), f"away {away}, landed {self.landed}"
        assert not elsewhere & set(frontier.ready) - self.handed_on, f"ready {frontier.ready}, and runs: {elsewhere}"
        assert not (away and frontier.task == RESTORING), f"a value is restored while others run: {away}"
        for task in away:
            for parent in away[task].parents:
                assert frontier.uses.get(parent), f"task {task} runs, and nothing keeps its input {parent}"

    @property
    def spare(self) -> bool:
        """Whether another lane is to take the walk from the running task: one is free, and there is work for it."""
        frontier = self.frontier
        task = frontier.task
        return bool(frontier.ready) and len(self.away) + 1 < self.most and task >= 0 and task not in frontier.exclusive

    def part(self, task: int, parents: Sequence[int], last_use: list[int], since: float) -> None:
        """Let the running task go on in its lane.

        Args:
            task, parents: it, and its inputs.
            last_use: what was to be dropped after it; emptied, since it counts as a use from now on.
            since: when it began, seconds.
        """
        frontier = self.frontier
        uses, awaited = frontier.uses, frontier.awaited
        for parent in parents:
            uses[parent] = uses.get(parent, 0) + 1 + awaited.pop(parent, 0)
        last_use.clear()
        self.away[task] = Away(parents, frontier.out.pop(task), since)
        frontier.parents.pop(task, None)

    def land(self, event: Landed) -> Effects:
        """Take in the tasks of other lanes that have ended."""
        frontier = self.frontier
        for task in (*event.tasks, *event.failed):
            away = self.away.pop(task, None)
            if away is None:  # the one at which the walk stands
                continue
            self.landed.insert(0, (READ, (), away.parents))
            if frontier.told:
                continue
            if task in event.failed:
                yield from frontier.abort(task)
            elif task in self.handed_on:
                if task not in frontier.uses:
                    yield Drop((task,))
            else:
                self.landed.append((task, away.out, ()))
