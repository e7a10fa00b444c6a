"""The rooms of a walk one by one: what a whole walk reaches seldom, or hides. Mutants have shown what was untold."""

from dataclasses import replace

import pytest
from protocol_scenarios import ByHand

from wukong.core.dag import Limits
from wukong.core.effects import (
    Arrived,
    Came,
    Drop,
    FetchAhead,
    Get,
    GiveSeats,
    Incr,
    Invoke,
    Landed,
    Overstays,
    Pause,
    Record,
    Run,
    TakeSeats,
)
from wukong.core.policy import PINNED, Policy
from wukong.core.walk.lanes import READ, Away
from wukong.testing.graphs import chain, depth_first

ONE: Limits = (("a", 1),)


def room_of(n=8, **how):
    return ByHand(chain(n), (0,), **how)


def test_until_its_deadline_an_executor_has_the_time_that_is_left():
    leaving = room_of(deadline=10.0).walk.leaving
    assert [leaving.left_s(now) for now in (4.0, 11.0)] == [6.0, 0.0]


def test_who_waits_asks_no_oftener_than_that_however_near_the_store_is():
    walk = room_of().walk
    walk.frontier.costs.round_trip_s = 1e-6
    walk.fan_ins.held[2] = 1_000.0
    assert walk.fan_ins.pause_s(0.0, 1_000.0) == 0.0002


def test_a_task_that_waits_for_what_is_being_fetched_makes_room_for_one_whose_inputs_are_here():
    hand = room_of(overlap=True)
    frontier, overlap = hand.walk.frontier, hand.walk.overlap
    frontier.parents.update({5: (1,), 6: (2,), 7: (3,)})
    frontier.uses[1], frontier.awaited[3], frontier.ready[:] = 1, 1, [5, 6]
    frontier.fetching.add(3)
    frontier.cold.clear()
    assert hand.carry_out(overlap.postpone(7, (3,), 0.0)) == []
    assert frontier.ready == [6, 7, 5] and overlap.put_back == {7}
    frontier.ready[:], frontier.uses = [6], {}
    overlap.put_back.clear()
    hand.carry_out(overlap.postpone(7, (3,), 0.0))
    assert frontier.ready == [6, 7] and overlap.put_back == {7}, "there is no other one, and it comes all the same"


def test_a_value_that_has_come_for_others_is_not_dropped_after_the_task_that_runs():
    hand = room_of(overlap=True)
    frontier, overlap = hand.walk.frontier, hand.walk.overlap
    frontier.running, frontier.last_use, frontier.awaited = (1,), [1], {1: 1}
    frontier.fetching.add(1)
    overlap.n_fetches = 1
    assert hand.carry_out(overlap.fetched(Came(FetchAhead((1,)), ()), None, ())) == []
    assert (frontier.last_use, frontier.uses, overlap.n_fetches) == ([], {1: 1}, 0)


def test_tasks_that_end_together_after_the_job_have_all_ended():
    hand = room_of(lanes=3)
    hand.walk.lanes.away.update({0: Away((), (), 0.0), 1: Away((), (), 0.0)})
    hand.walk.frontier.told = True
    hand.carry_out(hand.walk.lanes.land(Landed(1.0, (0, 1))))
    assert not hand.walk.lanes.away and [task for task, *_ in hand.walk.lanes.landed] == [READ, READ]


def test_a_task_in_another_lane_knows_when_it_began_and_its_value_is_dropped_if_it_was_handed_on():
    hand = room_of(lanes=2)
    lanes = hand.walk.lanes
    hand.walk.frontier.out[0] = ()
    lanes.part(0, (), [], 1.5)
    assert lanes.away[0].since == 1.5
    lanes.handed_on.add(0)
    assert hand.carry_out(lanes.land(Landed(2.0, (0,)))) == [Drop((0,))]


def test_with_its_last_use_a_value_goes_and_so_does_what_is_known_of_it():
    hand = room_of()
    hand.walk.frontier.uses[3], hand.walk.frontier.sizes[3] = 1, 16
    assert hand.carry_out(hand.walk.frontier.release((3,))) == [Drop([3])]
    assert not hand.walk.frontier.uses and not hand.walk.frontier.sizes


