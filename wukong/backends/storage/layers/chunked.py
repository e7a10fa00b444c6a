"""Values of any size in a store that takes small ones: cut into chunks, with a manifest in their place.

    records:   key -> a small value, as it is
               key -> magic, size, chunk size, nonce          the manifest of a large one, 48 bytes
    values:    key ~ nonce . 0 -> chunk,  key ~ nonce . 1 -> chunk,  ...

- Chunks are written before the manifest, under keys that nobody has used before. So a reader sees the whole old value
  or the whole new one, and a writer who replaces a value disturbs no reader.
- A chunk that is missing, or of another size than the manifest says, was lost or has just been replaced. The reader
  looks at the manifest again. If it is the same as before, the value is *missing*: never short, never mixed.
- A value that itself begins with the magic is stored in chunks, whatever its size. So a reader takes no value for a
  manifest, and small values cost no byte more.
- A call that removes a manifest deletes its chunks: `delete`, and `put`, which looks for a manifest to replace when
  that costs little (see there). Chunks that cannot be deleted at once (the store did not answer, a write failed
  half-way) are remembered and deleted with a later call; if the process ends before, they stay until their time to
  live is over.
"""

from __future__ import annotations

import logging
import mmap
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from wukong.backends.storage import Blob, Buffer, Rent, Spent, Store, Tell, blob_size
from wukong.backends.storage.layers.layer import Layer, environments, rent_of_all, spent_on_all, start_all
from wukong.backends.storage.layers.manifest import (
    FORM,
    MOST_CHUNKS,
    ChunkManifest,
    Place,
    begins_with,
    chunk_keys,
    chunk_of,
    cut,
    groups,
)
from wukong.errors import ConfigError, Retryable, StoreError, StoreFull, WukongError

__all__ = ["Chunked"]

logger = logging.getLogger(__name__)

MAGIC = bytes.fromhex("5c223e0a057d004475e88d1301ae2ca7")
"""The first bytes of a manifest."""

_WRITE_BYTES = 64 << 20
_READ_BYTES = 32 << 20
_MOST_DOUBTS = 65_536
_PAUSE_S = (0.01, 0.5)
_now_s: Callable[[], float] = time.monotonic
_sleep: Callable[[float], None] = time.sleep


