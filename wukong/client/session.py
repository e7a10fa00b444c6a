"""What is behind a client: its two backends, its jobs, and all that ends when it is closed.

    a graph -> ingest -> job -> values      in the calling thread; `wukong.client.launch` does so in the background
    a job that has settled -> sums, lessons for plans, its record as a file

`wukong.Client` is a session with an interface like that of `distributed`.
"""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections import ChainMap, deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from wukong.backends.storage import Store
from wukong.client import signals
from wukong.client.background import Background
from wukong.client.callbacks import Callbacks
from wukong.client.deployment import Deployment
from wukong.client.display import Bar
from wukong.client.futures import StoredValue
from wukong.client.given import OF_GET, known_only
from wukong.client.holdings import Holdings
from wukong.client.job import ClientJob, hand_spans, keep_record
from wukong.client.keeping import Keep, named, opened
from wukong.client.lease import RENEW_S, RENEWALS
from wukong.client.live import Live
from wukong.client.pace import Pace
from wukong.client.plans import Lessons, expected_s, place_of, planned, planning, stand_ins, store_of
from wukong.client.registry import NotReady, Registry
from wukong.client.resuming import Asked, AskedFutures, Resumed, hinted, shaped
from wukong.client.scheduler import restore_default
from wukong.client.total import Total, accounts
from wukong.config import Settings
from wukong.core.dag import Graph, Literal
from wukong.core.interrupts import held, waiting
from wukong.core.job import Job
from wukong.core.shipment import KeptValue
from wukong.core.time_left import in_time
from wukong.errors import ClientClosed, KeptLost, NotOffered, StoreFull, ValueLost

if TYPE_CHECKING:
    from wukong.client.client_plan import ClientPlan
    from wukong.client.cluster import LocalCluster
    from wukong.client.dashboard import Dashboard

_LEARNED_S = 10.0
_ROOM_S = 30.0
_MOST_PLANS = 8


