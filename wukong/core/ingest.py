"""From what Dask hands a scheduler to a `Graph`: the one module that knows Dask's graph internals.

Takes expressions, HighLevelGraphs, mappings of `dask._task_spec` nodes, legacy tuples and any mixture of them. Culls,
resolves aliases, lifts literals out, refuses cycles, and numbers the tasks, in one iterative depth-first walk from the
requested keys: linear in tasks + edges, no recursion.

Costs matter here: Dask's own schedulers spend most of a small job on this side. Plain calls therefore never become
`Task` objects (see `wukong.core.dag.Op`), and a purely delayed graph skips Dask's delayed optimisation, which only
culls, in time quadratic in the number of layers.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, convert_legacy_task
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict as _ensure_dict

from wukong.core import annotated
from wukong.core.dag import Dag, Graph, Literal, Op
from wukong.core.gc_pause import gc_paused
from wukong.core.references import has_future, is_future, with_refs
from wukong.core.sizes import size_bytes
from wukong.errors import GraphError, UnknownKeyError

ensure_dict: Any = _ensure_dict
convert: Any = convert_legacy_task
LARGE_LITERAL_BYTES = 65_536
_SMALL = frozenset(
    {str, int, float, bool, complex, type(None), slice, type, tuple, list, dict, set, frozenset}
    | {FunctionType, BuiltinFunctionType, partial}
)
_OPEN = -1


def ingest(graph: Any, keys: Any, *, known: Mapping[Hashable, Any] | None = None) -> Graph:
    """Turn a Dask graph and the keys wanted of it into a `Graph`.

    Args:
        graph: an expression, a HighLevelGraph, or a mapping.
        keys: one key or (nested) lists of keys.
        known: values that exist already, by key (futures); they win over the graph's own definition. Only the graph's
            own keys, futures and `TaskRef` refer to them: a literal that equals one of these keys stays a literal.

    Raises:
        UnknownKeyError: a requested key is not in the graph.
        GraphError: the graph has a cycle (which is spelled out), a task needs a key that is nowhere, or an annotation
            means nothing.
    """
    wanted = list(dict.fromkeys(flatten([keys]) if isinstance(keys, list) else [keys]))
    dsk, annotations = _materialise(graph)
    walk = _Walk(dsk, known or {})
    with gc_paused():
        for key in wanted:
            if key not in dsk and key not in walk.known:
                raise UnknownKeyError(
                    f"the requested key {key!r} is not in the graph of {len(dsk)} keys",
                    hint="ask for a key of the graph, or compute the collection instead of naming keys",
                )
            walk.visit(key)
        return replace(walk.graph(wanted, annotations), by_process=_by_process(graph))


@dataclass(frozen=True, slots=True)
class _Annotations:
    """By key, as `dask.annotate` names them; see `wukong.core.annotated`."""

    retries: Mapping[Hashable, Any] = field(default_factory=dict)
    priority: Mapping[Hashable, Any] = field(default_factory=dict)
    lanes: Mapping[Hashable, Any] = field(default_factory=dict)
    memory: Mapping[Hashable, Any] = field(default_factory=dict)
    keep: Mapping[Hashable, Any] = field(default_factory=dict)
    limit: Mapping[Hashable, Any] = field(default_factory=dict)

    def any(self) -> bool:
        """Whether there are any."""
        return any(getattr(self, name) for name in _ANNOTATIONS)


_ANNOTATIONS = tuple(each.name for each in fields(_Annotations))


@dataclass(frozen=True, slots=True)
class Topped:
    """Graphs as `ingest` takes them, with more nodes on top of them."""

    graphs: tuple[Any, ...]
    nodes: Mapping[Hashable, GraphNode]


def _materialise(graph: Any) -> tuple[Mapping[Hashable, Any], _Annotations]:
    if isinstance(graph, Topped):
        found = [_materialise(each) for each in graph.graphs]
        annotations = _Annotations(
            *({key: n for _, each in found for key, n in getattr(each, name).items()} for name in _ANNOTATIONS)
        )
        return {key: node for dsk, _ in found for key, node in dsk.items()} | dict(graph.nodes), annotations
    if isinstance(graph, HighLevelGraph):
        return ensure_dict(graph), _of_layers(graph)
    if isinstance(graph, Mapping):
        return graph, _Annotations()
    if not hasattr(graph, "__dask_graph__"):
        raise GraphError(
            f"a {type(graph).__qualname__} is not a graph",
            hint="give a Dask expression, a HighLevelGraph, or a mapping of keys to tasks",
        )
    plain = _delayed_layers(graph)
    if plain is not None:
        return ensure_dict(plain), _of_layers(plain)
    dsk = graph.__dask_graph__()
    if isinstance(dsk, HighLevelGraph):
        return ensure_dict(dsk), _of_layers(dsk)
    given = graph.__dask_annotations__() if hasattr(graph, "__dask_annotations__") else {}
    return dsk, _Annotations(*(_given(given.get(name, {})) for name in _ANNOTATIONS))


def _delayed_layers(expr: Any) -> HighLevelGraph | None:
    """Return the layers of an expression if its only optimisation would be that of `dask.delayed`; else None."""
    import dask
    from dask._expr import HLGExpr, _HLGExprSequence
    from dask.delayed import optimize

    parts = expr.operands if isinstance(expr, _HLGExprSequence) else [expr]
    if not all(isinstance(part, HLGExpr) and part.low_level_optimizer in (optimize, None) for part in parts):
        return None
    if dask.config.get("optimization.fuse.delayed", False):
        return None
    graphs = [part.hlg for part in parts]
    return graphs[0] if len(graphs) == 1 else HighLevelGraph.merge(*graphs)


def _by_process(graph: Any) -> bool:
    """Whether a bag is asked for: the one collection that Dask's own schedulers run in processes, not in threads."""
    if isinstance(graph, Topped):
        return any(map(_by_process, graph.graphs))
    if "dask.bag" not in sys.modules or not hasattr(graph, "__dask_graph__"):
        return False
    from dask._expr import HLGExpr, _ExprSequence, _HLGExprSequence

    parts = graph.operands if isinstance(graph, _ExprSequence | _HLGExprSequence) else [graph]
    given = [part.postcompute for part in parts if isinstance(part, HLGExpr) and part.postcompute]
    ends = [end for ends in given for end in (ends if isinstance(ends, list) else [ends])]
    return any(getattr(finalize, "__module__", "") == "dask.bag.core" for finalize, *_ in ends)


