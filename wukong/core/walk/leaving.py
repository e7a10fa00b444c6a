"""Leaving: before the platform ends it, an executor stores what it holds and hands on what is left."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from wukong.core.effects import Effects, Size
from wukong.core.policy import PINNED
from wukong.core.walk.fan_in import FanIns
from wukong.core.walk.fan_out import FanOut
from wukong.core.walk.frontier import Frontier
from wukong.core.walk.lanes import Lanes

_WHOLE_TIME = 0.8


class Leaving:
    """When and how this executor leaves.

    Args:
        frontier, lanes, fan_ins, fan_out: the walk's other rooms.
        deadline: when the executor leaves, on the interpreter's clock, seconds.

    Attributes:
        began: when the walk began, on that clock.
        left: the executor leaves, or has left: large values are not held back any more.
    """

    def __init__(
        self, frontier: Frontier, lanes: Lanes, fan_ins: FanIns, fan_out: FanOut, deadline: float = inf
    ) -> None:
        self.frontier, self.lanes, self.fan_ins, self.fan_out = frontier, lanes, fan_ins, fan_out
        self.deadline = deadline
        self.began = 0.0
        self.left = False

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        handed_on = self.lanes.handed_on
        assert self.left or not handed_on, f"{handed_on} are handed on, and nobody leaves"
        assert not (self.frontier.told and self.frontier.ready), f"told, and {self.frontier.ready} are ready"
        assert not (self.left and (self.fan_out.alone or self.fan_ins.delays)), "leaves, and goes on as before"

    def left_s(self, now: float) -> float:
        """Return how many seconds are left until the executor leaves; infinite if it leaves already."""
        return inf if self.left else max(0.0, self.deadline - now)

    def leave(self) -> Effects:
        """Store what is held, and hand on all that is ready: the platform will end this invocation soon."""
        yield from self._let_go()
        yield from self._hand_on()

    def leave_running(self, elapsed_s: float, now: float) -> Effects:
        """Leave while a task runs, which has taken `elapsed_s`.

        The platform may cut it off, so it begins again elsewhere; tasks in other lanes as well. A task that has had
        nearly all the time of an invocation would not end elsewhere either, and stays.
        """
        yield from self._let_go()
        frontier = self.frontier
        if frontier.told:
            return
        running = {task: (away.parents, now - away.since) for task, away in self.lanes.away.items()}
        if frontier.task >= 0:
            running[frontier.task] = frontier.running, elapsed_s
        for task, (parents, ran_s) in running.items():
            if task not in self.lanes.handed_on and ran_s < _WHOLE_TIME * (now - self.began):
                yield from self._hand_on_running(task, parents)
        yield from self._hand_on()

    def _hand_on_running(self, task: int, parents: Sequence[int]) -> Effects:
        frontier = self.frontier
        inputs = tuple(parent for parent in parents if parent not in frontier.stored)
        sizes = (yield Size(inputs)) if inputs else ()
        if max(sizes, default=0) >= PINNED:
            return
        if inputs:
            yield from frontier.put(inputs)
            frontier.stored.update(inputs)
        self.lanes.handed_on.add(task)
        frontier.parents[task] = ()
        frontier.ready.append(task)

    def _let_go(self) -> Effects:
        self.left = True
        self.fan_ins.delays = self.fan_ins.overlap.on = False
        yield from self.fan_out.share()
        yield from self.fan_ins.settle()
        yield from self.fan_ins.publish(list(self.fan_ins.pending))

    def _hand_on(self) -> Effects:
        yield from self.frontier.skip()
        movable = yield from self.fan_out.movable(self.frontier.ready, inf)
        yield from self.fan_out.hand_over(movable, 1)
        for task in self.lanes.handed_on:
            self.frontier.parents.pop(task, None)
