"""What Dask hands a scheduler, turned into a graph: run in order, it has to give what Dask's own scheduler gives."""

import datetime
import enum
from collections import Counter
from operator import add, mul

import dask
import numpy as np
import pytest
from dask._task_spec import Alias, DataNode, Dict, List, Task, TaskRef
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from ingest_tools import inc, ingested, results, run, total

from wukong.core.ingest import LARGE_LITERAL_BYTES, KeptLiteral, ingest
from wukong.errors import GraphError, UnknownKeyError

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