def test_what_is_restored_waits_for_its_seat_and_gives_it_back():
    hand = ByHand(depth_first({0: (), 1: (), 2: (0, 1)}, [2]), (2,), limits={1: ONE})
    hand.walk.frontier.costs.round_trip_s = 0.1
    refusals = iter(["a", None])
    seen = hand.run(
        Get=lambda effect: tuple(task for task in effect.tasks if task == 1),
        TakeSeats=lambda _: next(refusals),
        Pause=lambda effect: effect.seconds,
    )
    first = [each for each in seen if isinstance(each, TakeSeats | Pause | Run | GiveSeats)][:5]
    assert first == [TakeSeats(ONE), Pause(0.1), TakeSeats(ONE), Run(1, []), GiveSeats(ONE)]


def test_a_seat_that_lies_idle_for_longer_than_its_lease_is_asked_for_again():
    hand = room_of(limits={1: ONE})
    seats, lease_s = hand.walk.seats, hand.walk.frontier.policy.lease_s
    hand.walk.frontier.limited[1] = ONE
    seats.idle.append((ONE, 0.0))
    seats.refused["a"] = 0.0, float("inf")
    assert [seats.refuses(1, now) for now in (0.1 * lease_s, lease_s)] == [False, True]


@pytest.mark.parametrize(("free", "slots", "made"), [(2, 100, [6]), (100, 1, [6])], ids=["seats", "slots"])
def test_limited_tasks_leave_a_seat_for_those_that_stay_and_go_to_no_more_executors_than_may_be_made(free, slots, made):
    leaves = range(12)
    dag = depth_first({**dict.fromkeys(leaves, ()), 12: tuple(leaves)}, [12])
    hand = ByHand(dag, tuple(leaves), alone=True, limits=dict.fromkeys(range(1, 12), (("a", 3),)))
    seen = []

    def run(effect):
        if effect.task == 0:
            seen.extend(hand.carry_out(hand.walk.overdue(5.0, 0.5), FreeSeats=free, Slots=slots))
        return 5.0

    hand.run(Run=run, FreeSeats=0)
    assert [len(part.tasks) for each in seen if isinstance(each, Invoke) for part in each.parts] == made


@pytest.mark.parametrize(
    ("n", "waits", "invoke_s", "made"),
    [(12, 0.0, 0.0, 2), (12, 0.99, 0.0, 0), (9, 0.0, 5.0, 1)],
    ids=["computes", "waits for a core", "hands over"],
)
def test_tasks_seem_no_longer_for_what_others_would_not_save(n, waits, invoke_s, made):
    """They do not for a wait for a core, nor for what is published or handed over between two of them."""
    dag = depth_first({**dict.fromkeys(range(n), ()), n: tuple(range(n))}, [n])
    hand = ByHand(dag, tuple(range(n)), policy=Policy(patience_s=0.1), alone=True)

    def takes(seconds):
        hand.clock += seconds
        return hand.clock

    answers = {"CoreWaits": lambda _: hand.clock * waits, "Invoke": lambda _: takes(invoke_s), "Slots": 9}
    seen = hand.run(Run=lambda _: takes(0.04), **answers)
    assert sum(len(each.parts) for each in seen if isinstance(each, Invoke)) == made


def test_tasks_seem_no_longer_for_what_was_published_while_none_was_ready():
    n = 12
    tasks = {0: (), 1: (), 2: (0, 1), **dict.fromkeys(range(3, n + 3), (2,)), n + 3: tuple(range(3, n + 3))}
    hand = ByHand(depth_first(tasks, [n + 3]), (0,), policy=Policy(patience_s=0.1))

    def ran(_):
        hand.clock += 0.004
        return hand.clock

    def incr(effect):
        hand.clock += 3.0
        return tuple(Arrived(True, True, (1,)) for _ in effect.arrivals)

    seen = hand.run(Run=ran, Slots=2, Incr=incr)
    assert hand.tasks_run()[0] == 0 and len(hand.tasks_run()) == n + 3
    assert not any(isinstance(each, Invoke) for each in seen)


