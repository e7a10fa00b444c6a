"""The protocol under thousands of random interleavings and faults, and shrunk by Hypothesis if one goes wrong."""

import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wukong.core.policy import Policy
from wukong.testing import long_run
from wukong.testing.faults import KINDS
from wukong.testing.graphs import chain, depth_first, fan_out_fan_in, layered, random_dag, tree_reduction
from wukong.testing.recovery import SimulatedFaults, rough_case, survive
from wukong.testing.simulator import Case, Faults, Violation, random_case, simulate

BATCH = 1_000


def of_this_commit() -> int:
    """A seed to begin with, another one with each commit: in time the suite sees more than any one run of it."""
    head = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return int(subprocess.run(head, capture_output=True, text=True, check=True).stdout[:6], 16) * BATCH
    except (OSError, subprocess.CalledProcessError):  # not from a repository
        return 0


FIRST = of_this_commit()


@pytest.mark.parametrize("first", range(FIRST, FIRST + 2 * BATCH, BATCH))
def test_every_promise_holds_under_random_interleavings(first):
    for seed in range(first, first + BATCH):
        simulate(seed)


def test_every_promise_holds_with_several_lanes():
    """Seed 1382 has shown a value that was dropped while another lane still read it."""
    parted = 0
    for seed in (1382, *range(FIRST, FIRST + BATCH)):
        parted += simulate(seed, lanes=2 + seed % 3).parted
    assert parted > BATCH / 2


def test_every_promise_holds_with_several_lanes_and_faults():
    for seed in range(FIRST, FIRST + BATCH // 2):
        survive(seed, lanes=2 + seed % 3)


def test_every_promise_holds_while_requests_are_under_way():
    requests = refused = 0
    for seed in range(FIRST, FIRST + BATCH):
        trace = simulate(seed, lanes=1 + seed % 3, overlap="on")
        requests, refused = requests + trace.requests, refused + trace.refused
    assert requests > BATCH / 2 and refused > 0


def test_every_promise_holds_while_requests_are_under_way_and_with_faults():
    for seed in range(FIRST, FIRST + BATCH // 2):
        survive(seed, lanes=1 + seed % 3, overlap="on")


def test_every_promise_holds_on_larger_graphs():
    for seed in range(100):
        simulate(seed, random_case(seed, max_tasks=60))


def test_the_random_cases_reach_everything_the_protocol_does():
    traces = [simulate(seed) for seed in range(300)]
    assert max(trace.executors for trace in traces) > 10
    assert sum(trace.executors == 1 for trace in traces) > 30
    for what in ("put", "got", "arrived", "paused"):
        assert sum(getattr(trace, what) > 0 for trace in traces) > 20, what


@st.composite
def dags(draw, max_tasks=8):
    n = draw(st.integers(1, max_tasks))
    parents = [draw(st.sets(st.integers(0, task - 1), max_size=4)) if task else set() for task in range(n)]
    extra = draw(st.sets(st.integers(0, n - 1), max_size=3))
    ends = set(range(n)).difference(*parents)
    outputs = sorted(ends | extra) if draw(st.booleans()) else [n - 1]
    return depth_first(parents, outputs)


@st.composite
def cases(draw):
    dag = draw(dags())
    policy = Policy(
        fan_out=draw(st.sampled_from(["patience", "eager"])),
        patience_s=draw(st.sampled_from([None, 0.0, 0.01, 1e9])),
        large_object_bytes=draw(st.sampled_from([None, 0, 1_000])),
        delay_budget_s=draw(st.sampled_from([None, 0.0, 10.0])),
        ride_bytes=draw(st.sampled_from([16_384, 0, 100])),
    )
    return Case(
        dag,
        tuple(draw(st.sampled_from([16, 1_000, 1_000_000])) for _ in range(len(dag))),
        policy,
        page_tasks=draw(st.sampled_from([512, 1, 3])),
        slots=draw(st.sampled_from([(None,), (0,), (2,), (0, 1)])),
        leaps_s=draw(st.sampled_from([(1e-6,), (1.0,), (1e-6, 0.01, 10.0)])),
        stream=draw(st.booleans()),
    )


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), seed=st.integers(0, 1_000))
def test_every_promise_holds_on_what_hypothesis_draws(case, seed):
    simulate(seed, case)


def test_the_same_seed_gives_the_same_steps():
    first, again = simulate(7, story=True), simulate(7, story=True)
    assert first.story and first == again
    assert simulate(8, random_case(7), story=True).story != first.story


