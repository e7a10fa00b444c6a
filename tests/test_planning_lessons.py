"""What jobs teach plans: how it is noted, kept and forgotten."""

import math
import multiprocessing
import sqlite3
from array import array
from contextlib import closing

import dask
import dask.array as da
import pytest
from planning_tools import KIND, taken_in

from wukong.core.ingest import ingest
from wukong.core.layers import layers_of
from wukong.core.noted import Noted, Taught, of_tracks
from wukong.core.track import Track
from wukong.planning.estimates import estimate, held_in, lessons_from
from wukong.planning.learned import MOST_ROWS, Kind, Learned, Lesson, MemoryLesson
from wukong.planning.terms import MOST_STORES, PlaceTerms, RunTaught, clear, runs_of, terms_from, undisturbed


@pytest.fixture
def learned(tmp_path):
    return Learned(tmp_path, "here")


def test_what_a_job_has_taught_is_known_to_the_next_at_this_place(learned, tmp_path):
    learned.learn([(KIND, Lesson(2.0, 1.0, 1e6, 500))])
    [lesson] = learned.lessons([KIND, Kind("work", "g")])[KIND]
    assert (lesson.seconds, lesson.out_bytes, lesson.jobs) == (pytest.approx(2.0), 500, 1)
    assert Learned(tmp_path, "elsewhere").lessons([KIND]) == {}


def test_jobs_that_differ_widen_what_is_known_and_later_ones_count_more(learned):
    for seconds in (1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 4.0):
        learned.learn([(KIND, Lesson(seconds, 1.0, 1e6, -1))])
    [lesson] = learned.lessons([KIND])[KIND]
    assert 2.0 < lesson.seconds < 4.0
    assert lesson.spread > 1.3


def test_one_job_of_many_does_not_say_alone_how_long_tasks_sleep_or_how_they_differ(learned):
    for _ in range(9):
        learned.learn([(KIND, Lesson(1.0, 1.0, 1e6, -1, on_core=0.0))])
    learned.learn([(KIND, Lesson(1.0, 4.0, 1e6, -1, on_core=1.0))])
    [lesson] = learned.lessons([KIND])[KIND]
    assert lesson.on_core == pytest.approx(0.3)
    assert math.log(lesson.spread) ** 2 == pytest.approx(0.3 * math.log(4.0) ** 2)


def test_who_holds_the_lock_stays_known_and_unknown_until_a_job_tells(learned):
    seen = []
    for held in (None, 1.0, None, 0.0):
        learned.learn([(KIND, Lesson(1.0, 1.0, 1e6, -1, held=held))])
        [lesson] = learned.lessons([KIND])[KIND]
        seen.append(lesson.held)
    assert seen == [None, 1.0, 1.0, pytest.approx(0.7)]


def test_the_file_stays_small(learned, tmp_path):
    learned.learn((Kind(f"k{n}", "f"), Lesson(1.0, 1.0, 0.0, -1)) for n in range(MOST_ROWS + 10))
    with sqlite3.connect(tmp_path / "learned.sqlite") as file:
        assert file.execute("select count(*) from learned").fetchone() == (MOST_ROWS,)


def other_table(path):
    with sqlite3.connect(path) as file:
        file.execute("create table learned (place text)")


def earlier_table(path):
    columns = "bucket integer, jobs integer, log_s real, var real, in_bytes real, out_bytes real"
    with sqlite3.connect(path) as file:
        file.execute(
            f"create table learned (place text, prefix text, function text, {columns}, on_core real, at real,"
            " primary key (place, prefix, function, bucket))"
        )


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"no database " * 99), other_table, earlier_table])
def test_a_damaged_file_is_begun_anew(learned, tmp_path, damage, asked):
    damage(tmp_path / "learned.sqlite")
    assert not asked or learned.lessons([KIND]) == {}
    learned.learn([(KIND, Lesson(1.0, 1.0, 0.0, -1))])
    assert KIND in learned.lessons([KIND])


def test_a_table_of_an_earlier_version_is_begun_anew_and_the_others_stay(tmp_path):
    learned, need = Learned(tmp_path, "here", "platform"), MemoryLesson(0, 1, 2, 3)
    earlier_table(tmp_path / "learned.sqlite")
    learned._take_in_needs(learned._open(), [(KIND, need)])
    learned.learn([(KIND, Lesson(1.0, 1.0, 0.0, -1))])
    assert KIND in learned.lessons([KIND])
    assert learned.needs([KIND]) == {KIND: [need]}


