"""Plans of a client's jobs: what is known of its backend and store, what its jobs have taught, and planning instead.

a job has settled -> Lessons.take -> a quiet moment: learn -> the user's cache, now and then and at the client's end
client.plan(x)    -> metadata, lessons -> wukong.planning
wukong plan       -> every job of every client is planned instead of run (`instead`); its values are `Planned`
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from wukong.backends.faas import Bill, FunctionSize
from wukong.backends.machine import cores
from wukong.backends.storage import Store
from wukong.config import Settings, cache_folder
from wukong.core import modules
from wukong.core.dag import Graph, Literal, op_refs
from wukong.core.job import Job
from wukong.core.layers import edges_of, layers_of
from wukong.core.partition import pages
from wukong.core.policy import Costs, Policy
from wukong.core.shipment import KeptValue
from wukong.core.sizes import size_bytes
from wukong.core.storage import blob_size
from wukong.errors import CodecError
from wukong.options import masked
from wukong.planning.estimates import FRAME_BYTES, MOST_RUNS, estimate, held_in, lessons_from
from wukong.planning.learned import Kind, Learned, Lesson, MemoryLesson
from wukong.planning.memory import learned_memory, needs_from
from wukong.planning.terms import PlaceTerms, clear, runs_of, terms_from

if TYPE_CHECKING:
    from wukong.client.client_plan import ClientPlan
    from wukong.client.deployment import Deployment
    from wukong.planning.overhead import Overhead
    from wukong.planning.plan import Plan, Platform
    from wukong.planning.prediction import Prediction
    from wukong.planning.store_model import StoreModel

logger = logging.getLogger("wukong")

_FLUSH_S = 10.0
_TASK_BYTES = 100
_FEW = 50
_MANY_S = 1_000.0
_MOST_LESSONS = 1_000
_MOST_SETTLED = 8
_GUESSED = 0.1


class Lessons:
    """What the jobs of one client have taught, on its way to the user's cache. For the client's janitor.

    Learning waits for a quiet moment: it would take the interpreter from the job that comes next.

    Args:
        place, platform: where the tasks run; see `wukong.planning.learned.Learned`.
        costs: what moving things costs; jobs teach it.
        store: tells the store from others, see `store_of`; None: nothing is kept of it.
    """

    def __init__(self, place: str, costs: Costs, platform: str = "", store: str | None = None) -> None:
        self._costs, self._store, self._n_taught, self._recalled = costs, store, 0, False
        self._terms: PlaceTerms | None = None
        self._learned = Learned(cache_folder(), place, platform)
        self._settled: deque[Job] = deque()
        self._told: list[tuple[Kind, Lesson]] = []
        self._needs: list[tuple[Kind, MemoryLesson]] = []
        self._flush_at = time.monotonic() + _FLUSH_S
        self._lock = threading.Lock()

    def take(self, job: Job) -> None:
        """Take in a job that has settled."""
        if job.status != "succeeded" or job.graph is None:
            return
        self._settled.append(job)
        if len(self._settled) > _MOST_SETTLED:
            self.learn()

    def learn(self) -> None:
        """Learn from the jobs that were taken in; now and then, write what is known to the user's cache."""
        self._look()
        if time.monotonic() >= self._flush_at or len(self._told) >= _MOST_LESSONS:
            self._write()

    def flush(self) -> None:
        """Learn from the jobs that were taken in, and write all that is not written yet."""
        self._look()
        self._write()

    def _look(self) -> None:
        with self._lock:
            while self._settled:
                job = self._settled.popleft()
                assert job.graph is not None, "others are not taken in"
                try:
                    taught = job.taught()
                    held = taught.held
                    self._told += lessons_from(job.graph, runs_of(clear(taught), MOST_RUNS), taught.sizes, held)
                    self._needs += needs_from(job.graph, taught)
                    if taught.executors:
                        terms = self._with_store(terms_from(taught.executors, self._costs.round_trip_s))
                        self._terms = terms if self._terms is None else terms.after(self._terms)
                except Exception as error:  # of a key or an object of the user's
                    logger.debug("job %s teaches nothing: %s", job.id, error)

    def _with_store(self, terms: PlaceTerms) -> PlaceTerms:
        """Return these terms with the rate at which the store moves large values, if jobs have measured it since."""
        n_taught, costs = self._costs.n_taught, self._costs
        if self._store is None or n_taught == self._n_taught:
            return terms
        self._n_taught = n_taught
        return replace(terms, stores={self._store: (costs.bandwidth_bytes_per_s, time.time())})

    def recall(self) -> None:
        """Have the first job begin with the rate that the jobs of earlier clients have found at this store."""
        if self._store is None or self._recalled:
            return
        self._recalled = True
        known = self._learned.terms().stores.get(self._store)
        if known is not None:
            self._costs.begin(known[0], time.time() - known[1])

    def _write(self) -> None:
        with self._lock:
            (told, self._told), (terms, self._terms) = (self._told, []), (self._terms, None)
            needs, self._needs = self._needs, []
        self._flush_at = time.monotonic() + _FLUSH_S
        self._learned.learn(told, terms, needs)

    def known(self, kinds: Iterable[Kind]) -> Mapping[Kind, Sequence[Lesson]]:
        """Return what is known of tasks of these kinds."""
        self.flush()
        return self._learned.lessons(kinds)

    def size(self, graph: Graph, sizes: Sequence[int]) -> None:
        """Have tasks of a graph begin on the size of function that has held tasks of their kind, unless annotated.

        `sizes`: memory of each, bytes, the smallest first.
        """
        try:
            self.flush()
            chosen = learned_memory(graph, sizes, self._learned.needs, self._learned.lessons)
        except Exception as error:  # of a key or an object of the user's
            logger.debug("nothing is known of the memory that a job needs: %s", error)
            return
        graph.memory.update(chosen)
        graph.learned.update(chosen)

    def terms(self) -> PlaceTerms:
        """Return what is known of the place itself."""
        self.flush()
        return self._learned.terms()


