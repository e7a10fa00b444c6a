"""Plans: what is known of sizes and durations, and what is made of both. What jobs teach: test_planning_lessons."""

import math
import time
from functools import partial

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from planning_tools import taken_in

import wukong
from wukong.client.plans import modelled
from wukong.core.effects import Get, Put
from wukong.core.layers import edges_of, layers_of
from wukong.core.policy import Costs, Policy
from wukong.planning.estimates import estimate
from wukong.planning.kinds import Kinds, function_name
from wukong.planning.learned import Kind, Lesson
from wukong.planning.metadata import sizes_of
from wukong.planning.plan import Platform, plan
from wukong.planning.store_model import StoreModel, StorePrices, StoreUse
from wukong.planning.terms import PlaceTerms


def sizes_by_layer(*collections):
    expr, graph = taken_in(*collections)
    names, of = layers_of(graph.keys)
    found = {name: set() for name in names}
    for key, layer in zip(graph.keys, of, strict=True):
        found[names[layer]].add(sizes_of(expr)(key))
    return found


def test_an_arrays_metadata_tells_the_sizes_of_its_chunks_also_after_fusion():
    x = da.ones((10, 7), chunks=(4, 7), dtype="float32")
    found = sizes_by_layer((x @ x.T).rechunk(5))
    assert (found["ones_like"], found["rechunk-merge"]) == ({4 * 7 * 4, 2 * 7 * 4}, {5 * 5 * 4})


def test_what_goes_into_a_reduction_is_as_small_as_what_comes_out():
    x = da.ones((10, 7), chunks=(4, 7), dtype="float32")
    assert sizes_by_layer((x + 1).sum(axis=0))["sum"] == {7 * 4}
    assert sizes_by_layer((x + 1).sum())["sum"] == {4}


def test_unknown_chunks_and_other_collections_tell_nothing():
    x = da.ones(10, chunks=5)
    assert None in sizes_by_layer(x[x > 0])["getitem"]
    assert sizes_by_layer(dask.delayed(len)([1])) == {"len": {None}}
    assert sizes_of({"a": (len, [1])})("a") is None


def test_a_frame_in_memory_tells_the_sizes_of_partitions_while_rows_are_kept():
    frame = pd.DataFrame({"a": range(100), "b": 1.0})
    found = sizes_by_layer(dd.from_pandas(frame, npartitions=4).assign(c=1))
    assert found["assign"] == {25 * (8 + 24)}
    assert sizes_by_layer(dd.from_pandas(frame, npartitions=4).groupby("b").a.sum())["chunk"] == {None}


# --- estimates and plans


def estimated(collection, lessons):
    expr, graph = taken_in(collection)
    return graph, estimate(graph, sizes_of(expr), lambda kinds: dict.fromkeys(kinds, lessons) if lessons else {})


def test_what_was_learned_of_another_size_is_scaled_and_without_it_guessed():
    x = da.from_array(np.zeros((64, 64)), chunks=32).map_blocks(np.sort)
    _, found = estimated(x, [Lesson(1.0, 1.0, 32 * 32 * 8 / 4, -1)])
    assert set(found.seconds[:4]) == {4.0}
    assert found.layers[0].basis == "scaled"
    assert {layer.basis for layer in estimated(x, [])[1].layers} == {"guess"}
    assert estimated(x, [Lesson(1.0, 1.0, 0.0, -1)])[1].layers[0].basis == "learned"  # of unknown size: as it is


def test_a_lesson_of_far_smaller_tasks_is_a_guess_with_a_wide_range():
    """One of 256 bytes, taken in proportion, made 5,120 s of a job of 7 s."""
    x = da.from_array(np.zeros((4_000, 2_000)), chunks=(2_000, 2_000)).map_blocks(np.sort)
    _, found = estimated(x, [Lesson(0.04, 1.0, 256.0, 256.0, 9, 99)])
    assert {layer.basis for layer in found.layers} == {"guess"}
    assert 0.04 < found.seconds[0] < 1.0
    assert found.durations(1)[0] > 10 * found.seconds[0] > 100 * found.durations(-1)[0]
    both = [Lesson(1.0, 1.0, 4e6, -1), Lesson(0.125, 1.0, 1e6, -1)]  # it grows by the power of 1.5
    _, found = estimated(x, both)
    assert found.seconds[0] == pytest.approx(8.0**1.5, rel=0.01) and found.layers[0].basis == "scaled"
    _, unsized = estimated(x, [*both, Lesson(3.0, 1.0, 0.0, -1)])
    assert unsized.seconds == found.seconds


