"""What a job's executors have found out about the place where they ran, for the next plan: measured, kind by kind.

    end reports -> terms_from -> Learned.terms -> predict

cores    what the job had of the cores of this machine; only if executors waited for one, for else it may have more
starts   what an executor does before its first task; how many a second the platform starts of those made at once
moves    what one operation on the store takes, and at which rate bytes move, with the time waiting for a core left out

A rate is that of several jobs, weighed by the bytes that each has moved, the last one twice as much as the one before:
a job that has moved little, a few transfers at a time, does not know how much the store carries.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from wukong.core.noted import Noted, Taught
from wukong.core.on_core import OnCore

MOST_STORES = 100
_CONTENDED, _TELLING_S, _LEAST_ON_S = 0.15, 0.5, 0.05
MANY_BYTES, _TELLING_BYTES = 65_536, 1_000_000
_BURST, _AT_ONCE_S = 8, 0.02
_BEFORE = ("open", "import", "page")
_MOVES = ("look", "get", "put", "arrive", "hand over")
_OWN_PART, _LEAST_PART = 0.1, 0.01
_KEPT, _LINK = 0.5, "link"

_Move: TypeAlias = tuple[float, float]


class RunTaught(NamedTuple):
    """One run of a task: its own seconds, which part of them on a core, and seconds with what a new process costs."""

    task: int
    own_s: float
    on_core: float = 1.0
    whole_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PlaceTerms:
    """See the module's docstring.

    Attributes:
        cores: None: as many as there are executors.
        stores: by store, bytes a second at which a large value moves, and when that was found out (seconds since 1970).
        unshared: how many tasks have run at once without waiting for a core; 0: not known.
        start_s: how long an executor takes before its first task.
        starts_per_s: None: all that are made at once start at once.
        link_bytes_per_s: what all executors together put and get while any did; None: not known.
        moves: by kind of span: seconds for one operation, and bytes a second (0: not known).
        told: by kind of span, and for ``link``, of how many bytes that is the rate; operations, if they are small.
    """

    cores: float | None = None
    start_s: float = 0.0
    link_bytes_per_s: float | None = None
    starts_per_s: float | None = None
    moves: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    unshared: float = 0.0
    stores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    told: Mapping[str, float] = field(default_factory=dict)

    def after(self, before: PlaceTerms) -> PlaceTerms:
        """Return what is known once this has been found out, too: what this does not tell of stays as it was.

        A job that has waited for no core says only that there are as many as it has used.
        """
        cores = self.cores
        if cores is None and before.cores is not None:
            cores = max(before.cores, self.unshared)
        kept = {each: _KEPT * size for each, size in before.told.items()}
        weights = {each: (kept.get(each, 0.0), self.told.get(each, 0.0)) for each in (*self.moves, _LINK)}
        both = {
            each: _both(before.moves[each], self.moves[each], *weights[each])
            for each in self.moves
            if each in before.moves
        }
        links = before.link_bytes_per_s or 0.0, self.link_bytes_per_s or 0.0
        return replace(
            self,
            cores=cores,
            link_bytes_per_s=_both((0.0, links[0]), (0.0, links[1]), *weights[_LINK])[1] or None,
            starts_per_s=before.starts_per_s if self.starts_per_s is None else self.starts_per_s,
            moves={**before.moves, **self.moves, **both},
            told={each: kept.get(each, 0.0) + self.told.get(each, 0.0) for each in {**kept, **self.told}},
            stores=_latest({**before.stores, **self.stores}),
            unshared=max(before.unshared, self.unshared) if self.cores is None else 0.0,
        )

    def takes_s(self, kind: str, size_bytes: float) -> float | None:
        """Return what an operation takes; None: nothing is known of its kind."""
        known = self.moves.get(kind)
        if known is None or (known[1] <= 0 and size_bytes > MANY_BYTES):
            return None
        return known[0] + (size_bytes / known[1] if known[1] > 0 else 0.0)

    def with_at_least(self, cores: float) -> PlaceTerms:
        """Return the same place, but with at least this many cores for the job."""
        return self if self.cores is None else replace(self, cores=max(self.cores, cores))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> PlaceTerms:
        """Return what `to_json` has told, also that of another version, as far as it is known here.

        Raises TypeError and ValueError for anything else.
        """
        pairs = {
            name: {each: (float(one), float(other)) for each, (one, other) in told.get(name, {}).items()}
            for name in ("moves", "stores")
        }
        known = {each.name for each in fields(cls)}
        return cls(**{**{name: value for name, value in told.items() if name in known}, **pairs})


def _both(before: _Move, now: _Move, before_bytes: float, now_bytes: float) -> _Move:
    """Return what an operation takes by two measurements; if there is nothing by which to weigh them, by the later one.

    Seconds are averaged for each operation, and for each byte. A rate that one of them does not know is the other's.
    """
    if not (before[1] and now[1]):
        return now[0], now[1] or before[1]
    part = now_bytes / (before_bytes + now_bytes) if before_bytes > 0 else 1.0
    return part * now[0] + (1 - part) * before[0], 1 / (part / now[1] + (1 - part) / before[1])


def _latest(stores: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return what was found out last, of a bounded number of stores."""
    return dict(sorted(stores.items(), key=lambda each: each[1][1])[-MOST_STORES:])


