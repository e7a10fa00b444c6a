"""Waiting for futures in every form that users of `distributed` know, and running failed ones again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from waiting import wait_for

import wukong
from wukong.errors import JobTimeout


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def fails_first(folder: str, x: int) -> int:
    """Fail the first time that it is called with this `x`."""
    mark = Path(folder, str(x))
    if not mark.exists():
        mark.touch()
        raise OSError(f"not yet: {x}")
    return x


def test_a_failed_future_is_run_again_with_what_it_needs(client: wukong.Client, tmp_path: Path) -> None:
    first, other = client.map(fails_first, [str(tmp_path)] * 2, [1, 2])
    needs = client.submit(sum, [first, other])
    assert isinstance(needs.exception(timeout=60), OSError)
    needs.retry()
    assert needs.result(timeout=60) == 3
    assert [first.status, other.status] == ["finished", "finished"]
    needs.retry()  # there is nothing to do
    assert needs.result(timeout=60) == 3


def test_a_future_that_fails_again_says_so_again_and_calls_back_again_only_who_asks(client: wukong.Client) -> None:
    future = client.submit(divmod, 1, 0)
    for _ in range(2):
        assert isinstance(future.exception(timeout=60), ZeroDivisionError)
        future.retry()
    assert isinstance(future.exception(timeout=60), ZeroDivisionError)


def test_what_a_compute_and_a_persist_have_failed_at_is_run_again(client: wukong.Client, tmp_path: Path) -> None:
    computed = client.compute(dask.delayed(fails_first)(str(tmp_path), 3))
    assert isinstance(computed.exception(timeout=60), OSError)
    computed.retry()
    assert computed.result(timeout=60) == 3
    persisted = client.persist(dask.delayed(fails_first)(str(tmp_path), 4))
    [future] = persisted.dask.values()
    assert isinstance(future.exception(timeout=60), OSError)
    future.retry()
    assert persisted.compute() == 4


def test_a_collection_on_futures_can_be_waited_for_alone_and_among_futures(
    client: wukong.Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    array = client.persist(da.ones(4, chunks=2).map_blocks(lambda x: wait_for(str(go), x), meta=np.empty(0)))
    frame = client.persist(dd.from_pandas(pd.DataFrame({"a": range(4)}), npartitions=2))
    single = client.submit(abs, -1)
    assert len(wukong.futures_of([array, {"frame": frame, "single": single}])) == 5
    done, pending = wukong.wait([array, {"frame": frame}, single], return_when="FIRST_COMPLETED")
    assert done and len(pending) >= 2
    with pytest.raises(JobTimeout):
        wukong.wait(array, timeout=0.0)
    go.touch()
    assert len(wukong.wait(array, timeout=60).done) == 2
    assert wukong.wait([array, frame, single], timeout=60).not_done == set()
    assert wukong.wait(da.ones(2)) == (set(), set())  # there is nothing to wait for


def test_batches_hold_all_that_has_ended_meanwhile(client: wukong.Client, tmp_path: Path) -> None:
    quick = client.map(abs, [-1, -2, -3])
    slow = client.submit(wait_for, str(tmp_path / "go"), 4)
    wukong.wait(quick)
    completed = wukong.as_completed([*quick, slow])
    assert completed.has_ready() and completed.count() == 4
    assert set(completed.next_batch()) == set(quick)
    assert completed.next_batch(block=False) == [] and not completed.has_ready()
    (tmp_path / "go").touch()
    assert list(completed.batches()) == [[slow]]
    assert completed.is_empty()
    with pytest.raises(StopIteration):
        completed.next_batch()
    completed.update(quick)
    completed.clear()
    assert list(completed) == []


def test_what_failed_comes_with_its_exception_if_it_is_not_to_be_raised(client: wukong.Client) -> None:
    failed, fine = client.submit(divmod, 1, 0), client.submit(abs, -1)
    found = dict(wukong.as_completed([failed, fine], with_results=True, raise_errors=False))
    kind, error, traceback = found[failed]
    assert kind is ZeroDivisionError and isinstance(error, kind) and traceback is error.__traceback__
    assert found[fine] == 1
    with pytest.raises(ZeroDivisionError):
        list(wukong.as_completed([failed], with_results=True).batches())


def test_failed_futures_that_are_retried_can_be_waited_for_again(client: wukong.Client, tmp_path: Path) -> None:
    values = {}
    completed = wukong.as_completed(
        client.map(fails_first, [str(tmp_path)] * 3, [5, 6, 7]), with_results=True, raise_errors=False
    )
    for batch in completed.batches():
        for future, value in batch:
            if future.status == "error":
                client.retry(future)
                completed.add(future)
            else:
                values[future.key] = value
    assert sorted(values.values()) == [5, 6, 7]


def test_asyncio_programs_await_futures_gathers_and_what_completes(client: wukong.Client, tmp_path: Path) -> None:
    async def main() -> None:
        slow = client.submit(wait_for, str(tmp_path / "go"), 9)
        quick = client.map(abs, [-1, -2])
        seen = []
        async for future, value in wukong.as_completed([slow, *quick], with_results=True):
            seen.append((future, value))
            if len(seen) == 2:
                assert not slow.done()
                (tmp_path / "go").touch()
        assert sorted(value for _, value in seen[:2]) == [1, 2] and seen[2] == (slow, 9)
        assert await client.gather({"all": [slow, *quick]}, asynchronous=True) == {"all": [9, 1, 2]}
        big = await client.scatter(b"1" * 100_000, asynchronous=True)
        assert len(await big) == 100_000
        with pytest.raises(ZeroDivisionError):
            await client.submit(divmod, 1, 0)
        never = client.submit(wait_for, str(tmp_path / "never"), 1)
        with pytest.raises(JobTimeout):
            [_ async for _ in wukong.as_completed([never], timeout=0.01)]
        await client.cancel(never, asynchronous=True)
        assert never.cancelled()
        assert [_ async for _ in wukong.as_completed([])] == []

    asyncio.run(main())


def test_many_futures_can_be_awaited_at_once_while_others_are_pending(client: wukong.Client, tmp_path: Path) -> None:
    async def main() -> list[list[int]]:
        pending = [client.submit(wait_for, str(tmp_path / "go"), i) for i in range(3)]
        waiting = [asyncio.ensure_future(client.gather(pending, asynchronous=True)) for _ in range(50)]
        assert await client.submit(abs, -3) == 3  # no thread is lost to those who wait
        (tmp_path / "go").touch()
        return list(await asyncio.gather(*waiting))

    assert asyncio.run(main()) == [[0, 1, 2]] * 50
