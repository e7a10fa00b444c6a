"""The values of one executor: it caches, measures, encodes, stores, fetches and releases them here.

All of its reads and writes of blobs pass here as well, so that costs are learned from them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wukong.core.books import Books
from wukong.core.codec import Codec, Opened, dump_value, unpickled
from wukong.core.dag import Out
from wukong.core.effects import Drop, Get, Missing, Put, Size, WriteBehind
from wukong.core.lazy import holds_lazy, read_out
from wukong.core.policy import PINNED
from wukong.core.raised import Raised
from wukong.core.sizes import array_bytes, size_bytes
from wukong.core.storage import Arrival, Blob, Buffer, StorePort, blob_size, joined
from wukong.errors import CodecError

_LARGE_BYTES = 65_536
_READS_AT_ONCE = 16
_COUNTED_BYTES = 4_096
_SMALL_TYPES = frozenset({int, float, bool, complex, type(None)})


class Values:
    """See the module's docstring.

    Args:
        books: the executor's; kept up to date here.
        store, codec: where values go, and how they become bytes.

    Attributes:
        cache: values by task; objects (negative numbers) are fetched when they are first asked for.
        object_keys: store keys of the objects that are not the job's own.
        moved: large values that were stored or released: when, in Unix time, the task, and bytes (released: negative).
        held: sizes of the larger values in the cache, bytes.
    """

    def __init__(self, books: Books, store: StorePort, codec: Codec) -> None:
        order = books.order
        self._job, self._policy, self._isolated = order.job, order.policy, order.isolated
        self._ttl_s = order.policy.ttl_s
        self._store, self._codec, self._names = store, codec, books.names
        self._report, self._costs, self._ledger = books.report, books.costs, books.ledger
        self._recorder, self._describe = books.recorder, books.name
        self.cache: dict[int, Any] = _Cache(self._load_object)
        self.object_keys: dict[int, bytes] = {}
        self.held: dict[int, int] = {}
        self.moved: list[tuple[float, int, int]] = []
        self._held_bytes = 0
        self._encoded: dict[int, Blob] = {}
        self._has_read: list[tuple[int, int, int, int]] = []
        self._loading = threading.Lock()

    # --- effects

    def get(self, effect: Get) -> tuple[int, ...]:
        """Carry out `Get`."""
        keys = [self._names.value(task) for task in effect.tasks]
        begun, lost, sizes = time.perf_counter(), [], []
        blobs = self._store.get(keys)
        for task, key, blob in zip(effect.tasks, keys, blobs, strict=True):
            if blob is None:
                lost.append(task)
            else:
                parts = self._codec.opened(blob, key)
                sizes.append(size_of(parts))
                self.cache[task] = unpickled(parts)
        self.note_moved(_sum_of(blobs), time.perf_counter() - begun, read=True)
        self._costs.fetched(sizes)
        return tuple(lost)

    def size(self, effect: Size) -> tuple[int, ...]:
        """Carry out `Size`."""
        sizes = []
        for task in effect.tasks:
            value = self.cache[task]
            kind = type(value)
            if kind in _SMALL_TYPES:
                sizes.append(16)
            elif (size := array_bytes(value)) is not None:
                sizes.append(size)
            elif pinned(value):
                sizes.append(PINNED)
            else:
                try:
                    sizes.append(blob_size(self._encode(task)))
                except CodecError:
                    # It stays here, and raises this again if it has to move after all. A lazy iterator is read out
                    # only then, so its size is unknown: it counts as large, and its fan-ins come to it.
                    sizes.append(int(self._costs.large(self._policy)) if holds_lazy(value) else PINNED)
        return tuple(sizes)

    def _encode(self, task: int) -> Blob:
        blob = self._encoded.get(task)
        if blob is None:
            try:
                blob = self._codec.encode(self.cache[task], self._names.value(task))
            except CodecError as error:
                error.task, error.job = self._describe(task), self._job
                raise
            self._encoded[task] = blob
        return blob

    def _portable(self, task: int) -> Blob:
        """Encode a value that has to leave. Lazy iterators in it that cannot be pickled are read out."""
        try:
            return self._encode(task)
        except CodecError:
            if not holds_lazy(self.cache[task]):
                raise
        self.cache[task] = read_out(self.cache[task], self._describe(task))
        return self._encode(task)

    def told(self, task: int) -> Blob:
        """Encode a requested value; if that fails in a job of several futures, encode the error instead."""
        try:
            return self._portable(task)
        except Exception as error:  # also one that a lazy iterator raises
            if not self._isolated:
                raise
            return self._codec.encode(Raised.of(error, self._describe(task)), self._names.value(task))

    def put(self, effect: Put) -> None:
        """Carry out `Put`."""
        begun = time.perf_counter()
        encode = self.told if effect.requested else self._portable
        items = {self._names.value(task): encode(task) for task in effect.tasks}
        self.note_stored(effect.tasks, list(map(blob_size, items.values())), time.time())
        self.write_blobs(items, begun)

    def note_stored(self, tasks: Sequence[int], sizes: Sequence[int], now: float) -> None:
        """Note that these values, of these sizes in bytes, are stored; `now`: Unix time."""
        for task, size in zip(tasks, sizes, strict=True):
            self._encoded.pop(task, None)
            self._recorder.stored(task, size)
            if size >= _LARGE_BYTES:
                self.moved.append((now, task, size))

    def parcel(self, effect: WriteBehind) -> Parcel:
        """Pickle the values of a `WriteBehind`; what is left to do, another thread may do.

        It gets a copy of what is `shared`: a task that is the only one here to read a value may change it in place.
        """
        encode = self.told if effect.requested else self._portable
        blobs: dict[bytes, Blob] = {}
        copied_bytes = 0
        dumps: dict[bytes, tuple[bytes, list[memoryview]]] = {}
        for task in effect.put:
            key = self._names.value(task)
            if task not in self._encoded and array_bytes(self.cache[task]) is not None:
                with suppress(CodecError):  # `encode` sees to it
                    data, buffers = dump_value(self.cache[task])
                    if task in effect.shared:
                        buffers = [memoryview(bytes(each)) for each in buffers]
                        copied_bytes += sum(each.nbytes for each in buffers)
                    dumps[key] = data, buffers
                    continue
            blob = encode(task)
            if task in effect.shared and isinstance(blob, tuple):
                blob = tuple(map(bytes, blob))
                copied_bytes += blob_size(blob)
            blobs[key] = blob
        return Parcel(list(map(self._names.value, effect.put)), blobs, dumps, copied_bytes)

    def note_reads(self, reads: Out) -> None:
        """Note that a task has run: each of its large inputs has one reader less."""
        for parent, member, of in reads:
            if (size := size_bytes(self.cache.get(parent))) >= _LARGE_BYTES:
                self._has_read.append((parent, member, of, size))
                self._ledger.read.add(parent)
        if len(self._has_read) >= _READS_AT_ONCE:
            self.release()

    def release(self) -> None:
        """Record in the store what was read here, and delete the values that nobody will read any more."""
        if not self._has_read:
            return
        done, self._has_read = self._has_read, []
        arrivals = [Arrival(self._names.readers(parent), (m,), of, b"%d" % m) for parent, m, of, _ in done]
        outcomes = self._store.incr(arrivals, self._ttl_s)
        over = {entry[0]: entry[3] for entry, outcome in zip(done, outcomes, strict=True) if outcome.claimed}
        if over:
            self._store.delete([self._names.value(task) for task in over])
            now = time.time()
            self.moved.extend((now, task, -size) for task, size in over.items())

    def drop(self, effect: Drop) -> None:
        """Carry out `Drop`."""
        for task in effect.tasks:
            self.cache.pop(task, None)
            self._encoded.pop(task, None)
        self.forget(effect.tasks)

    def packed(self, tasks: Sequence[int], place: bytes) -> bytes:
        """Return the values of these tasks as one blob for `place`, as they ride in an arrival or a payload."""
        return bytes(joined(self._codec.encode({task: self.cache[task] for task in tasks}, place)))

    def forget(self, tasks: Sequence[int]) -> None:
        """Note that these values are not held any more."""
        for task in tasks:
            self._held_bytes -= self.held.pop(task, 0)

    def account(self, task: int, value: Any) -> int:
        """Count a value as held; return its size in bytes."""
        size = size_bytes(value)
        if size < _COUNTED_BYTES:
            return size
        self.held[task] = size
        self._held_bytes += size
        self._report.peak_held_bytes = max(self._report.peak_held_bytes, self._held_bytes)
        return size

    def _load_object(self, ref: int) -> Any:
        key = self.object_keys.get(ref) or self._names.object(-1 - ref)
        with self._loading:
            if ref in self.cache:  # a task in another lane has needed it too
                return self.cache[ref]
            begun = time.perf_counter()
            blob = self.read([key])[0]
            if blob is None:
                raise Missing(key)
            value = self.cache[ref] = self._codec.decode(blob, key)
            self._recorder.span("get", begun, time.perf_counter(), blob_size(blob))
            return value

    # --- the store

    def read(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """Return the blob of each key; None if there is none."""
        begun = time.perf_counter()
        blobs = self._store.get(keys)
        self.note_moved(_sum_of(blobs), time.perf_counter() - begun, read=True)
        return blobs

    def note_moved(self, size_bytes: int, took_s: float, *, read: bool = False, waited_s: float | None = 0.0) -> None:
        """Note what an operation on the store took.

        `waited_s`: of that, how long its thread has waited for a core, since tasks ran meanwhile; None: not known. Then
        nothing is learned, whether it was quick or slow: those of one kind alone would tell a wrong rate.
        """
        if waited_s is not None:
            self._costs.moved(size_bytes, max(0.0, took_s - waited_s), read=read)
        self._recorder.moved_bytes += size_bytes

    def write(self, items: Mapping[bytes, Any]) -> None:
        """Store values, each signed for its key."""
        self.write_blobs({key: self._codec.encode(value, key) for key, value in items.items()})

    def write_blobs(self, items: Mapping[bytes, Blob], begun: float | None = None) -> None:
        """Store blobs. `begun`: when somebody began to make them, by `time.perf_counter`; None: now."""
        written_bytes = sum(map(blob_size, items.values()))
        begun = time.perf_counter() if begun is None else begun
        self._store.put(items, self._ttl_s)
        self.note_moved(written_bytes, time.perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class Parcel:
    """Values that are to be stored under `keys`: some as `blobs`, the others as a pickle and its buffers.

    `copied_bytes` of that are copies.
    """

    keys: Sequence[bytes]
    blobs: Mapping[bytes, Blob]
    dumps: Mapping[bytes, tuple[bytes, list[memoryview]]]
    copied_bytes: int

    @property
    def size_bytes(self) -> int:
        """How many bytes they have, before compression."""
        dumped = sum(len(data) + sum(each.nbytes for each in buffers) for data, buffers in self.dumps.values())
        return dumped + sum(map(blob_size, self.blobs.values()))

    def items(self, codec: Codec) -> dict[bytes, Blob]:
        """Sign, and compress, what is not a blob yet; return all blobs in order."""
        framed = {key: codec.frame(data, buffers, place=key) for key, (data, buffers) in self.dumps.items()}
        return {key: framed[key] if key in framed else self.blobs[key] for key in self.keys}


def _sum_of(blobs: Sequence[Buffer | None]) -> int:
    return sum(blob_size(blob) for blob in blobs if blob is not None)


def size_of(opened: Opened | None) -> int:
    """Return how many bytes the parts of a value have; 0 if there is none."""
    return 0 if opened is None else sum(map(blob_size, opened))


class _Cache(dict[int, Any]):
    """Values by task; objects (negative numbers) are fetched when they are first asked for."""

    def __init__(self, load: Callable[[int], Any]) -> None:
        super().__init__()
        self._load = load

    def __missing__(self, ref: int) -> Any:
        if ref >= 0:
            raise KeyError(ref)
        value = self[ref] = self._load(ref)
        return value


def pinned(value: Any) -> bool:
    """Whether a value can be pickled but dies with its process, as the `partd` files of Dask's disk shuffle do."""
    return str(type(value).__module__).startswith("partd.")
