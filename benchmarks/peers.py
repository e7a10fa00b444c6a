"""The engines that `engines.py` runs side by side: how each is started, given a graph, and stopped.

Each runs as its users run it, on 2 workers, with as many BLAS threads as the engine leaves on unless the environment
says otherwise. An engine is imported inside its `start`, which is timed, and never by another's process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

BLAS = {
    "wukong": "one per executor",
    "sync": "the library's default",
    "threaded": "the library's default, in each of 2 threads",
    "multiprocessing": "the library's default, in each of 2 processes",
    "distributed": "one per worker",
    "ray": "one per worker",
    "parsl": "the library's default",
    "bare": "the library's default",
}
N_WORKERS = 2


class Engine:
    """One engine, started. `get` is its Dask scheduler function."""

    get: Callable[..., Any]
    last_s: float | None = None
    """Time of the last run, if the engine itself knows better than the caller's clock (the bare loop)."""

    def load(self) -> None:
        """Import the engine."""

    def start(self) -> None:
        """Start the engine, imported before, so that `get` works."""

    def details(self) -> dict[str, float]:
        """Return what the engine says about its last run."""
        return {}

    def close(self) -> None:
        """Stop everything that was started."""


class Wukong(Engine):
    def load(self) -> None:
        import wukong

        self.make = wukong.Client  # wukong imports it when it is named

    def start(self) -> None:
        self.client = self.make()
        self.get = self.client.get

    def details(self) -> dict[str, float]:
        summary = self.client.last_job.summary()
        names = ("busy_s", "ingest_s", "wall_s", "executors", "operations", "put_bytes", "got_bytes")
        return {name: getattr(summary, name) for name in names}

    def close(self) -> None:
        self.client.close()


class Sync(Engine):
    def load(self) -> None:
        from dask.local import get_sync

        self.get = get_sync


class Threaded(Engine):
    def load(self) -> None:
        import dask.threaded

        self.get = dask.threaded.get


class Multiprocessing(Engine):
    def load(self) -> None:
        import dask.multiprocessing

        self.module = dask.multiprocessing

    def start(self) -> None:
        from concurrent.futures import ProcessPoolExecutor
        from functools import partial

        # The pool that dask.multiprocessing would make, kept from one call to the next.
        self.pool = ProcessPoolExecutor(
            N_WORKERS,
            mp_context=self.module.get_context(),
            initializer=self.module.initialize_worker_process,
        )
        self.get = partial(self.module.get, pool=self.pool)

    def close(self) -> None:
        self.pool.shutdown()


class Distributed(Engine):
    def load(self) -> None:
        import distributed

        self.module = distributed

    def start(self) -> None:
        self.cluster = self.module.LocalCluster(
            n_workers=N_WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self.client = self.module.Client(self.cluster)
        self.get = self.client.get

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


class Ray(Engine):
    def load(self) -> None:
        import ray
        import ray.util.dask

        self.module = ray
        self.get = ray.util.dask.ray_dask_get

    def start(self) -> None:
        self.module.init(num_cpus=N_WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def close(self) -> None:
        self.module.shutdown()


class Parsl(Engine):
    """No Dask scheduler: it takes part in the start-up table only, if it is installed."""

    def load(self) -> None:
        import parsl

        self.module = parsl

    def start(self) -> None:
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor

        self.folder = tempfile.TemporaryDirectory(prefix="parsl-")
        executor = HighThroughputExecutor(max_workers_per_node=N_WORKERS, address="127.0.0.1")
        self.module.load(Config(executors=[executor], run_dir=self.folder.name))
        self.get = self._one_task

    def _one_task(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        import dask

        return self.module.python_app(dask.get)({**dsk.__dask_graph__()}, keys).result()

    def close(self) -> None:
        self.module.dfk().cleanup()
        self.module.clear()
        self.folder.cleanup()


class Bare(Engine):
    """The tasks in one topological loop in this process; only the loop is timed. The floor for tiny tasks.

    Each of Dask's task nodes is called with the inputs it needs. `details` also gives the time of a second loop without
    the nodes: with functions and the places of their arguments only.
    """

    def load(self) -> None:
        from dask._task_spec import Alias, Task, TaskRef, convert_legacy_graph
        from dask.core import toposort

        self.convert, self.toposort, self.plain = convert_legacy_graph, toposort, Task
        self.name_of = {Alias: lambda arg: arg.target, TaskRef: lambda arg: arg.key}

    def start(self) -> None:
        self.get = self._get

    def _get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        graph = self.convert(dict(dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk))
        tasks = [(key, graph[key], graph[key].dependencies) for key in self.toposort(graph, _needs(graph))]
        values: dict[Any, Any] = {}
        start = time.perf_counter()
        for key, task, needs in tasks:
            values[key] = task({need: values[need] for need in needs})
        self.last_s = time.perf_counter() - start
        self.calls_s = self._calls_alone(tasks)
        return [values[key] for key in keys]

    def _calls_alone(self, tasks: list[tuple[Any, Any, Any]]) -> float:
        place: dict[Any, int] = {}
        values: list[Any] = []
        loop: list[tuple[int, Callable[..., Any], list[int]]] = []
        for key, task, _ in tasks:
            call, slots = self._take_apart(task, place, values)
            place[key] = len(values)
            values.append(None)
            loop.append((place[key], call, slots))
        start = time.perf_counter()
        for i, call, slots in loop:
            values[i] = call(*[values[slot] for slot in slots])
        return time.perf_counter() - start

    def _take_apart(self, node: Any, place: dict[Any, int], values: list[Any]) -> tuple[Callable[..., Any], list[int]]:
        nested = [arg for arg in getattr(node, "args", ()) if hasattr(arg, "dependencies")]
        if type(node) is not self.plain or node.kwargs or any(type(arg) not in self.name_of for arg in nested):
            needs = list(node.dependencies)
            return lambda *given: node(dict(zip(needs, given, strict=True))), [place[need] for need in needs]
        slots = []
        for arg in node.args:
            name_of = self.name_of.get(type(arg))
            if name_of:
                slots.append(place[name_of(arg)])
            else:
                slots.append(len(values))
                values.append(arg)
        return node.func, slots

    def details(self) -> dict[str, float]:
        return {"calls_s": self.calls_s}


def _needs(graph: dict[Any, Any]) -> dict[Any, Any]:
    return {key: node.dependencies for key, node in graph.items()}


ENGINES: dict[str, type[Engine]] = {
    "wukong": Wukong,
    "sync": Sync,
    "threaded": Threaded,
    "multiprocessing": Multiprocessing,
    "distributed": Distributed,
    "ray": Ray,
    "bare": Bare,
}
START_UP_ONLY: dict[str, type[Engine]] = {"parsl": Parsl}