@pytest.mark.parametrize(
    "dag", [chain(6), tree_reduction(8), tree_reduction(5), fan_out_fan_in(6), layered(3, 3)], ids=lambda dag: len(dag)
)
def test_the_usual_shapes_run_exactly_once_when_everything_is_handed_over(dag):
    case = Case(dag, (1_000,) * len(dag), Policy(patience_s=0.0, ride_bytes=0), slots=(100,), leaps_s=(1.0,))
    executors = {simulate(seed, case).executors for seed in range(60)}
    # A chain and a tree of leaves need no help or are handed over at once; the others are split.
    assert max(executors) > 1 or len(dag) == 6


def test_a_chain_never_holds_more_than_two_values():
    case = Case(chain(50), (1_000_000,) * 50, Policy(ride_bytes=0))
    for seed in range(20):
        trace = simulate(seed, case)
        assert trace.peak_values <= 2
        assert (trace.put, trace.got, trace.arrived) == (1, 0, 0)  # the requested one


def test_random_graphs_are_culled_and_in_depth_first_order():
    from random import Random

    for seed in range(100):
        dag = random_dag(Random(seed))
        reached = set(dag.outputs)
        for task in reversed(range(len(dag))):
            assert task in reached, "a task that nobody asked for"
            assert all(parent < task for parent in dag.parents_of(task))
            reached.update(dag.parents_of(task))


# --- the simulator itself can fail


class LosesInvocations(Faults):
    def __init__(self, seed):
        pass

    def deliveries(self, invocation):
        return 0 if "." in invocation else 1


class KillsRoot(Faults):
    def __init__(self, seed):
        self.left = seed % 7

    def dies(self, invocation, effect):
        self.left -= 1
        return invocation == "0" and self.left < 0


WIDE = Case(fan_out_fan_in(5), (16,) * 7, Policy(patience_s=0.0), slots=(10,), leaps_s=(1.0,))


@pytest.mark.parametrize("faults", [LosesInvocations, KillsRoot])
def test_an_executor_that_is_lost_shows_as_a_job_that_never_ends(faults):
    simulate(3, WIDE)
    with pytest.raises(Violation, match="the job never ends"):
        simulate(3, WIDE, faults=faults)


def test_an_invocation_delivered_twice_is_noticed():
    class Twice(Faults):
        def __init__(self, seed):
            pass

        def deliveries(self, invocation):
            return 2

    with pytest.raises(Violation, match="runs again"):
        simulate(3, WIDE, faults=Twice)


def test_a_failure_tells_the_seed_the_graph_and_the_steps():
    with pytest.raises(Violation) as caught:
        simulate(3, WIDE, faults=LosesInvocations)
    text = str(caught.value)
    for part in ("simulate(3)", "DAG of 7 tasks, requested: 6", "    1 <- 0 ", "patience_s=0.0", "Invoke(parts="):
        assert part in text


def test_a_case_prints_what_it_needs_to_be_made_again():
    case = replace(WIDE, page_tasks=2, stream=True)
    assert "page_tasks=2" in str(case) and "stream=True" in str(case)


# --- with faults


@pytest.mark.parametrize("first", range(FIRST, FIRST + 4 * BATCH, 2 * BATCH))
def test_every_promise_holds_whatever_goes_wrong_and_everything_that_can_happen_does(first):
    """The bounds are far from what 2,000 seeds reach, whichever they are."""
    survivals = [survive(seed) for seed in range(first, first + 2 * BATCH)]
    struck = sum((seen.faults for seen in survivals), Counter())
    assert all(struck[kind] > 5 for kind in KINDS), struck
    ends = Counter(seen.outcome for seen in survivals)
    assert ends["right"] > 1_500
    assert min(ends[end] for end in ("SimulatedTaskError", "InvocationFailed", "cancelled")) > 0
    assert sum(seen.restored > 0 for seen in survivals) > 15
    assert sum(seen.clients > 1 for seen in survivals) > 70
    assert sum(seen.rounds > 0 for seen in survivals) > 15


def test_a_late_end_report_of_an_earlier_attempt_does_not_end_the_next():
    assert survive(30_017_905).outcome == "right"


def test_a_value_that_comes_from_the_store_as_its_own_task_ends_is_not_dropped_with_it():
    """Another run of the invocation had stored it; the task that it was fetched for has been handed over meanwhile."""
    assert survive(684_344, lanes=3, overlap="on").outcome == "right"