def one_plus(x):
    return x + 1


def test_functions_that_are_called_the_same_teach_nothing_about_each_other():
    def one_plus_(x):
        return x + 2

    one_plus_.__name__ = one_plus_.__qualname__ = "one_plus"
    kinds = [Kinds(taken_in(dask.delayed(each)(1))[1])[0] for each in (one_plus, one_plus_, one_plus)]
    assert kinds[0] == kinds[2] != kinds[1] and kinds[0].prefix == kinds[1].prefix
    one, other = (function_name(eval(text)) for text in ("lambda x: x + 1", "lambda x: x + 2"))
    assert one != other and function_name(eval("lambda x: x + 1")) == one
    assert function_name(len) == "len" and function_name(partial(len)) == "partial(len)"
    fused = [da.ones(4, chunks=2) + 1, da.ones(4, chunks=2) * 3]
    graphs = [taken_in(each.sum(split_every=4))[1] for each in fused]
    names = [{Kinds(graph)[task].function for task in range(len(graph.dag))} for graph in graphs]
    assert any("add" in name for name in names[0]) and any("mul" in name for name in names[1])


TERMS = Costs(0.05, 0.001, 1e8)


class Sized:
    def __init__(self, memory_mb, vcpus):
        self.memory_bytes, self.vcpus, self.usd_per_s = memory_mb << 20, vcpus, memory_mb / 1e6
        self.setting = f"--memory {memory_mb}"


def planned(collection, lessons, **given):
    graph, found = estimated(collection, lessons)
    sizes = [Sized(500, 0.5), Sized(1_000, 1.0), Sized(4_000, 4.0)]
    about = {"sizes": sizes, "present": sizes[1], "slots": None, **given}
    policy = Policy(lanes=about.pop("lanes", 1))
    here = Platform("here", TERMS, policy, about.pop("slots"), 512, lambda n, s, _: n * 1e-6 + s * 1e-3, **about)
    _, of = layers_of(graph.keys)
    return plan(graph, found, here, edges=edges_of((graph.dag.parent_ptr, graph.dag.parents), of))


X = da.ones((400, 100), chunks=(100, 100)).map_blocks(np.sort).sum()


def test_a_plan_has_ranges_that_hold_what_is_expected():
    seen = planned(X, [Lesson(1.0, 1.0, 0.0, 80_000)])
    for each in (seen.time_s, seen.executors, seen.put_bytes, seen.held_bytes, seen.usd):
        assert each.low <= each.expected <= each.high
    assert seen.time_s.low < seen.time_s.expected < seen.time_s.high
    assert seen.critical_path_s.expected <= seen.time_s.expected


def test_the_best_size_is_the_cheapest_of_the_fast_ones():
    seen = planned(X, [Lesson(1.0, 1.0, 0.0, 80_000)])
    half, one, four, lanes = seen.sizes
    assert half.time_s > 1.5 * one.time_s
    assert (one.time_s, one.usd) == (four.time_s, pytest.approx(four.usd / 4, rel=0.01))
    assert [each.best for each in seen.sizes] == [False, True, False, False]
    assert [each.present for each in seen.sizes] == [False, True, False, False]
    assert [each.lanes for each in seen.sizes] == [1, 1, 1, 4] and (one.setting, half.setting) == ("", "--memory 500")
    assert lanes.setting == "lanes=4, --memory 4000" and "to have the best function" not in str(seen)


def fan(n):
    leaves = [dask.delayed(one_plus)(k, dask_key_name=("leaf", k)) for k in range(n)]
    return dask.delayed(sum)(leaves, dask_key_name="sum")


