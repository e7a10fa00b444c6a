"""One executor driven by hand, and situations that random interleavings hardly reach."""

from wukong.core.effects import (
    Arrived,
    CoreWaits,
    Drop,
    Finish,
    Get,
    Incr,
    Invoke,
    Landed,
    LoadPage,
    Now,
    Overstays,
    Put,
    Record,
    Run,
    Size,
    Slots,
)
from wukong.core.policy import Costs, Policy
from wukong.core.walk import Walk
from wukong.planning.prediction import predict
from wukong.planning.world import pages_of
from wukong.testing.graphs import chain, depth_first, fan_out_fan_in

COSTS = (0.05, 0.001, 1e8)


class ByHand:
    """Carries out one walk: what a test has no answer for gets the plain one. `seen` are all effects, in order."""

    def __init__(
        self,
        dag,
        start,
        *,
        walk=Walk,
        policy=None,
        invocation="0",
        sizes=16,
        exclusive=(),
        larger=(),
        limits=None,
        **how,
    ):
        self.page = pages_of(dag, len(dag), frozenset(exclusive), larger, limits or {})[0]
        self.sizes = sizes
        self.seen = []
        if limits:
            how.setdefault("limited", True)
        self.walk = walk(invocation, start, len(dag), policy or Policy(), Costs(*COSTS), **how)
        self.clock = 0.0

    def answer(self, effect, **answers):
        name = type(effect).__name__
        if name in answers:
            given = answers[name]
            given = given(effect) if callable(given) else given
            self.clock = max(self.clock, given) if isinstance(given, float) else self.clock
            return given
        match effect:
            case LoadPage():
                return self.page
            case Size(tasks):
                return (self.sizes,) * len(tasks)
            case Run() | Now():
                return self.clock
            case Incr(arrivals):
                return tuple(Arrived(False, False) for _ in arrivals)
            case Slots() | CoreWaits():
                return 0
        return () if name == "Get" else None

    def run(self, steps=1_000, **answers):
        """Walk to the end, within n effects; `answers` by the name of the effect: values, or functions."""
        effects = self.walk.run()
        try:
            effect = next(effects)
            for _ in range(steps):
                self.seen.append(effect)
                effect = effects.send(self.answer(effect, **answers))
        except StopIteration:
            return self.seen
        raise AssertionError(f"no end after {steps} effects")

    def carry_out(self, effects, **answers):
        """Carry out what a watcher does; returns its effects."""
        seen = []
        try:
            effect = next(effects)
            while True:
                seen.append(effect)
                effect = effects.send(self.answer(effect, **answers))
        except StopIteration:
            return seen

    def tasks_run(self):
        return [effect.task for effect in self.seen if isinstance(effect, Run)]


def rides_back_in_the_round_trip_that_releases_it(walk=Walk):
    """Task 1 rode to fan-in 4 and waits here for the sink; one `Incr` releases it there and brings it back for 4."""
    dag = depth_first({0: (), 1: (), 2: (), 3: (), 4: (0, 1, 2, 3)}, [4, 1])
    hand = ByHand(dag, (0, 1, 2), walk=walk, policy=Policy(patience_s=1.0))
    ends = {0: 2.0, 1: 4.0, 2: 4.1, 4: 4.2}

    def incr(effect):
        if len(effect.arrivals) == 2:
            assert [arrive.child for arrive in effect.arrivals] == [5, 4]
            return Arrived(False, False), Arrived(True, True, (0, 1, 2, 3))
        return tuple(Arrived(False, False) for _ in effect.arrivals)

    hand.run(Run=lambda effect: ends[effect.task], Incr=incr)
    at = [isinstance(effect, Run) and effect.task == 4 for effect in hand.seen].index(True)
    both = max(i for i in range(at) if isinstance(hand.seen[i], Incr))
    assert len(hand.seen[both].arrivals) == 2, "the scenario was not reached"
    dropped = [task for effect in hand.seen[both:at] if isinstance(effect, Drop) for task in effect.tasks]
    assert 1 not in dropped
    assert set(hand.seen[at].last_use) == {0, 1, 2, 3}


