"""The sizes of chunks and partitions, from what Dask's collections know of themselves before anything runs.

Arrays: the shape and the dtype of each chunk. Dataframes: the dtypes, and the number of rows if they come from a frame
in memory, as long as a step keeps all rows. Uses Dask's expressions, like `wukong.core.ingest`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeAlias

SizeOf: TypeAlias = "Callable[[Hashable], int | None]"
_Array: TypeAlias = "tuple[Sequence[Sequence[float]], int]"

_OBJECT_BYTES = 64


def sizes_of(graph: Any) -> SizeOf:
    """Return a function from keys to the sizes of their values in bytes; None: nothing says so.

    `graph` is an expression or a HighLevelGraph, before or after Dask's optimisation; of a plain mapping nothing is
    known.
    """
    arrays: dict[str, _Array | int] = {}
    for node in graph.walk() if hasattr(graph, "walk") else [graph]:
        arrays.update(_arrays(node))
        if (partition_bytes := _partition_bytes(node)) is not None:
            arrays[str(node._name)] = partition_bytes
    heads: dict[Hashable, _Array | int | None] = {}

    def size_of(key: Hashable) -> int | None:
        if not isinstance(key, tuple) or not key:
            return None
        head = key[0]
        if head not in heads:
            heads[head] = _named(str(head), arrays)
        found = heads[head]
        return _chunk_bytes(*found, key[1:]) if isinstance(found, tuple) else found

    return size_of


def _arrays(node: Any) -> Iterator[tuple[str, _Array | int]]:
    """Yield the name of every array in a graph of layers, and its chunks and the bytes of an element.

    What goes into a reduction says of itself that it has the chunks of what is reduced, which is not so: Dask corrects
    that later. It is as large as the chunks that come out of the reduction's next step.
    """
    graph = getattr(node, "hlg", node)
    layers = getattr(graph, "layers", None)
    arrays = {str(name): told for name, layer in layers.items() if (told := _told(layer))} if layers else {}
    for name, array in arrays.items():
        further = [
            arrays[each] for each in map(str, graph.dependents.get(name, ())) if _reduces(each) and each in arrays
        ]
        yield name, max(map(_largest, further)) if further and not _reduces(name) else array


def _told(layer: Any) -> _Array | None:
    told = getattr(layer, "collection_annotations", None) or {}
    if told.get("chunks") is None or told.get("dtype") is None:
        return None
    return told["chunks"], _itemsize(told["dtype"])


def _reduces(name: str) -> bool:
    return name.rpartition("-")[0].endswith(("-partial", "-aggregate"))


def _largest(array: _Array) -> int:
    lengths = [max(each, default=0) for each in array[0]]
    return int(math.prod(lengths)) * array[1] if all(map(math.isfinite, lengths)) else 0


def _itemsize(dtype: Any) -> int:
    return _OBJECT_BYTES if getattr(dtype, "hasobject", False) else int(getattr(dtype, "itemsize", 8))


def _named(name: str, arrays: dict[str, _Array | int]) -> _Array | int | None:
    """Find an array by the name of its keys. Layers that Dask fuses put their names before that of the last one."""
    while name not in arrays:
        _, dash, name = name.partition("-")
        if not dash:
            return None
    return arrays[name]


def _chunk_bytes(chunks: Sequence[Sequence[float]], itemsize: int, place: Sequence[Any]) -> int | None:
    try:
        shape = [lengths[i] for lengths, i in zip(chunks, place, strict=True)]
        return int(math.prod(shape)) * itemsize
    except (ValueError, IndexError, TypeError, OverflowError):  # another shape than the keys', or unknown lengths
        return None


def _partition_bytes(node: Any) -> int | None:
    """Return the size of a partition of an expression of dataframes that keeps the rows of a frame in memory."""
    if not type(node).__module__.startswith("dask.dataframe"):
        return None
    try:
        rows = _rows(node)
        if rows is None:
            return None
        meta = node._meta
        dtypes = list(meta.dtypes) if hasattr(meta, "columns") else [meta.dtype]
        return int(rows * (8 + sum(map(_itemsize, dtypes))))
    except Exception:  # whatever an expression may raise that is no dataframe's
        return None


def _rows(node: Any) -> float | None:
    from dask.dataframe.dask_expr._expr import Elemwise, Fused
    from dask.dataframe.dask_expr.io import FromPandas

    if isinstance(node, Fused):
        node = node.exprs[0]
    while isinstance(node, Elemwise):
        node = next(each for each in node.dependencies() if each.ndim)
    return len(node.frame) / max(1, node.npartitions) if isinstance(node, FromPandas) else None
