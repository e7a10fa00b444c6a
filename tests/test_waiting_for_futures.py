"""Waiting for futures in every form that users of `distributed` know, and running failed ones again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import wukong


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
    import dask

    computed = client.compute(dask.delayed(fails_first)(str(tmp_path), 3))
    assert isinstance(computed.exception(timeout=60), OSError)
    computed.retry()
    assert computed.result(timeout=60) == 3
    persisted = client.persist(dask.delayed(fails_first)(str(tmp_path), 4))
    [future] = persisted.dask.values()
    assert isinstance(future.exception(timeout=60), OSError)
    future.retry()
    assert persisted.compute() == 4
