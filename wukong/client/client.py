"""The client: Dask's scheduler, and futures.

    client.get(graph, keys)          one job, in the calling thread (`scheduler` is what Dask calls)
    client.submit / map / compute    jobs in the background; one thread (`background`) watches them

A client opens one FaaS backend and one store (`deployment`), and closes them; several clients are independent
of each other.
"""

from __future__ import annotations

import threading
import time
import uuid
import weakref
from collections import ChainMap
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import dask
from dask._task_spec import Task
from dask.base import collections_to_expr, is_dask_collection, tokenize
from dask.core import flatten
from dask.utils import apply, funcname

from wukong.backends.storage import Store
from wukong.client import signals
from wukong.client.attached import Attached
from wukong.client.background import Background
from wukong.client.callbacks import Callbacks
from wukong.client.deployment import Deployment
from wukong.client.display import Bar
from wukong.client.following import settled
from wukong.client.futures import Future, FutureState, StoredValue, retry
from wukong.client.holdings import Holdings
from wukong.client.job import ClientJob, keep_record
from wukong.client.launch import launch
from wukong.client.lease import RENEW_S, RENEWALS
from wukong.client.nested import SKIPPED, filled, find_futures, hides_collection
from wukong.client.notebook import card
from wukong.client.plans import Lessons, a_few, place_of, planned, planning, stand_ins
from wukong.client.registry import NotReady, Registry
from wukong.client.scheduler import Scheduler, become_default, restore_default
from wukong.client.total import Total, accounts
from wukong.config import Settings
from wukong.core.dag import Graph, Literal
from wukong.core.ingest import ingest
from wukong.core.job import Job
from wukong.core.names import kept
from wukong.core.redirect import stores
from wukong.core.references import with_refs
from wukong.core.time_left import in_time
from wukong.errors import ClientClosed

if TYPE_CHECKING:
    from wukong.planning.plan import Plan
_LEARNED_S = 10.0


