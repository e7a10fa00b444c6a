"""What Dask hands a scheduler, turned into a graph: run in order, it has to give what Dask's own scheduler gives."""

import datetime
import enum
from collections import Counter
from functools import partial
from operator import add, mul

import dask
import dask.array as da
import dask.bag as db
import numpy as np
import pandas as pd
import pytest
from dask._expr import FinalizeCompute
from dask._task_spec import Alias, DataNode, Dict, List, Task, TaskRef
from dask.base import collections_to_expr
from dask.core import flatten
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

from wukong.core.dag import Literal, op_refs, run_op
from wukong.core.ingest import LARGE_LITERAL_BYTES, KeptLiteral, ingest
from wukong.errors import GraphError, UnknownKeyError


def inc(x):
    return x + 1


def total(*args):
    return sum(args)


def run(graph):
    """Run the tasks in the order of their numbers; return the requested values by key."""
    values = []

    def value_of(ref):
        return values[ref] if ref >= 0 else graph.objects[-1 - ref]

    values.extend(run_op(op, value_of) for op in graph.ops)
    return {key: at.value if isinstance(at, Literal) else values[at] for key, at in graph.request.items()}


def check(graph):
    """Hold a graph's structure against its ops."""
    dag = graph.dag
    assert len(dag) == len(graph.ops) == len(graph.keys)
    for task, op in enumerate(graph.ops):
        inputs = sorted({ref for ref in op_refs(op) if ref >= 0})
        assert list(dag.parents_of(task)) == inputs
        assert all(parent < task for parent in inputs)
        assert all(-1 - ref < len(graph.objects) for ref in op_refs(op) if ref < 0)
    assert set(dag.outputs) == {at for at in graph.request.values() if not isinstance(at, Literal)}
    reached = set(dag.outputs)
    for task in reversed(range(len(dag))):
        assert task in reached, f"{graph.keys[task]!r} was not culled"
        reached.update(dag.parents_of(task))


def ingested(dsk, keys, **how):
    graph = ingest(dsk, keys, **how)
    check(graph)
    return graph


def results(dsk, keys, **how):
    return run(ingested(dsk, keys, **how))


# --- legacy tuples


def test_legacy_tuples():
    dsk = {"a": 1, "b": (inc, "a"), "c": (add, "b", 10), "d": (total, "a", "b", "c", "c")}
    assert results(dsk, ["d", "b"]) == {"d": 27, "b": 2}


def test_nested_tasks_and_lists_of_keys():
    dsk = {"a": (inc, 1), "b": (inc, 2), "c": (sum, ["a", "b", (inc, (inc, "a"))]), "d": (len, {"x": "a"})}
    assert results(dsk, "c") == {"c": dask.get(dsk, "c")}
    assert results(dsk, "d") == {"d": dask.get(dsk, "d")}


def test_an_argument_that_looks_like_no_key_is_a_literal():
    dsk = {"a": (inc, 1), "b": (lambda *args: args, "a", "not a key", ("x", 1), None, [1, 2], 2.5)}
    assert results(dsk, "b") == {"b": dask.get(dsk, "b")} == {"b": (2, "not a key", ("x", 1), None, [1, 2], 2.5)}


def test_a_key_inside_a_tuple_is_an_input_as_it_is_for_dask():
    dsk = {"a": (inc, 1), "b": (lambda *args: args, ("a", 1), ["a", ("a",)])}
    assert results(dsk, "b") == {"b": dask.get(dsk, "b")}


@pytest.mark.parametrize("value", [None, 0, "", b"", False, (), [], {}, 0.0])
def test_falsy_literals_are_values(value):
    dsk = {"a": value, "b": (lambda x: [x], "a")}
    assert results(dsk, ["a", "b"]) == {"a": value, "b": [value]}


def test_a_repeated_input_is_one_edge_and_two_arguments():
    graph = ingested({"a": (inc, 1), "b": (mul, "a", "a")}, "b")
    assert run(graph) == {"b": 4}
    assert graph.dag.n_edges == 1


