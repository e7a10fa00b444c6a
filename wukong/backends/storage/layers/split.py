"""One store for records and small values, another for large values: a plug-in made of two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.layers.chunked import Chunked
from wukong.backends.storage.layers.layer import nested, opened

__all__ = ["Split"]

_MAGIC = bytes.fromhex("37ceca20e1b5be42692ed76e8061f7ec")
_WHOLE_BYTES = 1 << 62


class Split(Chunked):
    """The store `split`: records, small values and waiting in one store, large values in another.

        {"name": "split", "records": "redis://h1:6379", "values": "memcached://h2:11211,h3:11211"}

    Large values are written as `Chunked` writes them: first into `values`, as a whole if that store takes them, then a
    small manifest into `records`. If either store loses its part, the value is missing.

    Args:
        records, values: the two stores, each a plug-in's name, a URL, a mapping of name and options, or an open
            store. Both are closed with this one.
        from_bytes: a value larger than this goes to `values`.

    Raises `PluginError` if one of them cannot be loaded (the other is closed then), `ConfigError` if `records` takes no
    value of `from_bytes`.
    """

    def __init__(
        self,
        records: str | Mapping[str, Any] | Store,
        values: str | Mapping[str, Any] | Store,
        from_bytes: int = 65_536,
    ) -> None:
        first = opened(records)
        try:
            second = opened(values)
        except BaseException:
            first.close()
            raise
        try:
            limit_bytes = second.capabilities.max_value_bytes
            super().__init__(
                first,
                second,
                chunk_bytes=_WHOLE_BYTES if limit_bytes is None else limit_bytes,
                from_bytes=from_bytes,
                magic=_MAGIC,
            )
        except BaseException:
            first.close()
            second.close()
            raise

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        options = {
            "records": nested(self.inner.spec()),
            "values": nested(self.values.spec()),
            "from_bytes": self._from_bytes,
        }
        return PluginSpec(f"{__name__}:{type(self).__name__}", options)
