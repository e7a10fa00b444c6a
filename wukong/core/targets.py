"""Targets that only the client can write to: arrays in its memory, files that it has open.

`dask.array.store` has every task write its chunk, ``target[region] = chunk``; a function would write to a copy of its
own. So the chunk goes to the client instead, by way of the store, and the client writes it:

    function:  store_chunk -> Writer -> ``w/<task>/<k>`` (target, region, chunk), ``w/<task>``: their sizes
    client:    Targets.collect -> target[region] = chunk, while the job runs; the rest at its end

A task's writes are in the store before the task ends (write before you tell), under the same keys whenever it is run
again. The client holds few of them at once, and deletes what it has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from wukong.core import task_context
from wukong.core.codec import Codec
from wukong.core.names import Names
from wukong.core.storage import StorePort, blob_size
from wukong.errors import ValueLost, WukongError

_LOOK_AT_ONCE = 1_000
_HOLD_BYTES = 64_000_000


class HomeTarget:
    """What a function gets in place of a target: its number at the client, and what reading it back needs."""

    __slots__ = ("description", "dtype", "number", "shape")

    def __init__(self, number: int, target: Any, description: str) -> None:
        self.number = number
        self.description = description
        self.shape, self.dtype = getattr(target, "shape", None), getattr(target, "dtype", None)

    def read_back(self, index: Any, chunk: Any) -> Any:
        """Return what ``target[index]`` is once `chunk` has been written there."""
        import numpy as np

        if not isinstance(self.dtype, np.dtype) or not isinstance(self.shape, tuple):
            return chunk
        region = np.broadcast_to(np.empty((), self.dtype), self.shape)[index]
        like = np.ma.empty if isinstance(chunk, np.ma.MaskedArray) else np.empty
        read = like(region.shape, self.dtype)
        read[...] = chunk
        return read

    def __repr__(self) -> str:
        return f"<{self.description}, which the client writes>"


class Stored:
    """One chunk of a target as later tasks find it (`return_stored`): reading it gives what was written."""

    __slots__ = ("_chunk", "_index", "_target")

    def __init__(self, target: HomeTarget, index: Any, chunk: Any) -> None:
        self._target, self._index, self._chunk = target, index, chunk

    def __getitem__(self, index: Any) -> Any:
        if repr(index) != repr(self._index):
            raise WukongError(
                f"{index} of {self._target!r} cannot be read in a function, which knows only {self._index}",
                hint="compute first, then read the target at the client",
            )
        return self._chunk

    def __repr__(self) -> str:
        return f"<{self._index} of {self._target!r}>"


def store_chunk(
    x: Any, out: HomeTarget, index: Any, region: Any, lock: Any, return_stored: bool, load_stored: bool
) -> Any:
    """Stand in for `dask.array.core.load_store_chunk`: leave the chunk for the client, which writes it."""
    from dask.array.core import fuse_slice, is_arraylike
    from numpy import asanyarray

    if region:
        index = fuse_slice(region, index) if index else region
    chunk = x if x is None or is_arraylike(x) else asanyarray(x)
    written = chunk is not None and chunk.size != 0
    writer = task_context.writer()
    assert writer is not None, "only executors run this"
    writer(out.number, index, chunk if written else None)
    if not return_stored:
        return None
    chunk = out.read_back(index, chunk)
    return chunk if load_stored else Stored(out, index, chunk)


class Writer:
    """The function's side: leaves what tasks write where the client finds it.

    Args:
        names, codec: the job's.
        put: stores blobs.
        task: returns the number of the task that runs.
        keys: the keys of what is left are added to this.
    """

    def __init__(
        self,
        names: Names,
        codec: Codec,
        put: Callable[[Mapping[bytes, Any]], None],
        task: Callable[[], int | None],
        keys: set[bytes] | None = None,
    ) -> None:
        self._names, self._codec, self._put, self._task = names, codec, put, task
        self._keys = set() if keys is None else keys
        self._sizes: dict[int, dict[tuple[int, str], int]] = {}

    def __call__(self, target: int, index: Any, chunk: Any) -> None:
        """Leave one chunk; None: there is nothing to write, and the client has to know that as well."""
        task = self._task()
        assert task is not None, "a target is written by a task"
        sizes = self._sizes.setdefault(task, {})
        write = target, repr(index)
        sizes.setdefault(write, 0)  # run again, a task writes the same under the same key
        items: dict[bytes, Any] = {}
        if chunk is not None:
            key = self._names.write(task, list(sizes).index(write))
            items[key] = self._codec.encode((target, index, chunk), key)
            sizes[write] = blob_size(items[key])
        marker = self._names.writes(task)
        items[marker] = self._codec.encode(tuple(sizes.values()), marker)
        self._keys.update(items)
        self._put(items)


class Targets:
    """The client's side: the targets of one job, and which tasks write to them. From one thread at a time.

    Attributes:
        expected: for each task that writes, how many chunks.
    """

    def __init__(self) -> None:
        self.expected: dict[int, int] = {}
        self._targets: list[tuple[Any, Any]] = []
        self._stand_ins: dict[tuple[int, int], HomeTarget] = {}
        self._left: dict[int, int] = {}
        self._began = False

    def stand_in(self, target: Any, lock: Any) -> HomeTarget:
        """Return what goes to functions in place of `target`, which is written under `lock` (or None)."""
        known = id(target), id(lock)  # both are kept, so that nothing else gets their ids
        stand_in = self._stand_ins.get(known)
        if stand_in is None:
            stand_in = self._stand_ins[known] = HomeTarget(len(self._targets), target, described(target))
            self._targets.append((target, lock))
        return stand_in

    def descriptions(self) -> tuple[str, ...]:
        """Return what the targets are."""
        return tuple(stand_in.description for stand_in in self._stand_ins.values())

    def collect(self, store: StorePort, codec: Codec, names: Names, *, final: bool = False) -> None:
        """Write what has come. `final`: the job has ended, so all has. Raises what the target raises; ValueLost."""
        if not self._began:
            self._began, self._left = True, dict.fromkeys(self.expected, 0)
        while self._left:
            looked = list(self._left)[: None if final else _LOOK_AT_ONCE]
            came = self._markers(looked, store, codec, names)
            if final and len(came) < len(looked):
                raise self._lost(next(task for task in looked if task not in came))
            for task in looked:
                done = self._left.pop(task)
                self._left[task] = done  # to the end: the next look is at others
            for batch in _batches(came, self._left):
                self._write(batch, store, codec, names)
            for task, sizes in came.items():
                self._left[task] = max(self._left[task], len(sizes))  # a second run of the task may have come less far
                if final or len(sizes) >= self.expected[task]:
                    del self._left[task]
            if not final:
                return

    def _markers(
        self, tasks: Sequence[int], store: StorePort, codec: Codec, names: Names
    ) -> dict[int, tuple[int, ...]]:
        keys = [names.writes(task) for task in tasks]
        blobs = zip(tasks, keys, store.get(keys), strict=True)
        return {task: codec.decode(blob, key) for task, key, blob in blobs if blob is not None}

    def _write(self, batch: Sequence[tuple[int, int]], store: StorePort, codec: Codec, names: Names) -> None:
        keys = [names.write(task, k) for task, k in batch]
        for (task, _), key, blob in zip(batch, keys, store.get(keys), strict=True):
            if blob is None:
                raise self._lost(task)
            number, index, chunk = codec.decode(blob, key)
            target, lock = self._targets[number]
            try:
                with nullcontext() if lock is None else _Held(lock):
                    target[index] = chunk
            except Exception as error:
                error.add_note(f"raised when the client wrote {index} of the target: {described(target)}")
                raise
        self._left.update((task, k + 1) for task, k in batch)
        store.delete(keys)

    def _lost(self, task: int) -> ValueLost:
        return ValueLost(
            f"the store has lost what task {task} wrote to a target: {', '.join(self.descriptions())}",
            hint="run it again; the store dropped values it was given: check its memory and its time to live",
        )

    def keys(self, names: Names) -> Iterator[bytes]:
        """Yield all keys under which functions may have left something."""
        for task, n in self.expected.items():
            yield names.writes(task)
            yield from (names.write(task, k) for k in range(n))


def _batches(came: Mapping[int, Sequence[int]], done: Mapping[int, int]) -> Iterable[list[tuple[int, int]]]:
    """Yield the chunks to fetch at once, each as ``(task, k)``: no more than the client should hold."""
    batch: list[tuple[int, int]] = []
    held = 0
    for task, sizes in came.items():
        for k in range(done[task], len(sizes)):
            if not sizes[k]:
                continue
            if batch and held + sizes[k] > _HOLD_BYTES:
                yield batch
                batch, held = [], 0
            batch.append((task, k))
            held += sizes[k]
    if batch:
        yield batch


class _Held:
    """A lock used as Dask uses it, by ``acquire`` and ``release``: some locks have nothing else."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def described(target: Any) -> str:
    """Return what a target is, for a person."""
    import numpy as np

    kind = type(target)
    if isinstance(target, np.ndarray):
        of = f" of {target.filename}" if isinstance(target, np.memmap) and target.filename else ""
        return f"a {kind.__module__}.{kind.__qualname__}{of}, shape {target.shape}, dtype {target.dtype}"
    try:
        text = repr(target)
    except Exception:
        text = ""
    return f"a {kind.__module__}.{kind.__qualname__} {text[:200]}".strip()
