"""What is given with one computation: what is wrong is refused by the call, before anything is begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dask
import pytest
from dask import delayed

import wukong
from wukong.errors import ConfigError

x = delayed(int)(1)


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda client: client.submit(int, retries="x"), "'retries' must be a whole number, not 'x'"),
        (lambda client: client.map(int, [1], retries=1.5), "'retries' must be a whole number"),
        (lambda client: client.get_executor(retries=-1), "'retries' must be at least 0"),
        (lambda client: client.compute(x, retries=-1), "'retries' must be at least 0"),
        (lambda client: x.compute(retries="x"), "'retries' must be a whole number"),
        (lambda client: x.persist(retries="x"), "'retries' must be a whole number"),
        (lambda client: x.compute(timeout="soon"), "'timeout_s' must be a number"),
        (lambda client: client.compute(x, budget_usd=-1), "'budget_usd' must be at least 0"),
        (lambda client: client.compute(x, keep="a/b"), "a name of letters"),
        (lambda client: client.compute(x, on_eror="collect"), "did you mean 'on_error'"),
        (lambda client: client.compute(x, sync=True, timeout=0.5), "x.compute\\(timeout"),
        (lambda client: client.get({"x": 1}, "x", timout=1), "did you mean 'timeout'"),
        (lambda client: dask.compute(x, budget_us=0), "did you mean 'budget_usd'"),
        (lambda client: x.compute(on_error="collect"), "client.compute\\(x, sync=True"),
        (lambda client: client.compute(x, collect=True), "takes no 'collect'"),
        (lambda client: dask.persist(x, keep="name"), "x.compute\\(keep"),
        (lambda client: client.persist(x, retires=1), "did you mean 'retries'"),
    ],
)
def test_what_is_wrong_is_refused_by_the_call(
    client: wukong.Client, call: Callable[[wukong.Client], Any], said: str
) -> None:
    before = client.last_job
    with pytest.raises(ConfigError) as refused:
        call(client)
    refused.match(said)
    assert client.last_job is before


def test_what_other_schedulers_are_given_is_accepted(client: wukong.Client) -> None:
    assert dask.compute(x, num_workers=4, workers=["a"], resources={"GPU": 1}, priority=3, optimize_graph=False) == (1,)
    assert dask.compute(x, flush=True, compute_chunk_sizes=False) == (1,)  # what libraries pass on to any scheduler
    assert client.compute(x, fifo_timeout="1 s", actors=False, retries=2.0, direct=True).result() == 1
    assert client.compute(x, sync=True, retries=1) == 1
    assert x.persist(allow_other_workers=True, num_workers=2).compute(timeout="60 s") == 1