def test_a_nested_list_of_wanted_keys_is_flattened():
    dsk = {"a": (inc, 0), "b": (inc, "a"), "c": (inc, "b")}
    assert results(dsk, [["a", ["b"]], ["c", "a"]]) == {"a": 1, "b": 2, "c": 3}


# --- keys of any hashable kind


class Color(enum.Enum):
    RED = 1


KEYS = [
    "x",
    ("x", 0),
    ("x", ("y", 1)),
    1,
    2.5,
    b"bytes",
    frozenset({1, 2}),
    Color.RED,
    datetime.date(2026, 1, 1),
    (),
    ("x", 0, None),
    True,
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_a_key_may_be_anything_hashable(key):
    dsk = {key: Task(key, inc, 1), "last": Task("last", inc, TaskRef(key))}
    assert results(dsk, ["last", key]) == {"last": 3, key: 2}


@pytest.mark.parametrize("key", ["x", ("x", 0), 7, 2.5], ids=repr)
def test_a_legacy_argument_that_is_a_key_is_an_input(key):
    assert results({key: (inc, 1), "last": (inc, key)}, "last") == {"last": 3}


def test_keys_of_kinds_that_do_not_compare():
    names = [1, "a", ("a", 1), 2.5, b"b"]
    dsk = {name: Task(name, inc, i) for i, name in enumerate(names)}
    dsk["all"] = Task("all", sum, List(*map(TaskRef, names)))
    assert results(dsk, "all") == {"all": 15}


# --- task-spec nodes


def test_task_spec_nodes():
    dsk = {
        "data": DataNode("data", 5),
        "t": Task("t", add, TaskRef("data"), 1),
        "k": Task("k", dict, a=TaskRef("t"), b=2),
        "l": List(TaskRef("t"), 3, List(TaskRef("data"))),
        "d": Dict({"x": TaskRef("t")}),
        "nested": Task("nested", add, Task(None, inc, TaskRef("t")), 1),
    }
    dsk["l"].key, dsk["d"].key = "l", "d"
    wanted = ["k", "l", "d", "nested", "data"]
    assert results(dsk, wanted) == {"k": {"a": 6, "b": 2}, "l": [6, 3, [5]], "d": {"x": 6}, "nested": 8, "data": 5}


def test_a_string_argument_of_a_task_that_is_also_a_key_stays_a_string():
    dsk = {"a": Task("a", inc, 1), "b": Task("b", lambda *args: args, TaskRef("a"), "a")}
    assert results(dsk, "b") == {"b": (2, "a")}


def test_aliases_cost_nothing_and_may_be_requested():
    dsk = {
        "a": Task("a", inc, 1),
        "b": Alias("b", "a"),
        "c": Alias("c", "b"),
        "d": Task("d", inc, TaskRef("c")),
        "e": Alias("e", "d"),
    }
    graph = ingested(dsk, ["c", "d", "e", "a"])
    assert len(graph.dag) == 2
    assert run(graph) == {"a": 2, "c": 2, "d": 3, "e": 3}
    assert len(graph.dag.outputs) == 2


def test_legacy_aliases():
    dsk = {"a": (inc, 1), "b": "a", "c": "b", "d": (inc, "c")}
    assert results(dsk, ["b", "d"]) == {"b": 2, "d": 3}


def test_an_alias_of_a_literal_is_the_literal():
    dsk = {"a": DataNode("a", 5), "b": Alias("b", "a")}
    graph = ingested(dsk, "b")
    assert (run(graph), len(graph.ops)) == ({"b": 5}, 0)


# --- literals


def test_a_large_literal_is_an_object_and_a_small_one_travels_inline():
    large, small = np.zeros(LARGE_LITERAL_BYTES), np.zeros(3)
    dsk = {"big": large, "small": small, "sum": Task("sum", add, TaskRef("big"), 1), "s": (add, "small", 1)}
    graph = ingested(dsk, ["sum", "s"])
    assert [value is large for value in graph.objects] == [True]
    assert run(graph)["sum"].sum() == LARGE_LITERAL_BYTES


def test_a_large_literal_that_many_tasks_use_is_one_object():
    dsk = {"big": np.zeros(LARGE_LITERAL_BYTES)} | {("t", i): (add, "big", i) for i in range(10)}
    graph = ingested(dsk, [("t", i) for i in range(10)])
    assert len(graph.objects) == 1
    assert [value[0] for value in run(graph).values()] == list(range(10))


def test_a_large_argument_written_in_place_is_an_object_too():
    graph = ingested({"a": (inc, 1), "b": (add, "a", np.zeros(LARGE_LITERAL_BYTES))}, "b")
    assert len(graph.objects) == 1
    assert run(graph)["b"][0] == 2


def test_a_requested_literal_needs_no_task():
    graph = ingested({"a": 5, "b": np.zeros(LARGE_LITERAL_BYTES)}, ["a", "b"])
    assert (len(graph.ops), graph.objects) == (0, [])
    assert run(graph)["a"] == 5


def test_a_literal_may_be_requested_and_used():
    assert results({"a": 5, "b": (inc, "a")}, ["a", "b"]) == {"a": 5, "b": 6}


# --- the request


def test_requested_keys_may_have_dependents():
    dsk = {"a": (inc, 0), "b": (inc, "a"), "c": (inc, "b")}
    assert results(dsk, ["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}


def test_the_same_key_twice_is_requested_once():
    graph = ingested({"a": (inc, 0)}, ["a", "a"])
    assert (graph.dag.outputs, run(graph)) == ((0,), {"a": 1})


def test_an_empty_request_is_an_empty_graph():
    graph = ingested({"a": (inc, 0)}, [])
    assert (len(graph.dag), graph.request) == (0, {})


def test_what_is_not_needed_is_culled():
    called = []
    dsk = {"a": (inc, 0), "unused": (called.append, 1), "b": (inc, "a")}
    assert ingested(dsk, "b").keys == ["a", "b"]


def test_an_unknown_key_is_named():
    with pytest.raises(UnknownKeyError, match="'nowhere'"):
        ingest({"a": (inc, 0)}, ["a", "nowhere"])
    with pytest.raises(KeyError):
        ingest({}, "a")


def test_a_task_that_needs_a_key_which_is_nowhere_is_refused():
    with pytest.raises(GraphError, match="'gone', which 'b' needs"):
        ingest({"b": Task("b", inc, TaskRef("gone"))}, "b")


# --- kept values


class Future(KeptLiteral):
    __slots__ = ()


def test_known_values_win_and_are_objects_however_small():
    kept = Future()
    graph = ingested({"a": (inc, 0), "b": (lambda x: x, "a")}, "b", known={"a": kept})
    assert graph.keys == ["b"]
    assert graph.objects == [kept]
    assert run(graph) == {"b": kept}


def test_known_values_need_not_be_in_the_graph():
    kept = Future()
    graph = ingested({"b": Task("b", lambda x: x, TaskRef("a"))}, "b", known={"a": kept})
    assert run(graph) == {"b": kept}


# --- cycles


def cycle_of(dsk, key):
    with pytest.raises(GraphError, match="cycle") as caught:
        ingest(dsk, key)
    return str(caught.value)


def test_a_cycle_is_spelled_out():
    text = cycle_of({"a": (inc, "b"), "b": (inc, "c"), "c": (inc, "a"), "out": (inc, "a")}, "out")
    assert "cycle of 3 tasks: 'a' -> 'b' -> 'c' -> 'a'" in text


def test_a_task_that_needs_itself_is_a_cycle():
    assert "cycle of 1 tasks: 'a' -> 'a'" in cycle_of({"a": (inc, "a")}, "a")


def test_a_cycle_of_aliases_is_a_cycle():
    assert "cycle of 2 tasks" in cycle_of({"a": Alias("a", "b"), "b": Alias("b", "a")}, "a")


def test_a_cycle_is_spelled_out_without_those_who_only_wait_for_it():
    """A key that waits as somebody's input as well was named twice, and tasks outside the cycle with it."""
    dsk = {"r": (add, "a", "b"), "a": (inc, "b"), "b": (inc, "c"), "c": (inc, "b")}
    assert "cycle of 2 tasks: 'b' -> 'c' -> 'b'" in cycle_of(dsk, "r")
    dsk = {"x": (add, "y", "z"), "y": (inc, "z"), "z": (inc, "x")}
    assert "cycle of 3 tasks: 'x' -> 'y' -> 'z' -> 'x'" in cycle_of(dsk, "x")


def test_a_long_cycle_is_abridged():
    n = 1_000
    text = cycle_of({("t", i): (inc, ("t", (i + 1) % n)) for i in range(n)}, ("t", 0))
    assert f"cycle of {n} tasks" in text and "..." in text and len(text) < 1_000


# --- size


def test_a_long_chain_needs_no_recursion():
    n = 10_000
    dsk = {("t", 0): (inc, 0)} | {("t", i): (inc, ("t", i - 1)) for i in range(1, n)}
    graph = ingested(dsk, ("t", n - 1))
    assert run(graph) == {("t", n - 1): n}


def test_a_long_chain_of_aliases_needs_no_recursion():
    n = 10_000
    dsk = {0: Task(0, inc, 0)} | {i: Alias(i, i - 1) for i in range(1, n)}
    graph = ingested(dsk, n - 1)
    assert (len(graph.dag), run(graph)) == (1, {n - 1: 1})


class Counted(dict):
    """A graph that counts how often it is looked into."""

    def __init__(self, *args):
        super().__init__(*args)
        self.looks = Counter()

    def __getitem__(self, key):
        self.looks["get"] += 1
        return super().__getitem__(key)

    def __contains__(self, key):
        self.looks["in"] += 1
        return super().__contains__(key)

    def __iter__(self):
        self.looks["iter"] += 1
        return super().__iter__()


def looks(n):
    dsk = Counted({("t", i): (inc, i) for i in range(n)})
    dsk["all"] = (total, *(("t", i) for i in range(n)))
    ingest(dsk, "all")
    assert dsk.looks["get"] == n + 1, "each task is looked up once"
    return sum(dsk.looks.values())


def test_lookups_grow_with_the_tasks_not_with_their_square():
    assert looks(10_000) <= 10.5 * looks(1_000)


class Watched(MaterializedLayer):
    """A layer that counts how often all of it is gone through."""

    passes = 0

    def __iter__(self):
        Watched.passes += 1
        return super().__iter__()


def test_delayed_tasks_skip_the_optimisation_that_is_quadratic_in_layers(monkeypatch):
    whole = delayed(sum)([delayed(inc)(i) for i in range(1_000)])
    caught = []
    whole.compute(scheduler=lambda graph, keys, **_: caught.append((graph, keys)) or [None])
    ((graph, keys),) = caught
    monkeypatch.setattr(HighLevelGraph, "cull", None)
    assert list(results(graph, list(keys)).values()) == [500_500]


def test_each_layer_is_gone_through_a_few_times_only():
    n = 1_000
    whole = delayed(sum)([delayed(inc)(i) for i in range(n)])
    graph = whole.__dask_graph__()
    layers = {name: Watched(dict(layer)) for name, layer in graph.layers.items()}
    Watched.passes = 0
    hlg = HighLevelGraph(layers, graph.dependencies)
    assert results(hlg, whole.key) == {whole.key: n * (n + 1) // 2}
    assert Watched.passes <= 4 * len(layers)


# --- collections: compared with dask.get


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
