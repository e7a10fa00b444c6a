"""Work in the background: a job for some futures, started as soon as the futures that it needs are done.

    submit, map, compute, persist  ->  Work  --inputs are done-->  job  ->  the futures' states
                                        ^------------ retry --------------------'  failed, or a kept value has gone

A `Work` does not keep its client open; futures in users' hands do.
"""

from __future__ import annotations

import threading
import weakref
from collections import ChainMap
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wukong.client.futures import Future, FutureState, retry
from wukong.client.plans import planning, stand_ins
from wukong.client.registry import NotReady
from wukong.client.resuming import AskedFutures, Resumed
from wukong.core.interrupts import waiting
from wukong.core.shipment import KeptValue
from wukong.errors import JobCancelled, KeptLost, StoreFull, ValueLost

if TYPE_CHECKING:
    from wukong.client.holdings import Holdings
    from wukong.client.job import ClientJob
    from wukong.client.session import Session
    from wukong.core.job import Job

_SETTLED_S = 30.0


@dataclass(frozen=True, eq=False, slots=True)
class Work:
    """A graph, and futures for some of its keys.

    Attributes:
        client: the session whose futures these are.
        graph: as `wukong.core.ingest.ingest` takes it.
        inputs: the futures that it needs.
        stream: values are wanted one by one. retries: how often a task that fails is run again; None: as configured.
        budget_usd: what the job may cost; None: as configured.
        collect: the job goes on past tasks that fail, although it has one value.
        keep: under which name its values are kept beyond the client; None: they are not.
        take: what was kept is taken.
        on: what it goes on with; None: it begins anew.
        full: it was begun again since the store was full.
        annotations: what `dask.annotate` said of all calls, if the graph is a plain row of calls.
    """

    client: weakref.ref[Session]
    graph: Any
    inputs: tuple[Future, ...]
    stream: bool
    retries: int | None
    budget_usd: float | None
    collect: bool
    keep: str | bool | None
    take: bool = True
    on: Resumed | None = None
    full: bool = False
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def described(self) -> Any:
        """The graph with its annotations."""
        if not self.annotations:
            return self.graph
        from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

        calls = MaterializedLayer(self.graph, annotations=dict(self.annotations))
        return HighLevelGraph({"calls": calls}, {"calls": set()})

    def start(self, states: Mapping[Hashable, FutureState]) -> None:
        """Start a job for these states, by the graph's keys, once the inputs are done."""
        for key, state in states.items():
            state.work = self, key
        left = len(self.inputs)
        client = self.client()
        if not left and client is not None and client.asynchronous:  # its loop is to go on meanwhile
            client._registry.callers.call(partial(self._begin, states))
        elif not left:
            self._begin(states)
        lock = threading.Lock()

        def one_done(state: FutureState) -> None:
            nonlocal left
            with lock:
                left -= 1
                ready = left == 0
            if ready:  # not here: this may be the thread that watches all jobs, and pickling runs users' code too
                state.registry.callers.call(partial(self._begin, states))

        for future in self.inputs:
            future._state.when_done(one_done)

    def _begin(self, states: Mapping[Hashable, FutureState]) -> None:
        registry = next(iter(states.values())).registry
        try:
            client = self.client()
            if client is None:
                raise JobCancelled("the client was closed")
            client._check_open()
            states = self._without_failed(states)
            if not states:
                self._unused()
                return
            known = registry.known(without=states.keys())
            if self.on is not None and self.on.values:  # whatever is requested and stored is not the futures' own
                there = {key: value for key, value in self.on.values.items() if self._takes(key, value, states)}
                known = ChainMap(there, known)  # type: ignore[arg-type]  # nobody writes to it
            described = self.described
            graph = client._keep_values.ingested(described, list(states), known, self.keep, take=self.take)
            if (plans := planning()) is not None:
                plans.append(client._plan(graph, described, 0.0))
                for key, value in stand_ins(graph).items():
                    states[key].settle("finished", value)
                return
            given: dict[str, Any] = {"retries": self.retries, "budget_usd": self.budget_usd, "stream": self.stream}
            job = client._job(graph, keep=True, collect=self.collect, **given)
            job.inputs = [self]  # its futures have to live as long as the job
            job.asked = AskedFutures(replace(self, take=True, on=None, full=False), states)
            if self.on is not None and graph.dag.outputs:
                self.on.begins(job)
            sink = registry.sink(job, graph, states, client._deployment.forget, partial(self._again, job, states))
        except NotReady as pending:
            ready = partial(registry.callers.call, partial(self._begin, states))
            pending.state.when_done(lambda _: ready())
        except BaseException as error:
            registry.fail(states.values(), error)
            self._unused()
            if isinstance(error, KeyboardInterrupt):  # it is the caller's, not only the work's
                raise
        else:
            if not graph.dag.outputs:
                self._unused()
                return
            for state in states.values():
                state.cancel_job = job.cancel
            client._background.watch(job, partial(client._deployment.start, job), sink)

    def _takes(self, key: Hashable, value: Any, states: Mapping[Hashable, FutureState]) -> bool:
        return key not in states or type(value) is not KeptValue

    def _unused(self) -> None:
        """Give up what no job has gone on with."""
        client = self.client()
        if self.on is not None and not self.on.begun and client is not None:
            client._let_go(self.on)

    def _again(self, job: ClientJob, states: Mapping[Hashable, FutureState], error: BaseException) -> bool:
        """Begin again if a job has failed because something has gone that it took; return whether that is so."""
        client = self.client()
        if isinstance(error, KeptLost) and self.take:
            job.before = None  # the next one goes on with it
            other = replace(self, take=False)
        elif isinstance(error, ValueLost) and self.on is not None and self.on.values:
            job.resumable = False
            other = replace(self, on=Resumed(self.on.job))
        elif isinstance(error, StoreFull) and not self.full and client is not None and client._holdings.idle:
            other = replace(self, full=True, on=None if self.on is None else Resumed(self.on.job))
        else:
            return False
        next(iter(states.values())).registry.callers.call(partial(other._begin_left, job, states))
        return True

    def _begin_left(self, job: ClientJob, states: Mapping[Hashable, FutureState]) -> None:
        client = self.client()
        if self.full and client is not None:
            job.held.wait(_SETTLED_S)
            client._make_room()
        left = {key: state for key, state in states.items() if state.status == "pending"}
        if left:
            self._begin(left)

    def _without_failed(self, states: Mapping[Hashable, FutureState]) -> Mapping[Hashable, FutureState]:
        """Settle the states of calls that need a failed future, with its error; return the others.

        Raises a failed future's error if the graph is no plain row of calls.
        """
        failed = {future.key: future._state for future in self.inputs if future._state.error is not None}
        if not failed:
            return states
        if not isinstance(self.graph, dict):
            raise next(filter(None, (state.error for state in failed.values())))
        left = {}
        for key, state in states.items():
            needed = [failed[each] for each in self.graph[key].dependencies if each in failed]
            if needed:
                state.settle(needed[0].status, error=needed[0].error, raised=needed[0].raised)
            else:
                left[key] = state
        return left

    def again(self, key: Hashable, state: FutureState) -> None:
        """Do the work of this one state again; `key` is its key in the graph."""
        retry(future._state for future in self.inputs)
        job, client = state.job, self.client()
        replace(self, on=None, full=False).start({key: state})
        if client is not None and job is not None:
            # Behind the call, and without the client, which is not to stay open for it.
            state.registry.callers.call(partial(_forgo, client._holdings, job))


def _forgo(holdings: Holdings, job: Job) -> None:
    """Delete what a job has left if all that has failed of it is done anew."""
    asked = getattr(job, "asked", None)
    if not isinstance(asked, AskedFutures):
        return
    if not any(each.status == "error" and each.job is job for each in asked.states.values()):
        holdings.forgo(job)


@waiting()
def launch(
    client: Session,
    graph: Any,
    states: Mapping[Hashable, FutureState],
    inputs: Iterable[Future] = (),
    *,
    stream: bool = False,
    retries: int | None = None,
    budget_usd: float | None = None,
    collect: bool = False,
    keep: str | bool | None = None,
    annotations: Mapping[str, Any] | None = None,
) -> None:
    """Start the work that `states`, by the graph's keys, wait for; see `Work`."""
    held = tuple(Future(each._state) for each in inputs)
    ref, told = weakref.ref(client), annotations or {}
    try:
        Work(ref, graph, held, stream, retries, budget_usd, collect, keep, annotations=told).start(states)
    except BaseException as error:  # Ctrl-C: a later call of the same key is not to wait for these
        client._registry.fail(states.values(), error)
        for state in states.values():
            if state.cancel_job is not None:
                state.cancel_job()
        raise
