"""What the protocol would take on a virtual clock, held against what the design promises."""

from random import Random

import pytest

from wukong.core.policy import Costs, Policy
from wukong.core.width import MOST_WAITING
from wukong.planning.cores import Cores, CoreWait
from wukong.planning.overhead import BEAT_BYTES, ORDER_BYTES, Overhead
from wukong.planning.prediction import Rates, critical_path_s, predict
from wukong.planning.terms import PlaceTerms
from wukong.testing.graphs import chain, depth_first, fan_out_fan_in, layered, random_dag, tree_reduction

LAMBDA = (0.05, 0.001, 1e8)
LOCAL = (0.001, 5e-6, 5e9)


def test_a_chain_touches_the_store_only_to_begin_and_to_end():
    seen = predict(chain(1_000), 1e-5, 1_000, costs=Costs(*LAMBDA))
    assert seen.operations == 3  # is it wanted; the result; is it wanted still
    assert (seen.executors, seen.got_bytes) == (1, 0)


@pytest.mark.parametrize("terms", [LAMBDA, LOCAL])
@pytest.mark.parametrize("task_s", [0.1, 0.25, 0.5])
def test_a_tree_of_long_tasks_comes_within_twice_its_critical_path(terms, task_s):
    seen = predict(tree_reduction(512), task_s, 16, costs=Costs(*terms))
    assert seen.critical_path_s == pytest.approx(10 * task_s)
    assert seen.makespan_s <= 2 * seen.critical_path_s


def test_a_thousand_long_tasks_run_everywhere_within_a_few_invocations():
    seen = predict(fan_out_fan_in(1_000), 1.0, 16, costs=Costs(*LAMBDA))
    assert seen.peak_executors > 900
    assert seen.makespan_s <= 3.0 + 10 * LAMBDA[0]


def test_slots_are_never_exceeded_and_all_used():
    seen = predict(tree_reduction(512), 0.05, 16, costs=Costs(*LOCAL), slots=16)
    assert seen.peak_executors == 16
    assert seen.makespan_s >= seen.busy_s / 16
    assert seen.makespan_s <= 2 * seen.busy_s / 16


def test_limited_tasks_go_to_as_many_executors_as_there_are_seats_and_none_waits():
    dag, limits = fan_out_fan_in(100), dict.fromkeys(range(1, 101), (("database", 4),))
    seen = predict(dag, [0.0, *[1.0] * 100, 0.0], 16, costs=Costs(*LAMBDA), limits=limits)
    assert seen.executors == 4
    assert 25.0 <= seen.makespan_s <= 26.0
    assert seen.function_s <= seen.busy_s + 4.0


def test_microsecond_tasks_are_never_split():
    seen = predict(fan_out_fan_in(50_000), 1e-6, 16, costs=Costs(*LOCAL))
    assert seen.executors == 1


def test_eager_starts_one_executor_for_each_leaf():
    seen = predict(tree_reduction(64), 1e-3, 16, costs=Costs(*LAMBDA), policy=Policy(fan_out="eager"))
    assert seen.executors == 64


def test_eager_invokes_all_children_but_the_one_it_becomes():
    seen = predict(fan_out_fan_in(10), 1e-3, 16, costs=Costs(*LAMBDA), policy=Policy(fan_out="eager"))
    assert seen.executors == 10


def test_a_large_value_stays_and_its_fan_in_comes_to_it():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    sizes, durations = [10_000_000, 16, 16], [0.01, 0.05, 0.01]

    def put_bytes(large_object_bytes):
        policy = Policy(fan_out="eager", large_object_bytes=large_object_bytes, delay_budget_s=1.0)
        return predict(dag, durations, sizes, costs=Costs(*LAMBDA), policy=policy).put_bytes

    assert put_bytes(1_000_000) < 1_000
    assert put_bytes(1 << 50) >= 10_000_000


def test_a_large_value_is_held_no_longer_than_its_budget():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    policy = Policy(fan_out="eager", large_object_bytes=1_000, delay_budget_s=0.2)
    seen = predict(dag, [0.01, 5.0, 0.01], [10_000_000, 10_000_000, 16], costs=Costs(*LAMBDA), policy=policy)
    moved_s = 10_000_000 / LAMBDA[2]
    assert seen.makespan_s <= 5.0 + 0.01 + 0.2 + 2 * moved_s + 0.5
    assert seen.put_bytes >= 10_000_000


def test_values_are_dropped_after_their_last_use():
    seen = predict(chain(100), 1e-3, 1_000_000, costs=Costs(*LAMBDA))
    assert seen.peak_held_bytes == 1_000_000


