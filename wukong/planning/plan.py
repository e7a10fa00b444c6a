"""A plan: what a job would take, move and cost, each with a range, and on functions of other sizes and lanes.

The range of a figure is what three walks of the job give: one with every duration and every size as expected, one with
all of them at their low ends, one with all at their high ends (`wukong.planning.estimates` says how far those are).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from html import escape
from typing import Any

from wukong.core.dag import Graph
from wukong.core.policy import Costs, Policy
from wukong.core.record import JobRecord
from wukong.planning.drawing import Box, Drawing, draw
from wukong.planning.estimates import Estimates, TaskPrefix
from wukong.planning.function_sizes import NEAR, Alternative, Offer, SizePort, on_functions
from wukong.planning.outline import Outline
from wukong.planning.overhead import Overhead
from wukong.planning.prediction import Prediction, predict
from wukong.planning.store_model import StoreModel
from wukong.planning.terms import PlaceTerms

_SHOWN = 12
_MOST_COMPARED = 50_000


@dataclass(frozen=True, slots=True)
class Range:
    """A figure: as expected, and between what it should be."""

    expected: float
    low: float
    high: float

    @classmethod
    def over(cls, expected: float, *others: float) -> Range:
        """Return the range that all of these span."""
        return cls(expected, min(expected, *others), max(expected, *others))


@dataclass(frozen=True, slots=True)
class Platform:
    """What a plan supposes of the backend and the store.

    Attributes:
        backends: their names. costs, policy: as the job's executors would have them.
        slots: how many executors run at once; None: as many as are invoked.
        page_tasks: tasks in a page of the DAG.
        usd: returns the price of invocations, of the seconds that they run together, and of the job's own seconds;
            None: nobody charges.
        rates: the prices behind it.
        sizes: those that functions could have; present: the one they have.
        function_cores: how many cores a function has now: if executors give way, all of them share the machine's.
        gives_way, spare_cores, terms: see `wukong.planning.prediction.predict`.
        stores: those that the job could use instead, to be compared.
        cores: those of this machine, which the job would have if nobody else used it: the low end, if `terms` say that
            executors have waited for some.
    """

    backends: str
    costs: Costs
    policy: Policy
    slots: int | None
    page_tasks: int
    usd: Callable[[int, float, float], float | None]
    rates: str = ""
    sizes: Sequence[SizePort] = ()
    present: SizePort | None = None
    gives_way: bool = False
    terms: PlaceTerms = field(default_factory=PlaceTerms)
    cores: int = 1
    stores: Sequence[StoreModel] = ()
    function_cores: int = 1
    spare_cores: int = 0


@dataclass(frozen=True, slots=True)
class StoreAlternative:
    """The job with another store, as expected from the store's typical latency.

    Attributes:
        name: of the store. time_s: what the job would take.
        store_usd: what the store would cost; usd: with the functions.
        best: the cheapest of those that take at most a tenth longer than the fastest.
    """

    name: str
    time_s: float
    store_usd: float
    usd: float
    best: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Plan:
    """What a job would do; printed as text, in a notebook as tables.

    Attributes:
        backends: on which backend and store. tasks: how many there are.
        time_s: from the call to the last value at the client, without a cold start.
        executors: invocations made. at_once: the most that run at once.
        put_bytes, got_bytes: through the store. held_bytes: the most that the values in one executor take at once.
        usd: US dollars, at `rates`; None: nobody charges.
        critical_path_s: the longest path of tasks, which no schedule can beat.
        layers: the tasks by key prefix, in the order in which they come.
        sizes: the job on functions of other sizes and with other numbers of lanes; empty if the backend offers none.
        stores: the job with other stores; empty on the emulator.
        guesses: the prefixes whose durations are guessed, for no job here has run such tasks.
        record: what each executor would do, and when, as expected; None: there is nothing to do.
    """

    backends: str
    tasks: int
    time_s: Range
    executors: Range
    at_once: Range
    put_bytes: Range
    got_bytes: Range
    held_bytes: Range
    usd: Range | None
    critical_path_s: Range
    layers: tuple[TaskPrefix, ...] = ()
    sizes: tuple[Alternative, ...] = ()
    stores: tuple[StoreAlternative, ...] = ()
    rates: str = ""
    edges: tuple[tuple[int, int, int], ...] = field(default=(), repr=False)
    record: JobRecord | None = field(default=None, repr=False, compare=False)

    @property
    def guesses(self) -> list[str]:
        """Return the prefixes of tasks whose durations are guesses."""
        return [layer.name for layer in self.layers if layer.basis == "guess"]

    def draw(self) -> Drawing:
        """Return a picture of the graph, layer by layer, with expected durations and sizes."""
        boxes = [
            Box(each.name, [f"{each.tasks:,} x {seconds(each.seconds)}, {size(each.size_bytes)}"])
            for each in self.layers
        ]
        return draw(boxes, self.edges)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain data: lists, dicts, numbers and text."""
        told = asdict(replace(self, edges=(), record=None))
        del told["edges"], told["record"]
        return {**told, "guesses": self.guesses}

    def __str__(self) -> str:
        lines = [f"plan of {self.tasks:,} tasks on {self.backends}"]
        lines += [f"  {name:<14} {told}" for name, told in self._figures()]
        lines += ["", *_columns(_LAYER_HEAD, [_layer_row(each) for each in self.layers[:_SHOWN]])]
        if len(self.layers) > _SHOWN:
            lines.append(f"  ... and {len(self.layers) - _SHOWN} layers more")
        if self.sizes:
            lines += ["", *_columns(_SIZE_HEAD, [_size_row(each) for each in self.sizes])]
        if self.stores:
            lines += ["", *_columns(_STORE_HEAD, [_store_row(each) for each in self.stores])]
        if self.sizes or self.stores:
            lines += ["  best: the cheapest of those that take at most a tenth longer than the fastest"]
        lines += [f"  {each}" for each in self._on_sizes()]
        return "\n".join([*lines, *(["", self._doubts()] if self.guesses else [])])

    __repr__ = __str__

    def _figures(self) -> list[tuple[str, str]]:
        many = "{:,.0f}".format
        figures = [
            ("time", _ranged(self.time_s, seconds)),
            ("critical path", _ranged(self.critical_path_s, seconds)),
            ("executors", f"{_ranged(self.executors, many)}; at once: {_ranged(self.at_once, many)}"),
            ("put", _ranged(self.put_bytes, size)),
            ("got", _ranged(self.got_bytes, size)),
            ("held at most", _ranged(self.held_bytes, size)),
        ]
        if self.usd is not None:
            rates = f" ({self.rates})" if self.rates else ""
            figures.append(("cost", f"{_ranged(self.usd, dollars)}{rates}"))
        return figures

    def _on_sizes(self) -> list[str]:
        """Return what to write to have the best size and lanes, and what several lanes suppose."""
        told = [f"to have the best function: {each.setting}" for each in self.sizes if each.best and each.setting]
        if any(each.lanes > 1 for each in self.sizes):
            told.append(_LANES_SUPPOSE)
        return told

    def _doubts(self) -> str:
        named = ", ".join(self.guesses[:_SHOWN]) + (", ..." if len(self.guesses) > _SHOWN else "")
        return (
            f"guessed, for no job here has run such tasks, or none of nearly their size: {named}\n"
            "  -> run the job once, or plan with sample=True, which runs a few tasks of each"
        )

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str) -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
            return f"<table>{row(head, 'th') if head else ''}{''.join(row(each, 'td') for each in rows)}</table>"

        parts = [f"<p>plan of {self.tasks:,} tasks on {escape(self.backends)}</p>", table((), self._figures())]
        parts.append(table(_LAYER_HEAD, [_layer_row(each) for each in self.layers]))
        if self.sizes:
            parts.append(table(_SIZE_HEAD, [_size_row(each) for each in self.sizes]))
            parts += [f"<p>{escape(each)}</p>" for each in self._on_sizes()]
        if self.stores:
            parts.append(table(_STORE_HEAD, [_store_row(each) for each in self.stores]))
        if self.guesses:
            parts.append(f"<p>{escape(self._doubts())}</p>")
        return f"<div>{''.join(parts)}</div>"


