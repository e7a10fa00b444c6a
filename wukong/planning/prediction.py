"""The protocol on a virtual clock: what a job would take, move and cost, before anything is paid for.

The same invocations and the same model store as in `wukong.testing.simulator`, but ordered by time, not at random. An
effect takes what `Costs` says it takes and has its effect when it ends; an executor begins `invoke_s` after its
invocation, or when a slot is free; the watcher wakes as in the real executor. Tasks in several lanes take as long as
one alone, unless they hold the interpreter's lock or there are fewer cores. What is left out: the price of the
interpreter itself, cold starts, contention for the store and, unless it was measured, for cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from wukong.core.dag import Dag, Limits
from wukong.core.invocation import WalkType
from wukong.core.policy import Costs, Policy
from wukong.core.walk import Walk
from wukong.planning.clockwork import Clockwork
from wukong.planning.lock_turns import LockTurns
from wukong.planning.outline import Outline
from wukong.planning.overhead import Overhead
from wukong.planning.predicted import Prediction, Rates, critical_path_s
from wukong.planning.store_model import StoreModel, StoreUse
from wukong.planning.terms import PlaceTerms
from wukong.planning.world import Case

__all__ = ["Prediction", "Rates", "critical_path_s", "predict"]


def predict(
    dag: Dag,
    durations_s: float | Sequence[float],
    sizes_bytes: int | Sequence[int],
    *,
    costs: Costs,
    policy: Policy | None = None,
    slots: int | None = None,
    outline: Outline | None = None,
    page_tasks: int = 512,
    rates: Rates | None = None,
    walk: WalkType = Walk,
    overhead: Overhead | None = None,
    gives_way: bool = False,
    on_core: Sequence[float] | None = None,
    terms: PlaceTerms | None = None,
    store: StoreModel | None = None,
    lane_cores: float | None = None,
    spare_cores: int = 0,
    held: Sequence[bool | None] | None = None,
    limits: Mapping[int, Limits] = MappingProxyType({}),
) -> Prediction:
    """Predict one job.

    Args:
        dag: the structure.
        durations_s: how long each task runs, or all of them.
        sizes_bytes: size of each task's value, or of all.
        costs: what moving things costs; the executors know it exactly.
        policy: the job's settings.
        slots: how many executors run at once; None: as many as are invoked.
        outline: what notes which executor does what, and when; None: nobody wants to know.
        page_tasks: tasks in one page; a DAG of up to `INLINE_TASKS` travels inside the invocations.
        rates: what is charged.
        walk: the protocol; another one than `Walk` to see what a change is worth.
        overhead: what executors move besides values; None: that is not counted.
        gives_way: an executor that waits leaves its slot to another one, of as many at most as there are slots.
        on_core: which part of its time each task is on a core, else asleep; None: all of it.
        terms: what the place is like, beyond `costs`; None: nothing is known.
        store: the store, if what it takes and costs is to be told apart by operation; None: as `costs` say.
        lane_cores: those that the lanes of one executor share, unless `terms` know of cores that all executors share;
            None: each lane has its own.
        spare_cores: how many besides those the lanes of an executor take, if no other one uses them and `policy` leaves
            the number of lanes to executors; they count as `slots`.
        held: whether each task holds the interpreter's lock while it computes, so that those of one executor compute
            one after the other; None, also for a single task: not known, which counts as if it let go.
        limits: of the tasks that have any.

    Raises Violation if the job does not come to its end.
    """
    n = len(dag)
    durations = [durations_s] * n if isinstance(durations_s, int | float) else list(durations_s)
    sizes = (sizes_bytes,) * n if isinstance(sizes_bytes, int) else tuple(sizes_bytes)
    if len(durations) != n or len(sizes) != n:
        raise ValueError(f"a DAG of {n} tasks has {len(durations)} durations and {len(sizes)} sizes")
    known = costs.invoke_s, costs.round_trip_s, costs.bandwidth_bytes_per_s
    case = Case(dag, sizes, policy or Policy(), known, page_tasks, limits=limits)
    clockwork = Clockwork(case, durations, slots, rates or Rates(), walk, overhead or Overhead())
    clockwork.outline, clockwork.gives_way = outline, gives_way and slots is not None
    clockwork.lock = LockTurns(held)
    clockwork.at(PlaceTerms() if terms is None else terms, on_core, lane_cores, spare_cores)
    if store is not None:
        told = overhead or Overhead()
        clockwork.use = clockwork.takes.use = StoreUse(store, sizes, told.inside_bytes(by_client=False))
        clockwork.use.shipped(len(case.roots()), told.inside_bytes(by_client=True))
    return clockwork.run()
