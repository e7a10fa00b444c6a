"""The client: Dask's scheduler, and futures.

    client.get(graph, keys)          one job, in the calling thread (`scheduler` is what Dask calls)
    client.submit / map / compute    jobs in the background; one thread (`background`) watches them

A client opens one FaaS backend and one store (`deployment`), and closes them; several clients are independent
of each other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dask
from dask.base import collections_to_expr, is_dask_collection, tokenize
from dask.core import flatten

from wukong.client.asynchronous import Awaited
from wukong.client.attached import Attached
from wukong.client.callbacks import Callbacks
from wukong.client.calls import call
from wukong.client.following import settled
from wukong.client.futures import Future, FutureState, StoredValue, retry
from wukong.client.given import OF_COMPUTE, OF_PERSIST, known_only
from wukong.client.launch import launch
from wukong.client.nested import SKIPPED, filled, find_futures, hides_collection
from wukong.client.notebook import card
from wukong.client.partial import check, collecting, keys_of
from wukong.client.plans import a_few
from wukong.client.resuming import AskedFutures, found
from wukong.client.scheduler import Scheduler, become_default
from wukong.core.names import kept
from wukong.core.redirect import stores
from wukong.errors import StoreError

if TYPE_CHECKING:
    from wukong.client.client_plan import ClientPlan
    from wukong.client.executor import ClientExecutor
    from wukong.core.job import Job


class Client(Awaited):
    """Run Dask graphs on cloud functions.

    Args:
        faas: the FaaS backend: a plug-in's name, a URL, a mapping of ``name`` and options, or a
            `wukong.LocalCluster`. None: what the configuration says, at first ``local``, the emulator.
        storage: the intermediate store, likewise; None: as configured, at first ``local``, the embedded store.
        set_as_default: be Dask's default scheduler until it is closed; of several clients, the last one made is.
        asynchronous: its methods and its futures are awaited, see `wukong.client.asynchronous`.
        options: any setting of `wukong.config.Settings`, on top of the configuration.

    Raises ConfigError for a setting that is unknown or wrong, PluginError for a backend that cannot be loaded.

    A client is a context manager, which closes it; inside, it is the default in any case. It may be used from several
    threads.
    """

    def __init__(
        self,
        faas: Any = None,
        storage: Any = None,
        *,
        set_as_default: bool = True,
        asynchronous: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(faas, storage, **options)
        self.asynchronous = asynchronous
        if set_as_default:
            become_default(self)

    def __enter__(self) -> Client:
        if self.asynchronous:
            raise TypeError("an asynchronous client is entered by 'async with', not by 'with'")
        self._check_open()
        become_default(self)
        return self

    # --- Dask's scheduler

    @property
    def get(self) -> Scheduler:
        """Dask's scheduler function: ``client.get(graph, keys)``, ``x.compute(scheduler=client.get)``.

        See `wukong.client.scheduler.Scheduler`.
        """
        return Scheduler(self)

    def plan(self, *collections: Any, optimize_graph: bool = True, sample: bool = False) -> ClientPlan:
        """Plan what computing these collections together would take, move and cost here, without computing them.

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

    def attach(self, job_id: str) -> Attached:
        """Take over a job whose client is gone, and finish it.

        The store, and the `key`, must be those of the client that started it. Raises JobError for an unknown job.
        """
        self._check_open()
        self._last_job = job = self._deployment.attach(job_id)
        self._keep(job)
        with suppress(StoreError):  # it is said again within seconds
            self._holdings.say()
        return Attached(job, self, self._background, self._deployment.forget)

    def debug(
        self, job: Job | Attached | Future | str | None = None, key: Hashable | None = None, *, run: bool = True
    ) -> Any:
        """Run a task that has failed here, under pdb, with the inputs that it had there.

        Args:
            job: a job, its id, or a future whose work has failed; None: `last_job`.
            key: the task's key; None: that of the task that failed first.
            run: False: only return the function and its arguments, as ``(func, args, kwargs)``.

        pdb starts where the task raises. If it does not raise here, its value is returned. It runs with all its
        effects, except that locks are free, and that it writes to none of the client's targets. Raises JobError for
        what cannot be run again: see `wukong.client.debugging`.
        """
        self._check_open()
        from wukong.client.debugging import Debugger

        if isinstance(job, Future):
            key = job.key if key is None else key
            job = job._state.job
        job = self._last_job if job is None else job
        deployment = self._deployment
        ready = Debugger(deployment.store, deployment.codec).call(job, key)
        return ready.run() if run else ready.plain()

    def resume(
        self,
        job: Job | Future | str | None = None,
        *,
        retries: int | None = None,
        budget_usd: float | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Run again a job of this client that has not succeeded; tasks whose values are still stored are not run.

        Args:
            job: a job, its id, or a future whose work has failed; None: `last_job`.
            retries, budget_usd, timeout: for this run; None: as for the first. Futures take no timeout.

        Returns what the first call would have: values (one, or a tuple of those of several collections); of a call in
        the background its futures, which are pending again: one, or a list in their order. Raises what the job raises,
        and JobError for what cannot be resumed: a job that runs or has succeeded, or one of another client. See
        `wukong.client.resuming`.
        """
        self._check_call(retries, budget_usd)
        given = {"retries": retries, "budget_usd": budget_usd, "timeout": timeout}
        return self._done(self._resumed, job, {name: value for name, value in given.items() if value is not None})

    def _resumed(self, job: Job | Future | str | None, given: Mapping[str, Any]) -> Any:
        mine = found(job, self._holdings.jobs, self._last_job)
        if not isinstance(mine.asked, AskedFutures):
            return self._resume(mine, given)
        # Before it begins: whatever ends while no future wants it is dropped.
        futures = [Future(state, self) for state in mine.asked.states.values()]
        try:
            self._resume(mine, given)
            return futures[0] if len(futures) == 1 else futures
        finally:
            del futures  # an error that was caught below may keep this frame

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
        keys = None if key is None else [key]
        return call(self, func, [args], [kwargs], keys, retries=retries, pure=pure, budget_usd=budget_usd)[0]

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
        on_error: str = "raise",
        **kwargs: Any,
    ) -> list[Future]:
        """Run `func` once for each tuple of items; return the futures in order. If one fails, the others go on.

        With ``on_error="collect"``, a failed future gives a `wukong.FailedValue` as its result, and raises nothing.
        """
        collect = check(on_error)
        argss = list(zip(*iterables, strict=False))
        keys: Sequence[Hashable] | None = None
        if isinstance(key, str):
            keys = [f"{key}-{i}" for i in range(len(argss))]
        elif key is not None:
            keys = list(key)
            if len(keys) != len(argss):
                raise ValueError(f"{len(keys)} keys were given for {len(argss)} calls")
        kwargss = [kwargs] * len(argss)
        futures = call(self, func, argss, kwargss, keys, retries=retries, pure=pure, budget_usd=budget_usd)
        for future in futures:
            future._collect = collect
        return futures

    def get_executor(self, *, retries: int | None = None, budget_usd: float | None = None) -> ClientExecutor:
        """Return an executor of `concurrent.futures` that runs its calls here. See `wukong.client.executor`.

        `retries`, `budget_usd`: for each `submit` or `map`; None: as configured.
        """
        from wukong.client.executor import ClientExecutor

        self._check_call(retries, budget_usd)
        return ClientExecutor(self, retries=retries, budget_usd=budget_usd)

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
        on_error: str = "raise",
        keep: str | bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute Dask collections in the background; return a future for each (values with ``sync=True``).

        A single collection gives a single future, a list or tuple a list; what is not a collection is passed through.
        A job that has cost `budget_usd` US dollars is stopped, and its future raises BudgetReached; each future is one
        job, with ``sync=True`` all are one. None: as configured.

        With ``on_error="collect"``, a job goes on past tasks that fail, and its value is a `wukong.Partial`.
        `keep`: a name under which the results are kept beyond the client; those that are there are taken instead of
        computed. See `wukong.client.keeping`.
        """
        known_only("client.compute", kwargs, *OF_COMPUTE, by_dask=False)
        self._check_call(retries, budget_usd, keep)
        collect = check(on_error)
        single = not isinstance(collections, (list, tuple, set, frozenset))
        items = [collections] if single else list(collections)
        if traverse:
            items = [dask.delayed(each) if hides_collection(each) else each for each in items]
        wanted = [each for each in items if is_dask_collection(each)]
        given = {"retries": retries, "budget_usd": budget_usd, "keep": keep}
        if sync and collect:
            graph, top = collecting(items, optimize_graph, single=single)
            return self._done(lambda: self._run(graph, top, Callbacks(), {**given, "collect": True})[top])

        def filled(values: Iterator[Any]) -> Any:
            results = [next(values) if is_dask_collection(each) else each for each in items]
            return results[0] if single else results

        if sync:
            return self._done(
                lambda: filled(iter(dask.compute(*wanted, scheduler=self.get, optimize_graph=optimize_graph, **given)))
            )
        return filled(self._compute(each, optimize_graph, collect=collect, **given) for each in wanted)

    def _compute(self, collection: Any, optimize_graph: bool, *, collect: bool, **given: Any) -> Future:
        graph: Any
        if collect:
            graph, key = collecting([collection], optimize_graph, single=True)
        else:
            from dask._expr import FinalizeCompute

            graph = FinalizeCompute(collections_to_expr([collection], optimize_graph)).optimize()
            [key] = flatten(graph.__dask_keys__())
        state, _ = self._registry.state(f"{type(collection).__name__.lower()}-{uuid.uuid4().hex}")
        future = Future(state, self)
        launch(self, graph, {key: state}, collect=collect, **given)
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
        known_only("persist", kwargs, *OF_PERSIST)
        self._check_call(retries, budget_usd)
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
        for item, keys in zip(items, keys_of(expr, items), strict=True):
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
        if self.asynchronous if asynchronous is None else asynchronous:
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
            return SKIPPED if errors == "skip" else future._result()

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
        return self._done(self._scattered, data, hash, asynchronous=asynchronous)

    def _scattered(self, data: Any, hash: bool) -> Any:
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

    def futures_of(self, o: Any) -> list[Future]:
        """Return the futures in `o`. Raises JobCancelled if one was cancelled. See `wukong.futures_of`."""
        from wukong.client.waiting import futures_of

        return futures_of(o, self)

    def cancel(self, futures: Any, asynchronous: Any = None, force: bool = False) -> Any:
        """Cancel futures (also those inside lists, dicts and persisted collections) and the jobs that make them.

        With `asynchronous`, return an awaitable of that.
        """
        found = find_futures(futures)

        def cancel() -> None:
            for future in found:
                future.cancel()

        return self._done(cancel, asynchronous=asynchronous)

    def retry(self, futures: Any, asynchronous: Any = None) -> Any:
        """Run failed futures again (also those inside lists, dicts and persisted collections); see `Future.retry`."""
        states = [future._state for future in find_futures(futures)]
        return self._done(retry, states, asynchronous=asynchronous)

    def _repr_html_(self) -> str:
        if self._closed or not self._deployment.owner.here():
            return card(repr(self), [])
        rows: list[tuple[str, object]] = [("backends", self._deployment.described()), ("jobs", self.cost())]
        rows += [("last job", self._last_job or "none")]
        if self._live.link is None:
            rows += [("more", "client.dashboard: a page that shows its jobs while they run")]
        return card(f"wukong.Client {self.id}", rows, self._live.link)

    def __repr__(self) -> str:
        if not self._deployment.owner.here():
            return f"<wukong.Client {self.id}: of another process>"
        state = "closed" if self._closed else self._deployment.described()
        seen = "" if self._live.link is None else f"; dashboard: {self._live.link}"
        return f"<wukong.Client {self.id}: {state}; {self.cost()}{seen}>"