def test_requests_that_end_together_have_all_ended_before_any_of_their_answers_makes_the_walk_wait():
    """One answer has the walk give way at a fan-in, for which there is no room; it waited for the other one."""
    assert survive(7_382_903_210, lanes=3, overlap="on").outcome == "right"


def test_a_requested_value_is_looked_at_when_all_its_uses_are_counted():
    """One use was by a fan-in that came here as a ready task, and whose other inputs were being fetched ahead."""
    assert survive(9_001_757, lanes=2, overlap="on").outcome == "right"


def test_who_hands_a_running_task_on_and_outlives_the_job_explains_its_second_run():
    assert survive(865_593, overlap="on").outcome == "right"


@pytest.mark.parametrize(("seed", "lanes"), [(834_853, 2), (982_958, 3)])
def test_a_value_that_was_stored_to_give_way_while_a_refused_request_waited_is_not_stored_again(seed, lanes):
    simulate(seed, lanes=lanes, overlap="on")


def test_who_learns_on_leaving_that_the_job_has_ended_hands_nothing_on():
    assert survive(966_839, lanes=3, overlap="on").outcome == "right"


def test_what_one_of_two_runs_of_an_invocation_has_left_may_stay_if_a_server_has_lost_that_it_shares():
    """Until its time to live is over; nothing else may."""
    survival = survive(13_925_091_537)
    assert survival.faults["duplicate"] and survival.faults["shard"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_promise_holds_under_one_kind_of_fault(kind):
    struck = 0
    for seed in range(100):
        kinds = (kind, "crash") if kind == "retry" else (kind,)
        struck += survive(seed, script=SimulatedFaults(seed, kinds, most=6)).faults[kind]
    assert struck > 10


def test_every_promise_holds_on_larger_graphs_whatever_goes_wrong():
    for seed in range(100):
        survive(seed, rough_case(seed, max_tasks=40))


def test_without_faults_jobs_end_and_hardly_ever_is_an_invocation_made_again():
    """Only one that the platform lets wait for long is, for it looks lost."""
    survivals = [survive(seed, script=SimulatedFaults(seed, ())) for seed in range(200)]
    assert {(seen.outcome, seen.rounds, seen.clients) for seen in survivals} == {("right", 0, 1)}
    assert sum(seen.repeated > 0 for seen in survivals) < 10


def test_one_crash_costs_no_round_of_everything():
    for seed in range(200):
        assert survive(seed, script=SimulatedFaults(seed, ("crash",), most=1)).rounds == 0


def test_a_failing_task_ends_the_job_with_its_error_whatever_else_goes_wrong():
    ends = Counter(
        survive(seed, script=SimulatedFaults(seed, ("task", "crash", "duplicate"))).outcome for seed in range(150)
    )
    assert ends["SimulatedTaskError"] > 50
    assert ends.keys() <= {"SimulatedTaskError", "right", "InvocationFailed"}


def test_the_same_seed_gives_the_same_faults():
    first, again = survive(11, story=True), survive(11, story=True)
    assert first.story and first == again
    assert survive(12, story=True).story != first.story


def test_the_long_run_tells_how_many_jobs_ended_how(capsys):
    long_run.main(["--seeds", "40", "--processes", "1"])
    assert "40 seeds, all promises held: {'right': " in capsys.readouterr().out


def test_the_long_run_stops_at_the_first_broken_promise_and_tells_its_seed(capsys, monkeypatch):
    monkeypatch.setattr(long_run, "_CHUNK", 10)
    monkeypatch.setattr(long_run, "ProcessPoolExecutor", InThisProcess)

    def fails(seed, **how):
        if seed == 25:
            raise Violation("a promise")
        return survive(seed, **how)

    monkeypatch.setattr(long_run, "survive", fails)
    with pytest.raises(SystemExit):
        long_run.main(["--seeds", "1000", "--processes", "1"])
    assert "seed 25: a promise" in capsys.readouterr().out


class InThisProcess:
    def __init__(self, processes):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def map(self, function, items):
        return map(function, items)

    def shutdown(self, *, cancel_futures):
        assert cancel_futures


def test_a_job_that_stalls_several_times_over_is_still_finished():
    """Overlapping runs and lost records: three rounds of making everything again were one too few."""
    seen = survive(99, script=SimulatedFaults(99, ("duplicate", "forget", "record", "lose"), most=6))
    assert (seen.outcome, seen.rounds) == ("right", 4)
