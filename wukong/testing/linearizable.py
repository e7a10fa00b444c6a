"""Whether what callers saw of fan-in records can be explained: a checker of linearizable histories of `Store.incr`.

    Call, Call, ... --check_linearizable--> nothing, or NotLinearizable: how far it can be explained, and what not

A history is *linearizable* (Herlihy and Wing 1990) if each call can be given one moment between its begin and its end
so that this holds: calls made one after another, at these moments, get the same answers by the contract. The search is
Wing and Gong's (1993): take any call that began before every other open one has ended, ask the model, go on; with
Lowe's memory (2017) of each pair of calls done and record reached. Each record is checked alone, which is enough.

What faults add to the contract:

- A call that failed may have taken effect at any time after its begin, or never, or, if the store repeats what a
  connection has not answered, more than once. So may a call that was answered and `repeated`, before its answer.
- A server that starts again *empty* forgets all its records at one moment (`Forgotten`). If the history has no such
  moment, what was acknowledged has to stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

from wukong.core.storage import Arrival, FanInRecord, Outcome, arrive

__all__ = ["Call", "Forgotten", "NotLinearizable", "check_linearizable"]


@dataclass(frozen=True, slots=True)
class Call:
    """One arrival, as its caller saw it. The arrivals of one batch are calls that begin and end together.

    Attributes:
        arrival: what was asked.
        began, ended: before and after the call, seconds, by one clock for all callers.
        outcome: the answer; None: the call failed, or its caller died.
        repeated: the store may have asked its server more than once, as when a connection was cut off meanwhile.
    """

    arrival: Arrival
    began: float
    ended: float = inf
    outcome: Outcome | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Forgotten:
    """At some moment between these two the store has forgotten every record."""

    began: float
    ended: float


class NotLinearizable(AssertionError):
    """No order explains what the callers saw. The text has the longest one that does, and what cannot follow it."""


def check_linearizable(
    history: Sequence[Call], forgotten: Sequence[Forgotten] = (), *, loses_values: bool = False
) -> None:
    """Check what callers saw.

    Args:
        history: all calls, of any number of records, in any order.
        forgotten: when the store has started again empty.
        loses_values: the store may hand over fewer values than rode in.

    Raises NotLinearizable if there is a record of which no order of the calls explains what was seen.
    """
    by_record: dict[bytes, list[Call]] = {}
    for call in history:
        by_record.setdefault(call.arrival.record, []).append(call)
    for key, calls in by_record.items():
        _Search(calls, forgotten, loses_values).check(key)


_Step: TypeAlias = "Call | Forgotten"


@dataclass(frozen=True, slots=True)
class _Place:
    """How far an order has come: which steps are done, as a bitmap, and the record that they lead to."""

    done: int
    record: FanInRecord


class _Search:
    """The search at one record."""

    def __init__(self, calls: Sequence[Call], forgotten: Sequence[Forgotten], loses_values: bool) -> None:
        self.nothing = FanInRecord(calls[0].arrival.of)
        answered = [call for call in calls if call.outcome is not None]
        self.steps: list[_Step] = sorted((*answered, *forgotten), key=lambda step: (step.began, step.ended))
        self.ghosts = [call for call in calls if call.outcome is None or call.repeated]
        self.loses_values = loses_values

    def check(self, key: bytes) -> None:
        """Find an order. Raises NotLinearizable if there is none."""
        begin = _Place(0, self.nothing)
        came_from: dict[_Place, tuple[_Place, str] | None] = {begin: None}
        everything = (1 << len(self.steps)) - 1
        stack = [begin]
        while stack:
            place = stack.pop()
            if place.done == everything:
                return
            for what, following in reversed([*self._following(place)]):  # so that what began first comes first
                if following not in came_from:
                    came_from[following] = place, what
                    stack.append(following)
        furthest = max(came_from, key=lambda place: place.done.bit_count())
        story = []
        step = came_from[furthest]
        while step is not None:
            story.append(step[1])
            step = came_from[step[0]]
        raise NotLinearizable("\n".join(self._told(key, furthest, story[::-1])))

    def _following(self, place: _Place) -> Iterator[tuple[str, _Place]]:
        until = self._until(place)
        for n, step in enumerate(self.steps):
            if step.began > until:
                break
            if place.done >> n & 1:
                continue
            done = place.done | 1 << n
            if isinstance(step, Forgotten):
                yield "everything is forgotten", _Place(done, self.nothing)
                continue
            record, outcome = _after(place.record, step.arrival)
            if self._agree(step.outcome, outcome):
                yield f"{_named(step)} -> {outcome}", _Place(done, record)
        for ghost in self.ghosts:
            if ghost.began <= until:
                record, _ = _after(place.record, ghost.arrival)
                if record != place.record:
                    yield f"{_named(ghost)}, whose answer was lost", _Place(place.done, record)

    def _until(self, place: _Place) -> float:
        """Return the moment before which whatever comes next has to begin."""
        return min(step.ended for n, step in enumerate(self.steps) if not place.done >> n & 1)

    def _agree(self, seen: Outcome | None, right: Outcome) -> bool:
        assert seen is not None
        if (seen.complete, seen.claimed, seen.give_way) != (right.complete, right.claimed, right.give_way):
            return False
        more, fewer = Counter(seen.values) - Counter(right.values), Counter(right.values) - Counter(seen.values)
        return not more and (self.loses_values or not fewer)

    def _told(self, key: bytes, furthest: _Place, story: Sequence[str]) -> Iterator[str]:
        yield f"no order explains what was seen of the fan-in {key!r}. The longest that explains some of it:"
        yield from (f"    {line}" for line in story)
        yield f"then the record is {furthest.record}, and none of these can follow:"
        until = self._until(furthest)
        for n, step in enumerate(self.steps):
            if not furthest.done >> n & 1 and step.began <= until and isinstance(step, Call):
                _, right = _after(furthest.record, step.arrival)
                yield f"    {_named(step)} -> {step.outcome}, which would be {right}"


def _after(record: FanInRecord, arrival: Arrival) -> tuple[FanInRecord, Outcome]:
    """Return the record after an arrival, its values sorted, for it does not matter in which order they came."""
    record, outcome = arrive(record, arrival)
    return record._replace(values=tuple(sorted(record.values))), outcome


def _named(call: Call) -> str:
    arrival = call.arrival
    only = ", only if last" if arrival.only_if_last else ""
    return (
        f"{call.began:.6f} to {call.ended:.6f}: {arrival.claimant!r} brings {arrival.members} of {arrival.of}"
        f" with {arrival.value!r:.40}{only}"
    )
