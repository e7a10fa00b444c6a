"""`dask.array.store` and its like write into what the user gave them, wherever that is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import h5py
import numpy as np
import pytest
import zarr
from dask.utils import SerializableLock

import wukong
from wukong.core.codec import Codec
from wukong.core.names import Names
from wukong.core.storage import joined
from wukong.core.targets import Targets, Writer
from wukong.errors import GraphError, JobError, StoreUnavailable, ValueLost

WANT = np.arange(100).reshape(10, 10) + 1
X = da.from_array(WANT - 1, chunks=4) + 1


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(faas="local", storage="local", progress=False) as client:
        yield client


@pytest.mark.usefixtures("everywhere")
def test_arrays_and_files_of_the_clients_are_written_everywhere_and_nothing_is_left(tmp_path: Path) -> None:
    array, mapped = np.zeros((10, 10)), np.memmap(tmp_path / "m", "i8", "w+", shape=(10, 10))
    files = zarr.create_array(tmp_path / "x.zarr", shape=(10, 10), chunks=(4, 4), dtype="i8")
    with wukong.Client(progress=False) as client:
        da.store([X, X + 1, X + 2], [array, mapped, files])
        np.testing.assert_array_equal(array, WANT)
        np.testing.assert_array_equal(np.memmap(tmp_path / "m", "i8", "r", shape=(10, 10)), WANT + 1)
        np.testing.assert_array_equal(files[:], WANT + 2)
        job = client.last_job
        assert job is not None
        job.summary()
        keys = [key for task in range(100) for key in (job.names.writes(task), job.names.write(task, 0))]
        assert not any(client.storage.get(keys))


def test_views_fields_and_regions_are_written_and_nothing_beside_them(client: wukong.Client) -> None:
    base = np.zeros((20, 20))
    da.store(X, base[::2, 1::2])
    np.testing.assert_array_equal(base[::2, 1::2], WANT)
    assert base.sum() == WANT.sum()
    records = np.zeros(10, [("a", "i4"), ("b", "f8")])
    da.store(da.arange(10, chunks=3), records["a"])
    np.testing.assert_array_equal(records["a"], np.arange(10))
    tall = np.zeros((20, 10))
    da.store([X, X * 2], [tall, tall], regions=[(slice(0, 10), slice(None)), (slice(10, 20), slice(None))], lock=False)
    np.testing.assert_array_equal(tall, np.vstack([WANT, WANT * 2]))


def test_a_store_that_is_fused_with_what_comes_after_it_is_found(client: wukong.Client) -> None:
    one, two = np.zeros((10, 10)), np.zeros((10, 10))
    whole = X.rechunk(-1)
    da.store([whole, whole + 1], [one, two])
    np.testing.assert_array_equal(one, WANT)
    np.testing.assert_array_equal(two, WANT + 1)
    target = np.zeros((10, 10))
    total = da.store(X, target, return_stored=True, compute=False).sum()
    assert not target.any()
    assert total.compute() == target.sum() == WANT.sum()


def test_a_target_inside_a_delayed_is_written(client: wukong.Client) -> None:
    for shape in ((10, 10), (300, 300)):  # the large one is shipped apart from the tasks, unless it is a target
        target = np.zeros(shape)
        da.store(da.ones(shape, chunks=150), dask.delayed(target))
        assert target.all()


def test_a_target_may_be_a_source_as_well(client: wukong.Client) -> None:
    for n in (100, 100_000):
        array = np.arange(n)
        da.store(da.from_array(array, chunks=n // 4)[::-1] + 1, array)
        np.testing.assert_array_equal(array, np.arange(n)[::-1] + 1)


def test_what_was_stored_is_returned_as_the_target_holds_it(client: wukong.Client) -> None:
    target = np.zeros((10, 10), "f4")
    stored = da.store(X, target, return_stored=True)
    np.testing.assert_array_equal(target, WANT)
    other = np.zeros((10, 10), "f4")
    da.store(X, other, return_stored=True, lock=False)
    again = np.zeros((10, 10), "f4")
    kept = da.store(X, again, return_stored=True, lock=False)  # to Dask the same as the one before
    np.testing.assert_array_equal(again, WANT)
    for each in (stored, kept):
        got = each.compute()
        np.testing.assert_array_equal(got, WANT)
        assert got.dtype == np.float32
    bytes_ = np.zeros((10, 10), "u1")
    np.testing.assert_array_equal(
        da.store(X * 3, bytes_, return_stored=True, compute=False).compute(), (WANT * 3).astype("u1")
    )


def test_a_store_in_the_background_is_made_when_its_future_is_done(client: wukong.Client) -> None:
    targets = [np.zeros((10, 10)) for _ in range(2)]
    futures = client.compute([da.store(X + i, target, compute=False) for i, target in enumerate(targets)])
    for i, future in enumerate(futures):
        future.result()
        np.testing.assert_array_equal(targets[i], WANT + i)


def test_open_files_are_written_by_the_client(client: wukong.Client, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        da.store(X, file.create_dataset("x", (10, 10), "i8", chunks=(5, 5)))
        np.testing.assert_array_equal(file["x"], WANT)
    da.to_hdf5(tmp_path / "b.h5", {"/x": X, "/y": X + 1})
    with h5py.File(tmp_path / "b.h5") as file:
        np.testing.assert_array_equal(file["y"], WANT + 1)
    stack = tmp_path / "stack"
    da.to_npy_stack(stack, X)
    np.testing.assert_array_equal(da.from_npy_stack(stack).compute(), WANT)


def test_zarr_in_memory_is_written_by_the_client_and_in_files_by_the_functions(
    client: wukong.Client, tmp_path: Path
) -> None:
    def by_client() -> bool:
        job = client.last_job
        assert job is not None
        return bool(job.manifest.writes)

    memory: Any = zarr.storage.MemoryStore()
    for store in (memory, "memory://somewhere"):
        da.to_zarr(X, store, component="a/b")
        assert by_client()
        np.testing.assert_array_equal(da.from_zarr(store, component="a/b").compute(scheduler="sync"), WANT)
    stored = da.to_zarr(X, zarr.create_array({}, shape=(10, 10), chunks=(5, 5), dtype="i8"), return_stored=True)
    np.testing.assert_array_equal(stored.compute(), WANT)
    files = str(tmp_path / "x.zarr")
    da.to_zarr(X, files)
    assert not by_client()
    np.testing.assert_array_equal(da.from_zarr(files).compute(), WANT)


def test_an_object_of_the_users_is_written_under_its_lock(client: wukong.Client) -> None:
    class Sums:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.total = 0

        def __setitem__(self, index: Any, chunk: Any) -> None:
            assert self.lock.locked()
            self.total += chunk.sum()

    sums = Sums()
    da.store(X, sums, lock=sums.lock)  # type: ignore[arg-type]
    assert sums.total == WANT.sum()
    assert not sums.lock.locked()


def test_a_target_that_cannot_be_written_is_refused_before_anything_runs(client: wukong.Client, tmp_path: Path) -> None:
    np.zeros(10).tofile(tmp_path / "m")
    with pytest.raises(GraphError, match=f"read-only: a numpy.memmap of {tmp_path / 'm'}"):
        da.store(da.ones(10), np.memmap(tmp_path / "m", mode="r", dtype="f8"))


def test_the_error_of_a_target_is_its_own_and_names_it(client: wukong.Client) -> None:
    with pytest.raises(ValueError, match="broadcast") as raised:
        da.store(X, np.zeros((10, 5)), lock=SerializableLock())
    assert "the target: a numpy.ndarray, shape (10, 5)" in raised.value.__notes__[0]
    future = client.compute(da.store(X, np.zeros((10, 5)), compute=False))
    with pytest.raises(ValueError, match="broadcast"):
        future.result()


def test_no_other_client_takes_over_what_only_this_one_can_write(client: wukong.Client) -> None:
    def unfinished(block: Any) -> Any:
        threading.Event().wait(60)

    job = client.compute(da.store(da.ones(4).map_blocks(unfinished, meta=np.empty(0)), np.zeros(4), compute=False))
    try:
        assert client.last_job is not None
        with pytest.raises(JobError, match=r"numpy.ndarray, shape \(4,\)"):
            client.attach(client.last_job.id)
    finally:
        job.cancel()


class TestCollecting:
    """The two sides, around a dict."""

    class Store(dict[bytes, Any]):
        largest = 0

        def get(self, keys: Any) -> list[Any]:  # type: ignore[override]
            found = [dict.get(self, key) for key in keys]
            self.largest = max(self.largest, sum(map(len, filter(None, found))))
            return found

        def put(self, items: Any) -> None:
            self.update({key: joined(blob) for key, blob in items.items()})

        def delete(self, keys: Any) -> None:
            for key in keys:
                self.pop(key, None)

    names, codec = Names("job"), Codec(bytes(32), sign_buffers=False)

    def written(self, target: Any, chunks: int, n: int) -> tuple[Targets, Store]:
        """Return `chunks` writes of `n` numbers each, every one by a task of its own, which ran twice."""
        targets, store = Targets(), self.Store()
        stand_in = targets.stand_in(target, None)
        for task in range(chunks):
            targets.expected[task] = 1
            for _ in range(2):
                writer = Writer(self.names, self.codec, store.put, lambda task=task: task)  # type: ignore[misc]
                writer(stand_in.number, slice(task * n, (task + 1) * n), np.full(n, task + 1.0))
                writer(stand_in.number, slice(task * n, (task + 1) * n), np.full(n, task + 1.0))
        return targets, store

    def collect(self, targets: Targets, store: Any, *, final: bool) -> None:
        targets.collect(store, self.codec, self.names, final=final)

    def test_the_client_holds_little_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("wukong.core.targets._HOLD_BYTES", 20_000)
        target = np.zeros(20_000)
        targets, store = self.written(target, 20, 1_000)
        self.collect(targets, store, final=True)
        np.testing.assert_array_equal(target, np.repeat(np.arange(1.0, 21), 1_000))
        assert store.largest < 25_000
        assert set(store) <= set(targets.keys(self.names))

    @pytest.mark.parametrize("what", ["a second run has come less far", "deleting fails when it is done"])
    def test_a_chunk_that_was_written_and_deleted_is_not_looked_for_again(self, what: str) -> None:
        target, targets, store = np.zeros(3), Targets(), self.Store()
        stand_in = targets.stand_in(target, None)
        targets.expected[0] = 3
        first, second = (Writer(self.names, self.codec, store.put, lambda: 0) for _ in range(2))
        first(stand_in.number, 0, np.float64(1))
        first(stand_in.number, 1, np.float64(2))
        if what == "deleting fails when it is done":
            delete = store.delete

            def fails(keys: Any) -> None:
                delete(keys)
                raise StoreUnavailable("no answer")

            store.delete = fails  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailable):
                self.collect(targets, store, final=False)
            store.delete = delete  # type: ignore[method-assign]
        else:
            self.collect(targets, store, final=False)
            second(stand_in.number, 0, np.float64(1))
            self.collect(targets, store, final=False)
        first(stand_in.number, 2, np.float64(3))
        self.collect(targets, store, final=True)
        assert target.tolist() == [1.0, 2.0, 3.0]

    def test_a_chunk_that_the_store_has_lost_is_no_zeros(self) -> None:
        for key in (self.names.writes(2), self.names.write(2, 0)):
            targets, store = self.written(np.zeros(40), 4, 10)
            del store[key]
            with pytest.raises(ValueLost, match="shape \\(40,\\)"):
                self.collect(targets, store, final=True)
