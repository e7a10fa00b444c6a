"""Partial results: a job that collects failures goes on past them, and tells what there is and what has failed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed

import wukong
from wukong.core.raised import MOST_TOLD
from wukong.errors import JobCancelled

pytestmark = pytest.mark.usefixtures("everywhere")


@pytest.fixture(scope="module")
def client(everywhere: str) -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def inverse(x: Any) -> Any:
    return 1 / x


def test_what_has_not_failed_is_there_and_the_rest_is_named(client: wukong.Client) -> None:
    bad = delayed(inverse)(0, dask_key_name="bad")
    needs = delayed(sum)([bad, delayed(inverse)(2)], dask_key_name="needs")
    got = client.compute([delayed(inverse)(4), bad, needs, "no collection"], sync=True, on_error="collect")
    assert isinstance(got, wukong.Partial) and not got.whole
    assert got.results[0] == 0.25 and got.results[3] == "no collection"
    first, second = got.results[1:3]
    assert isinstance(first, wukong.FailedValue) and (first.key, first.task) == ("bad", "bad")
    assert isinstance(second, wukong.FailedValue) and (second.key, second.task) == ("needs", "bad")
    assert list(got.errors) == ["bad"] and "ZeroDivisionError" in got.errors["bad"].message
    assert "in inverse" in got.errors["bad"].traceback and isinstance(first.error(), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        got.result()


def test_a_whole_result_is_put_together_as_ever(client: wukong.Client) -> None:
    array = da.arange(6, chunks=2).reshape(2, 3)
    frame = dd.from_pandas(pd.DataFrame({"a": range(4)}), npartitions=2)
    scalar, bag = array.sum(), db.range(5, npartitions=2)
    got = client.compute([array, frame, scalar, bag, 7], sync=True, on_error="collect")
    values = got.result()
    assert got.whole and got.errors == {}
    np.testing.assert_array_equal(values[0], np.arange(6).reshape(2, 3))
    pd.testing.assert_frame_equal(values[1], pd.DataFrame({"a": range(4)}))
    assert values[2:] == [15, [0, 1, 2, 3, 4], 7]
    assert got.results[2] == 15 and list(map(list, got.results[3])) == [[0, 1], [2, 3, 4]]


def picky(block: Any, refused: tuple[int, ...]) -> Any:
    if block[0] in refused:
        raise LookupError(f"block of {block[0]}")
    return block


def test_the_chunks_of_an_array_that_there_are_can_be_had_from_a_future(client: wukong.Client) -> None:
    array = da.arange(8, chunks=2).map_blocks(picky, (2, 6), dtype=int) + 1
    future = client.compute(array, on_error="collect")
    got = future.result(60)
    assert future.status == "finished"
    assert [isinstance(chunk, wukong.FailedValue) for chunk in got.results] == [False, True, False, True]
    np.testing.assert_array_equal(got.results[2], [5, 6])
    messages = sorted(each.message for each in got.errors.values())
    assert messages == ["LookupError: block of 2", "LookupError: block of 6"]
    total = client.compute(array.sum(), on_error="collect").result(60)  # one task needs both
    assert isinstance(total.results, wukong.FailedValue) and len(total.errors) == 2


def test_tasks_are_run_again_before_they_have_failed(client: wukong.Client, tmp_path: Path) -> None:
    def second(path: str) -> str:
        with open(path, "a") as file:
            file.write("x")
        if Path(path).read_text() != "xx":
            raise OSError("not yet")
        return "done"

    got = client.compute(delayed(second)(str(tmp_path / "tries")), retries=1, sync=True, on_error="collect")
    assert got.results == "done" and got.whole


def test_of_very_many_failures_some_are_told(client: wukong.Client) -> None:
    needs = delayed(list)([delayed(inverse)(0) for _ in range(MOST_TOLD + 20)])
    got = client.compute(needs, sync=True, on_error="collect")
    assert isinstance(got.results, wukong.FailedValue) and len(got.errors) == MOST_TOLD


def test_futures_of_a_map_have_the_failure_as_their_result(client: wukong.Client) -> None:
    futures = client.map(inverse, [2, 0, 4], on_error="collect", pure=False)
    assert [type(each).__name__ for each in client.gather(futures)] == ["float", "FailedValue", "float"]
    assert futures[1].status == "error" and isinstance(futures[1].exception(), ZeroDivisionError)
    failed = futures[1].result()
    assert failed.key == futures[1].key and failed.task == futures[1].key
    assert client.gather(futures, errors="skip") == [0.5, 0.25]


def test_calls_that_need_a_failed_future_fail_with_its_key_and_the_others_run(client: wukong.Client) -> None:
    firsts = client.map(inverse, [2, 0, 4], pure=False)
    thens = client.map(inverse, firsts, on_error="collect", pure=False)
    values = client.gather(thens)
    assert values[0] == 2.0 and values[2] == 4.0
    assert values[1].key == thens[1].key and values[1].task == firsts[1].key
    plain = client.map(inverse, firsts, pure=False)
    assert plain[2].result(60) == 4.0 and isinstance(plain[1].exception(60), ZeroDivisionError)


def test_what_is_no_failure_of_a_task_is_raised(client: wukong.Client) -> None:
    [future] = client.map(time.sleep, [60], on_error="collect", pure=False)
    assert future.cancel()
    with pytest.raises(JobCancelled):
        future.result()
    with pytest.raises(ValueError, match="raise, collect"):
        client.compute(delayed(1), on_error="ignore")
