"""Structure in compact arrays, ops in their smallest form, and the static partition."""

from array import array
from random import Random

import pytest

from wukong.core.dag import Dag, Graph, op_refs, run_op
from wukong.core.partition import pages, schedule, starts
from wukong.testing.graphs import chain, depth_first, fan_out_fan_in, layered, random_dag, tree_reduction


def dags():
    shapes = [chain(1), chain(5), tree_reduction(8), tree_reduction(5), fan_out_fan_in(4), layered(3, 3)]
    return shapes + [random_dag(Random(seed), 30) for seed in range(60)]


DIAMOND = Dag.from_parents([[], [0], [0], [1, 2]], [3])


def test_parents_and_children_are_each_others_reverse():
    for dag in dags():
        down = {(parent, task) for task in range(len(dag)) for parent in dag.parents_of(task)}
        across = {(task, child) for task in range(len(dag)) for child in dag.children_of(task)}
        assert down == across
        assert dag.n_edges == len(down) == len(dag.children)


def test_rows_are_ascending():
    for dag in dags():
        for task in range(len(dag)):
            for row in (dag.parents_of(task), dag.children_of(task)):
                assert list(row) == sorted(set(row))


def test_a_diamond_written_out():
    assert len(DIAMOND) == DIAMOND.sink == 4
    assert [list(DIAMOND.parents_of(task)) for task in range(4)] == [[], [0], [0], [1, 2]]
    assert [list(DIAMOND.children_of(task)) for task in range(4)] == [[1, 2], [3], [3], []]
    assert DIAMOND.leaves() == [0]


def test_outputs_are_unique_and_in_the_order_of_the_request():
    assert Dag.from_parents([[], [], []], [2, 0, 2, 1, 0]).outputs == (2, 0, 1)


def test_a_dag_of_nothing():
    dag = Dag.from_parents([], [])
    assert (len(dag), dag.n_edges, dag.leaves(), dag.outputs) == (0, 0, [], ())


def test_structure_stays_in_compact_arrays():
    dag = chain(1_000)
    for rows in (dag.parent_ptr, dag.parents, dag.child_ptr, dag.children):
        assert isinstance(rows, array)
    assert (
        sum(len(rows) * rows.itemsize for rows in (dag.parent_ptr, dag.parents, dag.child_ptr, dag.children)) < 30_000
    )


# --- ops


@pytest.mark.parametrize(
    ("op", "expected", "refs"),
    [
        ((max, (0, 1)), 20, [0, 1]),
        ((lambda *args: args, (1, 0, 1)), (20, 10, 20), [1, 0, 1]),
        ((lambda: None, ()), None, []),
        ((lambda *args: args, ("a", None, "c"), ((1, 0),)), ("a", 10, "c"), [0]),
        ((lambda *args: args, (None, None), ((0, -1), (1, 1))), ("object", 20), [-1, 1]),
        ((dict, ("x", "y"), (0, -1), {"z": 3}), {"x": 10, "y": "object", "z": 3}, [0, -1]),
        ((dict, (), (), {}), {}, []),
    ],
)
def test_each_form_of_an_op_runs_and_names_its_inputs(op, expected, refs):
    assert run_op(op, {0: 10, 1: 20, -1: "object"}.__getitem__) == expected
    assert list(op_refs(op)) == refs


def test_an_op_runs_twice_with_different_inputs():
    op = (lambda *args: args, (None, "b"), ((0, 0),))
    assert run_op(op, {0: 1}.__getitem__) == (1, "b")
    assert run_op(op, {0: 2}.__getitem__) == (2, "b")
    assert op[1] == (None, "b")


def test_what_the_users_function_raises_passes_through():
    with pytest.raises(ZeroDivisionError):
        run_op((lambda x: 1 / x, (0,)), {0: 0}.__getitem__)


# --- pages and schedules


def graph_of(dag):
    n = len(dag)
    ops = [(None, tuple(dag.parents_of(task))) for task in range(n)]
    return Graph(dag, [f"key {task}" for task in range(n)], ops, [], {}, {task: task for task in range(0, n, 3)})


@pytest.mark.parametrize("page_tasks", [1, 3, 1_000])
def test_pages_hold_each_task_once_and_agree_with_the_dag(page_tasks):
    for dag in dags():
        graph, n, members = graph_of(dag), len(dag), {task: i for i, task in enumerate(dag.outputs)}
        seen = 0
        for page in pages(graph, page_tasks, {}):
            assert page.first == seen
            for at, task in enumerate(range(page.first, page.first + len(page.ops))):
                seen += 1
                assert page.parents[at] == tuple(dag.parents_of(task))
                assert (page.ops[at], page.keys[at]) == (graph.ops[task], graph.keys[task])
                assert page.retries.get(task) == graph.retries.get(task)
                edges = [(child, of, member) for child, of, member in page.out[at] if child != n]
                assert [child for child, _, _ in edges] == list(dag.children_of(task))[::-1], "the nearest comes last"
                for child, of, member in edges:
                    assert of == len(dag.parents_of(child))
                    assert dag.parents_of(child)[member] == task
                to_sink = [edge for edge in page.out[at] if edge[0] == n]
                assert to_sink == ([(n, len(members), members[task])] if task in members else [])
            assert len(page.ops) == len(page.keys) == len(page.out) == len(page.parents)
        assert seen == n


def test_the_sink_comes_first_among_a_tasks_children():
    dag = depth_first({0: (), 1: (0,)}, [0, 1])
    (page,) = pages(graph_of(dag), 10, {})
    assert page.out[0] == ((2, 2, 0), (1, 1, 0))


def test_a_page_names_the_kept_objects_of_its_own_tasks():
    dag = chain(3)
    graph = Graph(dag, [0, 1, 2], [(None, (-1, -2)), (None, (0, -3)), (None, (1,))], [1, 2, 3], {})
    kept = {0: b"of another job", 2: b"too"}
    assert [page.objects for page in pages(graph, 1, kept)] == [{-1: b"of another job"}, {-3: b"too"}, {}]


def test_a_schedule_is_all_that_its_leaf_reaches():
    for dag in dags():
        reach = [{task} for task in range(len(dag))]
        for task in reversed(range(len(dag))):
            for child in dag.children_of(task):
                reach[task] |= reach[child]
        for leaf in dag.leaves():
            assert schedule(dag, leaf) == sorted(reach[leaf])


def test_every_task_is_in_the_schedule_of_some_leaf():
    for dag in dags():
        assert {task for leaf in dag.leaves() for task in schedule(dag, leaf)} == set(range(len(dag)))


def test_one_executor_starts_with_all_leaves_and_eager_starts_one_for_each():
    dag = tree_reduction(8)
    assert [list(start) for start in starts(dag, eager=False)] == [dag.leaves()]
    assert [list(start) for start in starts(dag, eager=True)] == [[leaf] for leaf in dag.leaves()]


def test_depth_first_numbers_lie_together_and_refuse_a_cycle():
    assert tree_reduction(4).leaves() == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="on a cycle"):
        depth_first({0: (1,), 1: (0,)}, [0])
