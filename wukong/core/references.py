"""Futures inside what a graph's node or a call's arguments hold: found, and replaced by references.

Dask itself finds a future that is an argument; those inside lists, tuples, sets and dicts, inside a `functools.partial`
and inside the tasks that it has fused are found here. What only pickling would reach (a closure, an attribute) is not.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

from dask._task_spec import DataNode, Dict, GraphNode, List, NestedContainer, Set, Task, TaskRef, Tuple
from dask.utils import is_namedtuple_instance

_PLAIN = frozenset({str, int, float, bool, complex, bytes, type(None), slice, range})
_NODES: dict[type, Any] = {list: List, tuple: Tuple, set: Set}


def is_future(value: Any) -> bool:
    """Whether `value` is a future: of Wukong, or of anybody who keeps to Dask's protocol."""
    kind = type(value)
    return kind is not TaskRef and (issubclass(kind, TaskRef) or getattr(kind, "__dask_future__", False) is True)


def has_future(value: Any) -> bool:
    """Whether a future is `value`, or inside it."""
    return _has_future(value, ())


def _has_future(value: Any, within: tuple[int, ...]) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return False
    if is_future(value):
        return True
    if id(value) in within:  # a container that holds itself
        return False
    parts = _parts(value, kind)
    if not parts:
        return False
    within = (*within, id(value))
    return any(type(part) not in _PLAIN and _has_future(part, within) for part in parts)


def _parts(value: Any, kind: type) -> Any:
    if kind in (list, tuple, set, frozenset):
        return value
    if kind is dict:
        return value.values()
    if kind is partial:
        return (*value.args, *value.keywords.values())
    if issubclass(kind, DataNode):
        return (value.value,)
    if issubclass(kind, Task):
        return (value.func, *value.args, *value.kwargs.values())
    return value if is_namedtuple_instance(value) else ()


def with_refs(value: Any, found: list[Any]) -> Any:
    """Return `value` with the futures inside it replaced by references, itself if there are none; add them to `found`.

    A container with futures in it becomes a node that makes the container.
    """
    if not has_future(value):
        return value
    kind = type(value)
    if is_future(value):
        found.append(value)
        return TaskRef(value.key)
    if issubclass(kind, GraphNode):
        return _node(value, found)
    if kind is dict:
        return Dict([part for key, each in value.items() for part in (key, with_refs(each, found))] or {})
    if kind is partial:
        kwargs = {key: with_refs(each, found) for key, each in value.keywords.items()}
        return Task(None, partial, value.func, *[with_refs(each, found) for each in value.args], **kwargs)
    parts = [with_refs(each, found) for each in value]
    if kind in _NODES:
        return _NODES[kind](*parts)
    if kind is frozenset:
        return Task(None, frozenset, List(*parts))
    return Task(None, kind._make, List(*parts))  # a named tuple


def _node(node: Any, found: list[Any]) -> Any:
    if isinstance(node, DataNode):
        return _named(node.key, with_refs(node.value, found))
    if node.has_subgraph():
        return _fused(node, found)
    args = tuple(with_refs(each, found) for each in node.args)
    kwargs = {key: with_refs(each, found) for key, each in node.kwargs.items()}
    func = with_refs(node.func, found)
    if isinstance(func, GraphNode):
        return Task(node.key, _apply, func, *args, **kwargs)
    if not isinstance(node, NestedContainer):
        return Task(node.key, func, *args, _data_producer=node.data_producer, **kwargs)
    changed = object.__new__(type(node))
    changed.__setstate__(node.__getstate__())
    changed.args, changed._token, changed._repr = args, None, None
    changed._dependencies = Task(None, tuple, *args)._dependencies
    return changed


def _fused(task: Task, found: list[Any]) -> Task:
    """Tasks that Dask has fused into one know their inputs by name: what they refer to becomes an input as well."""
    inner, outkey, inkeys, *inputs = task.args
    mine: list[Any] = []
    inner = {key: with_refs(each, mine) for key, each in inner.items()}
    inputs = [with_refs(each, found) for each in inputs]
    found += mine
    more: dict[Any, None] = dict.fromkeys(each.key for each in mine if each.key not in inkeys)
    return Task(task.key, task.func, inner, outkey, (*inkeys, *more), *inputs, *map(TaskRef, more), **task.kwargs)


def _named(key: Hashable, node: Any) -> Any:
    """Return a node for `key` that gives what `node` does."""
    return Task(key, _same, node)


def _same(value: Any) -> Any:
    return value


def _apply(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)
