"""An invocation around its walk, effect by effect; interleavings and faults are `test_simulator`'s."""

from dataclasses import replace

import pytest

from wukong.core.effects import Beat, Delete, Fail, LeaveWord, Missing, Now, Read, Stopped, Unpack, Watched
from wukong.core.invocation import Execution
from wukong.core.names import Names
from wukong.core.payload import Order
from wukong.core.policy import Costs, Policy
from wukong.core.walk import Walk
from wukong.testing.recovery import SimulatedFaults, survive

COSTS = (0.05, 0.001, 1e8)
NAMES = Names("job")
ORDER = Order("job", "0", (0, 1, 2), 3, 512, Policy(orphan_s=10.0), COSTS)


class ByHand:
    """Carries out one execution on a dictionary; in place of its walk `walks` is called."""

    def __init__(self, order=ORDER, words=None, *, execution=Execution, walks=lambda: None, **how):
        self.words = {NAMES.alive: b"a sign"} if words is None else words
        self.execution = execution(order, Costs(*COSTS), **how)
        self.walks, self.seen, self.now = walks, [], 100.0

    def run(self, effects=None):
        effects = self.execution.run() if effects is None else effects
        answer = error = None
        try:
            while True:
                effect = effects.send(answer) if error is None else effects.throw(error)
                self.seen.append(effect)
                answer = error = None
                try:
                    answer = self.answer(effect)
                except Exception as raised:
                    error = raised
        except StopIteration:
            return [type(effect) for effect in self.seen]

    def answer(self, effect):
        match effect:
            case Now():
                return self.now
            case Read(keys):
                return [self.words.get(key) for key in keys]
            case Delete(keys):
                for key in keys:
                    self.words.pop(key, None)
            case Unpack():
                return ()
            case LeaveWord():
                self.words[NAMES.end("0")] = "end"
            case Watched():
                self.walks()


def made_by(*attempts):
    """What is on record of attempts which have made n invocations, of one task each, and count them as `counted`."""
    words = {}
    for attempt_id, n, counted in attempts:
        words[NAMES.n_offloads(attempt_id)] = counted
        for i in range(n):
            words[NAMES.invocation(f"{attempt_id}.{i}")] = replace(ORDER, invocation=f"{attempt_id}.{i}", start=(i,))
    return words


def test_an_invocation_whose_job_has_ended_only_looks():
    assert ByHand(words={}).run() == [Now, Read]


def test_an_invocation_leaves_word_and_then_looks_whether_anybody_will_read_it():
    assert ByHand().run() == [Now, Read, Unpack, Watched, LeaveWord, Read]


def test_an_invocation_that_is_made_again_gives_a_sign_before_it_walks():
    hand = ByHand(replace(ORDER, attempt=1))
    assert hand.run() == [Now, Read, Unpack, Read, Now, Beat, Watched, LeaveWord, Read]


@pytest.mark.parametrize(("lanes", "attempt", "told"), [(3, 0, 3), (3, 1, 1), ("auto", 0, 1)])
def test_a_first_attempt_has_the_lanes_that_the_policy_says(lanes, attempt, told):
    hand = ByHand(replace(ORDER, attempt=attempt, policy=replace(ORDER.policy, lanes=lanes)))
    hand.run()
    assert hand.execution.walk.lanes.most == told


@pytest.mark.parametrize(("overlap", "attempt", "on"), [("on", 0, True), ("on", 1, False), ("off", 0, False)])
def test_a_walk_is_told_what_the_order_says(overlap, attempt, on):
    policy = replace(ORDER.policy, overlap=overlap)
    order = replace(ORDER, alone=True, limited=True, stream=True, attempt=attempt, policy=policy)
    told = {}

    def walk(*args, **how):
        told.update(how, args=args)
        return Walk(*args, **how)

    ByHand(order, walk=walk).run()
    assert told["args"][:4] == (order.invocation, order.start, order.n_tasks, policy)
    assert (told["alone"], told["limited"], told["stream"]) == (True, True, True)
    assert (told["overlap"], told["replay"], told["functions"], told["function"]) == (on, attempt > 0, (), 0)


def test_near_the_time_limit_there_is_a_margin():
    hand = ByHand(time_limit_s=20.0)
    hand.run()
    assert hand.execution.walk.leaving.deadline == 118.0
    longer = ByHand(time_limit_s=900.0)
    longer.run()
    assert longer.execution.walk.leaving.deadline == 990.0


def skips_what_is_on_record_beyond_the_count(execution=Execution):
    """Two runs of the first attempt have made one and two invocations; the smaller number was written last."""
    words = {NAMES.alive: b"a sign", **made_by(("0", 2, 1))}
    hand = ByHand(replace(ORDER, attempt=1), words, execution=execution)
    hand.run()
    assert hand.execution.walk.frontier.offloaded == {0, 1}


def test_what_another_run_of_the_same_life_has_handed_over_is_skipped_though_it_is_not_counted():
    skips_what_is_on_record_beyond_the_count()