def test_without_a_folder_that_can_be_written_to_nothing_is_kept(tmp_path):
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file" / "below"):
        Learned(folder, "here").learn([(KIND, Lesson(1.0, 1.0, 0.0, -1))])
        assert Learned(folder, "here").lessons([KIND]) == {}


def _teach(folder, name):
    for n in range(20):
        Learned(folder, "here").learn([(Kind(name, str(n)), Lesson(1.0, 1.0, 0.0, -1))])


def test_processes_that_learn_at_once_lose_nothing_of_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_teach, args=(tmp_path, name)) for name in "ab"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    kinds = [Kind(name, str(n)) for name in "ab" for n in range(20)]
    assert set(Learned(tmp_path, "here").lessons(kinds)) == set(kinds)


def test_keys_that_are_a_name_and_a_number_are_one_layer_if_there_are_many():
    few, many = [f"load{n}" for n in range(3)], [f"load-{n}" for n in range(1_000)] + ["sum", "7"]
    assert layers_of(few)[0] == few
    names, of = layers_of([("load", 1), *(f"part{n}" for n in range(1_000)), "7"])
    assert (names, of.tolist()) == (["load", "part", "7"], [0] + [1] * 1_000 + [2])
    assert layers_of(many)[0] == ["load", "sum", "7"]


def test_a_job_teaches_little_however_many_keys_its_tasks_have():
    """It learned from each of its tasks one by one, and wrote a row for each, while the next job was under way."""
    work = {**{f"n{n}": (abs, n) for n in range(5_000)}, ("few", 0): (abs, 1)}
    graph = ingest(work, list(work))
    assert len(graph.dag) == 5_001
    told = lessons_from(graph, [RunTaught(task, 1.0) for task in range(len(graph.dag))], {})
    assert {kind for kind, _ in told} == {Kind("n", "abs"), Kind("few", "abs")}
    assert sum(lesson.tasks for _, lesson in told) <= 600


def test_a_job_teaches_means_by_kind_and_size_of_the_inputs():
    _, graph = taken_in(da.ones((40, 10), chunks=(10, 10)).sum(axis=0, split_every=8))
    leaves = dict.fromkeys(graph.dag.leaves(), 800)
    told = lessons_from(graph, [RunTaught(task, 1.0 + task % 2, 0.5) for task in range(5)], leaves)
    [leaves] = [lesson for kind, lesson in told if kind.prefix == "sum"]
    assert (leaves.seconds, leaves.in_bytes, leaves.out_bytes, leaves.tasks) == (1.5, 800, 800, 4)
    assert leaves.on_core == 0.5
    [(last_prefix, last)] = [(kind.prefix, each) for kind, each in told if kind.prefix.startswith("sum-aggregate")]
    assert (last.in_bytes, last.out_bytes) == (3_200, -1)
    [partly] = [
        lesson for kind, lesson in lessons_from(graph, [RunTaught(4, 1.0)], {0: 800}) if kind.prefix == last_prefix
    ]
    assert partly.in_bytes == 0


def test_a_job_teaches_which_tasks_hold_the_interpreters_lock_as_most_executors_say():
    graph = ingest(work := {("a", 0): (abs, 1), ("a", 1): (abs, 1), ("b", 0): (abs, 1)}, list(work))
    [a, b] = {graph.keys[task][0]: task for task in range(3)}.values()
    told = lessons_from(graph, [RunTaught(task, 1.0) for task in range(3)], {}, [(a, True), (a, True), (a, False)])
    assert {kind.prefix: lesson.held for kind, lesson in told} == {"a": pytest.approx(2 / 3), "b": None}
    assert held_in(graph, [(a, True), (b, False)]).count(True) == 2
    assert held_in(graph, [(a, True), (a, False)]).count(None) == 1
    known = estimate(graph, lambda key: None, lambda kinds: {Kind("a", "abs"): [Lesson(1.0, 1.0, 9.0, 1), told[0][1]]})
    assert known.held.count(True) == 2 and known.held.count(None) == 1


def noted(at_s, lived_s, run_s, on_core, cold=False, sums=None, moved=()):
    return Noted(0.0, at_s, at_s + lived_s, True, [0], [run_s], sums or {}, on_core, cold, moved)


