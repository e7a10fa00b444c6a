"""Leaving: near the end of its time an executor stores what it holds and hands on what is left."""

from __future__ import annotations

from math import inf

from wukong.core.effects import Effects, Size
from wukong.core.policy import PINNED
from wukong.core.walk.fan_in import FanIns
from wukong.core.walk.fan_out import FanOut
from wukong.core.walk.frontier import Frontier

_WHOLE_TIME = 0.8


class Leaving:
    """When and how this executor leaves.

    Args:
        frontier, fan_ins, fan_out: the walk's other rooms.
        deadline: on the interpreter's clock: from then on, store what is held and hand on what is left.

    Attributes:
        began: when the walk did, on that clock.
        left: it is past the deadline; large values are not held back any more.
        handed_on: the task that was running then, and was handed on; its value here does not count.
    """

    def __init__(self, frontier: Frontier, fan_ins: FanIns, fan_out: FanOut, deadline: float = inf) -> None:
        self.frontier, self.fan_ins, self.fan_out = frontier, fan_ins, fan_out
        self.deadline = deadline
        self.began = 0.0
        self.left = False
        self.handed_on: int | None = None

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        assert self.left or self.handed_on is None, f"task {self.handed_on} is handed on, and nobody leaves"
        assert not (self.left and (self.fan_out.alone or self.fan_ins.delays)), "leaves, and goes on as before"

    def leave(self) -> Effects:
        """Store what is held, and hand on all that is ready: the platform will end this invocation soon."""
        yield from self._let_go()
        yield from self._hand_on()

    def leave_running(self, elapsed_s: float, now: float) -> Effects:
        """Leave while a task runs, which has taken `elapsed_s`. It may be cut off: it begins again elsewhere.

        A task that has had nearly all the time of an invocation would not end elsewhere either, and stays.
        """
        yield from self._let_go()
        if self.handed_on is None and elapsed_s < _WHOLE_TIME * (now - self.began):
            frontier = self.frontier
            inputs = tuple(task for task in frontier.running if task not in frontier.stored)
            sizes = (yield Size(inputs)) if inputs else ()
            if max(sizes, default=0) < PINNED:
                if inputs:
                    yield from frontier.put(inputs)
                    frontier.stored.update(inputs)
                self.handed_on = frontier.task
                frontier.parents[frontier.task] = ()
                frontier.ready.append(frontier.task)
        yield from self._hand_on()

    def _let_go(self) -> Effects:
        self.left = True
        self.fan_out.alone = self.fan_ins.delays = False
        yield from self.fan_ins.publish(list(self.fan_ins.pending))

    def _hand_on(self) -> Effects:
        movable = yield from self.fan_out.movable(self.frontier.ready, inf)
        yield from self.fan_out.hand_over(movable, 1)
        if self.handed_on is not None:
            self.frontier.parents.pop(self.handed_on, None)