def without_waiting_s(busy_s: float, on_core: OnCore) -> float:
    """Return the seconds inside an executor's tasks without those in which they waited for a core."""
    on_s, waited_s, _ = on_core
    return min(busy_s, max(busy_s - waited_s, on_s, _LEAST_PART * busy_s))


def own_part(executor: Noted) -> tuple[float, float, float]:
    """Return what to learn from the time of an executor's tasks: three numbers from 0 to 1.

    The first two are their own time as a part of the whole, and the part of their own time for which they were on a
    core, not asleep. Own time is without what they waited for a core, and in a new process without what the system
    took: that is mostly for memory, which the process keeps from then on. The third is as the first, with what the
    system took.
    """
    known, busy_s = executor.on_core.get("run"), sum(executor.took)
    if known is None or busy_s <= 0:
        return 1.0, 1.0, 1.0
    on_s, _, in_system_s = known
    whole_s = without_waiting_s(busy_s, known)
    own_s = max(whole_s - in_system_s, _LEAST_PART * busy_s) if executor.cold else whole_s
    on_own_s = on_s - in_system_s if executor.cold else on_s
    return own_s / busy_s, min(1.0, max(0.0, on_own_s) / own_s), whole_s / busy_s


def runs_of(taught: Taught, most: int) -> Iterator[RunTaught]:
    """Yield some runs of tasks, about `most` of all."""
    step = max(1, -(-sum(len(each.tasks) for each in taught.executors) // max(1, most)))
    return islice(_every_run(taught), 0, None, step)


def _every_run(taught: Taught) -> Iterator[RunTaught]:
    for each in taught.executors:
        own, on_core, whole = own_part(each)
        for task, took_s in zip(each.tasks, each.took, strict=True):
            yield RunTaught(task, took_s * own, on_core, took_s * whole)


def undisturbed(taught: Taught) -> Taught:
    """Return a job without the runs of tasks beside which others ran in the same executor.

    How long those take tells more of their neighbours: nobody knows for how long they waited for a core, or for the
    interpreter.
    """
    return replace(taught, executors=[_undisturbed(each) if each.begun else each for each in taught.executors])


def clear(taught: Taught) -> Taught:
    """Return a job without the runs of which nobody knows for how long they waited.

    If lanes have not waited for each other, it is known of all of them together for how long they waited for cores.
    """
    told = [_undisturbed(each) if each.begun and "run" not in each.on_core else each for each in taught.executors]
    return replace(taught, executors=told)


def _undisturbed(executor: Noted) -> Noted:
    ends = [begun + took for begun, took in zip(executor.begun, executor.took, strict=True)]
    order = sorted(range(len(ends)), key=executor.begun.__getitem__)
    alone, until = [], float("-inf")
    for at, then in zip(order, [*order[1:], None], strict=True):
        if executor.begun[at] >= until and (then is None or executor.begun[then] >= ends[at]):
            alone.append(at)
        until = max(until, ends[at])
    tasks, took = [executor.tasks[at] for at in alone], [executor.took[at] for at in alone]
    on_core = dict(executor.on_core)
    if "run" in on_core and sum(executor.took) > 0:
        on_s, waited_s, in_system_s = on_core["run"]
        on_core["run"] = on_s, waited_s, in_system_s * sum(took) / sum(executor.took)
    return replace(executor, tasks=tasks, took=took, begun=(), on_core=on_core)


def terms_from(executors: Collection[Noted], round_trip_s: float) -> PlaceTerms:
    """Return what a job has found out."""
    sums, waits = _sums(executors)
    before_s = sum(sums[kind][1] - waits.get(kind, 0.0) for kind in _BEFORE if kind in sums)
    moves = {kind: _move(*sums[kind], waits.get(kind, 0.0), round_trip_s) for kind in _MOVES if kind in sums}
    start_s = before_s / len(executors) if executors else 0.0
    cores, unshared = _cores(executors)
    link, link_bytes = _link(executors)
    told = {kind: float(sums[kind][2] if moves[kind][1] else sums[kind][0]) for kind in moves}
    if link is not None:
        told[_LINK] = float(link_bytes)
    return PlaceTerms(cores, start_s, link, _rate(executors), moves, unshared, told=told)


def _sums(executors: Iterable[Noted]) -> tuple[dict[str, tuple[int, float, int]], dict[str, float]]:
    sums: dict[str, tuple[int, float, int]] = {}
    waits: dict[str, float] = {}
    for each in executors:
        for kind, (count, spent_s, size) in each.sums.items():
            before = sums.get(kind, (0, 0.0, 0))
            sums[kind] = before[0] + count, before[1] + spent_s, before[2] + size
        for kind, (_, waited_s, _) in each.on_core.items():
            waits[kind] = waits.get(kind, 0.0) + waited_s
    return sums, waits


def _move(count: int, spent_s: float, size_bytes: int, waited_s: float, round_trip_s: float) -> tuple[float, float]:
    own_s = max(spent_s - waited_s, _OWN_PART * spent_s)
    if size_bytes < MANY_BYTES * count:
        return own_s / max(1, count), 0.0
    return round_trip_s, size_bytes / max(own_s - count * round_trip_s, _OWN_PART * own_s, 1e-9)


def _cores(executors: Collection[Noted]) -> tuple[float | None, float]:
    """Return how many of this machine's cores the executors' tasks had together, or how many they had without waiting.

    None and 0: not known. The first figure is a product: which part of the time for which tasks wanted a core they had
    one, and how many of them wanted one at once. For the latter each executor counts as wanting one evenly over its
    life, and the mean is over the time for which cores were wanted.
    """
    on_s = wanted_s = 0.0
    changes: list[tuple[float, float]] = []
    for each in executors:
        if each.here and "run" in each.on_core and each.ended_s > each.began_s:
            has_s, waits_s, _ = each.on_core["run"]
            wants_s = has_s + waits_s
            on_s, wanted_s = on_s + has_s, wanted_s + wants_s
            density = wants_s / (each.ended_s - each.began_s)
            density = density if each.begun else min(1.0, density)
            changes += [(each.began_s, density), (each.ended_s, -density)]
    if wanted_s < _TELLING_S or on_s < _LEAST_ON_S:  # some turns of the system's scheduler
        return None, 0.0
    at_once = area = squares = last_s = 0.0
    for at_s, change in sorted(changes):
        area += at_once * (at_s - last_s)
        squares += at_once * at_once * (at_s - last_s)
        at_once, last_s = at_once + change, at_s
    wanted = max(1.0, squares / area if area > 0 else 1.0)
    return (None, wanted) if wanted_s <= (1 + _CONTENDED) * on_s else (on_s / wanted_s * wanted, 0.0)


def _link(executors: Collection[Noted]) -> tuple[float | None, int]:
    """Return how many bytes a second the executors put and got together, while any moved many; None: they were too few.

    And how many bytes those were. What small operations take is latency.
    """
    moved = [move for each in executors for move in each.moved if move[2] >= MANY_BYTES]
    size_bytes = sum(size for _, _, size in moved)
    if size_bytes < _TELLING_BYTES:
        return None, 0
    return size_bytes / max(covered_s((begun, begun + took) for begun, took, _ in moved), 1e-6), size_bytes


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasts, each from its begin to its end."""
    total, until = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, until))
        until = max(until, ended)
    return total


def _rate(executors: Collection[Noted]) -> float | None:
    """Return how many executors a second have begun of the most that were made at once; None: there were too few."""
    ordered: Sequence[Noted] = sorted(executors, key=lambda each: each.invoked_s)
    bursts: list[list[Noted]] = []
    for each in ordered:
        if bursts and each.invoked_s - bursts[-1][-1].invoked_s < _AT_ONCE_S:
            bursts[-1].append(each)
        else:
            bursts.append([each])
    burst = max(bursts, key=len, default=[])
    if len(burst) < _BURST:
        return None
    begins = sorted(each.began_s for each in burst)
    return (len(burst) - 1) / max(begins[-1] - begins[0], 1e-6)
