"""Of which kind a task is: the prefix of its key, and what it calls. Only tasks of one kind teach about each other.

Key prefixes and names of functions are not enough: a prefix is often the function's name, two programs have a `load`
each, and what Dask has fused is called `_execute_subgraph` everywhere. So a function is known by its module, its name
and its code, and what was fused by all the functions in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import CodeType
from typing import Any
from zlib import crc32

from dask.utils import funcname, key_split

from wukong.core.dag import Graph, Op
from wukong.core.layers import unnumbered
from wukong.planning.learned import Kind

_MOST_LETTERS = 200
_DEEPEST = 4


class Kinds:
    """The kind of each task of a graph, found when asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._prefixes: dict[Hashable, str] = {}
        self._made: dict[tuple[str, str], Kind] = {}
        self._names: dict[int, tuple[Any, str]] = {}

    def __getitem__(self, task: int) -> Kind:
        key, function = self._graph.keys[task], self._called(self._graph.ops[task])
        head = key[0] if isinstance(key, tuple) and key else key
        prefix = self._prefixes.get(head)
        if prefix is None:
            prefix = self._prefixes[head] = unnumbered(str(key_split(head)))
        kind = self._made.get((prefix, function))
        if kind is None:
            kind = self._made[prefix, function] = Kind(prefix, function)
        return kind

    def _called(self, op: Op) -> str:
        if not op:
            return "?"
        if len(op) == 4:
            return self._node(op[0], 0)
        fused = op[1][0] if len(op) == 3 and op[1] and isinstance(op[1][0], dict) else None
        if fused is not None and getattr(op[0], "__name__", "") == "_execute_subgraph":
            return self._fused(fused, 0)
        return self._name(op[0])

    def _fused(self, nodes: Mapping[Any, Any], depth: int) -> str:
        told = "+".join(dict.fromkeys(self._node(each, depth) for each in nodes.values()))
        return told if len(told) <= _MOST_LETTERS else f"{told[:_MOST_LETTERS]}~{crc32(told.encode()):08x}"

    def _node(self, node: Any, depth: int) -> str:
        func, args = getattr(node, "func", None), getattr(node, "args", ())
        if func is None:
            return self._name(node)
        if depth < _DEEPEST and getattr(func, "__name__", "") == "_execute_subgraph" and args:
            inner = getattr(args[0], "value", args[0])
            if isinstance(inner, Mapping):
                return self._fused(inner, depth + 1)
        return self._name(func)

    def _name(self, func: Any) -> str:
        known = self._names.get(id(func))  # which stays its own, as long as it is kept here
        if known is None:
            known = self._names[id(func)] = func, function_name(func)
        return known[1]


def function_name(func: Any) -> str:
    """Return what tells a function from others that are called the same. Never raises."""
    try:
        return _function_name(func, 0)
    except Exception:  # of the user's objects, whatever their attributes do
        return type(func).__name__


def _function_name(func: Any, depth: int) -> str:
    inner = getattr(func, "func", None)
    if callable(inner) and depth < _DEEPEST:  # functools.partial, and what looks like it
        return f"{type(func).__name__}({_function_name(inner, depth + 1)})"
    parts = (getattr(func, "first", None), *(getattr(func, "funcs", None) or ()))
    if callable(parts[0]) and depth < _DEEPEST:  # toolz.compose
        return "+".join(_function_name(each, depth + 1) for each in parts)
    module, code = getattr(func, "__module__", None), getattr(func, "__code__", None)
    name = str(getattr(func, "__qualname__", None) or funcname(func))
    place = "" if module in (None, "builtins") else f"{module}."
    return f"{place}{name}" + (f":{_code_sum(code):08x}" if isinstance(code, CodeType) else "")


def _code_sum(code: CodeType, before: int = 0) -> int:
    """Return a checksum of what a function does: not where it stands, nor what it says of itself."""
    found = crc32(code.co_code, before)
    found = crc32(repr(code.co_names).encode(), found)
    for each in code.co_consts[1:] if code.co_consts and isinstance(code.co_consts[0], str) else code.co_consts:
        if isinstance(each, CodeType):
            found = _code_sum(each, found)
        elif isinstance(each, int | float | complex | str | bytes | bool | None | tuple):
            found = crc32(repr(each).encode(), found) if "0x" not in repr(each) else found
    return found
