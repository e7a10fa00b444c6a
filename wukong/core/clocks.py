"""How far the clocks of a job's machines are apart, from nothing but messages that they have exchanged anyway.

    the call        sent at s by the maker's clock, received at b by the executor's:  ahead <= b - s + the maker's
    a sign of life  written at e by the executor's clock, seen at c by the client's:  ahead >= e - c

`ahead` is by how much an executor's clock is ahead of the client's. If 0 is between the two bounds, the clocks are
taken to agree, as those of one machine and those that are kept by NTP do; else the nearest bound is. The error is how
far the farther bound is from there. Executors on the client's own machine have its clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Ahead:
    """By how many seconds an executor's clock is ahead of the client's, and how wrong that may be.

    `by_s` is the best guess; `error_s` is infinite if nothing bounds it. `most_s` is the upper bound itself.
    """

    by_s: float
    error_s: float
    most_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """The messages of one executor, in Unix time.

    Attributes:
        maker: the executor that made the call; None: the client.
        sent_s, began_s: when the call was made, by its maker's clock, and when it began, by its own.
        told: pairs of when it wrote something, by its own clock, and when the client saw that.
        same: its clock is the client's.
    """

    maker: str | None
    sent_s: float
    began_s: float
    told: tuple[tuple[float, float], ...] = ()
    same: bool = False


def aligned(heard: Mapping[str, Heard]) -> dict[str, Ahead]:
    """Return by how much each executor's clock is ahead. A maker comes before those that it has made."""
    found: dict[str, Ahead] = {}
    for name, each in heard.items():
        if each.same:
            found[name] = Ahead(0.0, 0.0, 0.0)
            continue
        of_maker = 0.0 if each.maker is None else found[each.maker].most_s if each.maker in found else inf
        most = each.began_s - each.sent_s + of_maker
        least = max((written - seen for written, seen in each.told), default=-inf)
        if least > most:  # a clock was set meanwhile
            middle = (least + most) / 2
            found[name] = Ahead(middle, least - middle, most)
            continue
        by_s = min(max(0.0, least), most)
        found[name] = Ahead(by_s, max(most - by_s, by_s - least), most)
    return found
