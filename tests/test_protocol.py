"""The protocol, effect by effect; each fault that the simulator has found is a named test here."""

import pytest
from protocol_scenarios import (
    COSTS,
    ByHand,
    ends_with_the_job,
    gives_way,
    hands_on_the_running_task,
    keeps_what_came_with_what_was_lost,
    leaves_a_restore_alone,
    leaves_at_its_deadline,
    leaves_to_others_what_nobody_has,
    restores_alone,
    restores_what_is_lost,
    rides_back_in_the_round_trip_that_releases_it,
    splits_off_what_nobody_has,
    takes_a_fan_in_once,
    takes_what_it_was_given_as_ready,
    tells_what_it_has_while_a_long_task_runs,
)

from wukong.core.effects import (
    Abort,
    Arrived,
    Drop,
    Failed,
    Finish,
    Get,
    Incr,
    Invoke,
    Landed,
    Overstays,
    Put,
    Record,
    Run,
    Slots,
)
from wukong.core.policy import PINNED, Costs, Policy
from wukong.planning.prediction import predict
from wukong.testing.graphs import chain, depth_first, fan_out_fan_in, layered, tree_reduction
from wukong.testing.simulator import Case, simulate

STORE = (Get, Put, Incr, Record)


def kinds(effects):
    return [type(effect) for effect in effects]


def test_a_task_that_needs_a_larger_function_goes_to_one_of_its_own_and_the_others_stay():
    dag = depth_first({0: (), 1: (0,), 2: (0,), 3: (0,), 4: (1, 2, 3)}, [4])
    hand = ByHand(dag, (0,), larger=(1, 3), functions=(1, 2), alone=True)
    made = [effect.parts for effect in hand.run() if isinstance(effect, Invoke)]
    assert hand.tasks_run() == [0, 2]
    assert [(part.tasks, part.inline, part.size) for parts in made for part in parts] == [
        ((3,), (0,), 1),
        ((1,), (0,), 1),
    ]
    for there in ({"function": 1}, {"functions": ()}):  # on the largest, or on the only one
        hand = ByHand(dag, (0,), larger=(1, 3), alone=True, **{"functions": (1, 2), **there})
        hand.run()
        assert sorted(hand.tasks_run()) == [0, 1, 2, 3, 4]


def test_many_tasks_that_need_a_larger_function_share_executors_which_split_them_on_functions_as_large():
    n = 200
    dag = depth_first({0: (), **dict.fromkeys(range(1, n + 1), (0,)), n + 1: tuple(range(1, n + 1))}, [n + 1])
    large = range(1, n + 1)
    hand = ByHand(dag, (0,), larger=large, functions=(1, 2), alone=True)
    (made,) = (effect.parts for effect in hand.run() if isinstance(effect, Invoke))
    assert len(made) == 64 and {part.size for part in made} == {1}
    assert sorted(task for part in made for task in part.tasks) == list(large)
    there = {"functions": (1, 2), "function": 1, "policy": Policy(fan_out="eager"), "invocation": made[0].invocation}
    hand = ByHand(dag, made[0].tasks, larger=made[0].tasks, **there)
    split = [part for effect in hand.run(Slots=9) if isinstance(effect, Invoke) for part in effect.parts]
    assert split and {part.size for part in split} == {1}
    hand = ByHand(dag, made[0].tasks, larger=(), **there)
    assert {part.size for effect in hand.run(Slots=9) if isinstance(effect, Invoke) for part in effect.parts} == {0}


def test_a_task_whose_input_cannot_be_stored_runs_where_that_is_however_small_the_function():
    dag = depth_first({0: (), 1: (0,)}, [1])
    hand = ByHand(dag, (0,), larger=(1,), functions=(1, 2), alone=True, sizes=PINNED)
    hand.run()
    assert hand.tasks_run() == [0, 1]


def test_a_chain_pays_no_io():
    hand = ByHand(chain(20), (0,), alone=True)
    seen = hand.run()
    assert hand.tasks_run() == list(range(20))
    assert not [effect for effect in seen if isinstance(effect, STORE)]
    assert seen[-1] == Finish((19,))


