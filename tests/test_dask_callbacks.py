"""Dask's own callbacks see true times, true dependencies and, as far as the client has them, values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dask
import pytest
from dask.cache import Cache
from dask.callbacks import Callback
from dask.diagnostics import CacheProfiler, Profiler

import wukong


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def inc(x: int) -> int:
    return x + 1


def naps(x: int) -> int:
    time.sleep(0.2)
    return x


def test_a_profiler_shows_when_the_executors_ran_the_tasks(client: wukong.Client) -> None:
    with Profiler() as profiler:
        client.get({"a": (naps, 1), "b": (inc, "a")}, "b")
    found = {each.key: each for each in profiler.results}
    assert found["a"].end_time - found["a"].start_time >= 0.2
    assert found["b"].start_time >= found["a"].end_time
    assert found["a"].worker_id and found["a"].task == (naps, 1)


def test_a_cache_profiler_sees_when_values_are_released(client: wukong.Client) -> None:
    with CacheProfiler() as profiler:
        client.get({"a": (inc, 1), "b": (naps, "a"), "c": (inc, "b")}, "c")
    freed = {each.key: each.free_time for each in profiler.results}
    assert freed["a"] < freed["b"] < freed["c"]


def test_callbacks_see_what_depends_on_what_and_requested_values(client: wukong.Client) -> None:
    states: list[dict[str, Any]] = []
    values: dict[Any, Any] = {}

    class Listener(Callback):  # type: ignore[misc]
        def _start_state(self, dsk: Any, state: Any) -> None:
            states.append(state)

        def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
            values[key] = result

    with Listener():
        client.get({"a": (inc, 1), "b": (inc, "a"), "c": (sum, ["a", "b"])}, ["b", "c"])
    assert states[0]["dependencies"] == {"a": set(), "b": {"a"}, "c": {"a", "b"}}
    assert states[0]["dependents"] == {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert (values["b"], values["c"]) == (3, 5) and "a" in values


def test_a_cache_keeps_requested_values_and_no_others(client: wukong.Client) -> None:
    cache = Cache(1e8)
    a = dask.delayed(naps)(1)
    b = dask.delayed(inc)(a)
    with cache:
        assert dask.compute(b) == (2,)
        job = client.last_job
        assert dask.compute(b) == (2,)
        assert client.last_job is job  # there was nothing to run
        assert dask.compute(a) == (1,)  # and not None
        assert dask.compute(dask.delayed(inc)(b)) == (3,)
    assert {a.key, b.key} <= set(cache.cache.data)


def test_callbacks_hear_the_end_of_work_that_fails(client: wukong.Client) -> None:
    ends: list[bool] = []
    with Callback(finish=lambda dsk, state, errored: ends.append(errored)), pytest.raises(ZeroDivisionError):
        client.get({"a": (divmod, 1, 0)}, "a")
    assert ends == [True]
