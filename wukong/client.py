"""The client: Dask's scheduler function, and futures.

    client.get(graph, keys)          one job, in the calling thread
    client.submit / map / compute    jobs in the background; one thread (`wukong.background`) watches all of them

A client opens one FaaS backend and one store, and closes them; several clients are independent of each other.
"""

from __future__ import annotations

import logging
import re
import secrets
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from hashlib import blake2b
from types import TracebackType
from typing import Any

import dask
from dask._task_spec import List as TaskList
from dask._task_spec import Task, TaskRef
from dask.base import is_dask_collection, tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import funcname

from wukong.backends.entry import KEY_VARIABLE, sender
from wukong.backends.faas import FaaS, Failure
from wukong.backends.plugins import load_faas, load_storage
from wukong.backends.storage import Store
from wukong.background import Background
from wukong.calls import Raised, call
from wukong.config import Settings
from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.ingest import ingest
from wukong.core.job import Job, KeptValue, Plan, Summary, with_remote
from wukong.core.order import Envelope
from wukong.core.policy import Costs
from wukong.display import Bar, Callbacks
from wukong.errors import ClientClosed, ConfigError, JobCancelled, WukongError
from wukong.futures import Future, Kept, State

logger = logging.getLogger("wukong")

_HEAVY = re.compile(rb"\b(?:numpy|scipy|pandas|pyarrow|sklearn|dask|dask_ml|xarray|numba|torch|statsmodels)(?:\.\w+)*")
_LOOK_BYTES = 1_000_000
_KEEP_BYTES = 16_384