def test_an_executor_that_is_alone_pays_no_io_for_fan_ins_either():
    for dag in (tree_reduction(16), fan_out_fan_in(20), layered(4, 4)):
        seen = ByHand(dag, tuple(dag.leaves()), alone=True, policy=Policy(ride_bytes=1 << 30)).run()
        assert not [effect for effect in seen if isinstance(effect, STORE)]


def test_tasks_run_depth_first_and_nearest_first():
    dag = tree_reduction(8)
    hand = ByHand(dag, tuple(dag.leaves()), alone=True)
    hand.run()
    assert hand.tasks_run() == list(range(len(dag)))


def test_the_last_use_of_each_value_is_told_with_the_run():
    dag = depth_first({0: (), 1: (0,), 2: (0, 1), 3: (2,)}, [3])
    hand = ByHand(dag, (0,), alone=True)
    assert {effect.task: list(effect.last_use) for effect in hand.run() if isinstance(effect, Run)} == {
        0: [],
        1: [],
        2: [0, 1],
        3: [2],
    }


def test_a_failed_task_aborts_the_job_and_ends_the_walk():
    hand = ByHand(chain(3), (0,), alone=True)
    seen = hand.run(Run=lambda effect: Failed() if effect.task == 1 else 0.0)
    assert seen[-1] == Abort(1)
    assert hand.tasks_run() == [0, 1]


def test_a_lost_input_is_computed_again_and_stored_again():
    restores_what_is_lost()


def test_what_is_lost_is_computed_again_however_deep():
    hand = ByHand(chain(6), (5,))
    hand.run(Get=lambda effect: effect.tasks)
    assert hand.tasks_run() == [0, 1, 2, 3, 4, 5]
    assert Put((0, 1, 2, 3, 4)) in hand.seen


def test_an_input_that_is_lost_ever_again_aborts_the_job_and_names_it():
    dag = depth_first({0: ()} | dict.fromkeys(range(1, 30), (0,)), range(1, 30))
    hand = ByHand(dag, tuple(range(1, 30)), sizes=1_000_000)
    hand.walk.recovery.n_restored = 3 * len(dag) + 1
    seen = hand.run(Get=lambda effect: effect.tasks)
    assert seen[-1] == Abort(1, (0,))


def test_who_is_told_to_give_way_stores_and_arrives_at_once():
    gives_way()


def test_near_its_deadline_an_executor_hands_on_what_is_ready_and_ends():
    leaves_at_its_deadline()


def test_near_its_deadline_the_watcher_hands_on_the_running_task_too():
    hands_on_the_running_task()


def test_a_replay_does_not_run_what_is_stored():
    hand = ByHand(chain(4), (0,), replay=True, attempt_id="0~1")
    hand.run(Get=lambda effect: tuple(task for task in effect.tasks if task > 1))
    assert hand.tasks_run() == [2, 3]


def test_a_small_requested_value_rides_to_the_sink_and_a_large_one_is_stored_at_once():
    dag = depth_first({0: (), 1: (0,), 2: (1,)}, [1, 2])
    small = ByHand(dag, (0,), alone=True)
    assert Put not in kinds(small.run())
    assert set(small.seen[-1].inline) == {1, 2}
    large = ByHand(dag, (0,), alone=True, sizes=1_000_000)
    large.run()
    assert [effect.tasks for effect in large.seen if isinstance(effect, Put)] == [(1,), (2,)]
    assert large.seen[-1] == Finish(())


def test_a_streamed_job_stores_every_requested_value_at_once():
    dag = depth_first({0: (), 1: (0,), 2: (1,)}, [0, 2])
    hand = ByHand(dag, (0,), alone=True, stream=True)
    seen = hand.run()
    first_put = next(i for i, effect in enumerate(seen) if isinstance(effect, Put))
    assert seen[first_put] == Put((0,), requested=True)
    assert first_put < next(i for i, effect in enumerate(seen) if isinstance(effect, Run) and effect.task == 1)


def test_a_value_is_in_the_store_before_its_arrival():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    seen = ByHand(dag, (0,), sizes=100_000).run()
    told = next(i for i, effect in enumerate(seen) if isinstance(effect, Incr))
    assert Put((0,)) in seen[:told]


