"""One executor driven by hand, and situations that random interleavings hardly reach."""

from wukong.core.effects import Arrived, Drop, Incr, LoadPage, Now, Run, Size, Slots
from wukong.core.policy import Costs, Policy
from wukong.core.protocol import Walk
from wukong.testing.graphs import depth_first, pages_of
from wukong.testing.prediction import predict

COSTS = (0.05, 0.001, 1e8)


class ByHand:
    """Carries out one walk: what a test has no answer for gets the plain one. `seen` are all effects, in order."""

    def __init__(self, dag, start, *, walk=Walk, policy=None, invocation="0", sizes=16, **how):
        self.page = pages_of(dag, len(dag))[0]
        self.sizes = sizes
        self.seen = []
        self.walk = walk(invocation, start, len(dag), policy or Policy(), Costs(*COSTS), **how)
        self.clock = 0.0

    def answer(self, effect, **answers):
        name = type(effect).__name__
        if name in answers:
            given = answers[name]
            return given(effect) if callable(given) else given
        match effect:
            case LoadPage():
                return self.page
            case Size(tasks):
                return (self.sizes,) * len(tasks)
            case Run() | Now():
                return self.clock
            case Incr(arrivals):
                return tuple(Arrived(False, False) for _ in arrivals)
            case Slots():
                return 0
        return () if name == "Get" else None

    def run(self, steps=1_000, **answers):
        """Walk to the end, within so many effects; `answers` by the name of the effect: values, or functions."""
        effects = self.walk.run()
        try:
            effect = next(effects)
            for _ in range(steps):
                self.seen.append(effect)
                effect = effects.send(self.answer(effect, **answers))
        except StopIteration:
            return self.seen
        raise AssertionError(f"no end after {steps} effects")

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
