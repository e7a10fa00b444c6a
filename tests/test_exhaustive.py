"""The protocol under every interleaving of two executors, at small scale; and that a broken one is found there."""

import json
import logging
from dataclasses import replace

import pytest
from test_mutations import CleansUpUnfinishedOnly, ForgetsRecords, LooksForNoJob, mutant

from wukong.core.policy import Policy
from wukong.planning.world import Case, Violation
from wukong.testing import exhaustive
from wukong.testing.branching import Bounds
from wukong.testing.choices import Chooser
from wukong.testing.exhaustive import Explored, cases, explore, replay
from wukong.testing.graphs import chain, depth_first, every_dag

EAGER = Policy(fan_out="eager", patience_s=0.0, handover_s=0.0, ride_bytes=100, large_object_bytes=10_000)
JOIN = depth_first({0: (), 1: (), 2: (0, 1)}, [2])
FORK = depth_first({0: (), 1: (0,), 2: (0,)}, [1, 2])
BOTH = depth_first({0: (), 1: (), 2: (0, 1), 3: (0, 1)}, [2, 3])


def case(dag, size=16):
    return Case(dag, (size,) * len(dag), EAGER)


@pytest.fixture(autouse=True)
def without_warnings():
    logger = logging.getLogger("wukong")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def all_of(n_tasks, faults=0, **how):
    total = Explored()
    for each in cases(n_tasks):
        total.add(explore(each, faults, **how))
    return total


def test_every_small_graph_is_there_once():
    """Two tasks: a chain of which one value or both are requested, and two tasks without an edge."""
    assert [sum(1 for _ in every_dag(n, most_outputs=1)) for n in range(1, 5)] == [1, 1, 3, 16]
    assert [sum(1 for _ in every_dag(n)) for n in range(1, 5)] == [1, 3, 10, 69]


def test_a_chooser_goes_through_every_choice_once():
    seen, given = [], []
    while given is not None:
        chooser = Chooser(given)
        seen.append((chooser.choose(2), chooser.choose(1), chooser.pick(lambda: "abc")))
        given = chooser.following()
    assert seen == [(i, 0, letter) for i in range(2) for letter in "abc"]


@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_every_promise_holds_in_every_order_without_faults(n_tasks):
    explored = all_of(n_tasks)
    assert explored.cases == 4 * [1, 3, 10][n_tasks - 1]
    assert explored.states > 10 * explored.cases


def test_every_promise_holds_in_every_order_when_a_watcher_looks():
    for dag in (JOIN, FORK):
        assert explore(case(dag), looks=1).states > explore(case(dag)).states


@pytest.mark.parametrize("kind", ["crash", "duplicate", "lose", "stale", "forget", "record", "error"])
def test_every_promise_holds_in_every_order_with_one_fault(kind):
    """A late delivery, one that is taken for dead and large values have more states, and are in the long mode."""
    assert explore(case(JOIN, 1_000), 1, kinds=(kind,)).states > 100


def test_every_promise_holds_in_every_order_with_two_faults():
    assert explore(case(chain(1)), 2, kinds=("crash", "retry", "duplicate", "lose", "error")).states > 100


def lanes_of(dag, n, size=16):
    return replace(case(dag, size), policy=replace(EAGER, fan_out="patience", lanes=n))


def test_every_promise_holds_in_every_order_of_two_lanes():
    for dag in (JOIN, FORK, BOTH):
        assert explore(lanes_of(dag, 2)).states > 30
    assert explore(lanes_of(FORK, 2), 1, kinds=("crash",)).states > 100


def behind_of(dag):
    """Every value is written behind: storing it takes longer than an executor goes to another task for."""
    policy = replace(EAGER, ride_bytes=10, overlap="on")
    return replace(case(dag, 1_000), policy=policy, costs=(0.01, 0.001, 1e8))


def test_every_promise_holds_in_every_order_of_what_is_written_behind():
    assert explore(behind_of(JOIN)).states > 500
    with pytest.raises(Violation):
        explore(behind_of(FORK), walk=mutant("tells before what is written behind is stored"))


