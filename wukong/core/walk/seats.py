"""Limits: at most n tasks of a name run at once, over all executors of the job.

    ready --pop, inputs are here--> TakeSeats --taken--> running --ended--> idle: next of its kind, or GiveSeats
      ^                                 `- refused: back to the far end of the queue, and asked for again later
      |                                                                       |
      `--------- nothing else is ready: Pause, ever longer <-----------------'

A task has all of its seats before it begins, and an executor that is refused one keeps none; nobody who waits for a
seat has one. So limits cannot wait for each other in a circle; nor for lanes, since a task that is refused occupies
none; nor for a `wukong.Lock`, since whoever waits for that has its seats already, and so has whoever holds it.

While a seat is refused, the executor does its other ready tasks. If it has none, it waits, and that is paid for. So
limited tasks are split into no more parts than there are seats free, each with its share (`FanOut.split_limited`).
And after `patience_s` it *parks* what waits: it puts that on record as an invocation that nobody makes, and goes on,
or ends. The client makes it when it sees a free seat (`wukong.core.parked`), and, as any invocation on record, if it
finds it lost. So nobody has to be told of a seat that comes free, and no fault can lose the message.
A seat stays with the executor from one task to the next with the same limits, which then costs nothing.

`wukong.core.seats` keeps the seats in the store, each with a lease: whoever dies with one, or is paused for longer than
the lease lasts, has lost it.
"""

from __future__ import annotations

from collections.abc import Generator
from math import inf
from typing import Any

from wukong.core.dag import Limits
from wukong.core.effects import Effect, Effects, GiveSeats, Now, Pause, TakeSeats
from wukong.core.walk.frontier import Frontier

_CHECKS = 16
_LEAST_S, _MOST_S = 0.001, 0.25
_SURE = 0.5
_BEATS, _INVOCATIONS = 2, 4


class Seats:
    """The seats that this executor has, and those that it waits for.

    Args:
        frontier: where the walk stands.

    Attributes:
        taken: for each task that runs here with seats, its limits, and when they were taken, seconds.
        idle: the same of seats that are here while no task needs them.
        kept_at: when this executor last told that it has its seats, seconds.
        refused: for each limit that has no seat left, since when, and when to ask again; seconds.
        rests_since: since when this executor has done nothing but wait for a seat, seconds; None: it does not.
        waited_s: how long it has done so, altogether.
    """

    def __init__(self, frontier: Frontier) -> None:
        self.frontier = frontier
        self.taken: dict[int, tuple[Limits, float]] = {}
        self.idle: list[tuple[Limits, float]] = []
        self.kept_at = -inf
        self.refused: dict[str, tuple[float, float]] = {}
        self.rests_since: float | None = None
        self.waited_s = 0.0

    def patience_s(self, invoke_s: float) -> float:
        """Return how long to wait for a seat before the task is parked. `invoke_s`: what an invocation costs."""
        policy = self.frontier.policy
        if policy.limit_patience_s is not None:
            return policy.limit_patience_s
        return max(_BEATS * policy.heartbeat_s, _INVOCATIONS * invoke_s)

    def rested(self, since: float, now: float) -> float:
        """Note that the executor has only waited for a seat; return how long it does so by now, seconds."""
        if self.rests_since is None:
            self.rests_since = since
        self.waited_s += now - since
        return now - self.rests_since

    @property
    def holds(self) -> bool:
        """Whether this executor has seats."""
        return bool(self.taken or self.idle)

    def has(self, limits: Limits) -> bool:
        """Whether it has seats of just these limits."""
        return any(each == limits for each, _ in (*self.idle, *self.taken.values()))

    def _idle(self, limits: Limits, now: float) -> tuple[Limits, float] | None:
        """Return idle seats of these limits that are surely still this executor's; None: there are none."""
        sure_s = _SURE * self.frontier.policy.lease_s
        return next(
            (each for each in self.idle if each[0] == limits and now - max(each[1], self.kept_at) < sure_s), None
        )

    def refuses(self, task: int, now: float) -> bool:
        """Whether a task is to wait for a seat until later than `now`."""
        limits = self.frontier.limited.get(task)
        if not limits or not self.refused or self._idle(limits, now) is not None:
            return False
        return any(name in self.refused and self.refused[name][1] > now for name, _ in limits)

    def waits(self, task: int) -> bool:
        """Whether a task has to wait for a seat, as far as was last heard."""
        return any(name in self.refused for name, _ in self.frontier.limited.get(task, ()))

    def set_aside(self, task: int, now: float) -> bool:
        """Put a refused task back; it and the refused ones next to it go to the far end of the queue.

        Returns whether there is another task that can be popped before them.
        """
        ready, put_back = self.frontier.ready, self.frontier.put_back
        ready.append(task)
        first = len(ready)
        while first and (ready[first - 1] in put_back or self.refuses(ready[first - 1], now)):
            first -= 1
        refused = {each: self.refuses(each, now) for each in ready[first:]}
        waiting = [each for each in refused if not refused[each]]
        ready[:] = [*filter(refused.__getitem__, refused), *ready[:first], *waiting]
        return bool(first)

    def pause_s(self, now: float) -> float:
        """Return in how many seconds the next seat is to be asked for; infinite: none is refused."""
        return max(0.0, min((again for _, again in self.refused.values() if again > now), default=inf) - now)

    def take(self, task: int, now: float) -> Generator[Effect, Any, bool]:
        """Take the seats of a task that is about to run. False: it has to wait."""
        limits = self.frontier.limited[task]
        taken = self._idle(limits, now)
        if taken is not None:
            self.idle.remove(taken)
        else:
            yield from self.give_back()
            refused: str | None = yield TakeSeats(limits)
            if refused is not None:
                since, _ = self.refused.get(refused, (now, now))
                wait_s = max(self.frontier.costs.round_trip_s, (now - since) / _CHECKS, _LEAST_S)
                self.refused[refused] = since, now + min(wait_s, _MOST_S)
                return False
            for name, _ in limits:
                self.refused.pop(name, None)
            taken = limits, now
        self.rests_since = None
        self.taken[task] = taken
        return True

    def await_seats(self, task: int) -> Effects:
        """Take the seats of a task that is about to run, and wait until they are free."""
        now = yield Now()
        while not (yield from self.take(task, now)):
            since, now = now, (yield Pause(self.pause_s(now)))
            self.waited_s += now - since

    def ended(self, *tasks: int) -> None:
        """Note that tasks have ended: the next one may have their seats."""
        self.idle += [self.taken.pop(task) for task in tasks if task in self.taken]

    def give_back(self) -> Effects:
        """Give the seats back that no task needs."""
        while self.idle:
            limits, _ = self.idle.pop()
            if not self.frontier.told:
                yield GiveSeats(limits)