def plan(
    graph: Graph,
    estimates: Estimates,
    platform: Platform,
    *,
    before_s: float = 0.0,
    edges: Sequence[tuple[int, int, int]] = (),
    overhead: Overhead | None = None,
) -> Plan:
    """Plan a job.

    Args:
        graph, estimates: what is to run, and what is thought of its tasks.
        platform: the backend and the store on which it would run.
        before_s: what the client does before the first invocation, seconds.
        edges: how many edges lead from one layer to another.
        overhead: what executors move besides values.
    """
    if not len(graph.dag):
        zero = Range(0.0, 0.0, 0.0)
        free = zero if platform.rates else None
        return Plan(platform.backends, 0, zero, zero, zero, zero, zero, zero, free, zero, rates=platform.rates)

    def walked(
        end: int,
        speed: float = 1.0,
        lanes: int | None = None,
        slots: int | None = platform.slots,
        lane_cores: float = max(1.0, platform.function_cores if platform.present is None else platform.present.vcpus),
        *,
        outline: Outline | None = None,
        store: StoreModel | None = None,
    ) -> Prediction:
        costs = replace(platform.costs)
        if store is not None:
            costs = Costs(costs.invoke_s, store.round_trip_s, store.bandwidth_bytes_per_s)
        return predict(
            graph.dag,
            estimates.durations(end, speed),
            estimates.values(end),
            costs=costs,
            policy=platform.policy if lanes is None else replace(platform.policy, lanes=lanes),
            slots=slots,
            outline=outline,
            page_tasks=platform.page_tasks,
            overhead=overhead,
            gives_way=platform.gives_way,
            on_core=estimates.on_core,
            terms=platform.terms.with_at_least(platform.cores) if end < 0 else platform.terms,
            store=store,
            lane_cores=lane_cores,
            spare_cores=platform.spare_cores,
            held=estimates.held,
            limits=graph.limits,
        )

    def usd(walk: Prediction) -> float | None:
        return platform.usd(walk.executors, walk.function_s, before_s + walk.makespan_s)

    outline = Outline()
    if platform.present is not None:
        for each in estimates.layers:
            each.usd = each.tasks * each.seconds * platform.present.usd_per_s
    walks = walked(0, outline=outline), walked(-1), walked(1)
    prices = [price for price in map(usd, walks) if price is not None]
    found = Plan(
        platform.backends,
        len(graph.dag),
        Range.over(*(before_s + each.makespan_s for each in walks)),
        Range.over(*(each.executors for each in walks)),
        Range.over(*(each.peak_executors for each in walks)),
        Range.over(*(each.put_bytes for each in walks)),
        Range.over(*(each.got_bytes for each in walks)),
        Range.over(*(each.peak_held_bytes for each in walks)),
        Range.over(*prices) if len(prices) == len(walks) else None,
        Range.over(*(each.critical_path_s for each in walks)),
        tuple(estimates.layers),
        _sizes(platform, estimates, walks[0], walked, before_s),
        _stores(platform, len(graph.dag), partial(walked, 0), before_s),
        platform.rates,
        tuple(edges),
    )
    return replace(found, record=_record(found, graph, walks[0], outline, before_s))


