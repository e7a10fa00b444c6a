"""Which part of a task cannot be pickled: searched piece by piece once the whole has failed, so that errors name it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from dask._task_spec import GraphNode

from wukong.core.names import text_of
from wukong.errors import CodecError

_DEEPEST = 20


def blamed(error: CodecError, tasks: Iterable[tuple[Hashable, Any]], fails: Callable[[Any], bool]) -> CodecError:
    """Return an error that names the task and the object because of which `error` was raised.

    Args:
        error: what pickling all of them together raised.
        tasks: for each key, an op (`wukong.core.dag.Op`) or a value.
        fails: whether something cannot be pickled.
    """
    for key, what in tasks:
        if fails(what):
            places, culprit = _found(what, fails, [*_op_parts(what)])
            kind = type(culprit)
            named = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
            task, why = text_of(key), error.message.partition(": ")[2]
            where = f", {' of '.join(filter(None, places))}" if any(places) else ""
            return CodecError(f"cannot pickle a {named}{where}: {why}", task=task, hint=error.hint)
    return error


def _found(
    value: Any, fails: Callable[[Any], bool], parts: Iterable[tuple[str, Any]], depth: int = 0
) -> tuple[list[str], Any]:
    """Return the innermost part that cannot be pickled, and its places, the innermost place first."""
    for place, part in parts:
        if fails(part):
            places, culprit = _found(part, fails, _parts(part), depth + 1) if depth < _DEEPEST else ([], part)
            return [*places, place], culprit
    return [], value


def _op_parts(op: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(op, tuple) or not 2 <= len(op) <= 4:
        yield from _parts(op)
        return
    yield "", op[0]
    if len(op) == 3:
        yield from ((f"argument {i}", part) for i, part in enumerate(op[1]))
    elif len(op) == 4:
        yield from ((f"input {text_of(key)}", part) for key, part in op[3].items())


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, each with its place as text."""
    if isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"item {i}", part) for i, part in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f"item {key!r}", part) for key, part in value.items())
    elif isinstance(value, partial):
        yield from (("function of a partial", value.func), *_parts(value.args), *_parts(value.keywords))
    elif isinstance(value, MethodType):
        yield "object of a method", value.__self__
    elif isinstance(value, FunctionType):
        name = value.__qualname__
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield f"variable {variable!r} of the function {name}", cell.cell_contents
            except ValueError:  # not yet assigned
                continue
        for variable in value.__code__.co_names:
            if variable in value.__globals__:
                yield f"global variable {variable!r} of the function {name}", value.__globals__[variable]
    elif isinstance(value, GraphNode):
        for name in ("func", "args", "kwargs", "value"):
            part = getattr(value, name, None)
            yield from _parts(part) if name in ("args", "kwargs") and part else ((name, part),)
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        kind = type(value).__qualname__
        yield from ((f"attribute {name!r} of a {kind}", part) for name, part in vars(value).items())