def test_what_it_costs_adds_up():
    rates = Rates(per_invocation=1.0, per_gb_s=2.0, memory_gb=3.0, per_operation=10.0, per_gb=5.0)
    seen = predict(tree_reduction(8), 0.1, 1_000_000, costs=Costs(*LAMBDA), rates=rates)
    moved_gb = (seen.put_bytes + seen.got_bytes) / 1e9
    assert seen.cost == pytest.approx(seen.executors + 6 * seen.function_s + 10 * seen.operations + 5 * moved_gb)
    assert predict(tree_reduction(8), 0.1, 1_000_000, costs=Costs(*LAMBDA)).cost == 0.0


def test_the_critical_path_is_the_longest():
    dag = depth_first({0: (), 1: (0,), 2: (0,), 3: (1, 2)}, [3])
    assert critical_path_s(dag, [1.0, 2.0, 5.0, 1.0]) == 7.0


def test_a_prediction_wants_one_duration_and_size_for_each_task():
    with pytest.raises(ValueError, match="3 tasks has 2 durations"):
        predict(chain(3), [1.0, 2.0], 16, costs=Costs(*LOCAL))


# --- what executors move besides values


def eager(overhead=None, **given):
    policy = Policy(fan_out="eager")
    return predict(fan_out_fan_in(10), 1e-3, 16, costs=Costs(*LAMBDA), policy=policy, overhead=overhead, **given)


def test_a_small_dag_rides_in_each_payload_and_a_larger_one_goes_into_the_store_once():
    plain, n = eager(), 9  # executors that the first one makes
    for dag_bytes, put_bytes, got_bytes in (
        (1_000, n * 1_000, 0),
        (100_000, 100_000, n * 100_000),  # the first has it in its payload
        (200_000, 0, (n + 1) * 200_000),  # the client has put it into the store
    ):
        seen = eager(Overhead([dag_bytes]))
        assert seen.put_bytes - plain.put_bytes == n * ORDER_BYTES + put_bytes
        assert seen.got_bytes - plain.got_bytes == got_bytes


def test_signs_of_life_and_large_literals_are_counted():
    plain = predict(chain(10), 1.0, 16, costs=Costs(*LAMBDA))
    beats = predict(chain(10), 1.0, 16, costs=Costs(*LAMBDA), overhead=Overhead([500]))
    assert beats.put_bytes - plain.put_bytes == 10 * BEAT_BYTES
    objects = {task: [(-1, 1_000_000)] for task in range(10)}
    once = predict(chain(10), 1.0, 16, costs=Costs(*LAMBDA), overhead=Overhead(objects=objects))
    assert once.got_bytes - plain.got_bytes == 1_000_000


def test_an_executor_that_waits_gives_its_slot_to_another():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    policy = Policy(fan_out="eager", large_object_bytes=1_000_000, delay_budget_s=60.0)
    alone, shared = (
        predict(dag, 1.0, [50_000_000] * 3, costs=Costs(*LOCAL), policy=policy, slots=1, gives_way=way)
        for way in (False, True)
    )
    assert (alone.peak_executors, shared.peak_executors) == (1, 2)
    assert shared.makespan_s < 4.0 < 60.0 < alone.makespan_s


def test_with_lanes_fewer_executors_do_as_much_in_the_same_time():
    one, four = (
        predict(fan_out_fan_in(1_000), 0.1, 16, costs=Costs(*LAMBDA), policy=Policy(lanes=lanes)) for lanes in (1, 4)
    )
    assert four.executors == one.executors / 4
    assert four.function_s < one.function_s / 3
    assert four.makespan_s < 1.1 * one.makespan_s


@pytest.mark.parametrize(
    ("on_core", "task_s", "several", "at_once"),
    [
        (1.0, 0.01, False, 4),  # they compute: the lanes of the first executor take all cores
        (0.0, 0.1, True, 40),  # they sleep: lanes need no core, so others get them
        (1.0, 0.001, True, 4),  # they are too short for lanes
    ],
)
def test_lanes_take_the_cores_that_no_other_function_uses_unless_their_tasks_sleep_or_are_short(
    on_core, task_s, several, at_once
):
    n, how = 1_000, {"costs": Costs(*LOCAL), "slots": 4, "gives_way": True, "spare_cores": 3}
    seen = predict(fan_out_fan_in(n), [0.0, *[task_s] * n, 0.0], 16, on_core=[on_core] * (n + 2), **how)
    assert (seen.executors > 1) == several
    assert seen.makespan_s <= 1.2 * n * task_s / at_once


def test_tasks_that_hold_the_interpreters_lock_compute_one_after_the_other_in_each_executor():
    n, how = 8, {"costs": Costs(*LAMBDA), "slots": 1, "policy": Policy(lanes=4), "lane_cores": 4.0}
    dag, held = fan_out_fan_in(n), [False, *[True] * n, False]
    for terms in (None, PlaceTerms(cores=4.0)):
        for holds, least in ((held, n), (None, n / 4), ([None] * len(dag), n / 4)):
            seen = predict(dag, [0.0, *[1.0] * n, 0.0], 16, held=holds, terms=terms, **how)
            assert least <= seen.makespan_s < 1.2 * least
            assert seen.busy_s == n
    asleep = predict(dag, [0.0, *[1.0] * n, 0.0], 16, held=held, on_core=[0.1] * len(dag), **how)
    assert asleep.makespan_s < 3.5