def _record(found: Plan, graph: Graph, walk: Prediction, outline: Outline, before_s: float) -> JobRecord:
    """Return the record that the job would leave, with the plan in its `about`."""
    told: dict[str, Any] = {
        "tasks_run": found.tasks,
        "executors": walk.executors,
        "schedules": sum(not graph.dag.parents_of(task) for task in range(found.tasks)),
        "busy_s": walk.busy_s,
        "operations": walk.operations,
        "put_bytes": walk.put_bytes,
        "got_bytes": walk.got_bytes,
        "peak_held_bytes": walk.peak_held_bytes,
    }
    if found.usd is not None:
        told["bill"] = {"invocations": walk.executors, "usd": found.usd.expected, "rates": found.rates}
    about = {"backends": found.backends, "plan": found.to_json()}
    return outline.record(graph, found.time_s.expected, before_s, told, about)


def _sizes(
    platform: Platform,
    estimates: Estimates,
    here: Prediction,
    walked: Callable[[int, float, int, int | None, float], Prediction],
    before_s: float,
) -> tuple[Alternative, ...]:
    present = platform.present
    if present is None or not platform.sizes:
        return ()
    shared = (platform.slots or 1) * platform.function_cores if platform.gives_way else None
    few = len(estimates.seconds) <= _MOST_COMPARED
    lanes, found = platform.policy.lanes, max(1, here.peak_lanes)
    offer = Offer(platform.sizes, present, lanes, platform.slots, shared, few, found)

    def calls_usd(walk: Prediction) -> float:
        return platform.usd(walk.executors, 0.0, before_s + walk.makespan_s) or 0.0

    return on_functions(offer, estimates, here, partial(walked, 0), calls_usd, before_s)


