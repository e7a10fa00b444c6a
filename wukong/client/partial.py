"""Computing with ``on_error="collect"``: a graph with one more task on top, which collects what there is."""

from __future__ import annotations

import uuid
from collections.abc import Hashable, Sequence
from typing import Any

import dask
from dask._task_spec import Task, TaskRef
from dask.base import collections_to_expr, is_dask_collection
from dask.core import flatten

from wukong.core.ingest import Topped
from wukong.core.partial import Collect

CHOICES = "raise", "collect"


def check(on_error: str) -> bool:
    """Return whether failures are to be collected. Raises ValueError if it is neither choice."""
    if on_error not in CHOICES:
        raise ValueError(f"on_error={on_error!r}: one of {', '.join(CHOICES)}")
    return on_error == "collect"


def keys_of(expr: Any, items: Sequence[Any]) -> list[Any]:
    """Return the keys of each collection in an optimised expression over all of them."""
    from dask._expr import _ExprSequence, _HLGExprSequence

    keys, own = expr.__dask_keys__(), [each.__dask_keys__() for each in items]
    if set(flatten(own)) == set(flatten(keys)):  # those of graphs stay as they are, but are grouped by their kinds
        return own
    return list(keys) if isinstance(expr, (_ExprSequence, _HLGExprSequence)) else [keys for _ in items]


def collecting(items: Sequence[Any], optimize_graph: bool, *, single: bool) -> tuple[Topped, Hashable]:
    """Return a graph, and the key in it of what there is of these collections: a `wukong.core.partial.Partial`.

    What is no collection is a value that is there.
    """
    items = [each if is_dask_collection(each) else dask.delayed(each, traverse=False) for each in items]
    keys: list[Any] = [None] * len(items)
    graphs = []
    for by_expression in (False, True):  # together, Dask would turn expressions into graphs, and lose the keys' order
        here = [i for i, each in enumerate(items) if _is_expression(each) is by_expression]
        if here:
            alike = [items[i] for i in here]
            graphs.append(expr := collections_to_expr(alike, optimize_graph).optimize())
            for i, found in zip(here, keys_of(expr, alike), strict=True):
                keys[i] = found
    collect = Collect(keys, [each.__dask_postcompute__() for each in items], single=single)
    top = f"finalize-collect-{uuid.uuid4().hex}"  # so named, plans do not count its key as part of what is computed
    return Topped(tuple(graphs), {top: Task(top, collect, *map(TaskRef, flatten(keys)))}), top


def _is_expression(item: Any) -> bool:
    from dask._expr import HLGExpr

    return not isinstance(collections_to_expr(item), HLGExpr)
