"""Which tasks of a graph write into targets (`dask.array.store`), and whether a function or the client writes.

If several functions can reach a target (a Zarr array in files or in an object store), they write to it themselves, in
parallel. Anything else only the client can reach: an array in its memory, a file that it has open, an object of the
user's. Then the task is changed: the client gets the chunk and writes it (`wukong.core.targets`).

Dask fuses a store with the tasks before and after it, so that it may be inside a task, inside a task's task: this
module, like `wukong.core.ingest`, knows how Dask builds those.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dask._task_spec import DataNode, GraphNode, Task, TaskRef, _execute_subgraph

from wukong.core.dag import Graph, op_refs
from wukong.core.lock import between_functions
from wukong.core.targets import Targets, described, store_chunk
from wukong.errors import GraphError

_UNKNOWN: Any = object()
_STORE = ("x", "out", "index", "region", "lock", "return_stored", "load_stored")

Literal = Callable[[Any], Any]
"""Returns what an argument of a task stands for; `_UNKNOWN` for another task's value."""


def redirect(graph: Graph, *, shares_files: bool) -> tuple[Targets | None, frozenset[str]]:
    """Change the tasks of `graph` that store; return the targets that only the client can write, and the locks' names.

    If functions write themselves, a store's lock becomes a lock between functions. None: the client has no targets to
    write. `shares_files`: functions see the client's files. Raises GraphError for a target that cannot be written.
    """
    dask_array = sys.modules.get("dask.array.core")
    if dask_array is None:  # nobody can have stored anything
        return None, frozenset()
    walk = _Walk(graph, dask_array.load_store_chunk, shares_files=shares_files)
    for task, op in enumerate(graph.ops):
        if len(op) == 3:
            if op[0] is _execute_subgraph or op[0] is walk.store:
                walk.call(task, op)
        elif len(op) == 4 and type(op[0]) is Task:
            walk.node(task, op)
    if walk.dropped:
        used = {ref for op in graph.ops for ref in op_refs(op) if ref < 0}
        for ref in walk.dropped - used:
            graph.objects[-1 - ref] = None
    return walk.targets if walk.targets.expected else None, frozenset(walk.locks)


def stores(collection: Any) -> bool:
    """Whether a collection writes into targets when it is computed."""
    dask_array = sys.modules.get("dask.array.core")
    if dask_array is None:
        return False
    layers = getattr(collection.__dask_graph__(), "layers", {}).values()
    return any(getattr(getattr(layer, "task", None), "func", None) is dask_array.load_store_chunk for layer in layers)


