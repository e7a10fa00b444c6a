"""Redis servers as one store: keys over all of them, and large values in chunks."""

from __future__ import annotations

from collections.abc import Sequence

from wukong.backends.storage import Store
from wukong.backends.storage.layers.chunked import Chunked
from wukong.backends.storage.layers.sharded import Sharded

__all__ = ["chunked", "spread"]

_WHOLE_BYTES = 256 << 20
_CHUNK_BYTES = 64 << 20
_SPREAD_BYTES = 4 << 20
_SHARE_BYTES = 2 << 20


def spread(shards: Sequence[Store], names: Sequence[str], chunk_bytes: int | None) -> Chunked:
    """Return the shards as one store.

    Args:
        shards: one or more.
        names: the name of each, which decides on its share of the keys.
        chunk_bytes: larger values are stored in chunks of this size. None: with several shards, values of more than
            4 MiB are stored in chunks of 2 MiB; with one, values of more than 256 MiB in chunks of 64 MiB.
    """
    if len(shards) == 1:
        return chunked(shards[0], chunk_bytes, several=False)
    return chunked(Sharded(shards, names), chunk_bytes, several=True)


def chunked(store: Store, chunk_bytes: int | None, *, several: bool) -> Chunked:
    """Return the store with large values in chunks, see `spread`; `several`: it spreads keys over several servers."""
    from_bytes, size_bytes = (_SPREAD_BYTES, _SHARE_BYTES) if several else (_WHOLE_BYTES, _CHUNK_BYTES)
    return Chunked(store, chunk_bytes=chunk_bytes or size_bytes, from_bytes=chunk_bytes or from_bytes)