class Client:
    """Run Dask graphs on cloud functions.

    Args:
        faas: the FaaS backend: a plug-in's name, a URL, a mapping of ``name`` and options, or a
            `wukong.LocalCluster`. None: what the configuration says, at first ``local``, the emulator.
        storage: the intermediate store, likewise; None: as configured, at first ``local``, the embedded store.
        options: any setting of `wukong.config.Settings`, on top of the configuration.

    Raises ConfigError for a setting that is unknown or wrong, PluginError for a backend that cannot be loaded.

    A client is a context manager; inside, it is Dask's default scheduler. It may be used from several threads.
    """

    def __init__(self, faas: Any = None, storage: Any = None, **options: Any) -> None:
        from wukong.cluster import LocalCluster

        self.cluster: LocalCluster | None = None
        if isinstance(faas, LocalCluster):
            self.cluster = faas
            faas, given = faas.faas, faas.options
            storage = self.cluster.storage if storage is None else storage
            options = {**given, **options}
        self.settings = Settings.load(faas=faas, storage=storage, **options)
        self.id = f"Client-{uuid.uuid4().hex[:12]}"
        self._closed = False
        key = self.settings.key
        self._key = secrets.token_bytes(32) if key is None else blake2b(key.encode(), digest_size=32).digest()
        self.storage: Store = load_storage(self.settings.storage)
        try:
            self.faas: FaaS = load_faas(self.settings.faas)
            self.faas.configure({KEY_VARIABLE: self._key.hex()})
        except BaseException:
            self.storage.close()
            raise
        capabilities = self.storage.capabilities
        self._codec = Codec(self._key, sign_buffers=not capabilities.trusted, compress=self._compress())
        self._costs = Costs(self.faas.latency_s, capabilities.round_trip_s, capabilities.bandwidth_bytes_per_s)
        faas_spec, store_spec = self.faas.spec(), self.storage.spec()
        self._envelope = Envelope(
            (store_spec.target, dict(store_spec.options)),
            (faas_spec.target, dict(faas_spec.options)),
            self._codec.sign_buffers,
            self._codec.compress,
            None,
        )
        self._lock = threading.RLock()
        self._failures: dict[str, list[Failure]] = {}
        self._states: dict[Hashable, State] = {}
        self._holders: dict[int, int] = {}
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        self._last_job: Job | None = None
        self._prepared: set[str] = set()
        self._default: list[AbstractContextManager[Any]] = []
        self._background = Background(self.storage, self._codec)
        self._finalizer = weakref.finalize(self, _close, self.faas, self.storage, self._background)

    def _compress(self) -> bool:
        if self.settings.compression == "auto":
            return not self.storage.capabilities.zero_copy
        return self.settings.compression == "lz4"

    # --- Dask's scheduler function

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute `keys` of a graph: a Dask scheduler function.

        Args:
            dsk: an expression, a HighLevelGraph, or a mapping of keys to tasks.
            keys: one key, or (nested) lists of keys; the results are nested alike, in tuples.
            kwargs: what Dask hands to every scheduler; ``timeout`` (seconds) and ``retries`` are used.

        Raises the exception of a task as itself, with the remote traceback as its cause.
        """
        callbacks = Callbacks()
        values = self._run(dsk, keys, callbacks, kwargs)

        def nested(wanted: Any) -> Any:
            return tuple(map(nested, wanted)) if isinstance(wanted, list) else values[wanted]

        return nested(keys)

    def _run(self, dsk: Any, keys: Any, callbacks: Callbacks, options: Mapping[str, Any]) -> Mapping[Hashable, Any]:
        self._check_open()
        graph = self._ingest(dsk, keys)
        if not graph.dag.outputs:
            return {key: where.value for key, where in graph.request.items()}  # type: ignore[union-attr]
        job = self._job(graph, events=bool(callbacks), retries=options.get("retries"))
        bar = Bar(self.settings.progress, len(graph.ops))
        timeout_s = options.get("timeout", self.settings.timeout_s)

        def tick(job: Job) -> None:
            self._check_open()
            bar.tick(job)
            if callbacks:
                callbacks.tick(job)

        done = False
        try:
            if callbacks:
                callbacks.start(dsk if isinstance(dsk, Mapping) else dict(zip(graph.keys, graph.ops)), graph.keys)
            self._start(job)
            values = job.result(timeout_s, tick)
            done = True
        except BaseException:
            job.cancel()
            raise
        finally:
            bar.close(done=done)
            self._background.settle(job)
            self._forget(job)
            if callbacks and not done:
                callbacks.finish(errored=True)
        if callbacks:
            job.summary()
            callbacks.replay(job, values)
            callbacks.finish(errored=False)
        return values

    def _ingest(self, dsk: Any, keys: Any) -> Graph:
        """Ingest a graph; where it needs futures that are not done yet, wait for them."""
        while True:
            try:
                return ingest(dsk, keys, known=_Known(self._states) if self._states else None)
            except _NotReady as pending:
                pending.state.wait(None)

    def _job(self, graph: Graph, *, retries: int | None = None, stream: bool = False, **policy: Any) -> Job:
        changed = {name: value for name, value in policy.items() if value}
        if retries is not None:
            changed["retries"] = retries
        if changed.get("events"):
            changed["heartbeat_s"] = min(0.2, self.settings.heartbeat_s)
        job = Job(
            graph,
            self._envelope,
            self.storage,
            self._codec,
            replace(self.settings.policy(), **changed) if changed else self.settings.policy(),
            self._costs,
            Plan(self.settings.payload_inline_bytes, self.settings.page_tasks),
            lambda names: sender(self.faas, self._codec, self._envelope, names),
            self._failures_of,
            self.faas.cancel,
            stream=stream,
        )
        self._jobs.add(job)
        self._last_job = job
        return job

    def _start(self, job: Job) -> None:
        job.ship()
        modules = self._modules(job)
        if modules:
            self.faas.prepare(modules)
        job.invoke()

    def _modules(self, job: Job) -> list[str]:
        """Installed modules that this job's code names and that no earlier job did."""
        found = {name.decode() for blob in job.code() for name in _HEAVY.findall(blob[:_LOOK_BYTES])}
        new = sorted(name for name in found - self._prepared if name in sys.modules)
        self._prepared |= found
        return new

    def _failures_of(self, job: str) -> Sequence[Failure]:
        reported = self.faas.failures()
        with self._lock:
            for failure in reported:
                self._failures.setdefault(failure.invocation.partition("/")[0], []).append(failure)
            return self._failures.pop(job, ())

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._failures.pop(job.id, None)

    @property
    def last_job(self) -> Job | None:
        """The job that was started last: its ``id``, and its ``summary()`` once it has ended."""
        return self._last_job

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
        **kwargs: Any,
    ) -> Future:
        """Run ``func(*args, **kwargs)``; return a `Future`.

        Futures among the arguments, also inside lists, tuples, sets and dicts, stand for their values. `key`, `retries`
        and `pure` are as in `distributed.Client.submit`: a pure call that is still known under its key is not
        repeated. The other named parameters have no meaning here.
        """
        return self._calls(func, [args], [kwargs], None if key is None else [key], retries, pure)[0]

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
        **kwargs: Any,
    ) -> list[Future]:
        """Run `func` once for each tuple of items; return the futures in order. One failing leaves the others alone."""
        argss = list(zip(*iterables, strict=False))
        keys: Sequence[Hashable] | None = None
        if isinstance(key, str):
            keys = [f"{key}-{i}" for i in range(len(argss))]
        elif key is not None:
            keys = list(key)
            if len(keys) != len(argss):
                raise ValueError(f"{len(keys)} keys were given for {len(argss)} calls")
        return self._calls(func, argss, [kwargs] * len(argss), keys, retries, pure)

    def _calls(
        self,
        func: Callable[..., Any],
        argss: Sequence[tuple[Any, ...]],
        kwargss: Sequence[dict[str, Any]],
        keys: Sequence[Hashable] | None,
        retries: int | None,
        pure: bool,
    ) -> list[Future]:
        self._check_open()
        if not callable(func):
            raise TypeError(f"{func!r} is not callable")
        name = funcname(func)
        tries = self.settings.retries if retries is None else retries
        dsk: dict[Hashable, Any] = {}
        inputs: list[Future] = []
        futures = []
        for i, (args, kwargs) in enumerate(zip(argss, kwargss, strict=True)):
            if keys is not None:
                key = keys[i]
            else:
                key = f"{name}-{tokenize(func, args, kwargs) if pure else uuid.uuid4().hex}"
            with self._lock:
                state = self._states.get(key)
                if state is not None and state.status in ("pending", "finished"):
                    futures.append(Future(state))
                    continue
                state = State(key, self)
                futures.append(Future(state))
            wrapped = [_with_refs(each, inputs) for each in args]
            named: Any = {name: _with_refs(value, inputs) for name, value in kwargs.items()}
            if any(isinstance(each, (TaskRef, Task)) for each in named.values()):
                from dask._task_spec import Dict as TaskDict

                named = TaskDict(named)
            dsk[key] = Task(key, call, func, tries, named, *wrapped)
        if dsk:
            fresh = {state.key: state for state in (future._state for future in futures) if state.key in dsk}
            self._launch(dsk, list(dsk), fresh, inputs, stream=len(dsk) > 1)
        return futures

    def _launch(
        self,
        dsk: Any,
        keys: list[Hashable],
        states: Mapping[Hashable, State],
        inputs: Iterable[Future] = (),
        *,
        stream: bool = False,
        retries: int | None = None,
    ) -> None:
        """Start a job for these states in the background, as soon as its inputs are done."""
        needed = [future._state for future in inputs]
        waiting = len(needed)
        lock = threading.Lock()
        held = list(inputs)

        def begin() -> None:
            try:
                for state in needed:
                    if state.error is not None:
                        raise state.error
                graph = ingest(dsk, keys, known=_Known(self._states, without=states.keys()))
                job = self._job(graph, retries=retries, stream=stream)
            except _NotReady as pending:
                pending.state.when_done(lambda _: begin())
                return
            except BaseException as error:
                self._fail(states, error)
                return
            for state in states.values():
                state.cancel_job = job.cancel
            job.inputs = held
            self._background.watch(job, lambda: self._start(job), _Sink(self, job, states))

        def one_done(_: State) -> None:
            nonlocal waiting
            with lock:
                waiting -= 1
                ready = waiting == 0
            if ready:
                begin()

        if not needed:
            begin()
        for state in needed:
            state.when_done(one_done)

    def _fail(self, states: Mapping[Hashable, State], error: BaseException) -> None:
        status = "cancelled" if isinstance(error, JobCancelled) else "error"
        for state in states.values():
            state.settle(status, error=error)

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
        **kwargs: Any,
    ) -> Any:
        """Compute Dask collections in the background; return a future for each (values with ``sync=True``).

        A single collection gives a single future, a list or tuple a list; what is not a collection is passed through.
        """
        self._check_open()
        single = not isinstance(collections, (list, tuple, set, frozenset))
        items = [collections] if single else list(collections)
        if traverse:
            items = [dask.delayed(each) if _hides_collection(each) else each for each in items]
        wanted = [each for each in items if is_dask_collection(each)]
        if sync:
            values = iter(dask.compute(*wanted, scheduler=self.get, optimize_graph=optimize_graph, retries=retries))
        else:
            values = iter(self._compute(each, optimize_graph, retries) for each in wanted)
        results = [next(values) if is_dask_collection(each) else each for each in items]
        return results[0] if single else results

    def _compute(self, collection: Any, optimize_graph: bool, retries: int | None) -> Future:
        from dask._expr import FinalizeCompute
        from dask.base import collections_to_expr

        expr = FinalizeCompute(collections_to_expr([collection], optimize_graph)).optimize()
        keys = list(flatten(expr.__dask_keys__()))
        state = State(f"{type(collection).__name__.lower()}-{uuid.uuid4().hex}", self)
        future = Future(state)
        self._launch(expr, keys, {keys[0]: state}, retries=retries)
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
        **kwargs: Any,
    ) -> Any:
        """Compute collections in the background and keep their chunks in the store.

        Returns the same collections at once, standing on futures. They are kept as long as the collections are.
        """
        self._check_open()
        from dask.base import collections_to_expr

        single = not isinstance(collections, (list, tuple, set, frozenset))
        items = [collections] if single else list(collections)
        if not all(map(is_dask_collection, items)):
            raise TypeError("persist takes Dask collections")
        expr = collections_to_expr(items, optimize_graph).optimize()
        per_item = expr.__dask_keys__() if len(items) > 1 else [expr.__dask_keys__()]
        if len(items) == 1 and isinstance(per_item[0], list) and len(per_item[0]) == 1 and isinstance(per_item[0][0], list):
            per_item = per_item[0]
        futures: dict[Hashable, Future] = {}
        fresh: dict[Hashable, State] = {}
        for key in flatten(per_item):
            with self._lock:
                state = self._states.get(key)
                if state is None or state.status not in ("pending", "finished"):
                    state = fresh[key] = State(key, self)
                futures[key] = Future(state)
        if fresh:
            self._launch(expr, list(fresh), fresh, retries=retries)
        results = []
        for item, keys in zip(items, per_item, strict=True):
            func, args = item.__dask_postpersist__()
            flat = list(flatten([keys]))
            results.append(func({key: futures[key] for key in flat}, *args))
        return results[0] if single else results

    def gather(self, futures: Any, errors: str = "raise", direct: Any = None, asynchronous: Any = None) -> Any:
        """Return the values of futures, nested as they are in lists, tuples, sets and dicts.

        ``errors="skip"`` leaves out what failed (inside lists, sets and dicts); otherwise it is raised.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors={errors!r}: "raise" or "skip"')
        found: list[Future] = []
        _collect_futures(futures, found)
        good: dict[int, Any] = {}
        for future in found:
            future._state.wait(None)
        fine = [future for future in found if future.status == "finished"]
        for future, value in zip(fine, self.fetch([future._state.value for future in fine]), strict=True):
            good[id(future._state)] = value

        def value_of(item: Any) -> Any:
            if isinstance(item, Future):
                if id(item._state) in good:
                    return good[id(item._state)]
                if errors == "skip":
                    return _SKIPPED
                return item.result()
            if isinstance(item, (list, set, frozenset)) or type(item) is tuple:
                return type(item)(v for v in map(value_of, item) if v is not _SKIPPED)
            if isinstance(item, dict):
                return {key: v for key, each in item.items() if (v := value_of(each)) is not _SKIPPED}
            if isinstance(item, Iterable) and not isinstance(item, (str, bytes)) and not hasattr(item, "__array__"):
                return [value_of(each) for each in item]
            return item

        return value_of(futures if not hasattr(futures, "__next__") else found)

    def scatter(
        self,
        data: Any,
        workers: Any = None,
        broadcast: bool = False,
        direct: Any = None,
        hash: bool = True,  # noqa: A002 - distributed's name for it
        timeout: Any = None,
        asynchronous: Any = None,
    ) -> Any:
        """Put values into the store; return futures: for a list, tuple or set one each, for a dict one per key."""
        self._check_open()
        if isinstance(data, dict):
            return {key: self._scatter(value, key) for key, value in data.items()}
        if isinstance(data, (list, tuple, set, frozenset)):
            return type(data)(self._scatter(value, self._name(value, hash)) for value in data)
        return self._scatter(data, self._name(data, hash))

    def _name(self, value: Any, by_content: bool) -> str:
        return f"{type(value).__name__}-{tokenize(value) if by_content else uuid.uuid4().hex}"

    def _scatter(self, value: Any, key: Hashable) -> Future:
        with self._lock:
            state = self._states.get(key)
            if state is not None and state.status == "finished":
                return Future(state)
            state = State(key, self)
            future = Future(state)
        place = b"kept/" + uuid.uuid4().hex.encode()
        self.storage.put({place: self._codec.encode_code(value, place)}, self.settings.ttl_s)
        state.settle("finished", Kept(place))
        return future

    def cancel(self, futures: Any, asynchronous: Any = None, force: bool = False) -> None:
        """Cancel futures (also those inside lists, dicts and persisted collections) and the jobs that make them."""
        found: list[Future] = []
        _collect_futures(futures, found)
        for future in found:
            future.cancel()

    def fetch(self, values: Sequence[Any]) -> list[Any]:
        """Return what these values of futures stand for; those in the store in one round trip. Not for users."""
        keys = [value.key for value in values if isinstance(value, Kept)]
        blobs = iter(self.storage.get(keys) if keys else ())
        results = []
        for value in values:
            if not isinstance(value, Kept):
                results.append(value)
                continue
            blob = next(blobs)
            if blob is None:
                raise WukongError(
                    f"a kept value is not in the store any more ({value.key!r})",
                    hint="it was released, the client was closed, or the store dropped it",
                )
            results.append(self._codec.decode(blob, value.key))
        return results

    def hold(self, state: State) -> None:
        """One more future refers to this state. Not for users."""
        with self._lock:
            self._states[state.key] = state
            self._holders[id(state)] = self._holders.get(id(state), 0) + 1

    def let_go(self, state: State) -> None:
        """One future fewer refers to this state; with the last one, its value leaves the store. Not for users."""
        with self._lock:
            left = self._holders.get(id(state), 0) - 1
            if left > 0:
                self._holders[id(state)] = left
                return
            if self._holders.pop(id(state), None) is None:
                return
            if self._states.get(state.key) is state:
                del self._states[state.key]
        if isinstance(state.value, Kept) and not self._closed:
            self._background.delete([state.value.key])

    # --- life

    def __enter__(self) -> Client:
        self._check_open()
        default = dask.config.set(scheduler=self.get)
        default.__enter__()
        self._default.append(default)
        return self

    def __exit__(self, *_: object) -> None:
        self._default.pop().__exit__(None, None, None)
        self.close()

    def close(self, timeout: float | None = None) -> None:
        """Stop what runs and let go of both backends. Futures without a value become cancelled."""
        if self._closed:
            return
        self._closed = True
        for job in list(self._jobs):
            if not job.ended:
                job.cancel()
        self._finalizer()
        for state in list(self._states.values()):
            state.settle("cancelled", error=JobCancelled("the client was closed"))

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("this client is closed", hint="make a new wukong.Client()")

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"faas: {_name(self.settings.faas)}, storage: {_name(self.settings.storage)}"
        return f"<wukong.Client {self.id}: {state}>"


_SKIPPED: Any = object()


class _NotReady(Exception):  # noqa: N818 - control flow within this module
    def __init__(self, state: State) -> None:
        self.state = state


class _Known(Mapping[Hashable, Any]):
    """The values of the client's futures by key, as literals for `ingest`. One that is not done stops the ingest."""

    def __init__(self, states: Mapping[Hashable, State], without: Collection[Hashable] = ()) -> None:
        self._states = states
        self._without = without

    def __getitem__(self, key: Hashable) -> Any:
        state = self._states[key]
        if state.status == "pending":
            raise _NotReady(state)
        if state.error is not None:
            raise state.error
        return KeptValue(state.value.key) if isinstance(state.value, Kept) else state.value

    def __contains__(self, key: object) -> bool:
        return key in self._states and key not in self._without

    def __iter__(self) -> Any:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)


