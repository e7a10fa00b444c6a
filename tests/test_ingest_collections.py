"""Collections of Dask's become the compact DAG: compared with what Dask computes; annotations."""

from functools import partial
from operator import add

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pandas as pd
import pytest
from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from dask.core import flatten
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph
from ingest_tools import inc, ingested, results

from wukong.core.ingest import ingest
from wukong.errors import GraphError


def expression_of(*collections):
    """Return what `dask.compute` hands a scheduler for these collections: an expression and keys."""
    caught = []

    def scheduler(graph, keys, **kwargs):
        caught.append((graph, keys))
        return dask.get(graph, keys) if isinstance(graph, dict) else dask.get(graph.__dask_graph__(), keys)

    expected = dask.compute(*collections, scheduler=scheduler)
    ((graph, keys),) = caught
    return graph, keys, expected


def same(ours, theirs):
    if isinstance(theirs, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    elif isinstance(theirs, pd.DataFrame | pd.Series):
        assert theirs.equals(ours)
    elif isinstance(theirs, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    else:
        assert ours == theirs


def array_work():
    x = da.from_array(np.arange(400.0).reshape(20, 20), chunks=(7, 9))
    return ((x @ x.T).sum(axis=0) + x.mean()), x[3:9, ::2]


def bag_work():
    words = db.from_sequence(["a", "bb", "ccc", "bb"] * 5, npartitions=4)
    return words.map(len).sum(), words.frequencies(), words.filter(lambda word: len(word) > 1).count()


def delayed_work():
    x = delayed(inc)(1)
    return delayed(sum)([x, delayed(inc)(x), 5]), x


def named_arguments():
    return (delayed(dict)(a=delayed(inc)(1), b=[delayed(inc)(2), {"c": delayed(inc)(3)}]), delayed(partial(add, 1))(2))


@pytest.mark.parametrize("optimize", [True, False])
def test_of_all_collections_bags_are_for_processes(optimize):
    array, bag = da.ones(4, chunks=2).sum(), db.from_sequence(range(4), npartitions=2).map(abs)
    for collections, expected in (
        ([array, delayed(1) + 1], False),
        (bag.to_delayed(), False),
        ([bag], True),
        ([array, bag.sum(), delayed(1) + 1], True),
    ):
        expr = FinalizeCompute(collections_to_expr(collections, optimize)).optimize()
        assert ingest(expr, list(flatten(expr.__dask_keys__()))).by_process is expected


@pytest.mark.parametrize("make", [array_work, bag_work, delayed_work, named_arguments])
def test_a_collection_gives_what_dask_gives(make):
    graph, keys, _ = expression_of(*make())
    plain = graph if isinstance(graph, dict) else graph.__dask_graph__()
    ours = results(graph, list(keys))
    for key in dask.core.flatten(list(keys)):
        one, theirs = ours[key], dask.get(plain, key)
        if hasattr(theirs, "__next__"):
            one, theirs = list(one), list(theirs)
        same(one, theirs)


def test_a_high_level_graph_is_taken_as_it_is():
    x = da.ones(10, chunks=5).sum()
    graph = HighLevelGraph.from_collections("x", dict(x.__dask_graph__()), dependencies=[])
    (key,) = dask.core.flatten(x.__dask_keys__())
    assert results(graph, key) == {key: 10.0}


def test_several_collections_at_once():
    x = delayed(inc)(1)
    graph, keys, expected = expression_of(x, delayed(inc)(x), delayed(inc)(10))
    ours = results(graph, list(keys))
    assert sorted(ours.values()) == sorted(expected) == [2, 3, 11]


@pytest.mark.parametrize(("told", "size"), [("4 GiB", 4 << 30), ("500MB", 500_000_000), (2e9, 2_000_000_000)])
def test_memory_by_annotation_reaches_its_tasks_in_bytes(told, size):
    with dask.annotate(memory=told):
        x = delayed(inc)(1)
    y = delayed(inc)(x)
    graph = ingested(y.__dask_graph__(), y.key)
    assert graph.memory == {graph.keys.index(x.key): size}


def test_tasks_without_the_annotation_have_none_beside_those_that_have_it():
    """Dask gives a graph of both a mark of its own for those without."""
    taken = []
    plain = [delayed(inc)(n, dask_key_name=("small", n)) for n in range(3)]
    with dask.annotate(memory=1_000_000):
        large = delayed(inc)(9, dask_key_name="large")
    total = delayed(sum)([*plain, large], dask_key_name="total")
    for optimized in (True, False):
        dask.compute(
            total, optimize_graph=optimized, scheduler=lambda dsk, keys, **_: taken.append((dsk, keys)) or keys
        )
    for dsk, keys in taken:
        graph = ingest(dsk, keys)
        assert graph.memory == {graph.keys.index("large"): 1_000_000}


@pytest.mark.parametrize("told", ["a lot", -1, float("nan")])
def test_memory_that_is_no_size_is_refused_with_its_task(told):
    with dask.annotate(memory=told):
        x = delayed(inc)(1)
    with pytest.raises(GraphError, match="is no size") as refused:
        ingested(x.__dask_graph__(), x.key)
    assert refused.value.task == x.key


@pytest.mark.parametrize(
    "told",
    [{"retries": -1}, {"retries": 1.5}, {"lanes": 0}, {"lanes": "x"}, {"lanes": 2}, {"keep": 7}],
)
def test_an_annotation_that_means_nothing_is_refused_with_its_task(told):
    with dask.annotate(**told):
        x = delayed(inc)(1)
    [name] = told
    with pytest.raises(GraphError, match=f"annotation {name}=") as refused:
        ingested(x.__dask_graph__(), x.key)
    assert refused.value.task == x.key


def test_annotations_of_none_say_nothing():
    with dask.annotate(lanes=None, keep=False, memory=None):
        x = delayed(inc)(1)
    graph = ingested(x.__dask_graph__(), x.key)
    assert not any((graph.exclusive, graph.keeps, graph.memory))


def test_marks_of_dasks_among_annotations_are_none():
    with dask.annotate(memory="2 GB", keep="name"):
        xs = [delayed(inc)(n) for n in range(2)]
    expression, keys, _ = expression_of(delayed(sum)([delayed(inc)(x) for x in xs]))
    graph = ingest(expression, list(keys))
    annotated = {graph.keys.index(x.key) for x in xs}
    assert graph.memory == dict.fromkeys(annotated, 2_000_000_000) and graph.keeps == dict.fromkeys(annotated, "name")


def test_retries_by_annotation_reach_their_tasks_only():
    with dask.annotate(retries=3):
        x = delayed(inc)(1)
    y = delayed(inc)(x)
    graph = ingested(y.__dask_graph__(), y.key)
    assert graph.retries == {graph.keys.index(x.key): 3}
