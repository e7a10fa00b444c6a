"""Every Dask collection computes the same on Wukong as on Dask's own scheduler."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed

import wukong

pytestmark = pytest.mark.usefixtures("everywhere")


@pytest.fixture(scope="module")
def client(everywhere: str) -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def test_array_svd(client: wukong.Client) -> None:
    x = da.random.default_rng(0).random((2_000, 20), chunks=(250, 20))
    u, s, v = dask.compute(*da.linalg.svd(x))
    whole = x.compute()
    np.testing.assert_allclose(u * s @ v, whole, atol=1e-10)


def test_array_results_are_right_for_many_operations(client: wukong.Client) -> None:
    a = np.arange(10_000.0).reshape(100, 100)
    x = da.from_array(a, chunks=(30, 45))
    got = dask.compute(x.T @ x, (x + x.T)[::3, 5:-5], x.mean(axis=0), da.stack([x, x]).std(), x.rechunk((7, 100)).max())
    want = a.T @ a, (a + a.T)[::3, 5:-5], a.mean(axis=0), np.stack([a, a]).std(), a.max()
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other)


@pytest.mark.parametrize("size", [100, 5_000, 400_000])
def test_inputs_and_results_can_be_written_to_wherever_they_come_from(client: wukong.Client, size: int) -> None:
    def sort(a: Any) -> Any:
        ctypes.c_char.from_buffer(a)  # as compiled kernels do
        a.sort()
        return a

    array = np.arange(float(size))[::-1].copy()
    kept, computed = client.scatter(array), client.submit(np.array, array)
    for given in (array, kept, computed, [computed]):
        result = delayed(lambda a: sort(a[0] if isinstance(a, list) else a))(given).compute()
        result += 1
        np.testing.assert_array_equal(result, np.arange(1.0, size + 1))
    for future in (kept, computed):
        np.testing.assert_array_equal(future.result(), array)


def test_dataframes_can_be_written_to_by_partition(client: wukong.Client) -> None:
    def cut(part: pd.DataFrame) -> pd.DataFrame:
        part.loc[part.a > 10, "a"] = 0
        return part

    frame = pd.DataFrame({"a": range(100_000), "b": np.zeros(100_000)})
    computed = dd.from_pandas(frame, npartitions=2).map_partitions(cut, meta=frame).compute()
    assert computed.a.sum() == 55
    computed.loc[computed.a > 0, "b"] = 1
    assert computed.b.sum() == 10 and frame.a.sum() > 55


def test_a_large_array_in_the_graph_is_shipped_once_and_comes_back_whole(client: wukong.Client) -> None:
    a = np.random.default_rng(1).random(300_000)
    x = da.from_array(a, chunks=50_000)
    np.testing.assert_array_equal((x * 2).compute(), a * 2)


def test_bag_with_groupby_and_lazy_iterators(client: wukong.Client) -> None:
    bag = db.from_sequence(range(1_000), npartitions=8)
    assert bag.map(lambda x: x + 1).filter(lambda x: x % 2 == 0).sum().compute() == sum(range(2, 1_001, 2))
    words = db.from_sequence(["ant", "bee", "ape", "bat", "cow"] * 20, npartitions=5)
    counts = dict(words.groupby(lambda word: word[0]).map(lambda group: (group[0], len(group[1]))).compute())
    assert counts == {"a": 40, "b": 40, "c": 20}
    assert dict(words.frequencies().compute()) == dict.fromkeys(("ant", "bee", "ape", "bat", "cow"), 20)


def test_a_shuffle_by_way_of_the_local_disk_stays_in_one_executor_and_loses_nothing(client: wukong.Client) -> None:
    words = db.from_sequence(["ant", "bee", "ape", "bat", "cow"] * 20, npartitions=5)
    groups = words.groupby(lambda word: word[0], shuffle="disk").map(lambda group: (group[0], len(group[1])))
    assert dict(groups.compute()) == {"a": 40, "b": 40, "c": 20}


def test_dataframe_with_its_query_optimiser(client: wukong.Client) -> None:
    frame = pd.DataFrame(
        {"k": np.arange(1_000) % 7, "x": np.arange(1_000.0), "name": [f"n{i % 3}" for i in range(1_000)]}
    )
    ddf = dd.from_pandas(frame, npartitions=6)
    pd.testing.assert_series_equal(
        ddf[ddf.x > 10].groupby("k").x.sum().compute().sort_index(), frame[frame.x > 10].groupby("k").x.sum()
    )
    merged = ddf.merge(ddf[["k", "x"]].rename(columns={"x": "y"}), on="k", how="inner").y.sum().compute()
    assert merged == frame.merge(frame[["k", "x"]].rename(columns={"x": "y"}), on="k").y.sum()
    shuffled = ddf.shuffle("k").compute().sort_index()
    pd.testing.assert_frame_equal(shuffled, frame, check_dtype=False)


def test_several_collections_of_several_kinds_at_once(client: wukong.Client) -> None:
    array, bag, value = da.arange(10, chunks=3).sum(), db.from_sequence(range(5)).sum(), delayed(lambda: "x")()
    assert dask.compute(array, {"bag": bag}, [value], 1) == (45, {"bag": 10}, ["x"], 1)


def test_parallel_post_fit_predicts_as_the_estimator_does(client: wukong.Client) -> None:
    from dask_ml.wrappers import ParallelPostFit
    from sklearn.datasets import make_classification
    from sklearn.svm import SVC

    x, y = make_classification(n_samples=200, random_state=0)
    fitted = ParallelPostFit(SVC(gamma="scale")).fit(x, y)
    many = da.from_array(np.concatenate([x] * 5), chunks=(250, 20))
    np.testing.assert_array_equal(fitted.predict(many).compute(), np.concatenate([fitted.estimator.predict(x)] * 5))