def chained(n):
    value = 0
    for k in range(n):
        value = dask.delayed(one_plus)(value, dask_key_name=("link", k))
    return value


def by_size(seen):
    return {(each.memory_bytes >> 20, each.lanes): each for each in seen.sizes}


def test_a_plan_tells_what_lanes_would_do_and_what_to_write_for_the_best():
    rows = by_size(planned(fan(64), [Lesson(1.0, 1.0, 0.0, 8)]))
    assert rows.keys() == {(500, 1), (1_000, 1), (4_000, 1), (4_000, 4)}
    assert rows[4_000, 4].time_s < 1.1 * rows[4_000, 1].time_s and rows[4_000, 4].usd < rows[4_000, 1].usd / 3
    asleep = planned(fan(64), [Lesson(1.0, 1.0, 0.0, 8, on_core=0.0)])
    rows = by_size(asleep)
    assert rows.keys() >= {(500, 16), (1_000, 16), (4_000, 16)}
    assert rows[500, 16].best and rows[500, 1].time_s < 1.1 * rows[1_000, 1].time_s
    assert rows[500, 16].usd < rows[500, 1].usd / 10
    for told in (str(asleep), asleep._repr_html_()):
        assert "to have the best function: lanes=16, --memory 500" in told and "interpreter" in told
    mine = by_size(planned(fan(64), [Lesson(1.0, 1.0, 0.0, 8)], lanes=2))
    assert [key for key, each in mine.items() if each.present] == [(1_000, 2)]
    assert (mine[1_000, 1].setting, mine[4_000, 1].setting) == ("lanes=1", "lanes=1, --memory 4000")
    found = by_size(planned(fan(64), [Lesson(1.0, 1.0, 0.0, 8)], lanes="auto"))
    assert found[4_000, 4].setting == "--memory 4000" and found[1_000, 1].present


def test_lanes_that_want_more_than_the_functions_cores_are_no_gain():
    half_asleep = [Lesson(1.0, 1.0, 0.0, 8, on_core=0.5)]
    found = estimated(fan(4), half_asleep)[1]
    assert found.part_on_core == 0.5
    assert (found.durations(0)[0], found.durations(0, 0.25)[0]) == (1.0, 2.5)
    narrow = [Sized(1_000, 1.0), Sized(1_500, 1.5)]  # which counts as two cores
    rows = by_size(planned(fan(64), [Lesson(1.0, 1.0, 0.0, 8)], sizes=narrow, present=narrow[0]))
    assert rows[1_500, 2].time_s > 1.1 * rows[1_500, 1].time_s  # but for the last task, which is alone


def test_lanes_share_their_functions_cores_also_in_the_plan_of_what_is_now():
    """Each lane was planned with a core of its own."""
    lesson = [Lesson(1.0, 1.0, 0.0, 8)]
    seen = planned(fan(64), lesson, lanes=4, slots=2)
    rows = by_size(seen)
    assert rows[1_000, 4].present and rows[1_000, 4].time_s == seen.time_s.expected >= 33.0
    assert rows[1_000, 4].time_s > 0.99 * rows[1_000, 1].time_s and rows[1_000, 4].usd > 0.99 * rows[1_000, 1].usd
    assert seen.critical_path_s.expected == 2.0
    assert planned(chained(8), lesson, lanes=4).time_s.expected < 9.0  # one at a time: each has the core
    unpriced = planned(fan(64), lesson, lanes=4, slots=2, present=None, sizes=(), function_cores=2)
    assert 17.0 <= unpriced.time_s.expected < 25.0
    here = planned(fan(64), lesson, lanes=4, slots=2, terms=PlaceTerms(cores=2.0))
    assert 33.0 <= here.time_s.expected < 40.0  # those that all functions share are shared once
    near = StoreModel("near", 0.001, 1e8)
    [stored] = planned(fan(64), lesson, lanes=4, slots=2, stores=(near,)).stores
    assert stored.time_s >= 33.0