class _Sink:
    """Where the values of a background job go: into the states of its futures."""

    def __init__(self, client: Client, job: Job, states: Mapping[Hashable, State]) -> None:
        self._client, self._job = client, job
        self._states = dict(states)

    def one(self, task: int, value: Any, key: bytes | None) -> None:
        """A requested task has its value: here, or in the store under `key`."""
        for name, where in self._job.graph.request.items():
            if where == task and name in self._states:
                self._settle(self._states[name], value, key)

    def _settle(self, state: State, value: Any, key: bytes | None) -> None:
        if isinstance(value, Raised):
            state.settle("error", error=with_remote(value.error, value.traceback, str(state.key)))
        elif not state.settle("finished", value if key is None else Kept(key)) and key is not None:
            self._client._background.delete([key])

    def failed(self, error: BaseException) -> None:
        """The job has failed as a whole."""
        self._client._fail(self._states, error)
        self._client._forget(self._job)


def _with_refs(value: Any, found: list[Future]) -> Any:
    """Return `value` with futures in it replaced by references, noting them."""
    if isinstance(value, Future):
        found.append(value)
        return TaskRef(value.key)
    if type(value) in (list, tuple, set, dict) and _has_future(value):
        if isinstance(value, dict):
            from dask._task_spec import Dict as TaskDict

            return TaskDict({key: _with_refs(each, found) for key, each in value.items()})
        parts = TaskList(*[_with_refs(each, found) for each in value])
        return parts if isinstance(value, list) else Task(None, type(value), parts)
    return value