class Chunked(Layer):
    """A store that takes values of any size, on top of one or two that may not.

    Args:
        records: the store of records, small values and manifests. Closed with this one.
        values: the store of chunks; None: `records`. Closed with this one.
        chunk_bytes: the largest chunk.
        from_bytes: a value larger than this is cut up; None: one larger than a chunk.
        look_first: a large value with a time to live is looked up before it is written, so that the chunks of another
            one that it replaces are deleted. False: saves a round trip, and such chunks stay for their time to live.
        magic: 16 bytes that manifests begin with. A `Chunked` whose `records` are chunked too needs a magic of its own,
            so that its manifests are not cut up in their turn.

    Raises `ConfigError` if a chunk, or the largest value that is stored whole, exceeds what its store takes.
    """

    def __init__(
        self,
        records: Store,
        values: Store | None = None,
        *,
        chunk_bytes: int,
        from_bytes: int | None = None,
        look_first: bool = True,
        magic: bytes = MAGIC,
    ) -> None:
        super().__init__(records)
        self._look_first = look_first
        self.values = records if values is None else values
        self._chunk_bytes = chunk_bytes
        self._from_bytes = chunk_bytes if from_bytes is None else from_bytes
        self._magic = magic
        self._doubts: deque[tuple[bytes, ChunkManifest]] = deque(maxlen=_MOST_DOUBTS)
        mine, theirs = records.capabilities, self.values.capabilities
        _check("chunk_bytes", chunk_bytes, 1, theirs.max_value_bytes)
        _check("from_bytes", self._from_bytes, 0, mine.max_value_bytes)
        self.capabilities = replace(
            mine,
            max_value_bytes=None,
            bandwidth_bytes_per_s=theirs.bandwidth_bytes_per_s,
            trusted=mine.trusted and theirs.trusted,
            zero_copy=mine.zero_copy and theirs.zero_copy,
            recovery_s=max(mine.recovery_s, theirs.recovery_s),
            scans=mine.scans and theirs.scans,
            renews=mine.renews and theirs.renews,
            expires=mine.expires and theirs.expires,
            takes=False,  # the value of a key may differ from its value in the store inside
        )

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`. One round trip for small values, a second one for the chunks of all others."""
        return self._filled(keys, self.inner.get(keys))

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`. Chunks first, then small values and manifests.

        A value that is cut up costs one more small round trip, to see whether it replaces another one whose chunks
        have to be deleted. A small value costs that only if it has no time to live. Otherwise the chunks of a large
        value that it replaces stay until their own time to live has passed. If two writers replace the same value at
        the same moment, the chunks of one of them may stay as long. If the store fails half-way, the chunks that were
        written are deleted again. If it has no room for values larger than a chunk, they are cut up.
        """
        try:
            self._put(items, ttl_s, self._from_bytes)
        except StoreFull:  # it may still have room for chunks
            if not any(self._chunk_bytes < blob_size(blob) <= self._from_bytes for blob in items.values()):
                raise
            self._put(items, ttl_s, self._chunk_bytes)

    def _put(self, items: Mapping[bytes, Blob], ttl_s: float | None, from_bytes: int) -> None:
        large = {key: blob for key, blob in items.items() if self._is_large(blob, from_bytes)}
        manifests = {key: ChunkManifest.new(blob_size(blob), self._chunk_bytes) for key, blob in large.items()}
        for key, manifest in manifests.items():
            if not manifest.is_sound:
                raise StoreError(
                    f"the {manifest.size_bytes:,} bytes under {key!r} are more than {MOST_CHUNKS:,} chunks of "
                    f"{self._chunk_bytes:,}",
                    hint="raise chunk_bytes",
                )
        replaced: list[Place] = []
        try:
            if large:
                self._write_chunks(large, manifests, ttl_s)
            if self._look_first or ttl_s is None:
                replaced = self._manifests_at(list(large if ttl_s is not None else items))
            if large:
                items = {**items, **{key: manifest.packed(self._magic) for key, manifest in manifests.items()}}
            self.inner.put(items, ttl_s)
        except BaseException as error:
            self._doubts.extend([*manifests.items(), *replaced])
            if isinstance(error, StoreError) and not isinstance(error, Retryable):
                self._tidy([])
            raise
        if replaced or self._doubts:
            self._tidy(replaced)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`. Deletes the chunks too.

        If the store `takes`, this is one round trip, and another one if there were chunks. If the store's answer is
        lost on the way, the chunks are not known any more, and stay until their time to live has passed. Else it is a
        `get` more, and the chunks of a value that is written at the same moment may stay likewise.
        """
        if self.inner.capabilities.takes:
            gone = self._sound(keys, self.inner.take(keys, self._magic, FORM.size))
        else:
            gone = self._manifests_at(keys)
            try:
                self.inner.delete(keys)
            except BaseException:
                self._doubts.extend(gone)
                raise
        self._discard(gone)
        if self.values is not self.inner and (chunks := [key for key in keys if chunk_of(key) is not None]):
            self.values.delete(chunks)  # of values whose manifests are lost, as `scan` names them
        self._settle()

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`. A chunk's key begins with its value's key, so chunks are renewed too; they go first."""
        if self.values is not self.inner:
            self.values.renew(prefix, ttl_s)
        self.inner.renew(prefix, ttl_s)

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`. A chunk's size counts to its value; chunks without a manifest have keys of their own."""
        found = dict(self.inner.scan(prefix))
        chunks = found if self.values is self.inner else self.values.scan(prefix)
        places = {key: place for key in chunks if (place := chunk_of(key)) is not None}
        whole = dict(self._manifests_at(sorted({value for value, _ in places.values()})))
        sizes = dict.fromkeys(whole, 0)
        for key, size_bytes in dict(chunks).items():
            value, nonce = places.get(key, (key, b""))
            if value in whole and whole[value].nonce == nonce:
                found.pop(key, None)
                sizes[value] += size_bytes
            else:
                found[key] = size_bytes if chunks is found else max(size_bytes, found.get(key, 0))
        found.update(sizes)
        return found

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`. A value that has lost a chunk counts as missing."""
        until_s = _now_s() + timeout_s
        value = self.inner.wait(key, timeout_s)
        pause_s = _PAUSE_S[0]
        while self._manifest(value) is not None:
            value = self._filled((key,), [value])[0]
            left_s = until_s - _now_s()
            if value is not None or left_s <= 0:
                return value
            _sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _PAUSE_S[1])
            value = self.inner.wait(key, max(0.0, until_s - _now_s()))
        return value

    def start(self, tell: Tell) -> None:
        """Bring up both stores."""
        start_all(self._both(), tell)

    def rent(self) -> Rent | None:
        """Return what both stores cost."""
        return rent_of_all(self._both())

    def spent(self) -> Spent | None:
        """Return what requests to both stores have cost."""
        return spent_on_all(self._both())

    def environment(self) -> Mapping[str, str]:
        """Return what both stores need."""
        return environments(self._both())

    def advice(self) -> Sequence[str]:
        """Return the warnings about both stores."""
        return [line for store in self._both() for line in store.advice()]

    def evictions(self) -> Sequence[str]:
        """Return the warnings about servers of both stores that evict keys."""
        return [line for store in self._both() for line in store.evictions()]

    def close(self) -> None:
        """Close both stores, the second even if the first fails."""
        try:
            self.inner.close()
        finally:
            if self.values is not self.inner:
                self.values.close()

    def _both(self) -> list[Store]:
        return list(dict.fromkeys((self.inner, self.values)))

    # --- reading

    def _manifest(self, value: Buffer | None) -> ChunkManifest | None:
        if value is None or len(value) != FORM.size or value[:16] != self._magic:
            return None
        return ChunkManifest(*FORM.unpack(value)[1:])

    def _filled(self, keys: Sequence[bytes], found: list[Buffer | None]) -> list[Buffer | None]:
        """Replace the manifests in `found` by the values themselves."""
        wanted = {n: manifest for n, value in enumerate(found) if (manifest := self._manifest(value)) is not None}
        while wanted:
            for n, manifest in wanted.items():
                if not manifest.is_sound:
                    raise StoreError(
                        f"the value under {keys[n]!r} is damaged: {manifest.size_bytes:,} bytes in chunks of "
                        f"{manifest.chunk_bytes:,} cannot be",
                        hint="something else writes under the store's keys; delete this one",
                    )
            places = [(keys[n], manifest) for n, manifest in wanted.items()]
            for n, value in zip(wanted, self._read(places), strict=True):
                found[n] = value
            lost = {n: manifest for n, manifest in wanted.items() if found[n] is None}
            wanted = {}
            if lost:
                for n, value in zip(lost, self.inner.get([keys[n] for n in lost]), strict=True):
                    manifest = self._manifest(value)
                    if manifest is None:  # replaced by a small one, or deleted
                        found[n] = value
                    elif manifest != lost[n]:
                        wanted[n] = manifest
                    else:
                        logger.info("a chunk of the value under %r is lost, and so is the value", keys[n])
        return found

    def _read(self, places: Sequence[Place]) -> list[Buffer | None]:
        """Fetch the chunks of several values, a bounded number of bytes per round trip; put each value together."""
        values: list[Buffer | None] = []
        for group in groups(places, _READ_BYTES):
            if group[0][1].size_bytes > _READ_BYTES:
                values.append(self._read_by_windows(*group[0]))
                continue
            chunks = self.values.get(chunk_keys(group))
            at = 0
            for _, manifest in group:
                values.append(manifest.assembled(chunks[at : at + manifest.n_chunks]))
                at += manifest.n_chunks
        return values

    def _read_by_windows(self, key: bytes, manifest: ChunkManifest) -> Buffer | None:
        """Fetch a value in several round trips.

        Besides the value itself, memory holds the chunks of one round trip only. The next round trip uses that memory
        again, which makes this up to four times as fast as fetching all chunks and joining them.
        """
        if manifest.n_chunks == 1:
            return manifest.assembled(self.values.get([manifest.chunk_key(key, 0)]))
        try:
            whole = _memory(manifest.size_bytes)
        except (OSError, OverflowError, ValueError) as error:
            raise StoreError(f"there is no memory for the {manifest.size_bytes:,} bytes of {key!r}: {error}") from error
        step = max(1, _READ_BYTES // manifest.chunk_bytes)
        for first in range(0, manifest.n_chunks, step):
            numbers = range(first, min(first + step, manifest.n_chunks))
            chunks = self.values.get([manifest.chunk_key(key, n) for n in numbers])
            for n, chunk in zip(numbers, chunks, strict=True):
                if chunk is None or len(chunk) != manifest.size_of(n):
                    return None
                at = n * manifest.chunk_bytes
                whole[at : at + len(chunk)] = chunk
        return whole

    # --- writing

    def _is_large(self, blob: Blob, from_bytes: int) -> bool:
        if type(blob) is bytes:
            return len(blob) > from_bytes or blob.startswith(self._magic)
        return blob_size(blob) > from_bytes or begins_with(blob, self._magic)

    def _write_chunks(
        self, large: Mapping[bytes, Blob], manifests: Mapping[bytes, ChunkManifest], ttl_s: float | None
    ) -> None:
        window: dict[bytes, Blob] = {}
        window_bytes = 0
        for key, blob in large.items():
            manifest = manifests[key]
            for n, chunk in enumerate(cut(blob, self._chunk_bytes)):
                size_bytes = manifest.size_of(n)
                if window and window_bytes + size_bytes > _WRITE_BYTES:
                    self.values.put(window, ttl_s)
                    window, window_bytes = {}, 0
                window[manifest.chunk_key(key, n)] = chunk
                window_bytes += size_bytes
        self.values.put(window, ttl_s)

    # --- chunks that no manifest names any more

    def _manifests_at(self, keys: Sequence[bytes]) -> list[Place]:
        if not keys:
            return []
        return self._sound(keys, self.inner.get(keys))

    def _sound(self, keys: Sequence[bytes], values: Sequence[Buffer | None]) -> list[Place]:
        """Return the sound manifests among these values. Chunks of a damaged one stay for their time to live."""
        found = [(key, each) for key, value in zip(keys, values, strict=True) if (each := self._manifest(value))]
        for key, manifest in found:
            if not manifest.is_sound:
                logger.warning("chunks of the damaged value under %r stay until their time to live is over", key)
        return [place for place in found if place[1].is_sound]

    def _discard(self, gone: Sequence[Place]) -> None:
        """Delete the chunks of these manifests; remember them if that fails."""
        if not gone:
            return
        try:
            self.values.delete(chunk_keys(gone))
        except BaseException:
            self._doubts.extend(gone)
            raise

    def _settle(self) -> None:
        """Delete the remembered chunks, except those of a manifest that is in its place after all."""
        doubts: list[Place] = []
        while self._doubts:
            try:
                doubts.append(self._doubts.popleft())
            except IndexError:  # another thread had the last one
                break
        if not doubts:
            return
        try:
            alive = set(self._manifests_at([key for key, _ in doubts]))
        except BaseException:
            self._doubts.extend(doubts)
            raise
        self._discard([place for place in doubts if place not in alive])

    def _tidy(self, gone: Sequence[Place]) -> None:
        """Delete chunks after a `put`. An error here does not change the outcome of the `put`."""
        try:
            self._discard(gone)
            self._settle()
        except WukongError as error:
            logger.info("chunks of replaced values stay for now: %s", error)


def _check(name: str, size_bytes: int, least: int, most: int | None) -> None:
    if size_bytes < least or (most is not None and size_bytes > most):
        limits = f"from {least} up" if most is None else f"from {least} to {most}, which is what its store takes"
        raise ConfigError(f"{name} is {size_bytes}; it is a size {limits}")


def _memory(size_bytes: int) -> memoryview:
    """Return memory that nothing has touched yet, in huge pages if the system has them."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return memoryview(bytearray(size_bytes))
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)