@pytest.mark.parametrize(("start", "asked", "runs"), [((0, 1), [(0, 1), (0,), (1,)], [3]), ((0,), [(0,)], [])])
def test_what_an_earlier_run_has_won_with_one_of_several_members_is_asked_for_by_each(start, asked, runs):
    hand = ByHand(depth_first({0: (), 1: (), 2: (), 3: (0, 1, 2)}, [3]), start)
    members = []

    def incr(effect):
        members.extend(arrive.members for arrive in effect.arrivals if arrive.child == 3)
        return tuple(Arrived(True, arrive.members == (1,), (2,)) for arrive in effect.arrivals)

    hand.run(Incr=incr)
    assert members == asked and hand.tasks_run() == [*start, *runs]


@pytest.mark.parametrize(("room_bytes", "parks"), [(15, False), (5, True)])
def test_an_input_of_several_tasks_that_wait_for_seats_takes_room_once(room_bytes, parks):
    hand = ByHand(depth_first({0: (), 1: (0,), 2: (0,)}, [1, 2]), (0,), limits={1: ONE, 2: ONE}, room_bytes=room_bytes)
    frontier = hand.walk.frontier
    frontier.ready[:], frontier.parents, frontier.uses = [1, 2], {1: (0,), 2: (0,)}, {0: 2}
    frontier.limited.update({1: ONE, 2: ONE})
    frontier.sizes[0] = 10
    frontier.cold.clear()
    hand.walk.seats.refused["a"] = 0.0, float("inf")
    seen = hand.carry_out(hand.walk.fan_out.park_beyond())
    assert any(isinstance(each, Record) for each in seen) == parks


def test_while_a_task_runs_in_another_lane_others_are_told_of_what_is_pending_once_patience_is_over():
    hand = ByHand(depth_first({0: (), 1: (), 2: (), 3: (1, 2)}, [0, 3]), (0, 1), lanes=2)

    def pause(effect):
        return 1.0 + effect.seconds if effect.seconds < 100.0 else Landed(9.0, (0,))

    seen = hand.run(Run=lambda effect: Overstays(1.0) if effect.task == 0 else 1.0, Pause=pause)
    waits = [each for each in seen if isinstance(each, Pause | Incr)]
    assert [type(each) for each in waits[:3]] == [Pause, Incr, Pause] and waits[0].seconds < waits[2].seconds


def test_who_waits_for_a_seat_tells_others_of_what_is_pending_only_once_patience_is_over():
    hand = ByHand(depth_first({0: (), 1: (), 2: (0, 1), 3: ()}, [2, 3]), (0, 3), limits={3: ONE})
    refusals = iter(["a"] * 5 + [None])

    def pause(effect):
        hand.clock += effect.seconds
        return hand.clock

    seen = hand.run(TakeSeats=lambda _: next(refusals), Pause=pause, FreeSeats=0)
    told = [type(each) for each in seen if isinstance(each, Incr | Run | Pause)]
    assert hand.clock < hand.walk.patience_s and told[:8] == [Run, *[Pause] * 5, Run, Incr]


def test_of_what_a_start_task_awaits_one_use_less_is_left_if_another_run_has_given_it():
    hand = ByHand(depth_first({0: (), 1: (0,), 2: (0,), 3: (0,)}, [1, 2, 3]), (1,), inline=(0,))
    frontier = hand.walk.frontier
    frontier.awaited[0] = 3
    assert hand.carry_out(hand.walk.fan_ins.given(0, 1)) == [] and frontier.awaited == {0: 2}


def test_what_was_fetched_and_nobody_needs_any_more_is_dropped_unless_its_task_has_just_run():
    hand = room_of(overlap=True)
    frontier, overlap, fan_ins = hand.walk.frontier, hand.walk.overlap, hand.walk.fan_ins
    for ran, dropped in ((None, [Drop([3])]), (3, [])):
        frontier.fetching.add(3)
        overlap.n_fetches = 1
        assert hand.carry_out(fan_ins.came((Came(FetchAhead((3,)), ()),), ran)) == dropped


def test_who_waited_for_what_has_come_is_next():
    hand = room_of(overlap=True)
    frontier, overlap = hand.walk.frontier, hand.walk.overlap
    frontier.ready[:], frontier.awaited, frontier.parents = [4, 6], {3: 1}, {4: (3,), 6: (5,)}
    frontier.fetching.add(3)
    overlap.n_fetches, overlap.ahead, overlap.put_back = 1, {4}, {4}
    hand.carry_out(overlap.fetched(Came(FetchAhead((3,)), ()), None, ()))
    assert frontier.ready == [6, 4] and not overlap.put_back