def test_executors_hand_on_tasks_that_hold_the_lock_and_keep_those_that_let_go():
    n, how = 200, {"costs": Costs(*LOCAL), "slots": 4, "gives_way": True, "spare_cores": 3}
    dag = fan_out_fan_in(n)
    holds, lets_go = (
        predict(dag, [0.0, *[0.05] * n, 0.0], 16, held=[False, *[held] * n, False], **how) for held in (True, False)
    )
    assert (holds.peak_executors, lets_go.executors) == (4, 1)
    assert holds.put_bytes > 10 * lets_go.put_bytes
    assert max(holds.makespan_s, lets_go.makespan_s) < 1.2 * n * 0.05 / 4


@pytest.mark.parametrize("task_s", [0.0025, 0.005, 0.01, 0.04])
def test_idle_cores_do_not_keep_tasks_that_hold_the_lock_from_other_executors(task_s):
    how = {"costs": Costs(0.005, 2e-4, 1e9), "slots": 4, "gives_way": True, "policy": Policy(lanes="auto")}
    dag = tree_reduction(128)
    idle, none = (predict(dag, task_s, 16, held=[True] * len(dag), spare_cores=spare, **how) for spare in (3, 0))
    assert idle.makespan_s < 1.3 * none.makespan_s


@pytest.mark.parametrize(
    ("on_core", "held", "lanes"), [(1.0, None, 4), (1.0, False, 4), (1.0, True, 2), (0.0, None, MOST_WAITING)]
)
def test_lanes_on_functions_of_several_cores_are_as_many_as_executors_find_worth_it(on_core, held, lanes):
    """They were planned with one, also tasks that sleep on functions of one core."""
    n, how = 100, {"costs": Costs(*LAMBDA), "lane_cores": 4.0, "policy": Policy(lanes="auto", patience_s=99.0)}
    seen = predict(
        fan_out_fan_in(n), [0.0, *[0.1] * n, 0.0], 16, on_core=[on_core] * (n + 2), held=[held] * (n + 2), **how
    )
    assert seen.peak_lanes == lanes  # two have to compute at once before anybody knows that they cannot
    assert seen.makespan_s < 1.3 * n * 0.1 / (1 if held else lanes)


def test_lanes_and_executors_never_use_more_cores_together_than_there_are():
    how = {"costs": Costs(*LOCAL), "slots": 4, "gives_way": True, "spare_cores": 3}
    rng = Random(1)
    for _ in range(40):
        dag = random_dag(rng, rng.randint(2, 40))
        seen = predict(dag, [rng.choice((0.0, 0.003, 0.1)) for _ in range(len(dag))], 16, **how)
        assert seen.makespan_s >= seen.busy_s / 4


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_a_prediction_without_patience_ends(lanes):
    """A watcher without patience looked at one moment for ever, if that was the moment at which a task began."""
    how = {"costs": Costs(*LAMBDA), "slots": 1, "policy": Policy(lanes=lanes, patience_s=0.0)}
    seen = predict(tree_reduction(32), [0.0, 0.001, 0.1] * 21, 1_000, **how)
    assert seen.busy_s == pytest.approx(21 * 0.101)


def test_with_overlap_a_few_executors_do_not_wait_for_the_store():
    how = {"large_object_bytes": 1 << 40, "delay_budget_s": 0.0}
    off, on = (
        predict(
            tree_reduction(16),
            0.05,
            1_000_000,
            costs=Costs(0.02, 0.001, 25e6),
            policy=Policy(overlap=overlap, **how),
            slots=2,
        )
        for overlap in ("off", "on")
    )
    assert (on.put_bytes, on.got_bytes, on.busy_s) == (off.put_bytes, off.got_bytes, off.busy_s)
    assert on.makespan_s < 0.8 * off.makespan_s and on.function_s < 0.8 * off.function_s


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_prediction_with_overlap_ends(lanes):
    for seed in range(20):
        rng = Random(seed)
        dag = random_dag(rng, 30)
        sizes = [rng.choice((16, 1_000_000)) for _ in range(len(dag))]
        policy = Policy(overlap="on", lanes=lanes, patience_s=rng.choice((None, 0.0)))
        assert predict(dag, 0.02, sizes, costs=Costs(0.01, 0.001, 25e6), policy=policy, slots=3).makespan_s > 0