def _stores(
    platform: Platform, n_tasks: int, walked: Callable[..., Prediction], before_s: float
) -> tuple[StoreAlternative, ...]:
    if n_tasks > _MOST_COMPARED:
        return ()
    rows = []
    for model in platform.stores:
        walk = walked(store=model)
        time_s, store_usd = before_s + walk.makespan_s, walk.store_usd or 0.0
        functions_usd = platform.usd(walk.executors, walk.function_s, 0.0) or 0.0
        rows.append(StoreAlternative(model.name, time_s, store_usd, functions_usd + store_usd))
    if rows:
        fastest_s = min(each.time_s for each in rows)
        best = min((each for each in rows if each.time_s <= NEAR * fastest_s), key=lambda each: each.usd)
        rows[rows.index(best)] = replace(best, best=True)
    return tuple(rows)


_LAYER_HEAD = ("layer", "tasks", "each", "together", "cost", "value", "durations", "sizes")
_SIZE_HEAD = ("function", "vCPUs", "lanes", "time", "cost", "")
_LANES_SUPPOSE = "more than one lane: if not known to hold the interpreter's lock, tasks are supposed to let go of it"
_STORE_HEAD = ("store", "time", "its cost", "with functions", "")


def _layer_row(each: TaskPrefix) -> tuple[str, ...]:
    times = seconds(each.seconds), seconds(each.tasks * each.seconds)
    cost = "" if each.usd is None else dollars(each.usd)
    return each.name, f"{each.tasks:,}", *times, cost, size(each.size_bytes), each.basis, each.size_basis


def _size_row(each: Alternative) -> tuple[str, ...]:
    marks = [("best", each.best), ("now", each.present), ("too small", not each.fits)]
    told = ", ".join(word for word, holds in marks if holds)
    figures = f"{each.vcpus:.2g}", str(each.lanes), seconds(each.time_s), dollars(each.usd)
    return f"{each.memory_bytes >> 20:,} MB", *figures, told


def _store_row(each: StoreAlternative) -> tuple[str, ...]:
    return each.name, seconds(each.time_s), dollars(each.store_usd), dollars(each.usd), "best" if each.best else ""


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return [f"  {line}".rstrip() for line in lines]


def _ranged(figure: Range, told: Callable[[float], str]) -> str:
    low, high = told(figure.low), told(figure.high)
    return told(figure.expected) if low == high else f"{told(figure.expected)}  ({low} to {high})"


def seconds(value_s: float) -> str:
    """Return a duration as a person writes it."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if value_s < 1 / scale * 1_000 and value_s > 0:
            return f"{value_s * scale:.3g} {unit}"
    if value_s < 120:
        return f"{value_s:.3g} s"
    return f"{value_s / 60:.3g} min" if value_s < 7_200 else f"{value_s / 3_600:,.3g} h"


def size(value_bytes: float) -> str:
    """Return a number of bytes likewise."""
    for unit in ("B", "kB", "MB", "GB"):
        if value_bytes < 999.5:
            return f"{value_bytes:.3g} {unit}"
        value_bytes /= 1_000
    return f"{value_bytes:,.3g} TB"


def dollars(value_usd: float) -> str:
    """Return a price likewise."""
    return f"${value_usd:.3g}" if value_usd < 1_000 else f"${value_usd:,.0f}"