def test_functions_that_share_a_machine_are_fewer_if_they_are_larger():
    here = {"slots": 2, "gives_way": True, "function_cores": 1}
    rows = by_size(planned(fan(64), [Lesson(1.0, 1.0, 0.0, 8)], **here))
    assert rows.keys() == {(500, 1), (1_000, 1), (4_000, 1), (4_000, 2)}  # there are no four cores
    assert rows[4_000, 2].time_s < 1.1 * rows[1_000, 1].time_s < 0.7 * rows[4_000, 1].time_s


def test_a_size_that_the_values_do_not_fit_into_is_not_the_best():
    seen = planned(da.ones(260_000_000, chunks=130_000_000).map_blocks(np.sort), [])
    assert [each.fits for each in seen.sizes] == [False, False, True, True]
    assert [each.memory_bytes >> 20 for each in seen.sizes if each.best] == [4_000]


def test_a_plan_says_what_it_guesses_and_shows_itself_as_text_and_in_a_notebook():
    told = str(planned(X, []))
    assert "guessed, for no job here has run such tasks" in told and "sample=True" in told
    assert "guess" not in str(planned(X, [Lesson(1.0, 1.0, 0.0, 8)]))
    nasty = dask.delayed(len, pure=False)([1], dask_key_name="a<b>&")
    assert "a&lt;b&gt;&amp;" in planned(nasty, [])._repr_html_()
    assert planned(X, []).to_json()["time_s"]["expected"] > 0


def test_a_plan_has_the_record_that_the_job_would_leave():
    found = planned(X, [Lesson(1.0, 1.0, 0.0, 80_000)])
    record = found.record
    assert sorted(record.runs.tasks) == list(range(found.tasks)) and record.status == "planned"
    assert record.wall_s == found.time_s.expected and min(record.runs.begun) > 0
    ends = [begun + took for begun, took in zip(record.runs.begun, record.runs.took, strict=True)]
    assert max(ends) <= record.wall_s + 1e-6 and len(record.invocations) == found.executors.expected
    ready = record.ready_s
    assert all(ready[task] <= begun + 1e-6 for task, begun in zip(record.runs.tasks, record.runs.begun, strict=True))
    assert record.summary["put_bytes"] == found.put_bytes.expected and "record" not in found.to_json()


def test_a_plan_tells_time_and_cost_by_layer():
    seen = planned(X, [Lesson(2.0, 1.0, 0.0, 8)])
    for each in seen.layers:
        assert each.usd == pytest.approx(each.tasks * each.seconds * 1_000 / 1e6)
    [row] = [line.split() for line in str(seen).splitlines() if line.strip().startswith("sum ")]
    assert row[:7] == ["sum", "4", "2", "s", "8", "s", "$0.008"]


def test_a_plan_recommends_a_store():
    free = StorePrices(write=1e-9)
    fast = StoreModel("fast", 0.0005, 1e9, prices=StorePrices(per_s=1.0, least_s=60.0))
    near = StoreModel("near", 0.001, 1e9, prices=free)
    slow = StoreModel("slow", 1.0, 1e9, large_bytes=100, large_s=1.0, bucket=True, prices=free)
    found = planned(X, [Lesson(1.0, 1.0, 0.0, -1)], stores=(slow, near, fast))
    assert [(each.name, each.best) for each in found.stores] == [("slow", False), ("near", True), ("fast", False)]
    assert found.stores[0].time_s > 2 * found.stores[1].time_s and found.stores[2].store_usd == 60.0
    assert found.to_json()["stores"][1]["best"] and "near" in str(found) and "near" in found._repr_html_()


def test_what_a_job_asks_of_a_store_is_billed_by_units_and_requests():
    bucket = StoreModel(
        "b", 0.005, 1e8, large_bytes=32_768, large_s=0.02, bucket=True, prices=StorePrices(1, 10, 100, 1_000)
    )
    use = StoreUse(bucket, [1_500, 20_000_000])
    assert use.takes_s(Put((0,))) == pytest.approx(0.005, abs=1e-4)
    assert use.takes_s(Put((1,))) == pytest.approx(0.005 + 0.02 + 0.2)  # three objects at once
    use.count(Put((0, 1)), 0)
    use.count(Get((1,)), 0)
    assert (use.writes, use.reads, use.puts, use.gets, use.requests) == (3, 1, 3, 3, 2)
    assert use.usd(5.0) == 3 + 10 + 300 + 3_000


