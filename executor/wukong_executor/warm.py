"""Values that a warm function need not fetch again.

    executor -> Remembering -> store

Invocations of one job in one process often read the same large literal, or a value that many tasks share. What has
been read is kept as it came, signed, and handed out read-only. Every reader checks and decodes it anew; decoding copies
what is read-only, so no reader sees what another has changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from wukong.backends.storage import Blob, Buffer, Store, blob_size
from wukong.backends.storage.layers import Layer

_FROM_BYTES = 1_024


class BlobCache:
    """Blobs of one job; the least recently used are forgotten first.

    Args:
        most_bytes: what they may take together.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._job = ""
        self._blobs: OrderedDict[bytes, Buffer] = OrderedDict()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What they take."""
        return self._size_bytes

    def around(self, store: Store, job: str) -> Store:
        """Return `store` with this memory in front of it; everything of any other job is forgotten."""
        if job != self._job:
            self._job = job
            self._blobs.clear()
            self._size_bytes = 0
        if store.capabilities.zero_copy or not self.most_bytes:
            return store
        return Remembering(store, self, job)

    def get(self, key: bytes) -> Buffer | None:
        """Return what is remembered under `key`."""
        blob = self._blobs.get(key)
        if blob is not None:
            self._blobs.move_to_end(key)
        return blob

    def takes(self, blob: Buffer) -> bool:
        """Whether a blob is neither too small to be worth it, nor too large to leave room for others."""
        return _FROM_BYTES <= blob_size(blob) <= self.most_bytes // 2

    def add(self, key: bytes, blob: Buffer) -> None:
        """Remember a blob, if `takes` it."""
        if not self.takes(blob):
            return
        self.forget(key)
        self._blobs[key] = blob
        self._size_bytes += blob_size(blob)
        while self._size_bytes > self.most_bytes:
            _, oldest = self._blobs.popitem(last=False)
            self._size_bytes -= blob_size(oldest)

    def forget(self, key: bytes) -> None:
        """Forget a blob, if there is one."""
        blob = self._blobs.pop(key, None)
        if blob is not None:
            self._size_bytes -= blob_size(blob)


class Remembering(Layer):
    """A store that is not asked again for the values and the literals of one job.

    Those never change: a task that is run again writes an equal value under the same key. Everything else in a store
    does change, so a `get` of it goes through.
    """

    def __init__(self, inner: Store, memory: BlobCache, job: str) -> None:
        super().__init__(inner)
        self._memory = memory
        self._constant = f"{job}/v/".encode(), f"{job}/o/".encode()

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        memory = self._memory
        values = [memory.get(key) for key in keys]
        asked = [n for n, value in enumerate(values) if value is None]
        if asked:
            for n, value in zip(asked, self.inner.get([keys[n] for n in asked]), strict=True):
                if value is not None and keys[n].startswith(self._constant) and memory.takes(value):
                    value = memoryview(value).toreadonly()
                    memory.add(keys[n], value)
                values[n] = value
        return values

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        for key in items:
            self._memory.forget(key)
        self.inner.put(items, ttl_s)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        for key in keys:
            self._memory.forget(key)
        self.inner.delete(keys)
