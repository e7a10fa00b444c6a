"""Futures as inputs: wherever Dask's collections take a value, and however deep it sits in the arguments."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask._task_spec import DataNode, GraphNode, List, Task, TaskRef
from waiting import wait_for

import wukong
from wukong.errors import GraphError

Pair = namedtuple("Pair", "left right")


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def frame(n: int) -> pd.DataFrame:
    return pd.DataFrame({"a": [n, n + 1]})


def plus(block: Any, more: Any) -> Any:
    return block + sum(more) if isinstance(more, list) else block + more


@pytest.mark.parametrize(
    ("nested", "right"),
    [
        (lambda one: one, 1),
        (lambda one: [one, 2], [1, 2]),
        (lambda one: [one], [1]),
        (lambda one: {"a": [one, (one, "b")]}, {"a": [1, (1, "b")]}),
        (lambda one: {one, 5}, {1, 5}),
        (lambda one: frozenset([one]), frozenset([1])),
        (lambda one: Pair(one, [one]), Pair(1, [1])),
        (lambda one: [[], {}, (), one], [[], {}, (), 1]),
    ],
)
def test_a_future_stands_for_its_value_however_deep_it_is(
    client: wukong.Client, nested: Callable[[Any], Any], right: Any
) -> None:
    argument = nested(client.submit(abs, -1))

    def same(x: Any) -> Any:
        return x

    assert dask.delayed(same)(argument).compute() == right
    assert dask.delayed(same)(x=argument).compute() == right
    assert dask.delayed(argument).compute() == right
    assert client.submit(same, x=argument).result(60) == right
    assert client.get({"x": (same, argument)}, "x") == right
    assert client.get({"x": Task("x", same, argument)}, "x") == right
    assert client.get({"x": Task("x", same, DataNode(None, argument))}, "x") == right
    assert client.get({"x": argument}, "x") == right


def test_a_future_may_be_bound_into_a_partial(client: wukong.Client) -> None:
    bound = functools.partial(max, client.submit(abs, -9))
    assert dask.delayed(bound)(3).compute() == 9
    assert client.submit(bound, 3).result(60) == 9
    assert client.submit(lambda f: f(3), bound).result(60) == 9
    assert client.get({"x": (bound, 3)}, "x") == 9


def test_a_future_inside_tasks_that_dask_has_fused_is_found(client: wukong.Client) -> None:
    two = client.submit(abs, -2)
    inner: list[GraphNode] = [Task("a", sum, [two, 1]), Task("b", sum, List(TaskRef("a"), two))]
    assert client.get({"b": Task.fuse(*inner)}, "b") == 5


def test_arrays_take_futures(client: wukong.Client) -> None:
    five = client.submit(np.arange, 5)
    x = da.ones(4, chunks=2)
    assert da.from_delayed(five, (5,), "i8").sum().compute() == 10
    assert (da.from_delayed(client.submit(np.arange, 4), (4,), "i8") + x).sum().compute() == 10
    one = client.submit(abs, -1)
    for more in (one, [one]):
        assert x.map_blocks(plus, more, dtype=float).sum().compute() == 8
        assert x.map_blocks(plus, more=more, dtype=float).sum().compute() == 8
    assert da.blockwise(plus, "i", x, "i", one, None, dtype=float).sum().compute() == 8


def test_dataframes_take_futures(client: wukong.Client) -> None:
    frames = client.map(frame, range(3))
    assert dd.from_delayed(frames).a.sum().compute() == 9
    assert dd.from_delayed(client.map(frame, range(3)), meta=frame(0)).a.sum().compute() == 9
    ddf = dd.from_pandas(pd.concat([frame(0), frame(2)]), npartitions=2, sort=False)
    one = client.submit(abs, -1)
    for more in (one, [one]):
        assert ddf.map_partitions(plus, more, meta=frame(0)).a.sum().compute() == 10
        assert ddf.map_partitions(plus, more=more, meta=frame(0)).a.sum().compute() == 10
    assert (ddf.a + one).compute().sum() == 10


def test_bags_take_futures(client: wukong.Client) -> None:
    assert db.from_delayed(client.map(lambda n: [n, n], range(3))).sum().compute() == 6
    one = client.submit(abs, -1)
    bag = db.from_sequence([1, 2], npartitions=2)
    assert bag.map(plus, one).compute() == [2, 3]
    assert bag.map(plus, more=one).compute() == [2, 3]


def test_dataframes_persist_and_compute_from_there(client: wukong.Client) -> None:
    kept = dd.from_pandas(frame(1), npartitions=2).persist()
    again = (kept + 1).persist()
    assert len(kept) == len(kept.persist()) == 2
    assert kept.a.sum().compute() == 3 and again.a.sum().compute() == 5
    assert dask.base.tokenize(kept) != dask.base.tokenize(again)


def test_a_future_that_only_the_graph_holds_lives_as_long_as_its_job(client: wukong.Client) -> None:
    assert client.compute(dask.delayed(abs)(client.submit(abs, -9))).result(60) == 9
    assert client.persist(dask.delayed(abs)([client.submit(abs, -9)][0])).compute() == 9


def test_what_is_pending_is_waited_for(client: wukong.Client, tmp_path: Path) -> None:
    late = client.submit(wait_for, str(tmp_path / "go"), 7)
    computing = client.compute(dask.delayed(sum)([late, 1]))
    assert not late.done() and not computing.done()
    (tmp_path / "go").touch()
    assert computing.result(60) == 8 and dask.delayed(sum)([late, 1]).compute() == 8


def test_what_failed_raises_its_own_error(client: wukong.Client) -> None:
    bad = client.submit(lambda: 1 // 0)
    for argument in (bad, [bad]):
        with pytest.raises(ZeroDivisionError):
            dask.delayed(str)(argument).compute()
        with pytest.raises(ZeroDivisionError):
            client.compute(dask.delayed(str)(argument)).result(60)


def test_the_future_of_another_client_is_refused_with_its_key(client: wukong.Client) -> None:
    with wukong.Client(progress=False) as other:
        theirs = other.submit(abs, -1, key="theirs")
        mine = client.submit(abs, -2)
        for graph in ({"x": (max, theirs, mine)}, {"x": (max, [theirs, mine])}):
            with pytest.raises(GraphError, match=r"'theirs'[\s\S]*another client"):
                client.get(graph, "x")


def test_a_literal_that_equals_a_futures_key_stays_a_literal(client: wukong.Client) -> None:
    held = client.scatter({"mean": 100, ("x", 0): 200, 5: 300})
    assert client.get({"y": (list, ["mean", "x", ("x", 0), 5])}, "y") == ["mean", "x", ("x", 0), 5]
    assert client.get({"y": (max, "mean", "a"), "z": "mean"}, ["y", "z"]) == ("mean", "mean")
    assert client.submit(str.upper, "mean").result(60) == "MEAN"
    assert dask.delayed(str.upper)("mean").compute() == "MEAN"
    assert dask.delayed(str)(held["mean"]).compute() == "100"
    assert client.get({"y": Task("y", str, TaskRef("mean"))}, "y") == "100"