def tells_what_it_has_while_a_long_task_runs(walk=Walk):
    """Task 3 was handed over; fan-in 4 (of 0 and 3) must not wait until this executor is through with long task 2."""
    dag = depth_first({0: (), 1: (0,), 2: (1,), 3: (), 4: (0, 3)}, [2, 4])
    durations = [1.0, 1.0, 100.0, 3.0, 50.0]
    seen = predict(dag, durations, 16, costs=Costs(*COSTS), slots=3, walk=walk)
    assert seen.executors > 1
    assert seen.makespan_s < 110


def hands_over_once(walk=Walk, **how):
    """An earlier run has handed task 2 over; whoever gets it twice would do all below it twice, and so on."""
    dag = depth_first({0: (), 1: (0,), 2: (0,), 3: (0,)}, [1, 2, 3])
    policy = Policy(fan_out="eager")
    hand = ByHand(dag, (0,), walk=walk, policy=policy, offloaded=(2,), n_offloads=1, **how)
    seen = hand.run(Run=1.0)
    return hand.tasks_run(), [(part.invocation, part.tasks) for e in seen if isinstance(e, Record) for part in e.parts]


def splits_off_what_nobody_has(walk=Walk):
    assert hands_over_once(walk) == ([0, 1], [("0.1", (3,))])


def leaves_to_others_what_nobody_has(walk=Walk):
    assert hands_over_once(walk, deadline=0.5) == ([0], [("0.1", (1, 3))])


def restores_what_is_lost(walk=Walk):
    """Input 1 is not in the store any more: it is computed again, and stored for whoever else needs it."""
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    hand = ByHand(dag, (2,), walk=walk)
    hand.run(Get=lambda effect: tuple(task for task in effect.tasks if task == 1))
    assert hand.tasks_run() == [1, 2]
    assert Put((1,)) in hand.seen


def keeps_what_came_with_what_was_lost(walk=Walk):
    """Of inputs 1 and 2 only 2 is lost, which is computed from 1."""
    dag = depth_first({0: (), 1: (0,), 2: (1,), 3: (1, 2)}, [3])
    hand = ByHand(dag, (3,), walk=walk)
    seen = hand.run(Get=lambda effect: tuple(task for task in effect.tasks if task == 2))
    assert hand.tasks_run() == [2, 3]
    assert [effect.tasks for effect in seen if isinstance(effect, Get)] == [(1, 2)]
    assert not [effect for effect in seen[: -seen[::-1].index(Put((2,)))] if isinstance(effect, Drop)]
    last_run = next(effect for effect in seen if isinstance(effect, Run) and effect.task == 3)
    before = seen[: seen.index(last_run)]
    assert not [effect for effect in before if isinstance(effect, Drop) and 1 in effect.tasks]


def restores_alone(walk=Walk):
    """Task 3 is to run alone; its value is lost, and found so while task 1 runs in another lane.

    Task 4 reads it, and 0, which task 1 reads as well, and 2, which is fetched once more later.
    """
    dag = depth_first({0: (), 1: (0,), 2: (), 3: (), 4: (0, 2, 3)}, [1, 4])
    hand = ByHand(dag, (1, 4), walk=walk, exclusive=(3,), lanes=2)
    beside = {}
    asked = []

    def run(effect):
        beside[effect.task] = set(hand.walk.lanes.away)
        return Overstays(1.0) if effect.task == 1 else 1.0

    def get(effect):
        asked.append(effect.tasks)
        return tuple(task for task in effect.tasks if task == 3)

    hand.run(Get=get, Run=run, Pause=Landed(1.0, (1,)), Incr=lambda effect: (Arrived(True, True),))
    assert hand.tasks_run() == [1, 3, 4]
    assert beside == {1: set(), 3: set(), 4: set()}
    assert asked == [(0,), (2, 3), (2, 3)]


def ends_with_the_job(walk=Walk):
    """While a replay runs task 1 its watcher is told that all requested values have arrived."""
    dag = depth_first({0: (), 1: (), 2: (1,), 3: ()}, [0, 2, 3])
    hand = ByHand(dag, (0, 1, 3), walk=walk)
    made = []

    def run(effect):
        if effect.task == 1:
            answers = {"Incr": (Arrived(True, True, (2, 3)),)}
            made.extend(hand.carry_out(hand.walk.overdue(1.0, 1.0), **answers))
        return 0.0

    hand.run(Run=run)
    assert isinstance(made[-1], Finish)
    assert hand.tasks_run() == [0, 1]