class _Walk:
    def __init__(self, graph: Graph, store: Any, *, shares_files: bool) -> None:
        self.graph, self.store, self.shares_files = graph, store, shares_files
        self.targets = Targets()
        self.locks: set[str] = set()
        self.dropped: set[int] = set()
        self._found = 0
        self._stores: dict[int, tuple[Any, bool]] = {}
        self._changed: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def call(self, task: int, op: tuple[Any, ...]) -> None:
        """Look at an op ``(func, args, holes)``."""
        func, args, holes = op
        refs = dict(holes)
        values = [self._of_ref(refs[at]) if at in refs else _value(arg) for at, arg in enumerate(args)]
        self._found = 0
        if func is self.store:
            changed = self._redirected(dict(zip(_STORE, args, strict=False)), dict(zip(_STORE, values, strict=False)))
            if changed is None:
                return
            func, changed_args = changed
            args = [changed_args[name] for name in _STORE]
            kept = [at for at, name in enumerate(_STORE) if name != "lock" and (name != "out" or func is self.store)]
        else:
            inner, *_, inkeys = values[:3]
            new = self._subgraph(inner, inkeys, values[3:])
            if new is None:
                return
            inner, inkeys, rest = new
            args = [inner, args[1], inkeys, *(args[3 + at] for at in rest)]
            kept = [0, 1, 2, *(3 + at for at in rest)]
            refs = {kept.index(at): ref for at, ref in refs.items() if at in kept}
            kept = list(range(len(args)))
        left = tuple((at, ref) for at, ref in refs.items() if at in kept)
        self._replace(task, (func, tuple(args), left), op)

    def node(self, task: int, op: tuple[Any, ...]) -> None:
        """Look at an op ``(node, keys, refs, constants)``."""
        node, keys, refs, constants = op
        by_key = dict(zip(keys, refs, strict=True))

        def literal(arg: Any) -> Any:
            if not isinstance(arg, TaskRef):
                return _value(arg)
            return constants[arg.key] if arg.key in constants else self._of_ref(by_key[arg.key])

        self._found = 0
        new = self._task(node, literal)
        if new is node:
            return
        kept = [(key, ref) for key, ref in zip(keys, refs, strict=True) if key in new.dependencies]
        constants = {key: value for key, value in constants.items() if key in new.dependencies}
        self._replace(task, (new, tuple(key for key, _ in kept), tuple(ref for _, ref in kept), constants), op)

    def _replace(self, task: int, new: tuple[Any, ...], old: tuple[Any, ...]) -> None:
        self.graph.ops[task] = new
        self.dropped.update({ref for ref in op_refs(old) if ref < 0} - set(op_refs(new)))
        if self._found:
            self.targets.expected[task] = self._found

    def _of_ref(self, ref: int) -> Any:
        return self.graph.objects[-1 - ref] if ref < 0 else _UNKNOWN

    def _task(self, task: Any, literal: Literal) -> Any:
        """Return a task as it is to be run: the same one, unless it stores or holds a task that does."""
        if task.func is self.store:
            args = dict(zip(_STORE, task.args, strict=False)) | task.kwargs
            changed = self._redirected(args, {name: literal(arg) for name, arg in args.items()})
            return task if changed is None else self._kept(task, *changed)
        if task.func is not _execute_subgraph:
            return task
        inner, outkey, inkeys, *deps = task.args
        new = self._subgraph(inner, _value(inkeys), [literal(dep) for dep in deps])
        if new is None:
            return task
        inner, inkeys, rest = new
        return Task(task.key, _execute_subgraph, inner, outkey, inkeys, *(deps[at] for at in rest))

    def _kept(self, task: Any, func: Any, args: Mapping[str, Any]) -> Any:
        name = id(task), id(args["out"])
        if name not in self._changed:  # shared by the tasks of a layer, so that a page holds it once
            self._changed[name] = task, Task(task.key, func, **args)
        return self._changed[name][1]

    def _subgraph(
        self, inner: Mapping[Any, Any], inkeys: Sequence[Any], values: Sequence[Any]
    ) -> tuple[Mapping[Any, Any], tuple[Any, ...], list[int]] | None:
        """Return a fused task's tasks as they are to be run, the inputs they need, and their places in `inkeys`."""
        if not self._holds_store(inner):
            return None
        given = dict(zip(inkeys, values, strict=True))

        def literal(arg: Any) -> Any:
            if not isinstance(arg, TaskRef):
                return _value(arg)
            return _value(inner[arg.key]) if arg.key in inner else given.get(arg.key, _UNKNOWN)

        new = {key: self._task(node, literal) if type(node) is Task else node for key, node in inner.items()}
        changes = [id(node) for key, node in new.items() if node is not inner[key]]
        if not changes:
            return None
        needed = {key for node in new.values() for key in node.dependencies}
        spared = {key for key, node in new.items() if isinstance(node, DataNode) and key not in needed}
        name = (id(inner), *changes)
        if name not in self._changed:
            self._changed[name] = inner, {key: node for key, node in new.items() if key not in spared}
        rest = [at for at, key in enumerate(inkeys) if key in needed]
        return self._changed[name][1], tuple(inkeys[at] for at in rest), rest

    def _holds_store(self, inner: Mapping[Any, Any]) -> bool:
        if id(inner) not in self._stores:
            found = any(
                node.func is self.store or (node.func is _execute_subgraph and self._holds_store(node.args[0]))
                for node in inner.values()
                if type(node) is Task
            )
            self._stores[id(inner)] = inner, found
        return self._stores[id(inner)][1]

    def _redirected(self, args: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Return the function and arguments that a store is replaced by; None: it stays as it is."""
        target, lock = values["out"], values["lock"]
        if target is _UNKNOWN or reached_by_functions(target, shares_files=self.shares_files):
            between = between_functions(lock)
            if between is None:
                return None
            self.locks.add(between.name)
            return self.store, {**args, "lock": between}
        if getattr(getattr(target, "flags", None), "writeable", True) is False:
            raise GraphError(
                f"assignment destination is read-only: {described(target)}",
                hint='store into an array that can be written; a file is mapped for that with mode="r+"',
            )
        self._found += 1
        stand_in = self.targets.stand_in(target, lock if hasattr(lock, "acquire") else None)
        return store_chunk, {**args, "out": stand_in, "lock": False}


def _value(arg: Any) -> Any:
    if isinstance(arg, DataNode):
        return arg.value
    return _UNKNOWN if isinstance(arg, (GraphNode, TaskRef)) else arg


def reached_by_functions(target: Any, *, shares_files: bool) -> bool:
    """Whether a function can write into a target itself: a Zarr array in an object store, or in files that both see."""
    if type(target).__module__.partition(".")[0] != "zarr":
        return False
    store: Any = getattr(target, "store", None)
    while hasattr(store, "_store"):  # one that wraps another
        store = store._store
    kinds = {kind.__name__ for kind in type(store).__mro__}
    if kinds & {"LocalStore", "DirectoryStore", "NestedDirectoryStore"}:
        return shares_files
    if kinds & {"FsspecStore", "FSStore"}:
        protocol = store.fs.protocol
        protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        return "memory" not in protocols and (shares_files or not protocols & {"file", "local"})
    if "ObjectStore" in kinds:
        kind = type(store.store).__name__
        return kind != "MemoryStore" and (shares_files or kind != "LocalStore")
    return False