def test_what_came_for_a_task_that_has_to_wait_for_lost_inputs_is_dropped():
    hand = ByHand(depth_first({0: (), 1: (), 2: (0, 1)}, [2]), (2,), lanes=2)
    hand.walk.lanes.away[9] = Away((), (), 0.0)
    recovery = hand.walk.recovery
    assert hand.carry_out(recovery.fetch(2, (0, 1)), Get=(0,)) == [Get((0, 1)), Drop([1])]
    assert hand.walk.frontier.ready[-1] == 2 and 2 in hand.walk.frontier.exclusive


def test_a_restored_value_is_counted_once():
    hand = ByHand(depth_first({0: (), 1: (0,)}, [1]), (1,))
    hand.run(Get=lambda effect: effect.tasks)
    assert hand.walk.recovery.n_restored == 1


def test_what_needs_more_memory_than_any_function_has_goes_to_the_largest():
    hand = room_of(functions=(10, 20, 30))
    hand.page = replace(hand.page, memory={0: 100})
    hand.carry_out(hand.walk.frontier.need(0))
    assert hand.walk.frontier.larger == {0: 2}


def test_how_long_a_task_takes_is_the_mean_since_the_last_check():
    hand = ByHand(chain(4), (0,), policy=Policy(patience_s=1.0))
    ends = iter([0.5, 1.0, 1.5, 2.0])

    def run(effect):
        hand.clock = next(ends)
        return hand.clock

    hand.run(Run=run)
    assert hand.walk.fan_out.task_s == 0.5


def test_a_busy_executor_keeps_none_of_its_ready_tasks_if_others_can_take_them_all():
    fan_out = room_of(policy=Policy(patience_s=1.0)).walk.fan_out
    assert fan_out._share(3, 10.0, 8, busy=True) == (3, 0)
    assert fan_out._share(3, 10.0, 8, busy=False)[1] == 1


def test_a_limited_task_whose_input_takes_longer_to_move_than_it_has_waited_is_not_parked():
    dag = depth_first({0: (), 1: (0,)}, [1])
    hand = ByHand(dag, (0,), limits={1: ONE}, sizes=10_000_000_000, policy=Policy(limit_patience_s=0.01))
    hand.clock = 1_000.0

    def pause(effect):
        hand.clock += effect.seconds
        return hand.clock

    hand.run(TakeSeats=lambda _: "a" if hand.clock < 1_000.1 else None, Pause=pause, FreeSeats=0)
    assert hand.tasks_run() == [0, 1] and not any(isinstance(each, Record) for each in hand.seen)


def test_who_leaves_holds_what_cannot_be_stored():
    hand = ByHand(depth_first({0: (), 1: (), 2: (0, 1)}, [2]), (0,), sizes=PINNED)
    fan_ins = hand.walk.fan_ins
    fan_ins.pending[2], fan_ins.of[2], fan_ins.delays = [(0, 0)], 2, False
    hand.walk.frontier.uses[0] = 1
    (asked,) = [each for each in hand.carry_out(fan_ins.publish([2])) if isinstance(each, Incr)]
    assert asked.arrivals[0].only_if_last


def test_who_waits_for_the_inputs_of_what_it_holds_asks_ever_more_seldom():
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    hand = ByHand(dag, (0,), sizes=10_000_000, policy=Policy(large_object_bytes=1, delay_budget_s=10.0))
    hand.clock = 100.0

    def pause(effect):
        hand.clock += effect.seconds
        return hand.clock

    hand.run(Pause=pause)
    pauses = [each.seconds for each in hand.seen if isinstance(each, Pause)]
    assert max(pauses) == 0.25 and sum(pauses) == pytest.approx(10.0)


def test_the_uses_of_a_start_task_are_counted_when_its_inputs_are_fetched_ahead():
    hand = room_of(overlap=True)
    frontier = hand.walk.frontier
    frontier.costs.round_trip_s = 1.0
    frontier.ready[:], frontier.cold, frontier.parents = [4], {4}, {4: (3,)}
    seen = hand.carry_out(hand.walk.overlap.fetch_ahead(), FetchAhead=True)
    assert seen == [FetchAhead((3,))] and frontier.awaited == {3: 1}