class Session:
    """See `wukong.client.client.Client`, which is the only one.

    Attributes:
        settings: the configuration, with the options that were given.
        id: a name of its own. faas, storage: the two backends.
        cluster: the `wukong.LocalCluster` that was given, or None.
        asynchronous: whether methods and futures are awaited.
    """

    asynchronous = False

    def __init__(self, faas: Any, storage: Any, **options: Any) -> None:
        from wukong.client.cluster import LocalCluster

        self.cluster: LocalCluster | None = None
        if isinstance(faas, LocalCluster):
            self.cluster = faas
            faas, given = faas.faas, faas.options
            storage = self.cluster.storage if storage is None else storage
            options = {**given, **options}
        self.settings = Settings.load(faas=faas, storage=storage, **options)
        name = uuid.uuid4().hex[:12]
        self.id = f"Client-{name}"
        self._deployment = deployment = Deployment(self.settings, name)
        self.faas, self.storage = deployment.faas, deployment.storage
        scan = deployment.store.scan if self.storage.capabilities.scans else None
        shelf = partial(opened, self.settings, deployment.store, scan)
        self._keep_values = Keep(self.settings, shelf, deployment.codec.fingerprint)
        self._accounts = accounts(deployment.described())
        self._holdings = Holdings(deployment)
        costs, store = deployment.ground.costs, store_of(self.settings)
        self._lessons = Lessons(place_of(deployment), costs, deployment.faas_name, store)
        renew_s = min(RENEW_S, deployment.ttl_s / RENEWALS)
        self._background = Background(deployment.store, partial(_renewed, self._holdings, self._lessons), renew_s)
        self._registry = Registry(deployment.store, deployment.codec, self._background.delete, deployment.owner)
        self._registry.progress = self.settings.progress
        self._registry.evictions = deployment.evictions
        self._registry.drain = deployment.faas.drain
        self._holdings.kept = self._registry.kept
        self._last_job: ClientJob | None = None
        # Not among the holdings, which outlive the client: futures in what was asked for may hold it.
        self._failed_jobs: deque[ClientJob] = deque(maxlen=self.settings.resume_jobs)
        self._numbers = count()
        self._plans: deque[tuple[Hashable, ClientPlan]] = deque(maxlen=_MOST_PLANS)
        self._closed = False
        self._live = Live(self.id, self.settings.dashboard_address)
        parts = deployment, self._background, self._holdings, self._lessons, self._live
        self._finalizer = weakref.finalize(self, _close, *parts)
        if self.settings.close_on_signals:
            signals.close_on_signals(self._finalizer)
        if type(self.storage).evictions is not Store.evictions:
            self._background.aside(deployment.warn_of_evictions)

    # --- jobs

    def _get(self, dsk: Any, keys: Any, options: Mapping[str, Any]) -> Any:
        known_only("a computation", options, *OF_GET)
        callbacks = Callbacks()
        errored = True
        try:
            values = self._run(dsk, keys, callbacks, options)
            errored = False
        finally:
            callbacks.finish(errored=errored)

        def nested(wanted: Any) -> Any:
            return tuple(map(nested, wanted)) if isinstance(wanted, list) else values[wanted]

        return nested(keys)

    @waiting()
    def _run(
        self, dsk: Any, keys: Any, callbacks: Callbacks, options: Mapping[str, Any], on: Resumed | None = None
    ) -> Mapping[Hashable, Any]:
        take, full = True, False
        while True:
            try:
                return self._run_once(dsk, keys, callbacks, options, take=take, on=on)
            except StoreFull:
                if full or not self._holdings.idle:
                    raise
                full, on = True, None if on is None else Resumed(on.job)
                self._make_room()
            except KeptLost:  # others may have gone as well
                if not take:
                    raise
                take = False
            except ValueLost:
                if on is None or not on.values:
                    raise
                on = Resumed(on.job)

    def _run_once(
        self,
        dsk: Any,
        keys: Any,
        callbacks: Callbacks,
        options: Mapping[str, Any],
        *,
        take: bool = True,
        on: Resumed | None = None,
    ) -> Mapping[Hashable, Any]:
        values = {} if on is None else on.values
        keep = options.get("keep")
        self._check_call(options.get("retries"), options.get("budget_usd"), keep)
        timeout_s = self.settings.of_call("timeout_s", options.get("timeout"))
        began = time.perf_counter()
        graph = self._ingest(dsk, keys, values, keep, take)
        if (plans := planning()) is not None:
            plans.append(self._plan(graph, dsk, time.perf_counter() - began))
            return stand_ins(graph)
        if callbacks:
            tasks = dsk if isinstance(dsk, Mapping) else dict(zip(graph.keys, graph.ops, strict=True))
            if there := callbacks.start(tasks):
                graph = self._ingest(dsk, keys, {**values, **there}, keep, take)
            callbacks.begin(graph)
        if not graph.dag.outputs:
            return self._read({key: at.value for key, at in graph.request.items() if isinstance(at, Literal)})
        job = self._job(
            graph,
            events=bool(callbacks),
            retries=options.get("retries"),
            budget_usd=options.get("budget_usd"),
            collect=bool(options.get("collect")),
            began=began,
        )
        job.asked = Asked.of(dsk, keys, options)
        if on is not None:
            on.begins(job)
        bar = Bar(self.settings.progress, lambda: (job.progress(), len(graph.ops)), Pace(lambda: [job]).details)

        def tick(job: Job) -> None:
            self._check_open()
            bar.tick()
            if callbacks:
                callbacks.tick(job)

        done = False
        try:
            with in_time(timeout_s, "no result", job.id):
                self._deployment.start(job)
                found = self._read(job.result(timeout_s, tick))
            done = True
        except BaseException as error:
            job.cancel(error)
            if isinstance(error, KeptLost) and take:
                job.before = None  # the next one goes on with it
            if isinstance(error, ValueLost) and values:
                job.resumable = False  # it is begun anew
            hinted(error, job)
            raise
        finally:
            with held():
                try:
                    bar.close(done=done, drain=self.faas.drain)
                finally:
                    self._background.settle(job)
                    self._deployment.forget(job)
        if callbacks:
            callbacks.replay(job, found)
        return found

    def _read(self, values: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Return these values, those among them read that the store keeps. Raises ValueLost."""
        stored = {key: StoredValue(value.key) for key, value in values.items() if type(value) is KeptValue}
        if not stored:
            return values
        return {**values, **dict(zip(stored, self._registry.fetch([*stored.values()]), strict=True))}

    def _resume(self, job: ClientJob, given: Mapping[str, Any]) -> Any:
        """Ask again for what a job was asked for; `given`: options of this call."""
        remains, values = self._holdings.take(job.id)
        on, asked = Resumed(job, values, remains), job.asked
        if isinstance(asked, AskedFutures):
            states = self._registry.reopen(asked.states.values())
            left = {key: state for key, state in asked.states.items() if state in states}
            if left:
                replace(asked.work, on=on, **{k: v for k, v in given.items() if k != "timeout"}).start(left)
            elif remains is not None:
                self._let_go(on)
            return asked.states
        assert asked is not None
        callbacks, errored = Callbacks(), True
        try:
            found = self._run(asked.described, asked.keys, callbacks, {**asked.options, **given}, on)
            errored = False
        finally:
            callbacks.finish(errored=errored)
            if not on.begun and not errored:
                self._let_go(on)
            elif not on.begun:
                self._holdings.give_back(job.id)
        return shaped(asked.keys, found.__getitem__)

    def _make_room(self) -> None:
        """Delete what failed jobs have left, behind what is cleaned up after the one that found the store full."""
        made = threading.Event()

        def make() -> None:
            try:
                self._holdings.make_room()
            finally:
                made.set()

        self._background.aside(make)
        made.wait(_ROOM_S)

    def _let_go(self, on: Resumed) -> None:
        if on.remains is not None:
            self._background.aside(partial(self._holdings.let_go, on.remains))

    def _ingest(
        self, dsk: Any, keys: Any, there: Mapping[Hashable, Any] | None = None, keep: Any = None, take: bool = True
    ) -> Graph:
        """Ingest a graph, except for the values that are `there` already; wait for the futures that it needs.

        `keep`: under which name results are kept. `take`: what is kept is taken.
        """
        while True:
            known = self._registry.known()
            try:
                there_too = ChainMap(dict(there), known) if there else known  # type: ignore[arg-type]
                return self._keep_values.ingested(dsk, keys, there_too, keep, take=take)
            except NotReady as pending:
                pending.state.wait(None)

    def _job(self, graph: Graph, **options: Any) -> ClientJob:
        self._lessons.recall()
        last, self._last_job = self._last_job, self._deployment.job(graph, **options)
        job = self._last_job
        sizes = self._deployment.platform.limits.sizes
        if self.settings.learned_sizes and len(sizes) > 1:
            if last is not None and last.outgrew:
                self._await_lessons()
            self._lessons.size(graph, sizes)
        if self._plans:
            same = _same(graph)
            job.plan = next((plan for each, plan in reversed(self._plans) if each == same), None)
        self._keep(job)
        return job

    def _keep(self, job: ClientJob) -> None:
        self._accounts.open(job)
        live = self._live
        context: Any = None
        if self.settings.opentelemetry:
            from wukong.report.otel import current

            context = current()
        count, learn, records = job.when_settled, self._lessons.take, self.settings.records
        names = {order.name for order in job.graph.keeping.values()} if job.graph is not None else set()
        evict = self._keep_values.evict
        keep_failures, opentelemetry = self._holdings.keep_failures, self.settings.opentelemetry
        hold, failed_jobs, resume_jobs = self._holdings.hold, self._failed_jobs, self.settings.resume_jobs

        def settled(job: Job) -> None:
            keep_failures(job)
            assert isinstance(job, ClientJob)
            if job.status == "succeeded" or not resume_jobs:
                job.asked = None
            elif job.asked is not None:
                failed_jobs.append(job)
            hold(job)
            count(job)
            learn(job)
            if records is not None:
                keep_record(job, records)
            if names:
                evict(names)
            live.feed.settled(job)
            if opentelemetry:
                hand_spans(job, context)

        job.when_settled = settled
        job.link = lambda: live.link
        job.expects = partial(expected_s, self._lessons)
        live.feed.add(job)
        self._holdings.add(job)
        self._background.begin()

    def _plan(self, graph: Graph, described: Any, before_s: float) -> ClientPlan:
        if self._last_job is not None:
            self._await_lessons()
        self._lessons.recall()
        plan = planned(self._deployment, self._lessons, graph, described, before_s)
        self._plans.append((_same(graph), replace(plan, record=None)))
        return plan

    def _await_lessons(self) -> None:
        """Wait until what the last job has taught is taken in, which is done behind what is cleaned up after it."""
        learned = threading.Event()
        self._background.aside(learned.set)
        learned.wait(_LEARNED_S)

    def cost(self) -> Total:
        """Return what all jobs of this client did and cost up to now, those that run included."""
        self._deployment.owner.check()
        return self._accounts.total()

    @property
    def last_job(self) -> ClientJob | None:
        """The job that was started last: its ``id``, ``summary()``, ``record``, ``report()``, ``trace()``."""
        return self._last_job

    @property
    def dashboard(self) -> Dashboard:
        """The page of this client's jobs, live, for a browser on this machine: ``print(client.dashboard)`` is its link.

        It serves from its first use until the client closes, on the loopback interface unless `dashboard_address` says
        otherwise. Raises ClientClosed, and ConfigError if it cannot listen there.
        """
        self._check_open()
        return self._live.dashboard()

    @property
    def dashboard_link(self) -> str:
        """The dashboard's address, as of `distributed.Client.dashboard_link`."""
        return self.dashboard.link

    def get_versions(self, check: bool = False, packages: Sequence[str] = ()) -> dict[str, Any]:
        """Return what the client and its functions are made of: one function is asked, by a job.

        ``{"client": {"python": ..., "packages": {name: version}, "missing": [...], "architecture": ...},
        "function": ..., "differences": [...]}``. `packages`: modules to look for besides. With `check`, raises
        BackendError if there are differences that make code or values of one side fail on the other.
        """
        from wukong.client.versions import versions

        return versions(self, check=check, modules=packages)

    def __getattr__(self, name: str) -> Any:
        from wukong.not_here import METHODS

        if name in METHODS:
            raise NotOffered(f"a Wukong client has no {name!r}, which is of distributed", hint=METHODS[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- life

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self, timeout: float | None = None) -> None:
        """Stop what runs, delete what is kept, and close both backends. Futures without a value become cancelled."""
        if self._closed:
            return
        try:
            with held(), signals.closing():
                self._closed = True
                restore_default()
                if not self._deployment.owner.here():
                    return
                self._registry.close()
                self._registry.callers.drain()
                self._finalizer()
        finally:
            signals.closed()

    def _check_call(self, retries: Any, budget_usd: Any, keep: Any = None) -> None:
        """Raise ClientClosed, or ConfigError if one of these is none, before anything is begun."""
        self._check_open()
        self.settings.of_call("retries", retries)
        self._deployment.budget(budget_usd)
        if keep:
            named(keep)

    def _check_open(self) -> None:
        self._deployment.owner.check()
        if self._closed:
            raise ClientClosed("this client is closed", hint="make a new wukong.Client()")


def _same(graph: Graph) -> Hashable:
    """Return what two graphs have in common that compute the same: Dask's keys name what is computed.

    Except for tasks that put a collection together: their keys are other ones each time, those of their inputs are not.
    """
    dag, keys = graph.dag, graph.keys
    named, left = set[Hashable](), list(dag.outputs)
    while left:
        task = left.pop()
        key = keys[task]
        if isinstance(key, str) and "finalize-" in key and (inputs := dag.parents_of(task)):
            left += inputs
        else:
            named.add(key)
    return len(dag), frozenset(named)


def _renewed(holdings: Holdings, lessons: Lessons) -> None:
    holdings.renew()
    lessons.learn()


@held()
@signals.closing()
def _close(deployment: Deployment, background: Background, holdings: Holdings, lessons: Lessons, live: Live) -> None:
    if not deployment.owner.here():  # a forked child ends, and what is open and kept is its parent's
        return
    try:
        background.close(holdings.give_up)
    finally:
        live.close()
        lessons.flush()
        deployment.close()
