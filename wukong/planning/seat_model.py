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
        return [each for each in self.held.setdefault(name, []) if self._lives(each[1])]

    def _lives(self, told: float) -> bool:
        return self.clock() - told <= self.lease_s

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
            mine = min((i for i, (who, _) in enumerate(held) if who is holder), key=lambda i: held[i][1], default=None)
            if mine is not None:
                del held[mine]

    def free(self, limits: Limits) -> int:
        """See `wukong.core.effects.FreeSeats`."""
        return min(n - len(self._left(name)) for name, n in limits)

    def keep(self, holder: Holder, until: float | None = None) -> bool:
        """See `wukong.core.effects.KeepSeats`. `until`: the holder tells again and again up to then, seconds."""
        now, all_kept = self.clock() if until is None else until, True
        for held in self.held.values():
            for i, (who, told) in enumerate(held):
                if who is holder and self._lives(told):
                    held[i] = who, now
                elif who is holder:
                    all_kept = False
        return all_kept

    def of(self, holder: Holder) -> list[str]:
        """Return the limits of which this holder has seats, each as often as it has one."""
        return [name for name, held in self.held.items() for who, _ in held if who is holder]