@pytest.mark.parametrize("name", ["what another lane reads is not in use", "what another lane brings is forgotten"])
def test_lanes_that_are_mixed_up_are_found(name):
    with pytest.raises(Violation):
        explore(lanes_of(BOTH, 2), walk=mutant(name))


SMALL = [(chain(1), 2, ("crash", "lose")), (chain(2), 1, ("crash", "delay")), (BOTH, 0, ()), (FORK, 1, ("duplicate",))]


def test_from_a_state_that_was_seen_nothing_new_is_reached(monkeypatch):
    """With every run carried to its end there are no more states than with those that are cut short."""

    def visit(self, state, asleep):
        self.states[state] = frozenset()

    monkeypatch.setattr(Bounds, "sleeps", False)
    pruned = [explore(case(dag), faults, kinds=kinds) for dag, faults, kinds in SMALL[:1]]
    monkeypatch.setattr(Bounds, "visit", visit)
    whole = [explore(case(dag), faults, kinds=kinds) for dag, faults, kinds in SMALL[:1]]
    assert [each.states for each in whole] == [each.states for each in pruned]
    assert whole[0].interleavings > pruned[0].interleavings


@pytest.mark.parametrize(
    ("dag", "faults", "kinds", "saves"),
    [*((*each, False) for each in SMALL[:-1]), pytest.param(*SMALL[-1], True, marks=pytest.mark.long)],
)
def test_what_is_left_out_since_it_commutes_leads_to_no_other_state(monkeypatch, dag, faults, kinds, saves):
    """As many states are reached as by every order of steps that commute; on a larger graph, in fewer runs."""
    few = explore(case(dag), faults, kinds=kinds)
    monkeypatch.setattr(Bounds, "sleeps", False)
    many = explore(case(dag), faults, kinds=kinds)
    assert few.states == many.states
    assert few.interleavings < many.interleavings + (not saves)


def test_the_long_mode_tells_how_many_states_there_are(capsys):
    exhaustive.main(["--tasks", "1", "--faults", "0", "--processes", "1"])
    told = capsys.readouterr().out
    assert told.startswith("1 tasks, up to 0 faults: all promises held in 4 cases, ")


# --- a broken protocol is found


def test_a_task_that_is_claimed_twice_is_found():
    with pytest.raises(Violation, match="task 1 runs 2 times"):
        explore(case(JOIN), walk=mutant("claim not checked"))


def test_an_arrival_before_its_value_is_found():
    with pytest.raises(Violation, match="before its value"):
        explore(case(BOTH, 1_000), walk=mutant("tell before write"))


def test_a_hold_that_is_forgotten_is_found():
    with pytest.raises(Violation, match="no end"):
        explore(case(JOIN, 100_000), walk=mutant("forgets that it holds"))


def test_a_value_that_is_lost_and_not_restored_is_found():
    with pytest.raises(Violation, match="runs without its input"):
        explore(case(JOIN, 1_000), 1, kinds=("stale",), walk=mutant("what is lost is not restored"))


def test_a_hand_over_that_is_not_on_record_is_found():
    patient = Policy(patience_s=0.0, handover_s=0.0, ride_bytes=100)
    with pytest.raises(Violation, match="left over"):
        explore(Case(FORK, (16,) * 3, patient), 1, kinds=("crash",), world=ForgetsRecords)


@pytest.mark.parametrize("execution", [LooksForNoJob, CleansUpUnfinishedOnly])
def test_a_second_delivery_that_leaves_something_is_found(execution):
    with pytest.raises(Violation, match="left over"):
        explore(case(chain(2)), 1, kinds=("duplicate",), execution=execution)


def test_a_violation_tells_the_choices_that_lead_there():
    broken = {"walk": mutant("claim not checked")}
    with pytest.raises(Violation, match="choices") as caught:
        explore(case(JOIN), **broken)
    choices = json.loads(str(caught.value).partition("choices ")[2].partition(" of a")[0])
    assert replay(case(JOIN), choices, **broken)[-1] == str(caught.value).partition("\n")[0]
    assert "Run(task=2" in str(caught.value)