def test_what_rides_in_with_one_answer_is_not_dropped_for_another_that_comes_with_it():
    """A value rode to a fan-in, and waited here for the sink: the sink's answer and the claim were taken in at once."""
    rng = Random(22)
    dag = random_dag(rng, 60)
    sizes = [rng.choice((16, 100_000, 1_000_000, 4_000_000)) for _ in range(len(dag))]
    durations = [rng.choice((0.001, 0.02, 0.1)) for _ in range(len(dag))]
    policy = Policy(overlap="on", lanes=1, large_object_bytes=1 << 40, delay_budget_s=0.0, patience_s=0.01)
    assert predict(dag, durations, sizes, costs=Costs(0.02, 0.0005, 25e6), policy=policy, slots=4).makespan_s > 0


def test_a_task_that_ends_while_the_watcher_is_at_work_ends_though_another_lane_lands():
    how = {"lanes": 2, "large_object_bytes": 1 << 40, "delay_budget_s": 0.0}
    costs = Costs(0.02, 0.001, 25e6)
    assert predict(tree_reduction(16), 0.05, 1_000_000, costs=costs, policy=Policy(**how), slots=2).busy_s > 1.5


# --- cores that executors share


def test_works_share_cores_evenly_and_end_in_the_order_of_what_they_take():
    cores = Cores[str](1.0)
    assert cores.due() is None
    cores.begin("long", 3.0, 0.0)
    cores.begin("short", 1.0, 1.0)  # from here on each has half a core
    assert (cores.due(), cores.end()) == (3.0, "short")
    assert (cores.due(), cores.end(), cores.due()) == (4.0, "long", None)
    many = Cores[int](2.0)
    for n in range(4):
        many.begin(n, 1.0, 10.0)
    assert [(many.due(), many.end()) for _ in range(4)] == [(12.0, n) for n in range(4)]


def test_works_at_once_wait_for_a_core_once_and_what_is_served_meanwhile_is_no_wait():
    cores, wait = Cores[str](1.0), CoreWait()
    for name, at in (("a", 0.0), ("b", 2.0)):
        cores.begin(name, 3.0, at)
        wait.change(1, cores, at)
    assert wait.waited_s(cores, 2.0) == 0.0, "one was alone"
    assert wait.waited_s(cores, 3.0) == 0.5
    assert (cores.end(), cores.due()) == ("a", 6.0)
    wait.change(-1, cores, 4.0)
    assert wait.waited_s(cores, 6.0) == 1.0, "the other one has the core"
    wait.change(-1, cores, 6.0)
    assert wait.waited_s(cores, 9.0) == 1.0, "nobody waits"


@pytest.mark.parametrize(("cores", "most"), [(None, 16), (2.0, 16), (0.01, 4)])
def test_who_waits_for_a_core_hands_no_more_over_than_who_has_one(cores, most):
    """Sixteen tasks of 1 ms are too short to go, however long each of them lasts for want of a core."""
    dag = layered(16, 2)
    found = predict(dag, 0.001, 8, costs=Costs(0.02, 1e-4, 1e8), terms=PlaceTerms(cores=cores), slots=None)
    assert found.executors <= most


def test_with_fixed_lanes_waits_for_a_core_count_as_executors_do_not_look_at_them():
    dag, costs, terms = fan_out_fan_in(64), Costs(0.05, 1e-3, 1e8), PlaceTerms(cores=2.0)
    made = {n: predict(dag, 0.02, 8, costs=costs, terms=terms, policy=Policy(lanes=n)).executors for n in (1, "auto")}
    assert made["auto"] < made[1] / 2


def test_a_fan_out_on_one_machine_takes_as_long_as_its_cores_need():
    dag = fan_out_fan_in(16)
    here = {"costs": Costs(0.001, 1e-4, 1e8), "slots": None}
    own = predict(dag, 1.0, 8, **here)
    shared = predict(dag, 1.0, 8, **here, terms=PlaceTerms(cores=2.0))
    assert own.makespan_s == pytest.approx(3.0, rel=0.01)
    assert shared.makespan_s == pytest.approx(10.0, rel=0.01)  # one, sixteen on two cores, one
    asleep = predict(dag, 1.0, 8, **here, terms=PlaceTerms(cores=2.0), on_core=[0.0] * len(dag))
    assert asleep.makespan_s == pytest.approx(own.makespan_s, rel=0.01)
    here |= {"policy": Policy(large_object_bytes=1 << 40)}  # no value stays, however large
    linked = predict(dag, 1.0, 10_000_000, **here, terms=PlaceTerms(link_bytes_per_s=1e7))
    free = predict(dag, 1.0, 10_000_000, **here)
    assert linked.makespan_s > linked.put_bytes / 1e7 > 2 * free.makespan_s
    slow = predict(dag, 1.0, 8, **here, terms=PlaceTerms(starts_per_s=2.0, start_s=0.5))
    assert slow.makespan_s > own.makespan_s + 5.0  # the last of 16 starts seven seconds later
