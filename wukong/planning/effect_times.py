"""How long the effects of executors take on the virtual clock: as was measured here, else as the costs say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wukong.core.effects import (
    Effect,
    FetchAhead,
    Finish,
    FreeSeats,
    Get,
    GiveSeats,
    Incr,
    Invoke,
    LeaveWord,
    LoadPage,
    Pause,
    Put,
    Read,
    Record,
    TakeSeats,
    WriteBehind,
)
from wukong.core.policy import Costs
from wukong.planning.terms import MANY_BYTES, PlaceTerms

if TYPE_CHECKING:
    from wukong.planning.store_model import StoreUse

SEAT_STEPS = 3
"""Operations on the store, one after the other, by which an executor takes one seat (`wukong.core.seats`)."""

INLINE_TASKS = 1_000
"""A DAG of up to this many tasks travels inside the invocations."""


class EffectTimes:
    """See the module's docstring.

    Args:
        costs, terms: what is known of the place; if both tell of something, `terms`, which are measured, hold.
        sizes: of each task's value, bytes.

    Attributes:
        use: of a store that is told apart by operation: then what it says holds; None: there is none.
    """

    use: StoreUse | None = None

    def __init__(self, costs: Costs, terms: PlaceTerms, sizes: Sequence[int]) -> None:
        self._costs, self._terms, self._sizes = costs, terms, sizes

    def size(self, tasks: Sequence[int]) -> int:
        """Return the bytes of these tasks' values."""
        return sum(self._sizes[task] for task in tasks)

    def moving_s(self, size_bytes: float, kind: str = "") -> float:
        """Return what an operation on the store takes. `kind`: see `wukong.core.track.KINDS`."""
        known = self._terms.takes_s(kind, size_bytes)
        if known is not None:
            return known
        return self._costs.round_trip_s + size_bytes / self._costs.bandwidth_bytes_per_s

    def linked_s(self, effect: Effect) -> float:
        """Return what a large transfer takes alone, for all share the link to the store; 0: it is none."""
        rate = self._terms.link_bytes_per_s
        if rate is None or self.use is not None or not isinstance(effect, Get | Put):
            return 0.0
        size_bytes = self.size(effect.tasks)
        return size_bytes / rate if size_bytes > MANY_BYTES else 0.0

    def alone_s(self, tasks: Sequence[int]) -> float:
        """Return what the client takes to get these tasks' values, when executors have ended."""
        if not tasks or self.use is not None:
            return self.effect_s(Get(tuple(tasks))) if tasks else 0.0
        size_bytes = self.size(tasks)
        rate = self._terms.link_bytes_per_s
        return self.moving_s(size_bytes, "get") if rate is None else self._costs.round_trip_s + size_bytes / rate

    def effect_s(self, effect: Effect) -> float:
        """Return what an effect takes; 0 if it needs neither store nor platform."""
        if self.use is not None and (takes_s := self.use.takes_s(effect)) is not None:
            return takes_s
        match effect:
            case LoadPage():
                return 0.0 if len(self._sizes) <= INLINE_TASKS else self.moving_s(0)
            case Get(tasks):
                return self.moving_s(self.size(tasks), "get")
            case Put(tasks) | Finish(tasks):
                return self.moving_s(self.size(tasks), "put")
            case Incr(arrivals):
                return self.moving_s(sum(self.size(arrive.carry) for arrive in arrivals), "arrive")
            case Record(parts):
                return self.moving_s(sum(self.size(part.inline) for part in parts), "hand over")
            case Read() | LeaveWord() | FreeSeats() | GiveSeats():
                return self.moving_s(0, "look")
            case TakeSeats(limits):
                return SEAT_STEPS * len(limits) * self.moving_s(0, "look")
            case Invoke():
                return self._terms.takes_s("hand over", 0) or 0.0
            case Pause(seconds):
                return seconds
        return 0.0


def parts_of(effect: FetchAhead | WriteBehind) -> list[Get | Put | Incr]:
    """Return, in order, what a request is if it is made at once."""
    if isinstance(effect, FetchAhead):
        return [Get(effect.tasks)]
    parts: list[Get | Put | Incr] = []
    if effect.put:
        parts.append(Put(effect.put))
    if effect.arrivals:
        parts.append(Incr(effect.arrivals))
    return parts