def test_what_is_learned_of_a_task_is_without_its_wait_for_a_core_and_without_what_a_new_process_costs():
    waited = noted(0.0, 10.0, 8.0, {"run": (2.0, 6.0, 0.5)})
    assert list(runs_of(Taught([waited]), 9)) == [RunTaught(0, 2.0, 1.0, 2.0)]
    slept = noted(0.0, 10.0, 8.0, {"run": (0.0, 0.0, 0.0)})
    assert list(runs_of(Taught([slept]), 9)) == [RunTaught(0, 8.0, 0.0, 8.0)]
    new = noted(0.0, 10.0, 8.0, {"run": (8.0, 0.0, 6.0)}, cold=True)
    assert list(runs_of(Taught([new]), 9)) == [RunTaught(0, 2.0, 1.0, 8.0)]
    assert list(runs_of(Taught([noted(0.0, 10.0, 8.0, {})]), 9)) == [RunTaught(0, 8.0, 1.0, 8.0)]
    _, graph = taken_in(dask.delayed(abs)(1))
    [(_, lesson)] = lessons_from(graph, runs_of(Taught([new]), 9), {})
    assert lesson.spread**2 == pytest.approx(4.0)


def test_few_of_many_executors_runs_are_taken_however_few_each_has():
    executors = [noted(0.0, 1.0, 1.0, {})] * 1_000
    assert len(list(runs_of(Taught(executors), 10))) == 10


def test_runs_that_lanes_have_disturbed_teach_nothing():
    track = Track(0, False, b"here", 0.0, 0.0, 0.0, 9.0)
    track.tasks.extend([0, 1, 2, 3])
    track.begun.extend([0.0, 1.0, 2.0, 5.0])
    track.took.extend([1.0, 4.0, 1.0, 1.0])
    for lanes, taught in (([0, 0, 1, 0], [0, 3]), ([0, 0, 0, 0], [0, 1, 2, 3])):
        track.lanes = array("B", lanes)
        assert [run.task for run in runs_of(undisturbed(of_tracks([track], b"here")), 9)] == taught
    track.lanes = array("B", [0, 0, 1, 0])
    track.on_core = {"run": (6.0, 1.0, 0.0)}  # known of all lanes, so they have not waited for each other
    assert [run.own_s for run in runs_of(clear(of_tracks([track], b"here")), 9)] == pytest.approx(
        [6 / 7, 24 / 7, 6 / 7, 6 / 7]
    )
    track.on_core = {}
    assert [run.task for run in runs_of(clear(of_tracks([track], b"here")), 9)] == [0, 3]
    track.lanes, track.cold, track.on_core = array("B", [0, 0, 1, 0]), True, {"run": (7.0, 0.0, 3.5)}
    for run in runs_of(undisturbed(of_tracks([track], b"here")), 9):  # what the system took was for all of them
        assert (run.own_s, run.whole_s) == (0.5, 1.0)


def test_what_a_newer_version_tells_of_a_place_is_read_as_far_as_it_is_known():
    terms = PlaceTerms(2.0, moves={"get": (0.001, 1e8)})
    assert PlaceTerms.of_json({**terms.to_json(), "colour": "blue"}) == terms
    with pytest.raises((TypeError, ValueError)):
        PlaceTerms.of_json({"moves": {"get": 1}})


def test_cores_are_told_only_by_tasks_that_wanted_one_for_long_enough():
    for on_s, waited_s in ((0.0, 0.9), (0.02, 0.4), (0.02, 0.9)):
        assert terms_from([noted(0.0, 1.0, 0.5, {"run": (on_s, waited_s, 0.0)})], 0.0).cores is None
    # 0.4 s on a core and 3.3 s without, as on a machine that others use, were taken for nothing.
    busy = [noted(0.0, 2.0, 1.85, {"run": (0.2, 1.65, 0.0)})] * 2
    assert terms_from(busy, 0.0).cores == pytest.approx(0.2, rel=0.01)


