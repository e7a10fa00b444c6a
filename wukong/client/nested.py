"""Futures and collections inside what a client is given: found, and filled in with values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dask.base import is_dask_collection

from wukong.client.futures import Future

SKIPPED: Any = object()
"""Stands for a value that is to be left out."""

_BUILTIN = (list, tuple, set, dict)


def hides_collection(value: Any) -> bool:
    """Whether a Dask collection is inside the lists, tuples, sets and dicts of `value`."""
    if type(value) not in _BUILTIN:
        return False
    items = value.values() if isinstance(value, dict) else value
    return any(is_dask_collection(each) or hides_collection(each) for each in items)


def find_futures(value: Any) -> list[Future]:
    """Return the futures in `value`: itself, inside any iterables and dicts, and under persisted collections."""
    if isinstance(value, Future):
        return [value]
    if is_dask_collection(value):
        nodes = dict(value.__dask_graph__()).values()
        return [future for node in nodes for future in find_futures(getattr(node, "value", node)) if not callable(node)]
    if isinstance(value, dict):
        return [future for each in value.values() for future in find_futures(each)]
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and not hasattr(value, "__array__"):
        return [future for each in value for future in find_futures(each)]
    return []


def filled(value: Any, value_of: Callable[[Future], Any]) -> Any:
    """Return `value` with each future replaced by ``value_of(future)``, or left out if that is `SKIPPED`."""
    if isinstance(value, Future):
        return value_of(value)
    if isinstance(value, dict):
        pairs = ((key, filled(each, value_of)) for key, each in value.items())
        return {key: each for key, each in pairs if each is not SKIPPED}
    if isinstance(value, (list, set, frozenset)) or type(value) is tuple:
        return type(value)(each for each in (filled(each, value_of) for each in value) if each is not SKIPPED)
    return value