def _of_layers(graph: HighLevelGraph) -> _Annotations:
    found: dict[str, dict[Hashable, Any]] = {name: {} for name in _ANNOTATIONS}
    for layer in graph.layers.values():
        annotations = layer.annotations or {}
        for name in found.keys() & annotations.keys():
            value = annotations[name]
            found[name].update({key: value(key) if callable(value) else value for key in layer})
    return _Annotations(**{name: _given(values) for name, values in found.items()})


def _given(values: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
    """Return annotations without the marks that Dask has among them, for tasks that have none."""
    from dask._expr import _AnnotationsTombstone

    return {key: value for key, value in values.items() if not isinstance(value, _AnnotationsTombstone)}


class _Walk:
    """The depth-first walk. ``number[key]``: a task (>= 0), `_OPEN`, or ``-2 - i`` for the i-th constant."""

    def __init__(self, dsk: Mapping[Hashable, Any], known: Mapping[Hashable, Any]) -> None:
        self.dsk = dsk
        self.known = known
        self.number: dict[Hashable, int] = {}
        self.keys: list[Hashable] = []
        self.parents: list[tuple[int, ...]] = []
        self.ops: list[Op] = []
        self.constants: list[Any] = []
        self.objects: list[Any] = []
        self.object_of_constant: dict[int, int] = {}

    def visit(self, root: Hashable) -> None:
        """Number everything that `root` needs, parents first."""
        number, dsk, known = self.number, self.dsk, self.known
        parsed: dict[Hashable, tuple[Any, ...]] = {}
        stack = [root]
        while stack:
            key = stack[-1]
            state = number.get(key)
            if state is None:
                if key in known:
                    self._constant(key, known[key])
                    stack.pop()
                    continue
                try:
                    node = dsk[key]
                except KeyError:
                    raise self._lost(key, stack) from None
                form = self._parse(key, node)
                if form is None:
                    stack.pop()
                    continue
                deps = form[0]
                parsed[key] = form
                number[key] = _OPEN
                for dep in reversed(deps):
                    state = number.get(dep)
                    if state is None:
                        stack.append(dep)
                    elif state == _OPEN:
                        raise self._cycle(dep, stack, parsed)
            else:
                stack.pop()
                if state == _OPEN:
                    self._emit(key, parsed.pop(key))

    def _parse(self, key: Hashable, node: Any) -> tuple[Any, ...] | None:
        """Return ``(deps, func, args)`` for a plain call, ``(deps, node)`` otherwise; None for a constant."""
        kind = type(node)
        if kind is tuple and node and callable(node[0]):
            deps = []
            dsk = self.dsk
            for arg in node[1:]:
                cls = type(arg)
                if cls is str or cls is int or cls is float:
                    if arg in dsk:
                        deps.append(arg)
                elif cls is tuple:
                    if not _in(arg, dsk):
                        break
                    deps.append(arg)
                elif cls in _SMALL:
                    if cls in (list, dict, set, frozenset) and arg:
                        break
                elif isinstance(arg, (GraphNode, TaskRef, int, float, str, tuple)) or is_future(arg):
                    break
            else:
                if not self.known or not has_future(node):
                    return deps, node[0], node[1:]
        if not isinstance(node, GraphNode):
            if is_future(node) and node.key == key:
                raise self._lost(key, [])
            node = convert(key, node, self.dsk)
        if self.known:  # else there are no futures
            node = with_refs(node, [])
        if not isinstance(node, GraphNode):
            self._constant(key, node)
            return None
        if isinstance(node, DataNode):
            self._constant(key, node.value)
            return None
        if isinstance(node, Alias):
            return [node.target], node
        if type(node) is Task and not node.kwargs:
            deps = []
            for arg in node.args:
                if isinstance(arg, GraphNode):
                    break
                if isinstance(arg, TaskRef):
                    deps.append(arg.key)
            else:
                return deps, node.func, node.args
        return _in_order(node.dependencies), node

    def _constant(self, key: Hashable, value: Any) -> None:
        self.number[key] = -2 - len(self.constants)
        self.constants.append(value)

    def _emit(self, key: Hashable, form: tuple[Any, ...]) -> None:
        number = self.number
        if len(form) == 3:
            deps, func, args = form
            refs = [number[dep] for dep in deps]
            op: Op
            if len(refs) == len(args) and (not refs or min(refs) >= 0):
                op = (func, tuple(refs))
            else:
                op, refs = self._call(func, args, deps)
        else:
            deps, node = form
            if isinstance(node, Alias):
                number[key] = number[node.target]
                return
            refs, dep_keys = [], []
            constants: dict[Hashable, Any] = {}
            for dep in deps:
                ref: int | None = number[dep]
                if ref is not None and ref <= -2:
                    value, ref = self._literal(-2 - ref)
                    if ref is None:
                        constants[dep] = value
                        continue
                assert ref is not None
                dep_keys.append(dep)
                refs.append(ref)
            op = (node, tuple(dep_keys), tuple(refs), constants)
        number[key] = len(self.ops)
        self.keys.append(key)
        self.ops.append(op)
        if len(refs) == 1:
            self.parents.append((refs[0],) if refs[0] >= 0 else ())
        else:
            self.parents.append(tuple(sorted({ref for ref in refs if ref >= 0})))

    def _call(self, func: Any, args: Iterable[Any], deps: list[Hashable]) -> tuple[Op, list[int]]:
        """Return the op of a plain call with some literal arguments, and its refs."""
        filled, holes, left = list(args), [], iter(deps)
        marked = any(isinstance(arg, TaskRef) for arg in filled)
        nothing = object()
        awaited = next(left, nothing)
        for position, arg in enumerate(filled):
            value: Any = None
            ref: int | None
            # A legacy argument is an input whenever it equals a key; one of a `Task` only if it is a `TaskRef`.
            if isinstance(arg, TaskRef) if marked else arg is awaited:
                ref = self.number[awaited]
                awaited = next(left, nothing)
                if ref <= -2:
                    value, ref = self._literal(-2 - ref)
            else:
                value, ref = self._large(arg)
            filled[position] = value
            if ref is not None:
                holes.append((position, ref))
        return (func, tuple(filled), tuple(holes)), [ref for _, ref in holes]

    def _literal(self, index: int) -> tuple[Any, int | None]:
        """Return constant `index` as a value, or as a reference to an object if it is large."""
        value = self.constants[index]
        if index not in self.object_of_constant:
            value, ref = self._large(value)
            if ref is None:
                return value, None
            self.object_of_constant[index] = ref
        return None, self.object_of_constant[index]

    def _large(self, value: Any) -> tuple[Any, int | None]:
        cls = type(value)
        if cls in _SMALL or (not isinstance(value, KeptLiteral) and size_bytes(value) < LARGE_LITERAL_BYTES):
            return value, None
        self.objects.append(value)
        return None, -len(self.objects)

    def _lost(self, key: Hashable, stack: list[Hashable]) -> GraphError:
        needed = f", which {stack[-2]!r} needs," if len(stack) > 1 else ""
        return GraphError(
            f"the key {key!r}{needed} is neither in the graph nor a value that is kept",
            task=str(key),
            hint="a future of another client, or one that was released, cannot be an input",
        )

    def _cycle(self, start: Hashable, stack: list[Hashable], parsed: Mapping[Hashable, Any]) -> GraphError:
        # A key may also wait lower on the stack, as another task's input: its last place is where it was opened.
        opened = dict.fromkeys(key for key in reversed(stack) if key in parsed and self.number.get(key) == _OPEN)
        path = [*reversed(opened)]
        path = [*path[path.index(start) :], start]
        shown = " -> ".join(repr(key) for key in (path if len(path) <= 12 else [*path[:6], "...", *path[-5:]]))
        return GraphError(f"the graph has a cycle of {len(path) - 1} tasks: {shown}", task=str(start))

    def graph(self, wanted: list[Hashable], annotations: _Annotations) -> Graph:
        """Return the finished graph."""
        request: dict[Hashable, int | Literal] = {}
        outputs = array("i")
        for key in wanted:
            ref = self.number[key]
            request[key] = ref if ref >= 0 else Literal(self.constants[-2 - ref])
            if ref >= 0:
                outputs.append(ref)
        number = self.number
        tasks = {key: task for key, task in number.items() if task >= 0} if annotations.any() else {}
        retries = annotated.told(annotations.retries, tasks, annotated.retries)
        priority = annotated.told(annotations.priority, tasks, annotated.priority)
        exclusive = frozenset(annotated.told(annotations.lanes, tasks, annotated.lanes))
        memory = annotated.told(annotations.memory, tasks, annotated.memory_bytes)
        keeps = annotated.told(annotations.keep, tasks, annotated.keep)
        limits = annotated.agreed(annotated.told(annotations.limit, tasks, annotated.limit), self.keys)
        dag = Dag.from_parents(self.parents, outputs)
        given = retries, priority, exclusive, memory, keeps
        return Graph(dag, self.keys, self.ops, self.objects, request, *given, limits=limits)


class KeptLiteral:
    """Base of a literal that stands for a value which is already in the store; always an object, never inlined."""

    __slots__ = ()


def _in(arg: tuple[Any, ...], dsk: Mapping[Hashable, Any]) -> bool:
    try:
        return arg in dsk
    except Exception:  # an unhashable element, or one that does not compare: no key, perhaps a nested task
        return False


def _in_order(keys: Iterable[Any]) -> list[Any]:
    try:
        return sorted(keys)
    except TypeError:  # keys of several kinds
        return sorted(keys, key=str)