def _has_future(value: Any) -> bool:
    if isinstance(value, Future):
        return True
    if type(value) is dict:
        return any(map(_has_future, value.values()))
    return type(value) in (list, tuple, set) and any(map(_has_future, value))


def _hides_collection(value: Any) -> bool:
    if type(value) is dict:
        return any(is_dask_collection(each) or _hides_collection(each) for each in value.values())
    if type(value) in (list, tuple, set):
        return any(is_dask_collection(each) or _hides_collection(each) for each in value)
    return False


def _collect_futures(value: Any, found: list[Future]) -> None:
    if isinstance(value, Future):
        found.append(value)
    elif is_dask_collection(value):
        graph = value.__dask_graph__()
        for node in dict(graph).values():
            _collect_futures(getattr(node, "value", node), found)
    elif isinstance(value, dict):
        for each in value.values():
            _collect_futures(each, found)
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and not hasattr(value, "__array__"):
        for each in value:
            _collect_futures(each, found)


def _name(choice: Any) -> str:
    if isinstance(choice, str):
        return choice
    return str(choice.get("name", choice)) if isinstance(choice, Mapping) else type(choice).__name__


def _close(faas: FaaS, storage: Store, background: Background) -> None:
    try:
        background.close()
    finally:
        try:
            faas.close()
        finally:
            storage.close()
