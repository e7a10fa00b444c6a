"""Futures: how they are made, waited for, cancelled and used as inputs; what is kept, and when it goes."""

from __future__ import annotations

import gc
import operator
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask import delayed
from waiting import wait, wait_for

import wukong
from wukong.client.nested import find_futures
from wukong.errors import CodecError, JobCancelled, JobTimeout, WukongError

pytestmark = pytest.mark.usefixtures("everywhere")


@pytest.fixture(scope="module")
def client(everywhere: str) -> Iterator[wukong.Client]:
    client = wukong.Client(progress=False)
    yield client
    client.close()


def inc(x: Any) -> Any:
    return x + 1


def test_submit_returns_a_future_with_the_value(client: wukong.Client) -> None:
    future = client.submit(operator.add, 1, b := 2)
    assert future.result(timeout=30) == 1 + b
    assert future.done() and future.status == "finished" and not future.cancelled()
    assert future.exception() is None and future.traceback() is None


def test_futures_are_inputs_of_later_work_also_inside_containers_and_keywords(client: wukong.Client) -> None:
    one = client.submit(inc, 0)
    two = client.submit(inc, one)
    big = client.submit(np.ones, 200_000)
    three = client.submit(lambda items, extra: sum(items["all"]) + extra.sum(), {"all": [one, two]}, extra=big)
    assert three.result(30) == 3 + 200_000