def test_a_small_value_rides_inside_its_arrival():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    seen = ByHand(dag, (0,)).run()
    assert Put not in kinds(seen)
    (arrive,) = next(effect for effect in seen if isinstance(effect, Incr)).arrivals
    assert (arrive.child, arrive.members, arrive.of, arrive.carry, arrive.only_if_last) == (2, (0,), 2, (0,), False)


def test_the_last_to_arrive_becomes_the_child():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    hand = ByHand(dag, (1,))
    seen = hand.run(Incr=lambda effect: (Arrived(True, True, (0, 1)),))
    assert hand.tasks_run() == [1, 2]
    assert not [effect for effect in seen if isinstance(effect, Get)], "the other input rode in"


def test_not_the_last_to_arrive_drops_the_value_and_ends():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    seen = ByHand(dag, (0,)).run()
    assert seen[-1] == Drop([0])


def test_a_large_value_arrives_only_if_last_and_is_stored_past_its_budget():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    policy = Policy(large_object_bytes=1_000, delay_budget_s=10.0)
    hand = ByHand(dag, (0,), policy=policy, sizes=1_000_000)
    clock = iter([3.0, 6.0, 9.9, 10.1, 99.0])
    seen = hand.run(Pause=lambda _: next(clock))
    arrivals = [effect.arrivals[0].only_if_last for effect in seen if isinstance(effect, Incr)]
    assert arrivals == [True, True, True, True, False]
    assert kinds(seen)[-3:] == [Put, Incr, Drop]


def test_a_replay_skips_what_it_handed_over_before():
    dag = fan_out_fan_in(4)
    hand = ByHand(dag, (1, 2, 3, 4), offloaded={3, 4}, n_offloads=2)
    hand.run()
    assert hand.tasks_run() == [1, 2]


def test_a_replay_does_not_hand_over_again_what_it_handed_over_before():
    """Invocations that were delivered twice multiplied without end: 200 tasks made 12,845 of them, and more."""
    splits_off_what_nobody_has()
    leaves_to_others_what_nobody_has()


def test_a_replay_goes_on_numbering_where_the_first_run_stopped():
    hand = ByHand(fan_out_fan_in(3), (0,), n_offloads=2, policy=Policy(fan_out="eager"), alone=True)
    seen = hand.run()
    (record,) = [effect for effect in seen if isinstance(effect, Record)]
    assert [part.invocation for part in record.parts] == ["0.2", "0.3"]


def test_what_is_handed_over_is_on_record_before_it_is_invoked():
    seen = ByHand(fan_out_fan_in(3), (0,), policy=Policy(fan_out="eager"), alone=True).run()
    assert kinds(seen).index(Record) == kinds(seen).index(Invoke) - 1
    (record,) = [effect for effect in seen if isinstance(effect, Record)]
    assert [(part.tasks, part.inline) for part in record.parts] == [((3,), (0,)), ((2,), (0,))]


def test_without_free_slots_nothing_is_handed_over():
    hand = ByHand(fan_out_fan_in(5), (0,), policy=Policy(patience_s=0.0), alone=True)
    times = iter(range(1, 100))
    seen = hand.run(Run=lambda _: float(next(times)), Slots=0)
    assert Slots in kinds(seen)
    assert Record not in kinds(seen)


def test_a_pinned_value_never_leaves_its_executor():
    dag = depth_first({0: (), 1: (0,), 2: (0,), 3: (0,), 4: (1, 2, 3)}, [4])
    policy = Policy(fan_out="eager")
    hand = ByHand(dag, (0,), policy=policy, alone=True)
    hand.sizes = PINNED
    seen = hand.run(Size=lambda effect: tuple(PINNED if task == 0 else 16 for task in effect.tasks))
    assert hand.tasks_run() == [0, 1, 2, 3, 4]
    assert not [effect for effect in seen if isinstance(effect, STORE)]


class Enough(Exception):
    """Stops a walk."""


