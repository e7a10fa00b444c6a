"""A job on functions of other sizes, and with other numbers of lanes: what it would take and cost.

Lanes compute at the same time, as far as their function has cores for them, unless they hold the interpreter's lock, as
far as the estimates know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from wukong.core.width import MOST_WAITING, WAITS
from wukong.planning.estimates import Estimates
from wukong.planning.predicted import Prediction

NEAR = 1.1
"""A choice that takes at most this many times as long as the fastest is near enough to be the best."""

_ROOMY = 1.25


class SizePort(Protocol):
    """A size that the functions could have: the contract is `wukong.backends.faas.FunctionSize`."""

    @property
    def memory_bytes(self) -> int:
        """Its memory."""
        ...

    @property
    def vcpus(self) -> float:
        """The CPUs that come with it."""
        ...

    @property
    def usd_per_s(self) -> float:
        """The price of a second, in US dollars."""
        ...

    @property
    def setting(self) -> str:
        """What a person writes to have it; "": nobody can say."""
        ...


@dataclass(frozen=True, slots=True)
class Alternative:
    """The job on functions of one size, with one number of lanes, as expected.

    Attributes:
        memory_bytes, vcpus: the size. time_s, usd: what the job would take and cost.
        fits: an executor's values leave a fifth of the memory free. present: it is what functions have now.
        best: the cheapest of those that fit and take at most a tenth longer than the fastest.
        lanes: how many tasks run at once in a function. setting: what a person writes to have it; "": nothing.
    """

    memory_bytes: int
    vcpus: float
    time_s: float
    usd: float
    fits: bool
    present: bool
    best: bool = False
    lanes: int = 1
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What there is to choose from, and what is chosen now.

    Attributes:
        sizes: those that functions could have. present: the one they have.
        lanes: the setting: how many tasks run at once in a function.
        slots: how many functions run at once; None: as many as are invoked.
        shared_cores: those that all functions share, so that there are fewer of larger ones; None: each has its own.
        lanes_compared: numbers of lanes are compared, too, not only sizes.
        lanes_found: how many at most executors find out to be worth it now, if `lanes` leave that to them.
    """

    sizes: Sequence[SizePort]
    present: SizePort
    lanes: int | Literal["auto"] = 1
    slots: int | None = None
    shared_cores: int | None = None
    lanes_compared: bool = True
    lanes_found: int = 1

    @property
    def lanes_now(self) -> int:
        """How many lanes executors have, or at most as many as they find out to be worth it."""
        return self.lanes_found if self.lanes == "auto" else self.lanes

    def choices(self, on_core: float) -> Iterator[tuple[SizePort, int, int | None]]:
        """Yield sizes, lanes and slots. `on_core`: which part of the tasks' time is on a core."""
        now = self.present.memory_bytes
        known = [each for each in self.sizes if each.memory_bytes != now]
        mine = next((each for each in self.sizes if each.memory_bytes == now), self.present)
        for size in sorted([*known, mine], key=lambda each: each.memory_bytes):
            cores = max(1, round(size.vcpus))
            lanes = {1, self.lanes_now} if size is mine else {1}
            if self.lanes_compared:
                lanes |= {min(cores, self.shared_cores or cores)}
                lanes |= {MOST_WAITING} if on_core < WAITS else set()
            slots = self.slots
            if self.shared_cores is not None and size is not mine:
                slots = max(1, self.shared_cores // cores)
            yield from ((size, each, slots) for each in sorted(lanes))

    def lane_cores(self, size: SizePort, lanes: int) -> float:
        """Return how many tasks of this many lanes a function runs as fast as one alone."""
        return min(float(lanes), max(1.0, size.vcpus))

    def setting(self, size: SizePort, lanes: int) -> str:
        """Return what a person writes to have this size and as many lanes; "": nothing."""
        told = [] if self.lanes in (lanes, "auto") else [f"lanes={lanes}"]
        if size.memory_bytes != self.present.memory_bytes:
            told.append(size.setting or f"functions of {size.memory_bytes >> 20:,} MB")
        return ", ".join(told)


def on_functions(
    offer: Offer,
    estimates: Estimates,
    here: Prediction,
    walked: Callable[[float, int, int | None, float], Prediction],
    calls_usd: Callable[[Prediction], float],
    before_s: float,
) -> tuple[Alternative, ...]:
    """Return the job with each choice that there is.

    Args:
        offer: what there is to choose from.
        estimates: what is thought of the tasks.
        here: the job as it is now.
        walked: returns the job, for how much of a core tasks have compared with now, numbers of lanes and slots, and
            how many tasks the lanes of a function run as fast as one alone.
        calls_usd: returns what a job costs besides the time of its functions.
        before_s: what the client does before the first invocation, seconds.
    """
    on_core, present = estimates.part_on_core, offer.present
    known = {(1.0, offer.lanes_now, offer.slots, offer.lane_cores(present, offer.lanes_now)): here}
    rows = []
    for size, lanes, slots in offer.choices(on_core):
        now = size.memory_bytes == present.memory_bytes and lanes == offer.lanes_now
        # One task runs in one thread: a second core does nothing for it.
        choice = min(1.0, size.vcpus) / min(1.0, present.vcpus), lanes, slots, offer.lane_cores(size, lanes)
        walk = known.get(choice)
        if walk is None:
            walk = known[choice] = walked(*choice)
        time_s, cost_usd = before_s + walk.makespan_s, calls_usd(walk) + walk.function_s * size.usd_per_s
        fits = walk.peak_held_bytes * _ROOMY <= size.memory_bytes
        told = offer.setting(size, lanes)
        rows.append(Alternative(size.memory_bytes, size.vcpus, time_s, cost_usd, fits, now, False, lanes, told))
    if fitting := [each for each in rows if each.fits]:
        fastest_s = min(each.time_s for each in fitting)
        best = min((each for each in fitting if each.time_s <= NEAR * fastest_s), key=lambda each: each.usd)
        rows[rows.index(best)] = replace(best, best=True)
    return tuple(rows)
