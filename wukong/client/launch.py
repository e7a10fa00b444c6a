"""Work in the background: a job for some futures, started as soon as the futures that it needs are done.

    submit, map, compute, persist  ->  Work  --inputs are done-->  job  ->  the futures' states
                                        ^------------ retry --------------------'  failed, or a kept value has gone

A `Work` does not keep its client open; futures in users' hands do.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wukong.client.futures import Future, FutureState, retry
from wukong.client.plans import planning, stand_ins
from wukong.client.registry import NotReady
from wukong.errors import JobCancelled

if TYPE_CHECKING:
    from wukong.client.session import Session


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
                return
            known = registry.known(without=states.keys())
            graph = client._keep_values.ingested(self.graph, list(states), known, self.keep, take=self.take)
            if (plans := planning()) is not None:
                plans.append(client._plan(graph, self.graph, 0.0))
                for key, value in stand_ins(graph).items():
                    states[key].settle("finished", value)
                return
            given: dict[str, Any] = {"retries": self.retries, "budget_usd": self.budget_usd, "stream": self.stream}
            job = client._job(graph, keep=True, collect=self.collect, **given)
            job.inputs = [self]  # its futures have to live as long as the job
            again = partial(replace(self, take=False)._begin_left, states) if self.take else None
            sink = registry.sink(job, graph, states, client._deployment.forget, again)
        except NotReady as pending:
            ready = partial(registry.callers.call, partial(self._begin, states))
            pending.state.when_done(lambda _: ready())
        except BaseException as error:
            registry.fail(states.values(), error)
        else:
            if not graph.dag.outputs:
                return
            for state in states.values():
                state.cancel_job = job.cancel
            client._background.watch(job, partial(client._deployment.start, job), sink)

    def _begin_left(self, states: Mapping[Hashable, FutureState]) -> None:
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
        self.start({key: state})


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
) -> None:
    """Start the work that `states`, by the graph's keys, wait for; see `Work`."""
    held = tuple(Future(each._state) for each in inputs)
    Work(weakref.ref(client), graph, held, stream, retries, budget_usd, collect, keep).start(states)