@pytest.mark.parametrize(
    ("broken", "tells"),
    [
        (lambda walk: walk.frontier.ready.append(walk.frontier.ready[0]), "ready twice"),
        (lambda walk: walk.fan_ins.of.clear(), "pending .* of"),
        (lambda walk: walk.fan_ins.held.update({9: 1.0}), "held"),
        (lambda walk: walk.frontier.ready.append(5), "ready .* and pending"),
        (lambda walk: walk.frontier.awaited.update({1: 1}), "here .* and awaited"),
        (lambda walk: walk.fan_ins.pending[5].append((0, 1)), "pending at 5 of 4"),
        (lambda walk: walk.fan_ins.claimed.add(5), "5 is claimed, and pending"),
        (lambda walk: walk.frontier.uses.update({1: 2}), "needed Counter"),
        (lambda walk: walk.seats.taken.update({walk.frontier.ready[0]: ((), 0.0)}), "have seats"),
        (lambda walk: (setattr(walk.fan_ins, "delays", False), setattr(walk.leaving, "left", True)), "as before"),
        (lambda walk: setattr(walk.frontier, "told", True), "told, and"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_state_that_does_not_hold_what_it_promises_is_told(broken, tells):
    dag = fan_out_fan_in(4)
    hand = ByHand(dag, (0,), alone=True)
    rows = [dag.parents_of(task) for task in range(len(dag))]

    def run(effect):
        hand.walk.validate(rows, settled=True)
        if effect.task == 2:
            broken(hand.walk)
            with pytest.raises(AssertionError, match=tells):
                hand.walk.validate(rows, settled=True)
            raise Enough
        return 0.0

    with pytest.raises(Enough):
        hand.run(Run=run)


# --- found by the simulator


def test_everything_large_is_no_livelock():
    """`large_object_bytes=0` held arrivals with nothing left to hold, for ever."""
    case = Case(tree_reduction(4), (0,) * 7, Policy(fan_out="eager", large_object_bytes=0, delay_budget_s=0.001))
    for seed in range(50):
        simulate(seed, case)


@pytest.mark.parametrize("seed", range(30))
def test_a_claimed_child_that_is_handed_over_waits_for_its_inputs_no_longer(seed):
    """Its inputs, not here yet, stayed counted as needed: fetched for another child, they were never dropped."""
    dag = depth_first(dict.fromkeys(range(4), ()) | {i: range(4) for i in range(4, 8)}, range(4, 8))
    case = Case(dag, (1_000,) * 8, Policy(fan_out="eager", ride_bytes=0), slots=(0, 2), leaps_s=(1e-6, 1.0))
    simulate(seed, case)


def test_a_value_that_rides_back_in_is_not_dropped_by_the_same_round_trip():
    rides_back_in_the_round_trip_that_releases_it()


def test_what_others_wait_for_is_told_while_a_long_task_runs():
    tells_what_it_has_while_a_long_task_runs()


def test_endless_patience_never_splits():
    """It divided infinity and raised in the middle of the walk."""
    seen = predict(fan_out_fan_in(50), 1.0, 16, costs=Costs(*COSTS), policy=Policy(patience_s=float("inf")))
    assert seen.executors == 1


# --- found by the simulator with faults


def test_after_the_end_of_the_job_a_replay_does_nothing_more():
    """Told by the store that it completes the job, with tasks left to do, it went on; what had come in was dropped."""
    ends_with_the_job()


def test_what_came_with_a_get_that_was_partly_lost_is_kept():
    """Restoring one input fetched the others again, and dropped them before the task that needed them ran."""
    keeps_what_came_with_what_was_lost()


def test_a_fan_in_is_taken_once():
    """A run of the same invocation had arrived for this one, which was told "yes, you" with each of its inputs."""
    takes_a_fan_in_once()


def test_what_is_restored_runs_while_nothing_runs_beside_it():
    """A task annotated to run alone ran again beside what another lane ran."""
    restores_alone()


def test_a_watcher_leaves_a_restore_alone():
    """Half of a task's uses were counted off; the watcher handed its siblings over and dropped what it needed."""
    leaves_a_restore_alone()


def test_a_fan_in_that_was_given_as_ready_is_not_arrived_at():
    """Another run had completed a fan-in; it was handed over with one of its inputs, which was then counted twice."""
    takes_what_it_was_given_as_ready()


def test_what_is_released_by_the_round_trip_that_ends_the_job_is_released():
    """An executor told that it completes the job forgot to let go of what the same round trip had released."""
    simulate(129501)


def ends_of(landed):
    """Return what a walk does whose task 0 goes on in another lane, while task 1 ends as `landed` says."""
    hand = ByHand(depth_first({0: (), 1: ()}, [0, 1]), (0, 1), lanes=2, alone=True)
    return hand.run(Run=lambda effect: Overstays(1.0) if effect.task == 0 else landed)


def test_a_task_that_fails_in_another_lane_is_the_one_that_is_named():
    assert Abort(0) in ends_of(Landed(2.0, (1,), (0,)))


@pytest.mark.parametrize("tasks", [(0, 1), (1, 0)])
def test_what_ends_together_with_the_task_at_the_walk_counts_in_either_order(tasks):
    seen = ends_of(Landed(2.0, tasks))
    assert [set(effect.inline) for effect in seen if isinstance(effect, Finish)] == [{0, 1}]


@pytest.mark.parametrize(("size", "rides"), [(16_384, True), (16_385, False)])
def test_a_requested_value_rides_up_to_the_size_that_the_policy_says(size, rides):
    seen = ByHand(chain(1), (0,), sizes=size, alone=True).run()
    assert (Put in kinds(seen), Finish((0,) if rides else ()) in seen) == (not rides, True)


def test_who_waits_asks_ever_more_seldom():
    fan_ins = ByHand(chain(1), (0,)).walk.fan_ins
    fan_ins.held[2] = 1_000.0
    assert [fan_ins.pause_s(idle_s, 1_000.0) for idle_s in (0.0, 1.6, 100.0)] == [0.001, 0.1, 0.25]


def test_near_its_deadline_an_executor_stores_what_the_running_task_needs_and_leaves_once():
    hand = ByHand(fan_out_fan_in(1), (0,), alone=True, deadline=10.0)
    made = []

    def run(effect):
        if effect.task == 1:
            made.extend(hand.carry_out(hand.walk.overdue(4.0, 10.5)))
            return 20.0
        return 5.0

    hand.run(Run=run)
    assert kinds(made).index(Record) < kinds(made).index(Put) and Put((0,)) in made
    assert hand.walk.leaving.left is True and hand.walk.leaving.left_s(11.0) == float("inf")


@pytest.mark.parametrize(("ran_s", "stays"), [(9.9, True), (4.0, False)])
def test_a_task_that_has_had_nearly_all_the_time_stays_at_the_deadline_though_it_waited_for_a_core(ran_s, stays):
    """On a machine that is never less busy it would be handed on for ever."""
    hand = ByHand(chain(1), (0,), deadline=10.0)
    made = []

    def run(effect):
        made.extend(hand.carry_out(hand.walk.overdue(ran_s, 10.5, 0.9 * ran_s)))
        return 11.0

    hand.run(Run=run)
    assert (not any(isinstance(each, Invoke) for each in made)) == stays


def test_a_running_task_whose_input_cannot_leave_stays_at_the_deadline():
    hand = ByHand(fan_out_fan_in(1), (0,), sizes=PINNED, alone=True, deadline=10.0)
    made = []

    def run(effect):
        if effect.task == 1:
            made.extend(hand.carry_out(hand.walk.overdue(4.0, 10.5)))
        return 5.0

    hand.run(Run=run)
    assert not [effect for effect in made if isinstance(effect, Put | Invoke)]
    assert hand.tasks_run()[:2] == [0, 1]


def test_eager_an_executor_that_begins_with_several_tasks_hands_all_but_one_over_at_once():
    hand = ByHand(depth_first({0: (), 1: (), 2: ()}, [0, 1, 2]), (0, 1, 2), policy=Policy(fan_out="eager"))
    seen = hand.run()
    (invoke,) = [effect for effect in seen if isinstance(effect, Invoke)]
    assert kinds(seen).index(Invoke) < kinds(seen).index(Run)
    assert sorted(task for part in invoke.parts for task in part.tasks) == [1, 2] and hand.tasks_run() == [0]