def test_map_gives_a_future_for_each_and_one_that_fails_leaves_the_others_alone(client: wukong.Client) -> None:
    futures = client.map(lambda x, y: x // y, [10, 20, 30], [1, 0, 3])
    assert futures[0].result(30) == 10 and futures[2].result(30) == 10
    error = futures[1].exception(30)
    assert isinstance(error, ZeroDivisionError) and "lambda" in str(error.__cause__)
    with pytest.raises(ZeroDivisionError):
        client.gather(futures)
    assert client.gather(futures, errors="skip") == [10, 10]


class NeedsTwo(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Unreadable:
    def __reduce__(self) -> Any:
        return operator.truediv, (1, 0)


class Unwritable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def odd(i: int) -> Any:
    match i:
        case 1:
            raise NeedsTwo(1, 2)
        case 2:
            raise SystemExit(3)
        case 3:
            return Unreadable()
        case 4:
            return Unwritable()
        case 5:
            deep: list[Any] = []
            for _ in range(100_000):
                deep = [deep]
            return deep
    return i


def test_each_future_of_a_map_is_alone_whatever_the_others_raise_or_return(client: wukong.Client) -> None:
    futures = client.map(odd, range(7))
    raised, left, unreadable, unwritable, deep = (future.exception(60) for future in futures[1:6])
    assert [futures[0].result(60), futures[6].result(60)] == [0, 6]
    assert isinstance(raised, NeedsTwo) and str(raised) == "1 and 2"
    assert isinstance(left, SystemExit) and left.code == 3
    assert isinstance(unreadable, CodecError) and "division by zero" in str(unreadable)
    assert isinstance(unwritable, CodecError) and "Unwritable: TypeError: not me" in str(unwritable)
    assert isinstance(deep, CodecError) and "recursion" in str(deep)
    assert [unreadable.task, unwritable.task, deep.task] == [future.key for future in futures[3:6]]


def test_chunks_of_a_persisted_collection_are_alone_and_tell_what_they_needed(client: wukong.Client) -> None:
    def check(x: Any, block_id: Any = None) -> Any:
        if block_id == (1,):
            raise NeedsTwo(1, 2)
        return x

    kept = client.persist(da.ones(6, chunks=2).map_blocks(check, dtype=float).rechunk(1))
    futures = find_futures(kept)
    errors = [future.exception(60) for future in futures]
    assert [type(error) for error in errors] == [type(None)] * 2 + [NeedsTwo] * 2 + [type(None)] * 2
    assert [future.result() for future in (*futures[:2], *futures[4:])] == [1] * 4
    with pytest.raises(NeedsTwo):
        kept.compute(scheduler=client.get)


def test_a_failed_future_fails_what_depends_on_it(client: wukong.Client) -> None:
    bad = client.submit(operator.truediv, 1, 0)
    with pytest.raises(ZeroDivisionError):
        client.submit(inc, bad).result(30)


def test_as_completed_yields_in_the_order_of_completion(client: wukong.Client, tmp_path: Path) -> None:
    late = client.submit(wait_for, str(tmp_path / "go"), 5)
    early = client.submit(inc, 41)
    order = wukong.as_completed([late, early], timeout=60)
    assert next(order) is early
    (tmp_path / "go").touch()
    assert next(order) is late
    assert list(wukong.as_completed([early], with_results=True)) == [(early, 42)]


def test_values_of_a_map_arrive_while_others_still_run(client: wukong.Client, tmp_path: Path) -> None:
    fast, slow = client.map(lambda path: wait_for(path, path), [str(tmp_path), str(tmp_path / "go")])
    assert fast.result(30) == str(tmp_path)
    assert not slow.done()
    (tmp_path / "go").touch()
    assert slow.result(30)


def test_wait_tells_done_from_not_done(client: wukong.Client, tmp_path: Path) -> None:
    late, early = client.submit(wait_for, str(tmp_path / "go"), 5), client.submit(inc, 1)
    assert wukong.wait([late, early], timeout=60, return_when="FIRST_COMPLETED") == ({early}, {late})
    with pytest.raises(JobTimeout):
        wukong.wait([late], timeout=0.05)
    (tmp_path / "go").touch()
    assert wukong.wait([late, early], timeout=60).not_done == set()


def test_result_with_a_timeout_raises_and_the_work_goes_on(client: wukong.Client, tmp_path: Path) -> None:
    future = client.submit(wait_for, str(tmp_path / "go"), 5)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.05)
    (tmp_path / "go").touch()
    assert future.result(30) == 5


def test_cancel_stops_the_work_and_the_future_says_so(client: wukong.Client, tmp_path: Path) -> None:
    future = client.submit(wait_for, str(tmp_path / "never"), None)
    assert future.cancel()
    assert future.cancelled() and future.status == "cancelled"
    with pytest.raises(CancelledError):
        future.result(30)
    with pytest.raises(JobCancelled):
        future.exception(30)
    done = client.submit(inc, 1)
    done.result(30)
    assert not done.cancel()


def test_callbacks_are_called_with_the_future(client: wukong.Client) -> None:
    called = threading.Event()
    seen: list[wukong.Future] = []
    future = client.submit(inc, 10)
    future.add_done_callback(lambda it: (seen.append(it), called.set()))
    assert called.wait(30) and seen == [future]


def test_scatter_and_gather_keep_the_shape(client: wukong.Client) -> None:
    futures = client.scatter({"a": [1, 2], "b": np.arange(100_000)})
    assert set(futures) == {"a", "b"}
    assert client.gather(futures["a"]) == [1, 2]
    array = client.gather(futures)["b"]
    np.testing.assert_array_equal(array, np.arange(100_000))
    assert client.submit(sum, client.scatter([1, 2, 3])).result(30) == 6


def test_compute_gives_futures_and_passes_the_rest_through(client: wukong.Client) -> None:
    single = client.compute(da.arange(10, chunks=5).sum())
    several = client.compute([delayed(inc)(1), 7, {"nested": delayed(inc)(2)}])
    assert single.result(30) == 45
    assert [each.result(30) if isinstance(each, wukong.Future) else each for each in several] == [2, 7, {"nested": 3}]
    assert client.compute(delayed(inc)(3), sync=True) == 4


def test_persist_keeps_chunks_for_later_work(client: wukong.Client) -> None:
    x = da.random.default_rng(0).random((400, 400), chunks=(100, 400))
    kept = client.persist(x)
    first, second = (kept.compute(scheduler=client.get) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    total = client.compute(kept.sum())
    np.testing.assert_allclose(total.result(30), first.sum())
    both = client.persist([x + 1, delayed(inc)(1)])
    np.testing.assert_allclose(both[0].compute(scheduler=client.get), first + 1)
    assert both[1].compute(scheduler=client.get) == 2


def test_the_same_pure_call_is_not_repeated_while_its_future_is_held(client: wukong.Client) -> None:
    one = client.submit(time.time_ns)
    assert client.submit(time.time_ns).result(30) == one.result(30)
    assert client.submit(time.time_ns, pure=False).result(30) != one.result(30)


def test_a_value_leaves_the_store_with_its_last_future(client: wukong.Client) -> None:
    future = client.submit(np.zeros, 300_000)
    again = client.submit(np.zeros, 300_000)
    future.result(30)
    key = future._state.value.key
    del future
    gc.collect()
    assert again.result(30).sum() == 0
    assert client.storage.get([key]) != [None]
    del again
    gc.collect()
    wait(lambda: client.storage.get([key]) == [None])


def test_a_released_future_cannot_be_read(client: wukong.Client) -> None:
    future = client.submit(np.ones, 300_000)
    future.result(30)
    future.release()
    key = future._state.value.key
    wait(lambda: client.storage.get([key]) == [None])
    with pytest.raises(JobCancelled, match="released"):
        future.result(30)


def test_a_future_cannot_be_pickled_and_says_what_to_do(client: wukong.Client) -> None:
    import pickle

    with pytest.raises(WukongError, match="cannot be pickled"):
        pickle.dumps(client.submit(inc, 5))


def test_closing_cancels_what_is_pending(tmp_path: Path) -> None:
    client = wukong.Client(progress=False)
    future = client.submit(wait_for, str(tmp_path / "never"), None)
    client.close()
    with pytest.raises(CancelledError):
        future.result(30)


def test_a_hundred_small_submits_all_come_back(client: wukong.Client) -> None:
    futures = [client.submit(inc, i, pure=False) for i in range(100)]
    assert client.gather(futures) == list(range(1, 101))
