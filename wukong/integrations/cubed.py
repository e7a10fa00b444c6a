"""An executor for Cubed: a whole plan is one job, with no client between its operations.

    spec = cubed.Spec(work_dir="s3://...", allowed_mem="2GB", executor=WukongExecutor())

    operation "op-1"  --its tasks-->  end of "op-1"  -->  the tasks of all operations that read what it has written

Tasks hand nothing to each other: they read and write Zarr chunks in `work_dir`, which all functions have to reach. Each
writes chunks of its own, so that running it twice does no harm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from cubed.runtime.pipeline import visit_nodes
from cubed.runtime.types import DagExecutor, TaskEndEvent
from cubed.runtime.utils import handle_operation_end_callbacks, handle_operation_start_callbacks
from dask._task_spec import Task, TaskRef
from networkx import MultiDiGraph, topological_sort

from wukong.client.client import Client
from wukong.client.futures import Future
from wukong.client.launch import launch
from wukong.client.scheduler import get_client
from wukong.client.waiting import as_completed
from wukong.integrations.cubed_task import ended, run_measured, run_task

RETRIES = 2
"""As Cubed's other executors have it."""


class WukongExecutor(DagExecutor):  # type: ignore[misc]
    """Runs Cubed's plans on a client.

    Args:
        client: None: the one that is Dask's default when a plan is run.
        retries: how often a task that fails is run again.
    """

    def __init__(self, client: Client | None = None, *, retries: int = RETRIES, **kwargs: Any) -> None:
        super().__init__(retries=retries, **kwargs)
        self._client = client

    @property
    def name(self) -> str:
        """The name by which Cubed knows it."""
        return "wukong"

    def execute_dag(
        self,
        dag: MultiDiGraph,
        callbacks: Sequence[Any] | None = None,
        spec: Any = None,
        compute_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Run a plan. Callbacks hear of each task while it runs; without any, only the end is told.

        Raises what a task raised, and ValueError if functions have less memory than `spec.allowed_mem`.
        """
        client = get_client() if self._client is None else self._client
        retries: int = (self.kwargs | kwargs)["retries"]
        _check_memory(client, spec)
        needs = _needs(dag)
        graph, tasks = _graph(dag, needs, measured=bool(callbacks), prefix=compute_id or "cubed")
        if not tasks:
            return
        if not callbacks:
            read = {op for ops in needs.values() for op in ops}
            client.get(graph, [_end(compute_id or "cubed", op) for op in tasks if op not in read], retries=retries)
            return
        _Told(callbacks, needs, tasks).run(client, graph, retries)

    def __reduce__(self) -> tuple[Any, ...]:
        return WukongExecutor, (None,)  # in a function there is no client


def _check_memory(client: Client, spec: Any) -> None:
    there, needed = client.faas.limits.memory_bytes, None if spec is None else spec.allowed_mem
    if there is not None and needed is not None and there < needed:
        raise ValueError(f"Runtime memory ({there}) is less than allowed_mem ({needed})")


def _needs(dag: MultiDiGraph) -> dict[str, set[str]]:
    """Return for each operation that is to run those which have to end before; through arrays, and what is computed."""
    runs = {name for name, _ in visit_nodes(dag)}
    needs: dict[str, set[str]] = {}
    for name in topological_sort(dag):
        above = list(dag.predecessors(name))
        needs[name] = {each for each in above if each in runs}.union(
            *(needs[each] for each in above if each not in runs)
        )
    return {name: needs[name] for name in needs if name in runs}


def _end(prefix: str, op: str) -> str:
    return f"{op}-end-{prefix}"


def _graph(
    dag: MultiDiGraph, needs: dict[str, set[str]], *, measured: bool, prefix: str
) -> tuple[dict[Hashable, Any], dict[str, list[Any]]]:
    """Return Dask's graph of a plan, and the keys of each operation's tasks."""
    graph: dict[Hashable, Any] = {}
    tasks: dict[str, list[Any]] = {}
    run: Callable[..., Any] = run_measured if measured else run_task
    for op, node in visit_nodes(dag):
        pipeline = node["pipeline"]
        after = [TaskRef(_end(prefix, each)) for each in sorted(needs[op])]
        keys = tasks[op] = []
        for i, item in enumerate(pipeline.mappable):
            key = f"{op}-{prefix}", i
            graph[key] = Task(key, run, pipeline.function, item, pipeline.config, *after)
            keys.append(key)
        end = _end(prefix, op)
        graph[end] = Task(end, ended, *[TaskRef(each) for each in keys])
    return graph, tasks


class _Told:
    """A plan whose callbacks hear of each task: all of them are futures."""

    def __init__(self, callbacks: Sequence[Any], needs: dict[str, set[str]], tasks: dict[str, list[Any]]) -> None:
        self._callbacks, self._needs, self._tasks = callbacks, needs, tasks
        self._left = Counter({op: len(keys) for op, keys in tasks.items()})
        self._waiting = list(tasks)

    def run(self, client: Client, graph: dict[Hashable, Any], retries: int) -> None:
        """Run it to its end. Raises what a task raised, and cancels the rest."""
        of: dict[Hashable, str] = {key: op for op, keys in self._tasks.items() for key in keys}
        states = {key: client._registry.state(key, reuse=False)[0] for key in of}
        futures = [Future(state, client) for state in states.values()]
        launch(client, graph, states, stream=True, retries=retries)
        self._begin()
        try:
            for future in as_completed(futures):
                stats = future._result()
                op = of[future.key]
                for callback in self._callbacks:
                    callback.on_task_end(TaskEndEvent(name=op, **stats))
                self._left[op] -= 1
                if not self._left[op]:
                    handle_operation_end_callbacks(self._callbacks, op)
                    self._begin()
        finally:
            for future in futures:
                future.cancel()

    def _begin(self) -> None:
        """Tell of the operations that begin now."""
        for op in list(self._ready()):
            self._waiting.remove(op)
            handle_operation_start_callbacks(self._callbacks, op)

    def _ready(self) -> Iterator[str]:
        return (op for op in self._waiting if not any(self._left[each] for each in self._needs[op]))
