"""The seats of limits in the model store: what `wukong.core.seats` makes of a real one, each step at once."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TypeAlias

from wukong.core.dag import Limits

Holder: TypeAlias = object


class SeatModel:
    """Who has which seats.

    Args:
        lease_s: how long a seat is its holder's after it was last told.
        clock: returns seconds.

    Attributes:
        held: for each limit, each seat's holder, and when it was last told.
    """

    def __init__(self, lease_s: float = inf, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.lease_s, self.clock = lease_s, clock
        self.held: dict[str, list[tuple[Holder, float]]] = {}

    def _left(self, name: str) -> list[tuple[Holder, float]]:
        """Return the seats that are taken, without those whose leases are over."""
        now = self.clock()
        left = self.held[name] = [each for each in self.held.get(name, []) if now - each[1] <= self.lease_s]
        return left

    def take(self, holder: Holder, limits: Limits) -> str | None:
        """See `wukong.core.effects.TakeSeats`."""
        for name, n in limits:
            if len(self._left(name)) >= n:
                return name
        for name, _ in limits:
            self.held[name].append((holder, self.clock()))
        return None

    def give(self, holder: Holder, limits: Limits) -> None:
        """See `wukong.core.effects.GiveSeats`."""
        for name, _ in limits:
            held = self.held.get(name, [])
            mine = next((i for i, (who, _) in enumerate(held) if who is holder), None)
            if mine is not None:  # its lease may be over
                del held[mine]

    def free(self, limits: Limits) -> int:
        """See `wukong.core.effects.FreeSeats`."""
        return min(n - len(self._left(name)) for name, n in limits)

    def keep(self, holder: Holder) -> None:
        """See `wukong.core.effects.KeepSeats`."""
        now = self.clock()
        for held in self.held.values():
            held[:] = [(who, now if who is holder else told) for who, told in held]

    def of(self, holder: Holder) -> list[str]:
        """Return the limits of which this holder has seats, each as often as it has one."""
        return [name for name, held in self.held.items() for who, _ in held if who is holder]