def test_a_plan_of_nothing_is_a_plan():
    seen = planned(dask.delayed(1), [])
    assert (seen.tasks, seen.time_s.expected) == (0, 0.0)
    assert str(seen)


def test_an_hour_of_waiting_is_planned_in_few_steps():
    seen = planned(da.ones(8, chunks=1).map_blocks(np.sort), [Lesson(3_600.0, 1.0, 0.0, 8)], slots=2)
    assert seen.time_s.expected == pytest.approx(4 * 3_600, rel=0.3)


# --- a client's


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client to whom nobody else's jobs have taught anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("learned")))
        with wukong.Client(progress=False) as client:
            yield client


def test_a_client_plans_without_running_and_learns_from_what_it_runs(client, tmp_path):
    ran = tmp_path / "ran"

    def slowly(n):
        ran.touch()
        return math.sqrt(n)

    work = dask.delayed(sum)([dask.delayed(slowly)(n) for n in range(4)])
    before = client.plan(work)
    assert not ran.exists()
    assert before.guesses == ["slowly", "sum"]
    assert (before.tasks, before.usd.low > 0) == (5, True)
    after = client.plan(work, sample=True)
    assert ran.exists()
    assert "slowly" not in after.guesses
    work.compute()
    assert client.plan([work]).guesses == []


def test_a_plan_right_after_a_job_knows_what_that_has_taught(client):
    work = [dask.delayed(math.sqrt)(n) for n in (4, 9)]
    client.compute(work, sync=True)
    assert client.plan(work).guesses == []


def test_a_plan_on_an_emulator_of_larger_functions_tells_what_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with wukong.Client(progress=False, faas={"name": "local", "cpus": 2, "slots": 2}) as two:
        seen = two.plan(fan(8))
    rows = by_size(seen)
    assert [key for key, each in rows.items() if each.present] == [(3_538, 1)]
    assert (3_538, 2) in rows and (10_240, 4) in rows and (10_240, 6) not in rows
    assert rows[3_538, 2].vcpus == pytest.approx(2.0)
    assert (rows[3_538, 2].setting, rows[1_769, 1].setting) == ("", "faas.cpus=1")
    assert rows[10_240, 4].setting == "faas.cpus=6"
    assert seen.usd.expected == pytest.approx(rows[3_538, 1].usd, rel=0.1)  # which rounds no time up


def test_only_collections_are_planned(client):
    with pytest.raises(TypeError, match="plan takes Dask collections"):
        client.plan(3)


def test_a_plan_supposes_all_slots_even_right_after_a_job_that_still_holds_one(client, monkeypatch):
    """It took those that were free at that moment: one, as a rule, and none at all after many futures."""
    monkeypatch.setattr(type(client.faas), "free_slots", lambda self: 0)
    busy = [dask.delayed(time.sleep)(n / 1e6) for n in range(8)]
    slots = client.faas.limits.slots
    client._lessons._learned.learn([(Kind("sleep", "time.sleep"), Lesson(10.0, 1.0, 0.0, 16))])
    assert client.plan(busy).time_s.expected * min(slots, 2) < 100


def test_what_is_planned_of_a_job_in_hindsight_is_what_it_moved(client):
    with dask.config.set({"wukong.fan_out": "eager"}), wukong.Client(progress=False, fan_out="eager") as eager:
        values = [dask.delayed(bytes, pure=False)(n + 100_000) for n in range(12)]
        eager.compute(dask.delayed(len)(values), sync=True)
        job, seen = eager.last_job, eager.last_job.summary()
        model = modelled(eager._deployment, job)
        assert model.executors == seen.executors
        moved = seen.put_bytes + seen.got_bytes
        assert model.put_bytes + model.got_bytes == pytest.approx(moved, rel=0.3)
        eager._deployment.ground.costs.learn([(1e9, 1e9)])  # as what the job itself has found out
        again = modelled(eager._deployment, job)
        assert (again.makespan_s, again.put_bytes) == (model.makespan_s, model.put_bytes)