def test_a_small_job_erases_nothing_of_what_is_known_of_a_place(learned):
    known = PlaceTerms(1.5, 0.3, 1e6, 10.0, {"get": (0.1, 1e6), "put": (0.1, 1e6)})
    learned.learn([], known)
    learned.learn([], PlaceTerms(moves={"get": (0.2, 2e6)}))
    now = learned.terms()
    assert (now.cores, now.link_bytes_per_s, now.starts_per_s) == (1.5, 1e6, 10.0)
    assert now.moves == {"get": (0.2, 2e6), "put": (0.1, 1e6)}
    few = PlaceTerms(
        link_bytes_per_s=1e5, told={"get": 10.0, "link": 10.0}, moves={"get": (0.4, 1e9), "put": (0.3, 0.0)}
    )
    many = PlaceTerms(
        link_bytes_per_s=1e6, moves={"get": (0.2, 1e6), "put": (0.1, 1e6)}, told={"get": 2e3, "link": 2e3}
    )
    seen = few.after(many)
    assert seen.takes_s("get", 1e6) == pytest.approx(1.2, rel=0.02) and seen.takes_s("put", 1e6) == pytest.approx(1.3)
    assert seen.link_bytes_per_s == pytest.approx(0.92e6, rel=0.01) and seen.told == {"get": 1010.0, "link": 1010.0}
    assert PlaceTerms().after(many).told == {"get": 1e3, "link": 1e3} and PlaceTerms.of_json(seen.to_json()) == seen
    both = [noted(0.0, 10.0, 9.0, {"run": (9.0, 0.0, 0.0)})] * 2
    learned.learn([], terms_from(both, 0.0))  # which have shown that there are more
    assert learned.terms().cores == pytest.approx(1.8)
    learned.learn([], PlaceTerms(0.5))
    assert learned.terms().cores == 0.5


def test_of_a_place_the_last_rates_of_a_bounded_number_of_stores_are_kept(learned, tmp_path):
    learned.learn([], PlaceTerms(stores={"a": (1e6, 5.0), "b": (1e6, 5.0)}))
    learned.learn([], PlaceTerms(stores={"b": (2e6, 6.0)}))
    assert learned.terms().stores == {"a": (1e6, 5.0), "b": (2e6, 6.0)}
    learned.learn([], PlaceTerms(stores={str(n): (1.0, n + 10.0) for n in range(MOST_STORES + 5)}))
    assert learned.terms().stores.keys() == {str(n) for n in range(5, MOST_STORES + 5)}
    with closing(sqlite3.connect(tmp_path / "learned.sqlite")) as file, file:
        file.execute("update places set told = ?", ('{"moves": {}, "stores": {"a": "fast"}}',))
    assert learned.terms() == PlaceTerms()


def test_what_a_place_is_like_is_learned_from_what_executors_did_there(learned):
    sums = {"open": (1, 0.3, 0), "get": (2, 3.0, 200_000_000), "arrive": (10, 0.5, 0)}
    clocks = {"run": (3.0, 3.0, 0.0), "get": (0.5, 1.0, 0.0)}
    both = [noted(0.0, 10.0, 6.0, clocks, sums=sums), noted(5.0, 5.0, 6.0, clocks, sums=sums)]
    terms = terms_from(both, 0.0)
    assert terms.cores == pytest.approx(0.664, abs=0.001)  # half of what they wanted: one of them alone, then both
    assert terms.takes_s("get", 1e8) == pytest.approx(1.0)  # without the wait for a core
    assert terms.takes_s("arrive", 0) == pytest.approx(0.05) and terms.takes_s("put", 0) is None
    assert (terms.start_s, terms.starts_per_s) == (pytest.approx(0.3), None)
    assert terms.with_at_least(2).cores == 2 and PlaceTerms().with_at_least(2).cores is None
    alone = terms_from([noted(0.0, 10.0, 6.0, {"run": (6.0, 0.1, 0.0)})], 0.0)
    assert alone.cores is None and terms_from([], 0.0) == PlaceTerms()
    burst = terms_from([noted(n / 10, 1.0, 0.5, {}) for n in range(11)], 0.0)
    assert burst.starts_per_s == pytest.approx(10.0)
    moved = [(1.0, 2.0, 3_000_000), (2.0, 2.0, 3_000_000), (9.0, 1.0, 2_000_000), (5.0, 3.0, 60_000)]
    assert terms_from([noted(0.0, 10.0, 6.0, {}, moved=moved)], 0.0).link_bytes_per_s == pytest.approx(2e6)
    learned.learn([(KIND, Lesson(1.0, 1.0, 0.0, -1))], terms)
    assert learned.terms() == terms