class Client:
    """Run Dask graphs on cloud functions.

    Args:
        faas: the FaaS backend: a plug-in's name, a URL, a mapping of ``name`` and options, or a
            `wukong.LocalCluster`. None: what the configuration says, at first ``local``, the emulator.
        storage: the intermediate store, likewise; None: as configured, at first ``local``, the embedded store.
        set_as_default: be Dask's default scheduler until it is closed; of several clients, the last one made is.
        options: any setting of `wukong.config.Settings`, on top of the configuration.

    Raises ConfigError for a setting that is unknown or wrong, PluginError for a backend that cannot be loaded.

    A client is a context manager, which closes it; inside, it is the default in any case. It may be used from several
    threads.
    """

    asynchronous = False
    """False: no method has to be awaited. Clients of `distributed` have this attribute."""

    def __init__(self, faas: Any = None, storage: Any = None, *, set_as_default: bool = True, **options: Any) -> None:
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
        self._accounts = accounts(deployment.described())
        self._holdings = Holdings(deployment)
        self._lessons = Lessons(place_of(deployment))
        renew_s = min(RENEW_S, deployment.ttl_s / RENEWALS)
        self._background = Background(deployment.store, partial(_renewed, self._holdings, self._lessons), renew_s)
        self._registry = Registry(deployment.store, deployment.codec, self._background.delete, deployment.owner)
        self._registry.progress = self.settings.progress
        self._registry.evictions = deployment.evictions
        self._holdings.kept = self._registry.kept
        self._last_job: ClientJob | None = None
        self._numbers = count()
        self._closed = False
        self._finalizer = weakref.finalize(self, _close, deployment, self._background, self._holdings, self._lessons)
        if self.settings.close_on_signals:
            signals.close_on_signals(self._finalizer)
        if type(self.storage).evictions is not Store.evictions:
            self._background.aside(deployment.warn_of_evictions)
        if set_as_default:
            become_default(self)

    # --- Dask's scheduler

    @property
    def get(self) -> Scheduler:
        """Dask's scheduler function: ``client.get(graph, keys)``, ``x.compute(scheduler=client.get)``.

        See `wukong.client.scheduler.Scheduler`.
        """
        return Scheduler(self)

    def _get(self, dsk: Any, keys: Any, options: Mapping[str, Any]) -> Any:
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

    def _run(self, dsk: Any, keys: Any, callbacks: Callbacks, options: Mapping[str, Any]) -> Mapping[Hashable, Any]:
        self._check_open()
        began = time.perf_counter()
        graph = self._ingest(dsk, keys)
        if (plans := planning()) is not None:
            plans.append(self._plan(graph, dsk, time.perf_counter() - began))
            return stand_ins(graph)
        if callbacks:
            tasks = dsk if isinstance(dsk, Mapping) else dict(zip(graph.keys, graph.ops, strict=True))
            if there := callbacks.start(tasks):
                graph = self._ingest(dsk, keys, there)
            callbacks.begin(graph)
        if not graph.dag.outputs:
            return {key: where.value for key, where in graph.request.items() if isinstance(where, Literal)}
        job = self._job(
            graph,
            events=bool(callbacks),
            retries=options.get("retries"),
            budget_usd=options.get("budget_usd"),
            began=began,
        )
        bar = Bar(self.settings.progress, lambda: (job.progress(), len(graph.ops)))
        timeout_s = options.get("timeout", self.settings.timeout_s)

        def tick(job: Job) -> None:
            self._check_open()
            bar.tick()
            if callbacks:
                callbacks.tick(job)

        done = False
        try:
            with in_time(timeout_s, "no result", job.id):
                self._deployment.start(job)
                values = job.result(timeout_s, tick)
            done = True
        except BaseException as error:
            job.cancel(error)
            raise
        finally:
            bar.close(done=done)
            self._background.settle(job)
            self._deployment.forget(job)
        if callbacks:
            callbacks.replay(job, values)
        return values

    def _ingest(self, dsk: Any, keys: Any, there: Mapping[Hashable, Any] | None = None) -> Graph:
        """Ingest a graph, except for the values that are `there` already; wait for the futures that it needs."""
        while True:
            known = self._registry.known()
            try:
                return ingest(dsk, keys, known=ChainMap(dict(there), known) if there else known)  # type: ignore[arg-type]
            except NotReady as pending:
                pending.state.wait(None)

    def _job(self, graph: Graph, **options: Any) -> ClientJob:
        self._last_job = job = self._deployment.job(graph, **options)
        self._keep(job)
        return job

    def _keep(self, job: Job) -> None:
        self._accounts.open(job)
        count, learn, records = job.when_settled, self._lessons.take, self.settings.records

        def settled(job: Job) -> None:
            count(job)
            learn(job)
            if records is not None:
                keep_record(job, records)

        job.when_settled = settled
        self._holdings.add(job)
        self._background.begin()

    def plan(self, *collections: Any, optimize_graph: bool = True, sample: bool = False) -> Plan:
        """Plan what computing these collections together would take, move and cost here; nothing is computed.

        Sizes come from the collections' metadata, durations from what earlier jobs of this user have taught. `sample`:
        first run one task of each layer of which nothing is known, with all that it needs, if that is a small part of
        the whole. See `wukong.planning.plan.Plan`. Raises TypeError for what is no collection.
        """
        self._check_open()
        items = [each for given in collections for each in (given if isinstance(given, (list, tuple)) else [given])]
        if not items or not all(map(is_dask_collection, items)):
            raise TypeError("plan takes Dask collections")
        from dask._expr import FinalizeCompute

        began = time.perf_counter()
        expr = FinalizeCompute(collections_to_expr(items, optimize_graph)).optimize()
        graph = self._ingest(expr, list(flatten(expr.__dask_keys__())))
        before_s = time.perf_counter() - began
        found = self._plan(graph, expr, before_s)
        if not sample or not (keys := a_few(graph, found.guesses)):
            return found
        self._run(expr, keys, Callbacks(), {})
        return self._plan(graph, expr, before_s)

    def _plan(self, graph: Graph, described: Any, before_s: float) -> Plan:
        if self._last_job is not None:  # what it has taught is taken in behind what is cleaned up after it
            learned = threading.Event()
            self._background.aside(learned.set)
            learned.wait(_LEARNED_S)
        return planned(self._deployment, self._lessons, graph, described, before_s)

    def cost(self) -> Total:
        """Return what all jobs of this client did and cost up to now, those that run included."""
        self._deployment.owner.check()
        return self._accounts.total()

    @property
    def last_job(self) -> ClientJob | None:
        """The job that was started last: its ``id``, ``summary()``, ``record``, ``report()``, ``trace()``."""
        return self._last_job

    def attach(self, job_id: str) -> Attached:
        """Take over a job whose client is gone, and finish it.

        The store, and the `key`, must be those of the client that started it. Raises JobError for an unknown job.
        """
        self._check_open()
        self._last_job = job = self._deployment.attach(job_id)
        self._keep(job)
        return Attached(job, self, self._background, self._deployment.forget)

    # --- futures

    def submit(
        self,
        func: Callable[..., Any],
        *args: Any,
        key: Hashable | None = None,
        workers: Any = None,
        resources: Any = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: Any = None,
        allow_other_workers: bool = False,
        pure: bool = True,
        budget_usd: float | None = None,
        **kwargs: Any,
    ) -> Future:
        """Run ``func(*args, **kwargs)``; return a `Future`.

        Futures among the arguments, also inside lists, tuples, sets and dicts, stand for their values. `key`, `retries`
        and `pure` are as in `distributed.Client.submit`: a pure call that is still known under its key is not
        repeated. The other named parameters have no meaning here.
        """
        return self._calls(func, [args], [kwargs], None if key is None else [key], retries, pure, budget_usd)[0]

    def map(
        self,
        func: Callable[..., Any],
        *iterables: Iterable[Any],
        key: str | Sequence[Hashable] | None = None,
        workers: Any = None,
        retries: int | None = None,
        resources: Any = None,
        priority: int = 0,
        allow_other_workers: bool = False,
        fifo_timeout: Any = None,
        pure: bool = True,
        batch_size: int | None = None,
        budget_usd: float | None = None,
        **kwargs: Any,
    ) -> list[Future]:
        """Run `func` once for each tuple of items; return the futures in order. If one fails, the others go on."""
        argss = list(zip(*iterables, strict=False))
        keys: Sequence[Hashable] | None = None
        if isinstance(key, str):
            keys = [f"{key}-{i}" for i in range(len(argss))]
        elif key is not None:
            keys = list(key)
            if len(keys) != len(argss):
                raise ValueError(f"{len(keys)} keys were given for {len(argss)} calls")
        return self._calls(func, argss, [kwargs] * len(argss), keys, retries, pure, budget_usd)

    def _calls(
        self,
        func: Callable[..., Any],
        argss: Sequence[tuple[Any, ...]],
        kwargss: Sequence[dict[str, Any]],
        keys: Sequence[Hashable] | None,
        retries: int | None,
        pure: bool,
        budget_usd: float | None,
    ) -> list[Future]:
        self._check_open()
        if not callable(func):
            raise TypeError(f"{func!r} is not callable")
        name = funcname(func)
        dsk: dict[Hashable, Any] = {}
        fresh: dict[Hashable, FutureState] = {}
        inputs: list[Future] = []
        futures = []
        for i, (args, kwargs) in enumerate(zip(argss, kwargss, strict=True)):
            if keys is not None:
                key = keys[i]
            else:
                key = f"{name}-{tokenize(func, args, kwargs) if pure else uuid.uuid4().hex}"
            state, new = self._registry.state(key)
            futures.append(Future(state, self))
            if new:
                runs, named = with_refs(func, inputs), with_refs(kwargs, inputs)
                if runs is func and not kwargs:
                    dsk[key] = Task(key, func, *[with_refs(each, inputs) for each in args])
                else:
                    dsk[key] = Task(key, apply, runs, with_refs(args, inputs), named)
                fresh[key] = state
        if fresh:
            launch(self, dsk, fresh, inputs, stream=len(dsk) > 1, retries=retries, budget_usd=budget_usd)
        return futures

    def compute(
        self,
        collections: Any,
        sync: bool = False,
        optimize_graph: bool = True,
        workers: Any = None,
        allow_other_workers: bool = False,
        resources: Any = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: Any = None,
        actors: Any = None,
        traverse: bool = True,
        budget_usd: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute Dask collections in the background; return a future for each (values with ``sync=True``).

        A single collection gives a single future, a list or tuple a list; what is not a collection is passed through.
        A job that has cost `budget_usd` US dollars is stopped, and its future raises BudgetReached; each future is one
        job, with ``sync=True`` all are one. None: as configured.
        """
        self._check_open()
        single = not isinstance(collections, (list, tuple, set, frozenset))
        items = [collections] if single else list(collections)
        if traverse:
            items = [dask.delayed(each) if hides_collection(each) else each for each in items]
        wanted = [each for each in items if is_dask_collection(each)]
        if sync:
            given = {"optimize_graph": optimize_graph, "retries": retries, "budget_usd": budget_usd}
            values = iter(dask.compute(*wanted, scheduler=self.get, **given))
        else:
            values = iter(self._compute(each, optimize_graph, retries, budget_usd) for each in wanted)
        results = [next(values) if is_dask_collection(each) else each for each in items]
        return results[0] if single else results

    def _compute(self, collection: Any, optimize_graph: bool, retries: int | None, budget_usd: float | None) -> Future:
        from dask._expr import FinalizeCompute

        expr = FinalizeCompute(collections_to_expr([collection], optimize_graph)).optimize()
        [key] = flatten(expr.__dask_keys__())
        state, _ = self._registry.state(f"{type(collection).__name__.lower()}-{uuid.uuid4().hex}")
        future = Future(state, self)
        launch(self, expr, {key: state}, retries=retries, budget_usd=budget_usd)
        return future

    def persist(
        self,
        collections: Any,
        optimize_graph: bool = True,
        workers: Any = None,
        allow_other_workers: bool = False,
        resources: Any = None,
        retries: int | None = None,
        priority: int = 0,
        fifo_timeout: Any = None,
        actors: Any = None,
        budget_usd: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute collections in the background and keep their chunks in the store.

        Returns the same collections, with futures for their chunks, at once; if one is of `dask.array.store`, once the
        targets are written. The chunks are kept as long as the collections are.
        """
        self._check_open()
        single = not isinstance(collections, (list, tuple, set, frozenset))
        items = [collections] if single else list(collections)
        if not all(map(is_dask_collection, items)):
            raise TypeError("persist takes Dask collections")
        expr = collections_to_expr(items, optimize_graph).optimize()
        storing = any(map(stores, items))  # stored again even if the key is known: it names only what targets held
        futures: dict[Hashable, Future] = {}
        fresh: dict[Hashable, FutureState] = {}
        for key in flatten(expr.__dask_keys__()):
            state, new = self._registry.state(key, reuse=not storing)
            futures[key] = Future(state, self)
            if new:
                fresh[key] = state
        if fresh:
            launch(self, expr, fresh, retries=retries, budget_usd=budget_usd)
            if storing:  # whoever gets the stored arrays expects the targets to be written
                for future in futures.values():
                    future._state.wait(None)
                    if future._state.error is not None:
                        raise future._state.error
        results = []
        for item, keys in zip(items, _keys_of(expr, items), strict=True):
            func, args = item.__dask_postpersist__()
            results.append(func({key: futures[key] for key in flatten(keys)}, *args))
        return results[0] if single else results

    def gather(self, futures: Any, errors: str = "raise", direct: Any = None, asynchronous: Any = None) -> Any:
        """Return the values of futures, nested as they are in lists, tuples, sets and dicts.

        ``errors="skip"`` leaves out what failed (inside lists, sets and dicts); otherwise it is raised. With
        `asynchronous`, return an awaitable of that.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors={errors!r}: "raise" or "skip"')
        if isinstance(futures, Iterable) and not isinstance(futures, (list, tuple, set, frozenset, dict)):
            futures = list(futures)
        found = find_futures(futures)
        if asynchronous:
            return self._gathered(futures, found, errors)
        settled([future._state for future in found])
        return self._values(futures, found, errors)

    async def _gathered(self, futures: Any, found: Sequence[Future], errors: str) -> Any:
        from wukong.client.awaiting import in_thread, settled

        await settled(found)
        return await in_thread(self._values, futures, found, errors)

    def _values(self, futures: Any, found: Sequence[Future], errors: str) -> Any:
        fine = [future for future in found if future.status == "finished"]
        fetched = self._registry.fetch([future._state.value for future in fine])
        values = {future._state: value for future, value in zip(fine, fetched, strict=True)}

        def value_of(future: Future) -> Any:
            if future._state in values:
                return values[future._state]
            return SKIPPED if errors == "skip" else future.result()

        return filled(futures, value_of)

    def scatter(
        self,
        data: Any,
        workers: Any = None,
        broadcast: bool = False,
        direct: Any = None,
        hash: bool = True,
        timeout: Any = None,
        asynchronous: Any = None,
    ) -> Any:
        """Put values into the store; return futures: for a list, tuple or set one each, for a dict one per key.

        With `asynchronous`, return an awaitable of that.
        """
        self._check_open()
        if asynchronous:
            from wukong.client.awaiting import in_thread

            return in_thread(self.scatter, data, hash=hash)
        if isinstance(data, dict):
            return {key: self._scatter(value, key) for key, value in data.items()}
        if isinstance(data, (list, tuple, set, frozenset)):
            return type(data)(self._scatter(value, self._name(value, hash)) for value in data)
        return self._scatter(data, self._name(data, hash))

    def _name(self, value: Any, by_content: bool) -> str:
        return f"{type(value).__name__}-{tokenize(value) if by_content else uuid.uuid4().hex}"

    def _scatter(self, value: Any, key: Hashable) -> Future:
        state, new = self._registry.state(key)
        future = Future(state, self)
        if new:
            self._background.begin()
            place = kept(self._deployment.client, next(self._numbers))
            blob = self._deployment.codec.encode_code(value, place)
            self._deployment.store.put({place: blob}, self._deployment.ttl_s)
            state.settle("finished", StoredValue(place))
        return future

    def cancel(self, futures: Any, asynchronous: Any = None, force: bool = False) -> Any:
        """Cancel futures (also those inside lists, dicts and persisted collections) and the jobs that make them.

        With `asynchronous`, return an awaitable of that.
        """
        if asynchronous:
            from wukong.client.awaiting import in_thread

            return in_thread(self.cancel, futures)
        for future in find_futures(futures):
            future.cancel()
        return None

    def retry(self, futures: Any, asynchronous: Any = None) -> Any:
        """Run failed futures again (also those inside lists, dicts and persisted collections); see `Future.retry`."""
        if asynchronous:
            from wukong.client.awaiting import in_thread

            return in_thread(self.retry, futures)
        retry(future._state for future in find_futures(futures))
        return None

    # --- life

    def __enter__(self) -> Client:
        self._check_open()
        become_default(self)
        return self

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
        self._closed = True
        restore_default()
        if not self._deployment.owner.here():
            return
        self._registry.close()
        self._registry.callers.drain()
        self._finalizer()
        signals.closed()

    def _check_open(self) -> None:
        self._deployment.owner.check()
        if self._closed:
            raise ClientClosed("this client is closed", hint="make a new wukong.Client()")

    def _repr_html_(self) -> str:
        if self._closed or not self._deployment.owner.here():
            return card(repr(self), [])
        rows = [("backends", self._deployment.described()), ("jobs", self.cost())]
        return card(f"wukong.Client {self.id}", [*rows, ("last job", self._last_job or "none")])

    def __repr__(self) -> str:
        if not self._deployment.owner.here():
            return f"<wukong.Client {self.id}: of another process>"
        state = "closed" if self._closed else self._deployment.described()
        return f"<wukong.Client {self.id}: {state}; {self.cost()}>"


def _keys_of(expr: Any, items: Sequence[Any]) -> list[Any]:
    """Return the keys of each collection in an optimised expression over all of them."""
    from dask._expr import _ExprSequence, _HLGExprSequence

    keys = expr.__dask_keys__()
    return list(keys) if isinstance(expr, (_ExprSequence, _HLGExprSequence)) else [keys for _ in items]


def _renewed(holdings: Holdings, lessons: Lessons) -> None:
    holdings.renew()
    lessons.learn()


def _close(deployment: Deployment, background: Background, holdings: Holdings, lessons: Lessons) -> None:
    if not deployment.owner.here():  # a forked child ends, and what is open and kept is its parent's
        return
    try:
        background.close(holdings.give_up)
    finally:
        lessons.flush()
        deployment.close()