def place_of(deployment: Deployment) -> str:
    """Return where tasks of this client run, as far as it matters to how long they take."""
    size = _present(deployment)[0]
    return f"{deployment.faas_name} {size.memory_bytes >> 20} MB" if size is not None else deployment.faas_name


def store_of(settings: Settings) -> str | None:
    """Return what tells the store from others, which nothing secret is part of; None: it was opened by the user."""
    if isinstance(settings.storage, Store):
        return None
    told = json.dumps(masked("storage", settings.storage), sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def a_few(graph: Graph, layers: Sequence[str]) -> list[Hashable]:
    """Return one key of each of these layers, as far as a fifth of the graph's tasks is enough to compute them."""
    names, of = layers_of(graph.keys)
    wanted = {names.index(name) for name in layers}
    most, needed = max(_FEW, len(of) // 5), set[int]()
    keys = []
    for task, layer in enumerate(of):
        if layer in wanted:
            wanted.remove(layer)
            more, new = [task], {task}
            while more and len(new) <= most:
                parents = [each for each in graph.dag.parents_of(more.pop()) if each not in new]
                more += parents
                new.update(parents)
            if len(needed | new) <= most:
                needed |= new
                keys.append(graph.keys[task])
    return keys


def expected_s(lessons: Lessons, graph: Graph) -> float | None:
    """Return how long all tasks of a graph should take together, seconds, by what earlier jobs have taught.

    None: nothing is known of too many of them.
    """
    try:
        layers = estimate(graph, lambda key: None, lessons.known).layers
    except Exception as error:  # of a key or an object of the user's
        logger.debug("nothing is expected of a job: %s", error)
        return None
    work_s = sum(layer.tasks * layer.seconds for layer in layers)
    guessed = [layer for layer in layers if layer.basis == "guess"]
    unsure = sum(layer.tasks * layer.seconds for layer in guessed) > _GUESSED * work_s
    return None if unsure or sum(layer.tasks for layer in guessed) > _GUESSED * len(graph.dag) else work_s


def planned(deployment: Deployment, lessons: Lessons, graph: Graph, described: Any, before_s: float) -> ClientPlan:
    """Plan a job of this client. `described` is what Dask handed over; `before_s`: what taking it in took, seconds."""
    from wukong.client.client_plan import ClientPlan
    from wukong.planning.metadata import sizes_of  # few plan, and the walk takes its time to import
    from wukong.planning.plan import plan

    estimates = estimate(graph, sizes_of(described), lessons.known)
    _, of = layers_of(graph.keys)
    edges = edges_of((graph.dag.parent_ptr, graph.dag.parents), of)
    overhead = overhead_of(deployment, graph)
    here = _platform(deployment)
    platform = replace(here, terms=lessons.terms(), policy=for_graph(here.policy, graph))
    found = plan(graph, estimates, platform, before_s=before_s, edges=edges, overhead=overhead)
    return ClientPlan(**{each.name: getattr(found, each.name) for each in fields(found)})


def modelled(deployment: Deployment, job: Job, store: StoreModel | None = None) -> Prediction:
    """Return what a plan would have said of a job that has run, had it known each task's duration and size.

    `store`: what its store is like; None: as its executors have found it.
    """
    from wukong.planning.prediction import predict

    assert job.graph is not None, "a job that was taken over has no graph"
    record, platform = job.record, _platform(deployment)
    n, runs, taught = record.n_tasks, record.runs, job.taught()
    seconds, shares, sizes = [0.0] * n, [1.0] * n, [0] * n
    for task, value, out in zip(runs.tasks, runs.value_bytes, runs.out_bytes, strict=True):
        sizes[task] = FRAME_BYTES + max(value, out, 0)
    for each in runs_of(taught, len(runs)):
        seconds[each.task], shares[each.task] = each.own_s, each.on_core
    return predict(
        job.graph.dag,
        seconds,
        sizes,
        costs=replace(job.costs),
        policy=for_graph(platform.policy, job.graph),
        slots=platform.slots,
        page_tasks=platform.page_tasks,
        overhead=overhead_of(deployment, job.graph),
        gives_way=platform.gives_way,
        on_core=shares,
        terms=terms_from(taught.executors, platform.costs.round_trip_s),
        store=store,
        lane_cores=platform.function_cores,
        spare_cores=platform.spare_cores,
        held=held_in(job.graph, taught.held),
        limits=job.graph.limits,
    )


def for_graph(policy: Policy, graph: Graph) -> Policy:
    """Return the settings with which a graph runs: tasks that Dask runs in processes get one lane."""
    return replace(policy, lanes=1) if policy.lanes == "auto" and graph.by_process else policy


def overhead_of(deployment: Deployment, graph: Graph) -> Overhead:
    """Return what the job's executors will move besides values; a page in the middle stands for all."""
    from wukong.planning.overhead import Overhead

    plan, n = deployment.ground.plan, len(graph.dag)
    kept = {i: value.key for i, value in enumerate(graph.objects) if isinstance(value, KeptValue)}
    every = pages(graph, plan.page_tasks, kept)
    sample = next(islice(every, n // plan.page_tasks // 2, None), None)
    if sample is None:
        return Overhead()
    try:
        with modules.by_value():
            each = blob_size(deployment.codec.encode_code(sample, b"")) / len(sample.ops)
    except CodecError:  # the job will say what cannot be pickled
        each = _TASK_BYTES
    sizes = [int(each * min(plan.page_tasks, n - first)) for first in range(0, n, plan.page_tasks)]
    objects = [size_bytes(each) for each in graph.objects]
    of: dict[int, list[tuple[int, int]]] = {}
    for task, op in enumerate(graph.ops) if objects else ():
        if large := [(ref, objects[-1 - ref]) for ref in set(op_refs(op)) if ref < 0]:
            of[task] = large
    return Overhead(sizes, plan.payload_inline_bytes, deployment.policy().heartbeat_s, of)


def _platform(deployment: Deployment) -> Platform:
    from wukong.client.known_stores import KNOWN
    from wukong.planning.plan import Platform

    ground, faas = deployment.ground, deployment.platform
    present, rates = _present(deployment)
    # Not how many are free now: the job that has just ended may not have left yet, or may have slept, and have many.
    slots = faas.free_slots() if faas.limits.slots is None else faas.limits.slots
    bounds = [bound for bound in (slots, faas.limits.concurrency) if bound is not None]
    return Platform(
        deployment.described(),
        ground.costs,
        deployment.policy(),
        max(1, min(bounds)) if bounds else None,
        ground.plan.page_tasks,
        lambda executors, function_s, wall_s: _usd(deployment, executors, function_s, wall_s),
        rates,
        faas.sizes(),
        present,
        gives_way=faas.limits.slots is not None,
        cores=cores(),
        stores=KNOWN if faas.limits.slots is None else (),
        function_cores=faas.limits.cores,
        spare_cores=faas.limits.spare_cores,
    )


def _present(deployment: Deployment) -> tuple[FunctionSize | None, str]:
    """Return the size that functions have, with its price, and the rates; None: nobody charges."""
    bill = deployment.ground.bill
    nothing, much = bill(1, 1, 0.0), bill(1, 1, _MANY_S)
    if not isinstance(much, Bill) or not isinstance(nothing, Bill):
        return None, ""
    memory_bytes = round(much.gb_seconds / _MANY_S * 2**10) << 20
    vcpus = next((each.vcpus * memory_bytes / each.memory_bytes for each in deployment.platform.sizes()), 1.0)
    return FunctionSize(memory_bytes, vcpus, (much.usd - nothing.usd) / _MANY_S), much.rates


def _usd(deployment: Deployment, executors: int, function_s: float, wall_s: float) -> float | None:
    bill, rent = deployment.ground.bill(executors, executors, function_s), deployment.ground.rent(wall_s)
    prices = [each.usd for each in (bill, rent) if each is not None and hasattr(each, "usd")]
    return sum(prices) if prices else None


# --- planning instead of computing


_instead: list[Plan] | None = None


@contextmanager
def instead(*, for_ever: bool = False) -> Iterator[list[Plan]]:
    """Within the block, have all clients of this process plan their jobs instead of running them; yield the plans.

    `for_ever`: afterwards, too. Threads and exit functions that a planned program leaves behind must run nothing.
    """
    global _instead
    before, plans = _instead, list["Plan"]()
    _instead = plans
    try:
        yield plans
    finally:
        if not for_ever:
            _instead = before


def planning() -> list[Plan] | None:
    """Return where plans go; None: jobs are run."""
    return _instead


def stand_ins(graph: Graph) -> dict[Hashable, Any]:
    """Return what stands for the requested values of a job that was planned."""
    return {key: where.value if isinstance(where, Literal) else Planned(key) for key, where in graph.request.items()}


class ValueNeeded(BaseException):
    """The program needs a value that was planned and not computed: it cannot go on."""


class Planned:
    """Stands for a value that was planned and not computed. It can be handed on and shown; any other use raises."""

    def __init__(self, key: Hashable) -> None:
        self.__key = key

    def __repr__(self) -> str:
        return "<planned, not computed>"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __dask_tokenize__(self) -> Any:
        return "planned", self.__key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        _need()


def _need(*_: Any, **__: Any) -> NoReturn:
    raise ValueNeeded


for _name in (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod"),
    *("pow", "rpow", "matmul", "rmatmul", "and", "rand", "or", "ror", "xor", "rxor", "neg", "pos", "abs", "invert"),
    *("lt", "le", "gt", "ge", "eq", "ne", "bool", "int", "float", "complex", "index", "round", "len", "iter", "next"),
    *("getitem", "setitem", "contains", "call", "array", "enter"),
):
    setattr(Planned, f"__{_name}__", _need)
Planned.__hash__ = object.__hash__  # type: ignore[method-assign]