def takes_a_fan_in_once(walk=Walk):
    """Task 2 needs 0 and 1; the arrival of 0 alone is told that it is complete, for another run has brought 1."""
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    hand = ByHand(dag, (0, 1), walk=walk, sizes=16)
    told = []

    def run(effect):
        if effect.task == 1:
            told.extend(hand.carry_out(hand.walk.overdue(1.0, 1.0), Incr=(Arrived(True, True, (0, 1)),)))
        return 0.0

    def incr(effect):
        told.append(effect)
        return tuple(Arrived(arrive.child == 2, arrive.child == 2, (0, 1)) for arrive in effect.arrivals)

    hand.run(Run=run, Incr=incr)
    assert hand.tasks_run() == [0, 1, 2]
    at_2 = [arrive for effect in told if isinstance(effect, Incr) for arrive in effect.arrivals if arrive.child == 2]
    assert len(at_2) == 1


def leaves_a_restore_alone(walk=Walk):
    """While a lost input is computed again, the watcher wakes."""
    dag = depth_first({0: (), 1: ()} | dict.fromkeys(range(2, 6), (0, 1)), range(2, 6))
    hand = ByHand(dag, (2, 3, 4, 5), walk=walk, policy=Policy(patience_s=0.0))
    woken = []

    def run(effect):
        if effect.task == 1:
            woken.extend(hand.walk.overdue(1.0, 1.0))
        return 1.0

    hand.run(Get=lambda effect: tuple(task for task in effect.tasks if task == 1), Run=run, Slots=10)
    assert hand.tasks_run()[0] == 1
    assert woken == []


def takes_what_it_was_given_as_ready(walk=Walk):
    """Fan-in 2 of 0 and 1 comes as a ready task, and so does its input 0."""
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    hand = ByHand(dag, (0, 2), walk=walk)
    seen = hand.run()
    assert hand.tasks_run() == [0, 2]
    assert 2 not in [arrive.child for effect in seen if isinstance(effect, Incr) for arrive in effect.arrivals]


def gives_way(walk=Walk):
    """Two hold the large inputs of one fan-in; the second is told that the first waits for it."""
    dag = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
    policy = Policy(large_object_bytes=1_000, delay_budget_s=1_000.0)
    hand = ByHand(dag, (0,), walk=walk, policy=policy, sizes=1_000_000)

    def incr(effect):
        (arrive,) = effect.arrivals
        return (Arrived(False, False, give_way=arrive.only_if_last),)

    seen = hand.run(Incr=incr, Pause=lambda effect: 1.0)
    kinds = [type(effect).__name__ for effect in seen]
    assert kinds[kinds.index("Incr") :] == ["Incr", "Put", "Incr", "Drop"]


def leaves_at_its_deadline(walk=Walk):
    """A chain of one-second tasks with ten seconds of time."""
    hand = ByHand(chain(100), (0,), walk=walk, alone=True, deadline=10.0)
    clock = iter(range(1, 200))
    seen = hand.run(Run=lambda _: float(next(clock)))
    assert hand.tasks_run() == list(range(10))
    (record,) = [effect for effect in seen if isinstance(effect, Record) and effect.parts]
    (part,) = record.parts
    assert part.tasks == (10,)
    assert Invoke((part,)) in seen


def hands_on_the_running_task(walk=Walk):
    """Task 1 may be cut off; it begins again elsewhere, and its value here does not count."""
    dag = fan_out_fan_in(1)
    hand = ByHand(dag, (0,), walk=walk, alone=True, deadline=10.0)
    made = []

    def run(effect):
        if effect.task == 1:
            made.extend(hand.carry_out(hand.walk.overdue(4.0, 10.5)))
            return 20.0
        return 5.0

    seen = hand.run(Run=run)
    assert [part.tasks for effect in made if isinstance(effect, Record) for part in effect.parts] == [(1,)]
    assert hand.tasks_run() == [0, 1]
    assert Drop((1,)) in seen
    assert not [effect for effect in seen if isinstance(effect, Incr | Finish)]