def test_what_is_on_record_of_a_run_that_has_counted_none_yet_is_skipped():
    """It has said that it shares; meanwhile another run of the attempt has handed a task over."""
    hand = ByHand(words={NAMES.alive: b"a sign", **made_by(("0", 1, 0))})
    hand.run()
    assert (hand.execution.walk.frontier.offloaded, hand.execution.walk.fan_out.n_offloads) == ({0}, 1)


def test_a_run_that_has_handed_over_nothing_yet_is_one_more_look():
    hand = ByHand(words={NAMES.alive: b"a sign", NAMES.n_offloads("0"): 0})
    assert hand.run() == [Now, Read, Unpack, Read, Watched, LeaveWord, Read]


def skips_what_each_attempt_has_handed_over(execution=Execution):
    """The first attempt has handed over task 0, the second nothing, the third is this."""
    words = {NAMES.alive: b"a sign", **made_by(("0", 1, 1))}
    hand = ByHand(replace(ORDER, attempt=2), words, execution=execution)
    hand.run()
    assert hand.execution.walk.frontier.offloaded == {0}
    assert (hand.execution.walk.fan_out.attempt_id, hand.execution.walk.fan_out.n_offloads) == ("0~2", 0)


def test_what_earlier_attempts_have_handed_over_is_skipped():
    skips_what_each_attempt_has_handed_over()


def test_a_record_that_is_gone_does_not_hide_those_after_it():
    words = {NAMES.alive: b"a sign", **made_by(("0", 3, 3))}
    del words[NAMES.invocation("0.1")]
    hand = ByHand(words=words)
    hand.run()
    assert (hand.execution.walk.frontier.offloaded, hand.execution.walk.fan_out.n_offloads) == ({0, 2}, 3)


def cleans_up_after_all_attempts(execution=Execution):
    """The client has made "0.0" again; that attempt has made one more invocation than it counts. Then the job ended."""
    words = made_by(("0", 1, 1), ("0.0", 1, 1), ("0.0~1", 2, 1), ("0.0~1.1", 1, 1)) | {NAMES.attempts("0.0"): 1}
    words |= dict.fromkeys(map(NAMES.value, (0, 1)), "value") | {NAMES.record(2): "record"}
    hand = ByHand(words={NAMES.alive: b"a sign"}, execution=execution)

    def walks():
        hand.words.update(words)
        del hand.words[NAMES.alive]
        ledger = hand.execution.ledger
        ledger.made.append("0.0")
        ledger.stored += [0, 1]
        ledger.arrived.append(2)

    hand.walks = walks
    hand.run()
    assert not hand.words


def test_a_late_run_leaves_nothing_of_any_life_of_what_it_has_made():
    cleans_up_after_all_attempts()


def test_what_the_client_keeps_is_not_cleaned_up():
    hand = ByHand(replace(ORDER, kept=True))

    def walks():
        hand.words = {NAMES.value(0): "kept", NAMES.value(1): "value"}
        hand.execution.ledger.stored += [0, 1]
        hand.execution.ledger.requested.add(0)

    hand.walks = walks
    hand.run()
    assert hand.words == {NAMES.value(0): "kept"}


@pytest.mark.parametrize("resume_jobs", [0, 1])
def test_a_late_run_of_a_job_that_another_goes_on_with_leaves_its_values(resume_jobs):
    hand = ByHand(replace(ORDER, attempt=1, policy=replace(ORDER.policy, resume_jobs=resume_jobs)))
    left = {NAMES.held: b"", NAMES.value(0): "value", NAMES.record(2): "record"}

    def walks():
        hand.words = {**left, NAMES.n_offloads("0~1"): 0}
        hand.execution.ledger.stored.append(0)
        hand.execution.ledger.arrived.append(2)

    hand.walks = walks
    hand.run()
    assert hand.words == (left if resume_jobs else {NAMES.held: b""})


def test_what_is_missing_is_told_in_the_end_report():
    def walks():
        raise Missing(b"page")

    hand = ByHand(walks=walks)
    assert hand.run()[-2:] == [LeaveWord, Read]
    assert hand.execution.ledger.missing == b"page"


def test_an_error_of_no_task_is_told_to_the_client_and_is_the_end():
    def walks():
        raise OSError("full")

    hand = ByHand(walks=walks)
    assert hand.run()[-2:] == [Fail, Read]
    assert str(hand.seen[-2].error) == "full"
    assert hand.execution.told


def test_an_execution_stops_when_the_sign_of_life_is_gone_or_stays_the_same_for_too_long():
    hand = ByHand()
    hand.run(hand.execution.beat())
    hand.now += 9.0
    assert hand.run(hand.execution.beat())[-1] is Beat
    hand.now += 2.0
    with pytest.raises(Stopped):
        hand.run(hand.execution.beat())
    hand.words[NAMES.alive] = b"another client's"
    assert hand.run(hand.execution.beat())[-1] is Beat
    del hand.words[NAMES.alive]
    with pytest.raises(Stopped):
        hand.run(hand.execution.beat())


@pytest.mark.parametrize("seed", [484, 1268])
def test_a_replay_looks_for_records_beyond_the_count_whoever_has_counted_last(seed):
    """Two runs of one attempt had written how many invocations they had made, the smaller number last."""
    survive(seed, script=SimulatedFaults(seed, ("crash", "duplicate", "retry"), most=6))
