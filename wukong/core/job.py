"""The job, as the client sees it: ship, invoke, wait on one key, collect, and leave nothing behind.

    Graph -> pages, objects -> store          (a small DAG travels inside the payload instead)
    start tasks -> invocation records -> invoke
    wait for the key "done" -> values
    walk the tree of invocations -> reports, keys to delete

The client schedules nothing, it watches: if the platform reports an invocation dead, the client invokes it again under
the same id, which repeats nothing that counts (rule 2). After too many failures the job fails, with that invocation's
story.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

from wukong.core.account import Status, status_after
from wukong.core.budget import SpendingLimit
from wukong.core.dag import Graph
from wukong.core.events import Done
from wukong.core.ground import Ground
from wukong.core.history import History
from wukong.core.interrupts import waiting
from wukong.core.invocation_tree import InvocationState
from wukong.core.kept import keep_values
from wukong.core.leftovers import Leftovers
from wukong.core.names import Names, text_of
from wukong.core.noted import Taught
from wukong.core.policy import Policy
from wukong.core.raised import Raised
from wukong.core.record import JobRecord
from wukong.core.redirect import redirect
from wukong.core.remains import JobRemains
from wukong.core.results import Result, Results
from wukong.core.seats import free_seats
from wukong.core.settlement import Settlement
from wukong.core.shipment import Manifest, Shipment, manifest_of, pack
from wukong.core.storage import Buffer
from wukong.core.summary import Summary
from wukong.core.targets import Targets
from wukong.core.time_left import in_time, limited
from wukong.core.watch import Watch
from wukong.errors import (
    JobCancelled,
    JobStalled,
    JobTimeout,
    KeptLost,
    StoreError,
    StoreFull,
    StoreUnavailable,
    ValueLost,
)

logger = logging.getLogger(__name__)

_FIRST_SLICE_S = 0.02
_LAST_SLICE_S = 0.2
_CANCEL_S = 3.0
_REPORTS_S = 5.0
_BEGINS_ANEW = StoreFull, KeptLost
"""After these nothing stays: there is no room, or the client begins the job again by itself."""


class Job:
    """One run of one graph. Made by the client; use from one thread at a time, except `cancel` and `summary`.

    Args:
        ground: store, codec and backends, see `wukong.core.ground`.
        policy: its settings.
        graph: what to run; None for a job that is taken over (`attach`).
        job: its id; None: a new one.
        budget_usd: the cost at which it is stopped, in US dollars; None: no limit.
        began: when the user's call came, by `time.perf_counter`; None: now.
        keep: the values of requested tasks stay in the store; whoever takes their keys from `results` deletes them.
        stream: every requested value is stored as soon as it is there, so that it can be read before the job's end.
        collect: it goes on past tasks that fail, also if one value is requested (see `wukong.core.partial`).

    Attributes:
        id: its name. names: its keys in the store.
        inputs: objects that have to live as long as it runs.
        costs: what its executors are told of what moving things costs; later jobs are told what this one has found.
        ended: its outcome is known, or it was cancelled and settled.
        awaited: a thread is in `result`.
        when_settled: called once, when nothing more will be known of it.
        resumable: if it does not succeed, what it has stored stays, see `remains`.
    """

    def __init__(
        self,
        ground: Ground,
        policy: Policy,
        graph: Graph | None,
        *,
        job: str | None = None,
        stream: bool = False,
        keep: bool = False,
        collect: bool = False,
        budget_usd: float | None = None,
        began: float | None = None,
    ) -> None:
        self.id = secrets.token_hex(6) if job is None else job
        self.names = Names(self.id)
        self.policy = policy
        self.stream = stream
        self.keep = keep
        self._isolated = collect or (keep and graph is not None and len(graph.dag.outputs) > 1)
        self._budget = SpendingLimit(budget_usd)
        self.inputs: list[Any] = []
        self.ended = self.awaited = False
        self.when_settled: Callable[[Job], None] = lambda job: None
        self.resumable = graph is not None and policy.resume_jobs > 0
        self._holds = False
        self._ground, self._graph = ground, graph
        self._targets: Targets | None = None
        self._locks: frozenset[str] = frozenset()
        if graph is not None:
            self._targets, self._locks = redirect(graph, shares_files=ground.shares_files)
            keep_values(graph)
            self.resumable = self.resumable and self._targets is None  # what was written there is not there any more
        self._store, self._codec = ground.store, ground.codec
        self._send = ground.send(self.names)
        self.costs = replace(ground.costs)
        self._manifest: Manifest | None = None
        self._results: Results | None = None
        self._watch: Watch | None = None
        self._settlement: Settlement | None = None
        self._calls: list[tuple[str, bytes]] = []
        self._invoked = False
        self._history = History(ground, self.names, policy, graph, began)
        self._cancelled = threading.Event()
        self._stopped = self._swept = False
        self._settled = threading.Event()
        self._settling = threading.Lock()
        self._cancelling = threading.RLock()  # a signal's handler may cancel

    @classmethod
    def attach(cls, ground: Ground, job: str) -> Self:
        """Take over a job whose client is gone. Raises JobError if there is none, or only that client can finish it."""
        manifest = manifest_of(Names(job), ground.store, ground.codec)
        taken = cls(ground, manifest.policy, None, job=job)
        taken._take(manifest)
        taken._invoked = True
        taken._wanted()
        return taken

    def _take(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._results = Results(self.names, self._store, self._codec, manifest.outputs, manifest.request)
        self._watch = Watch(
            self.names,
            self._store,
            self._codec,
            self._send,
            self._ground.envelope,
            self.policy,
            manifest.roots,
            manifest.n_tasks,
            reship=self._reship,
            known=self._ground.known,
            alone=self._alone,
            sizes=self._ground.sizes,
            free=free_seats(self.names, self._store, self.policy) if manifest.limits else None,
            limit_s=self._ground.limit_s,
        )
        self._history.shipped(manifest, self._watch, self._results)
        self._settlement = Settlement(
            self._ground,
            self.names,
            self._watch,
            self._history,
            Leftovers(self.names, manifest, self._results.kept, release=self.policy.release),
            targets=self._targets,
            limits=manifest.limits,
            known=self._graph is not None,
            ttl_s=self.policy.ttl_s,
        )

    def _alone(self, task: str) -> int | None:
        """Return the number of the task with this key, if it may fail without the job; None: the job fails with it."""
        if self._graph is None or not self._isolated:
            return None
        return next((number for number, key in enumerate(self._graph.keys) if text_of(key) == task), None)

    def _wanted(self) -> None:
        """Tell the executors that the job has a client, by a sign of life that is this client's alone."""
        self._ground.locks.take_over(self._store, self.names)
        self._store.put({self.names.alive: secrets.token_bytes(4)}, self.policy.ttl_s)

    @property
    def status(self) -> Status:
        """What has become of it, as far as its client knows."""
        return self._history.status

    @property
    def failures(self) -> Sequence[bytes]:
        """Keys of what is kept of its failed tasks, once it is settled; whoever takes the job deletes them."""
        return () if self._settlement is None else self._settlement.failures

    @property
    def began_at(self) -> float:
        """When the user's call came, in Unix time."""
        return self._history.began_at

    @property
    def results(self) -> Results:
        """The reader of its values, once it is shipped."""
        assert self._results is not None, "the job has not been shipped"
        return self._results

    @property
    def graph(self) -> Graph | None:
        """What it runs; None: this client has taken it over, and does not know."""
        return self._graph

    @property
    def outgrew(self) -> bool:
        """Whether it has ended, and tasks of it have ended functions for their memory: it has something to teach."""
        return self.ended and self._watch is not None and bool(self._watch.outgrown)

    @property
    def n_tasks(self) -> int:
        """How many tasks it has; 0 until it is shipped."""
        return 0 if self._manifest is None else self._manifest.n_tasks

    @property
    def manifest(self) -> Manifest:
        """The job, once it is shipped."""
        assert self._manifest is not None, "the job has not been shipped"
        return self._manifest

    # --- ship

    def ship(self) -> None:
        """Put into the store what executors need: objects, the DAG's pages, the first invocations' records."""
        self.costs = replace(self._ground.costs)
        packed = self._packed()
        over = self._ground.locks.use(self.names, self._locks)
        self._calls = packed.calls
        self._take(packed.manifest)
        pages = {} if packed.inside else packed.pages
        try:
            self._store.put({**packed.items, **pages, **over, self.names.alive: b"0"}, self.policy.ttl_s)
        except StoreUnavailable:
            self._manifest = None  # the store is not asked to delete any of this: it has a time to live
            raise

    def _reship(self) -> bool:
        """Ship once more: the store has lost some of it. Returns False if the graph is another client's."""
        if self._graph is None:
            return False
        packed = self._packed()  # all pages: executors have them from the store, once there are several
        self._store.put({**packed.items, **packed.pages}, self.policy.ttl_s)
        return True

    def _packed(self) -> Shipment:
        assert self._graph is not None
        ground, stream, keep = self._ground, self.stream, self.keep
        codec, envelope, costs, plan = self._codec, ground.envelope(), self.costs, ground.plan
        writes = () if self._targets is None else self._targets.descriptions()
        return pack(
            self._graph,
            self.names,
            codec,
            envelope,
            self.policy,
            costs,
            plan,
            stream=stream,
            keep=keep,
            isolated=self._isolated,
            shares_files=ground.shares_files,
            writes=writes,
        )

    def invoke(self) -> None:
        """Make the first invocations. Raises JobCancelled."""
        self._invoked = True
        if self._cancelled.is_set():  # by another thread, which found nobody to tell to stop
            raise JobCancelled("the job was cancelled", job=self.id)
        self._history.ingested()
        calls, self._calls = self._calls, []
        self._history.invoked(self._send(calls))

    # --- wait and collect

    @waiting()
    def result(self, timeout_s: float | None = None, tick: Callable[[Job], None] | None = None) -> dict[Hashable, Any]:
        """Wait for the end and return the requested values by key. `tick` is called now and then meanwhile.

        Raises the task's own exception if one failed, JobCancelled, JobTimeout (the job goes on), InvocationFailed.
        """
        self.awaited = True
        try:
            with in_time(timeout_s, "no result", self.id):
                return self._result(math.inf if timeout_s is None else time.monotonic() + timeout_s, tick)
        finally:
            self.awaited = False

    def _result(self, until: float, tick: Callable[[Job], None] | None) -> dict[Hashable, Any]:
        slice_s = _FIRST_SLICE_S
        while True:
            left_s = max(0.0, min(slice_s, until - time.monotonic()))
            blob = self._store.wait(self.names.done, left_s)
            if blob is not None:
                values = self.results.by_key(self._done(blob))
                if values is not None:
                    return values
                self._recover_results()
                continue
            if time.monotonic() >= until:
                raise JobTimeout("no result within the time given", job=self.id)
            self.tend()
            if tick is not None:
                tick(self)
            slice_s = min(slice_s * 1.5, _LAST_SLICE_S)

    def tend(self) -> None:
        """Look after a running job. Raises JobCancelled, BudgetReached, InvocationFailed, JobStalled."""
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled", job=self.id)
        assert self._watch is not None
        try:
            self._watch.tend(self._ground.failures(self.id))
        finally:
            if self._cancelled.is_set():  # by another thread, which may have deleted it before it was written here
                with suppress(StoreError):
                    self._store.delete([self.names.alive])
        if self._targets is not None:
            self._targets.collect(self._store, self._codec, self.names)
        self._budget.check(self._history.summary)

    def last(self, blob: Buffer) -> Iterator[Result]:
        """Yield the last results; `blob` is what was found under ``done``. Raises the exception that failed the job."""
        return self.results.last(self._done(blob))

    def _done(self, blob: Buffer) -> Done:
        done = self.results.done(blob)
        self._history.over("succeeded" if done.raised is None else "failed")
        self.ended = True
        if done.raised is not None:
            self._stopped = True
            self._ground.stop(self.names.label(""))
            self._history.failed(done.raised)
            error = done.raised.error()
            self.resumable = self.resumable and not isinstance(error, _BEGINS_ANEW)
            raise error
        if self._targets is not None:
            self._targets.collect(self._store, self._codec, self.names, final=True)
        return done

    def _recover_results(self) -> None:
        """Have a result that is not in the store any more computed again, from what is left."""
        assert self._watch is not None
        self.ended = False
        self._history.on_again()
        self._store.delete([self.names.done, self.names.record(self.manifest.n_tasks)])
        self._watch.revive(list(self._watch.tree.states()))

    def cancel(self, because: BaseException | None = None) -> None:
        """Stop the job and its executors, for the reason given. The waiting thread gets JobCancelled.

        If the store has lost something or is full, the hint of `because` names the servers that evict.
        """
        if isinstance(because, JobStalled | StoreFull | ValueLost) and (lines := self._ground.evictions()):
            because.hint = "; ".join(dict.fromkeys([*lines, *filter(None, [because.hint])]))
        if self.ended or self._cancelled.is_set():
            return
        with self._cancelling:
            if not self.ended and not self._cancelled.is_set():
                self._cancelled.set()
                self._cancel(because)

    def _cancel(self, because: BaseException | None) -> None:
        self.resumable = self.resumable and not isinstance(because, _BEGINS_ANEW)
        self._history.over(status_after(because))
        if because is not None:
            self._history.failed(Raised.of(because, getattr(because, "task", None)))
        if not self._invoked:
            return
        if isinstance(because, StoreUnavailable):  # it was asked for long enough; `settle` tries once more
            self._ground.stop(self.names.label(""))
            return
        try:
            with limited(_CANCEL_S):  # whoever cancels waits for this
                self._history.known = self._states()
                if self.resumable and self._manifest is not None:
                    self._holds = True
                    with suppress(StoreError), limited(_CANCEL_S / 2):  # executors are told to stop in any case
                        self._store.put({self.names.held: b"1"}, self.policy.ttl_s)
                self._store.delete([self.names.alive])
        except StoreError as error:
            logger.warning("job %s cannot tell its executors to stop; they will find out: %s", self.id, error.message)
        finally:
            self._ground.stop(self.names.label(""))

    # --- afterwards

    def progress(self) -> int:
        """Return how many tasks the executors had run when they last said so."""
        return 0 if self._watch is None else self._watch.tasks_run

    def _states(self) -> list[InvocationState]:
        return [] if self._watch is None or not self._invoked else list(self._watch.tree.states())

    def settle(self) -> None:
        """Take in the executors' reports and delete every key of the job, except the values that are kept. Once."""
        try:
            with self._cancelling:  # executors that are stopped later would leave what they write meanwhile
                self.ended = True
            with self._settling:
                if self._manifest is not None and not self._swept:  # it was shipped
                    assert self._settlement is not None
                    cancelled = self._cancelled.is_set()
                    hold = self.resumable and self._invoked and self.status not in ("running", "succeeded")
                    if self._holds and not hold:
                        self._store.delete([self.names.held])
                    stopped = self._stopped or cancelled
                    stays = self._stays if hold else None
                    self._settlement.settle(self._states, stopped=stopped, cancelled=cancelled, stays=stays)
                first, self._swept = not self._swept, True
        finally:
            self._history.closed()
            self._settled.set()
        if first:
            self.when_settled(self)

    def _stays(self, key: bytes) -> bool:
        """Whether another job may take what is under this key, see `wukong.core.remains`."""
        return self.names.remains(key) and not (self._isolated and key.startswith(self.names.value(0)[:-1]))

    @property
    def remains(self) -> JobRemains | None:
        """What it has left for another job to go on with, once it is settled; whoever takes it deletes it."""
        if self._settlement is None or self._settlement.held is None or self._graph is None:
            return None
        keys, stored = self._settlement.held
        ground, kept = self._ground, self.results.kept
        return JobRemains(
            self.names,
            self._graph,
            keys,
            stored,
            kept,
            isolated=self._isolated,
            leaves=ground.leaves,
            listed=lambda prefix: ground.listed(prefix, True),
        )

    def settled_within(self, timeout_s: float) -> bool:
        """Wait at most so many seconds until nothing more will be known of it; return whether that is so."""
        return self._settled.wait(timeout_s)

    @property
    def record(self) -> JobRecord:
        """What every task and every executor did; of a job that runs, what is known so far, at once.

        After the job's end, this waits some seconds for the executors' last reports.
        """
        self._await_reports(_REPORTS_S)
        return self._history.record()

    def taught(self) -> Taught:
        """Return what there is to learn from a job that has settled; see `wukong.core.history.History.taught`."""
        return self._history.taught()

    def summary(self, timeout_s: float = _REPORTS_S) -> Summary:
        """Return what the job did and cost; while it runs, what is known so far, at once.

        After its end, this waits up to `timeout_s` for the executors' last reports.
        """
        self._await_reports(timeout_s)
        return self._history.summary()

    def _await_reports(self, timeout_s: float) -> None:
        if self.ended:
            self._settled.wait(timeout_s)

    def __repr__(self) -> str:
        on = f" on {self._ground.backends}" if self._ground.backends else ""
        return f"<wukong job {self.id}: {self.status}{on}>"
