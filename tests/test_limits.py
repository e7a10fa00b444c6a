"""Limits: the protocol with seats. The seats in the store are in `test_limits_seats`, jobs in `test_limits_jobs`."""

from __future__ import annotations

from itertools import count
from math import inf
from typing import Any

import pytest
from protocol_scenarios import ByHand

from wukong.core.effects import (
    Came,
    FetchAhead,
    GiveSeats,
    Invoke,
    Landed,
    Pause,
    Put,
    Record,
    Run,
    TakeSeats,
)
from wukong.core.names import Names
from wukong.core.policy import Policy
from wukong.planning.world import pages_of
from wukong.testing.graphs import depth_first
from wukong.testing.recovery import rough_case, survive
from wukong.testing.simulator import limited, random_case, simulate

ONE = (("a", 1),)
NAMES = Names("abcdefabcdef-0")


class TestTheProtocol:
    @pytest.mark.parametrize("first", [0, 10_000, 41_250])
    def test_no_interleaving_and_no_fault_lets_more_run_at_once_and_none_hangs(self, first: int) -> None:
        for seed in range(first, first + 70):
            simulate(seed, limited(random_case(seed), seed))
            simulate(seed, limited(random_case(seed, lanes=2 + seed % 3), seed))
            simulate(seed, limited(random_case(seed, lanes=1 + seed % 3, overlap="on"), seed))
            survive(seed, limited(rough_case(seed), seed))
            survive(seed, limited(rough_case(seed, lanes=2 + seed % 3), seed))
            survive(seed, limited(rough_case(seed, lanes=1 + seed % 3, overlap="on"), seed))

    def test_a_task_that_waits_for_inputs_and_one_that_waits_for_a_seat_do_not_change_places_for_ever(self) -> None:
        simulate(701_437, limited(random_case(701_437, lanes=2, overlap="on"), 701_437))

    def test_who_waits_for_inputs_makes_no_room_for_one_that_waits_for_a_seat(self) -> None:
        """It would give it back at once, for ever: the third one, whose inputs nobody fetches yet, is not asked."""
        dag = depth_first({0: (), 1: (0,), 2: (), 3: (2,), 4: (), 5: (4,), 6: (), 7: (1, 3, 5, 6)}, [7])
        begins, waits, third, seated = 1, 3, 5, 6
        hand = ByHand(dag, (begins, waits, seated, third), limits={seated: ONE}, overlap=True)
        fetched: list[FetchAhead] = []
        pauses, looks = count(), count()
        refuses = hand.walk.seats.refuses

        def looked(task: int, now: float) -> bool:
            assert next(looks) < 1_000, "no end, and no effect"
            return refuses(task, now)

        hand.walk.seats.refuses = looked  # type: ignore[method-assign]

        def pause(effect: Pause) -> float | Landed:
            if next(pauses) > 3 and fetched:
                return Landed(hand.clock, (), (), (Came(fetched.pop(0), ()),))
            assert effect.seconds < inf
            hand.clock += effect.seconds
            return hand.clock

        hand.run(
            FetchAhead=lambda effect: fetched.append(effect) is None,
            TakeSeats=lambda _: None if waits in hand.tasks_run() else "a",
            Pause=pause,
            FreeSeats=0,
        )
        assert sorted(hand.tasks_run()) == [begins, waits, third, seated, 7]

    def test_what_rode_in_is_not_dropped_by_the_answer_that_came_together_with_it(self) -> None:
        simulate(960_282, limited(random_case(960_282, overlap="on"), 960_282))

    def test_who_tells_while_time_passes_in_one_leap_has_its_seat_after_it(self) -> None:
        survive(3_002_641, limited(rough_case(3_002_641, lanes=2, overlap="on"), 3_002_641))

    def test_who_waits_for_a_seat_does_not_keep_its_holder_from_running(self) -> None:
        survive(702_228, limited(rough_case(702_228), 702_228))
        simulate(694_825, limited(random_case(694_825), 694_825))

    def test_a_seat_stays_for_the_next_task_of_its_kind_and_goes_before_any_other(self) -> None:
        dag = depth_first({0: (), 1: (0,), 2: (1,), 3: (2,)}, [3])
        hand = ByHand(dag, (0,), alone=True, limits={0: ONE, 1: ONE, 3: ONE})
        seen = [each for each in hand.run() if isinstance(each, TakeSeats | GiveSeats | Run)]
        take, give = TakeSeats(ONE), GiveSeats(ONE)
        ran = [each if not isinstance(each, Run) else each.task for each in seen]
        assert ran == [take, 0, 1, give, 2, take, 3, give]

    def test_while_a_seat_is_refused_the_others_run_and_then_the_executor_waits_ever_longer(self) -> None:
        dag = depth_first({0: (), 1: (), 2: (), 3: (), 4: (0, 1, 2, 3)}, [4])
        hand = ByHand(dag, (0, 1, 2, 3), alone=True, limits={0: ONE, 2: ONE})
        refusals = 4

        def take(_: TakeSeats) -> str | None:
            nonlocal refusals
            refusals -= 1
            return "a" if refusals >= 0 else None

        def pause(effect: Pause) -> float:
            hand.clock += effect.seconds
            return hand.clock

        seen = hand.run(TakeSeats=take, Pause=pause)
        assert hand.tasks_run()[:2] == [1, 3] and sorted(hand.tasks_run()) == [0, 1, 2, 3, 4]
        pauses = [each.seconds for each in seen if isinstance(each, Pause)]
        assert len(pauses) == 4 and pauses == sorted(pauses)
        assert not [each for each in seen if isinstance(each, GiveSeats)][1:]

    def test_what_waits_for_a_seat_is_looked_at_once_for_each_task_that_runs_and_not_all_of_it_each_time(self) -> None:
        n = 200  # chains of two; each first task makes one ready that is refused
        graph = {task: (task - 1,) if task % 2 else () for task in range(2 * n)}
        dag = depth_first({**graph, 2 * n: tuple(range(1, 2 * n, 2))}, [2 * n])
        limits = {task: ONE for task in range(2 * n) if dag.parents_of(task)}
        hand = ByHand(dag, tuple(dag.leaves()), alone=True, limits=limits)
        seats, looks = hand.walk.seats, count()
        refuses = seats.refuses
        seats.refuses = lambda task, now: next(looks) >= 0 and refuses(task, now)  # type: ignore[method-assign]

        def run(_: Run) -> float:
            hand.clock += 0.01
            return hand.clock

        def take(_: TakeSeats) -> str | None:
            return "a" if hand.clock < 0.01 * n else None

        hand.run(20_000, Run=run, TakeSeats=take, FreeSeats=0, Pause=lambda effect: hand.clock + effect.seconds)
        assert sorted(hand.tasks_run()) == list(range(2 * n + 1))
        assert next(looks) < 10 * n

    def test_who_has_nothing_else_to_do_leaves_what_waits_on_record_after_a_while_and_ends(self) -> None:
        dag = depth_first({0: (), 1: (0,), 2: (), 3: (1, 2)}, [3])
        hand = ByHand(dag, (0,), limits={1: ONE}, policy=Policy(limit_patience_s=1.0, ride_bytes=0))

        def pause(effect: Pause) -> float:
            hand.clock += effect.seconds
            return hand.clock

        seen = hand.run(TakeSeats="a", Pause=pause)
        [record] = [each for each in seen if isinstance(each, Record) and each.parts]
        assert [(part.tasks, part.parked) for part in record.parts] == [((1,), ONE)]
        assert hand.tasks_run() == [0] and not [each for each in seen if isinstance(each, Invoke)]
        puts = [seen.index(each) for each in seen if isinstance(each, Put)]
        assert puts and puts[0] < seen.index(record)  # rule 1: its input is stored before
        assert 1.0 <= hand.clock < 1.5 and hand.walk.seats.waited_s == hand.clock
        assert hand.walk.seats.rests_since is None  # whoever waits next has all of its patience

    def test_inputs_of_what_waits_for_a_seat_are_stored_and_let_go_if_they_take_too_much_room(self) -> None:
        n = 8  # chains of two; each second task waits for a seat, with an input of 10 bytes
        graph = {task: (task - 1,) if task % 2 else () for task in range(2 * n)}
        dag = depth_first({**graph, 2 * n: tuple(range(1, 2 * n, 2))}, [2 * n])
        limits = {task: ONE for task in range(2 * n) if dag.parents_of(task)}
        policy = Policy(patience_s=0.5, ride_bytes=0)
        hand = ByHand(
            dag, tuple(dag.leaves()), alone=True, limits=limits, policy=policy, room_bytes=35, sizes=10, limited=True
        )
        held = []

        def run(effect: Run) -> float:
            frontier = hand.walk.frontier
            held.append(len([task for task in frontier.ready if task in limits]))
            hand.clock += 1.0
            return hand.clock

        def take(_: TakeSeats) -> str | None:
            return "a" if hand.clock < n else None

        seen = hand.run(Run=run, TakeSeats=take, FreeSeats=0, Pause=lambda effect: hand.clock + effect.seconds)
        parked = [part for each in seen if isinstance(each, Record) for part in each.parts]
        assert max(held) == 3 and sum(len(part.tasks) for part in parked) == n - 3
        assert all(part.parked == ONE for part in parked)

    def test_limited_tasks_go_to_no_more_executors_than_seats_are_free(self) -> None:
        leaves = range(12)
        dag = depth_first({**dict.fromkeys(leaves, ()), 12: tuple(leaves)}, [12])
        hand = ByHand(dag, tuple(leaves), alone=True, limits=dict.fromkeys(leaves, (("a", 3),)), policy=Policy())
        looked = hand.carry_out  # the watcher looks while the first task runs

        def run(effect: Run) -> float:
            if effect.task == 0:
                hand.seen += looked(hand.walk.overdue(5.0, 5.0), FreeSeats=2, Slots=100)
            hand.clock = 5.0
            return hand.clock

        seen = hand.run(Run=run)
        made = [part.tasks for each in seen if isinstance(each, Invoke) for part in each.parts]
        assert sorted(map(len, made)) == [4, 4]

    def test_they_are_known_before_their_pages_are_loaded(self) -> None:
        leaves, limits = range(40), dict.fromkeys(range(20, 40), (("a", 2),))
        dag = depth_first({**dict.fromkeys(leaves, ()), 40: tuple(leaves)}, [40])
        pages = pages_of(dag, 5, frozenset(), (), limits)
        hand = ByHand(dag, tuple(leaves), alone=True, limits=limits, limited=True)
        how: dict[str, Any] = {"LoadPage": lambda effect: pages[effect.task // 5], "FreeSeats": 2, "Slots": 100}
        seen: list[Any] = []

        def run(effect: Run) -> float:
            if effect.task == 0:
                seen.extend(hand.carry_out(hand.walk.overdue(5.0, 5.0), **how))
            hand.clock += 5.0
            return hand.clock

        hand.run(Run=run, **how)
        made = [part.tasks for each in seen if isinstance(each, Invoke) for part in each.parts]
        assert made and not [tasks for tasks in made if min(tasks) < 20 <= max(tasks)]
        assert 1 <= sum(min(tasks) >= 20 for tasks in made) <= 2

    def test_a_task_whose_value_an_earlier_run_has_stored_needs_no_seat(self) -> None:
        dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
        hand = ByHand(dag, (0, 1), limits={0: ONE, 1: ONE}, replay=True)
        stored = [0]
        seen = hand.run(Get=lambda effect: tuple(set(effect.tasks).difference(stored)), FreeSeats=0, Pause=1.0)
        assert [each for each in seen if isinstance(each, TakeSeats | Run)][:2] == [TakeSeats(ONE), Run(1, [])]
