"""What jobs teach of the memory that tasks need, and on which size of function the next job's tasks begin."""

import time
from dataclasses import replace

import dask
import numpy as np
import pytest

import wukong
from wukong.backends.peak_memory import PeakMemory
from wukong.config import cache_folder
from wukong.core.ingest import ingest
from wukong.core.noted import Noted, Taught
from wukong.core.sizing import sizes_told
from wukong.planning.kinds import Kinds
from wukong.planning.learned import Kind, Learned, Lesson, MemoryLesson
from wukong.planning.memory import begin_on, learned_memory, needs_from

SMALL, MIDDLE, LARGE = SIZES = (400 << 20, 800 << 20, 3_200 << 20)
MB = 1 << 20


def work(x):
    return x


def other_work(x):
    return x


def chained(n, **given):
    """n tasks of one kind, and as many that need one of those each."""
    dsk = {("a", i): (work, i) for i in range(n)} | {("b", i): (other_work, ("a", i)) for i in range(n)}
    return ingest(dsk, [("b", i) for i in range(n)], **given)


def ran(tasks, function_bytes, memory=()):
    return Noted(0.0, 0.0, 1.0, True, tasks, [0.1] * len(tasks), memory=dict(memory), function_bytes=function_bytes)


def needs_by_prefix(graph, taught):
    return {kind.prefix: need for kind, need in needs_from(graph, taught)}


def numbers(graph, prefix):
    return [task for task, key in enumerate(graph.keys) if key[0] == prefix]


def test_what_has_ended_functions_needs_more_and_what_ran_beside_it_does_not():
    graph = chained(4)
    a, b = numbers(graph, "a"), numbers(graph, "b")
    # Two of b were in the function that the first of a has ended, and ran again on the larger one with it.
    executors = [ran([*a, *b[:2]], MIDDLE, {a[1]: 700 * MB, b[0]: 300 * MB}), ran(b[2:], SMALL, {b[2]: 50 * MB})]
    found = needs_by_prefix(graph, Taught(executors, outgrown=[(a[0], SMALL)]))
    assert found["a"] == MemoryLesson(0, SMALL, 700 * MB, MIDDLE)
    assert found["b"] == MemoryLesson(0, 0, 300 * MB, SMALL)
    assert [begin_on(found[each], SIZES) for each in "ab"] == [MIDDLE, SMALL]


def test_one_task_of_many_that_needs_more_does_not_send_the_others_to_a_larger_function():
    graph = chained(4)
    a = numbers(graph, "a")
    taught = Taught([ran(a[1:], SMALL), ran(a[:1], MIDDLE, {a[0]: 700 * MB})], outgrown=[(a[0], SMALL)])
    assert begin_on(needs_by_prefix(graph, taught)["a"], SIZES) == SMALL


def test_few_large_tasks_among_many_are_seen():
    graph = chained(5_000)
    a, b = numbers(graph, "a"), numbers(graph, "b")
    taught = Taught([ran([*a, *b[1:]], SMALL, {a[0]: MB}), ran(b[:1], MIDDLE, {b[0]: 700 * MB})], {}, [(b[0], SMALL)])
    assert needs_by_prefix(graph, taught)["b"].peak_bytes == 700 * MB


def test_a_peak_beside_which_others_ran_is_nobody_s():
    graph = chained(2)
    a, b = numbers(graph, "a"), numbers(graph, "b")
    peaks = {a[0]: 16 * MB, b[0]: 700 * MB, a[1]: 500 * MB}
    noted = replace(ran([a[0], b[0], a[1]], LARGE, peaks), begun=[0.0, 0.05, 0.3])
    found = needs_by_prefix(graph, Taught([noted]))
    assert found["a"] == MemoryLesson(0, 0, 500 * MB, LARGE) and found["b"] == MemoryLesson(0, 0, 0, LARGE)
    alone = needs_by_prefix(graph, Taught([replace(noted, begun=())]))
    assert alone["b"].peak_bytes == 700 * MB


def test_a_job_on_functions_of_one_size_teaches_nothing_of_memory():
    graph = chained(1)
    assert needs_from(graph, Taught([ran([0], 0, {0: MB})])) == []


@pytest.mark.parametrize(
    ("outgrew", "peak_mb", "held", "begins"),
    [
        (0, 300, 0, MIDDLE),  # with the margin
        (0, 250, 0, SMALL),
        (0, 390, SMALL, SMALL),  # which has held it
        (0, 390, LARGE, MIDDLE),  # by the peak, for nothing has run there yet
        (SMALL, 100, LARGE, MIDDLE),
        (SMALL, 0, LARGE, LARGE),  # short tasks, of which no peak is known
        (SMALL, 0, 0, MIDDLE),
        (0, 0, LARGE, SMALL),  # what follows a large task stays there
        (0, 9_000, LARGE, LARGE),
        (LARGE, 9_000, 0, LARGE),
    ],
)
def test_tasks_begin_on_the_smallest_function_that_holds_them(outgrew, peak_mb, held, begins):
    assert begin_on(MemoryLesson(0, outgrew, peak_mb * MB, held), SIZES) == begins


def test_what_is_known_of_memory_follows_later_jobs():
    first = MemoryLesson(0, SMALL, 700 * MB, MIDDLE)
    again = MemoryLesson(0, 0, 700 * MB, MIDDLE).after(first)
    assert again == first  # it is not tried once more on what it has ended
    less = MemoryLesson(0, 0, 500 * MB, MIDDLE).after(first)
    assert (less.outgrew_bytes, less.peak_bytes) == (SMALL, 640 * MB)
    assert begin_on(MemoryLesson(0, 0, 150 * MB, MIDDLE).after(first), SIZES) == MIDDLE  # by the peak of before
    assert MemoryLesson(0, 0, 150 * MB, MIDDLE).after(first).outgrew_bytes == 0
    assert MemoryLesson(0, 0, 0, SMALL).after(first) == MemoryLesson(0, 0, 700 * MB, SMALL)
    grown = MemoryLesson(0, MIDDLE, 2_000 * MB, LARGE).after(MemoryLesson(0, 0, 300 * MB, SMALL))
    assert grown == MemoryLesson(0, MIDDLE, 2_000 * MB, LARGE)


def learned_in(folder, *needs, prefix="a"):
    graph = chained(1)
    kind = Kinds(graph)[numbers(graph, prefix)[0]]
    learned = Learned(folder, "place", "platform")
    learned.learn([(kind, Lesson(0.1, 1.0, 0.0, 4.0 * MB))], None, [(kind, need) for need in needs])
    return learned


def chosen(graph, learned):
    return learned_memory(graph, SIZES, learned.needs, learned.lessons)


def test_tasks_begin_where_earlier_jobs_have_ended_unless_annotated_or_of_another_kind(tmp_path):
    learned = learned_in(tmp_path, MemoryLesson(0, SMALL, 700 * MB, LARGE))
    graph = chained(3)
    a = numbers(graph, "a")
    graph.memory[a[0]] = 9
    assert chosen(graph, learned) == {a[1]: LARGE, a[2]: LARGE}
    elsewhere = Learned(tmp_path, "place", "another")
    assert chosen(graph, elsewhere) == {}
    dsk = {("a", 0): (other_work, 1)}
    assert chosen(ingest(dsk, list(dsk)), learned) == {}
    graph.memory.update(dict.fromkeys(a[1:], LARGE))
    graph.learned.update(a[1:])
    assert sizes_told(graph, SIZES) == ("1 layer (2 tasks) on 3,200 MB: learned",)
    assert sizes_told(graph, (SMALL,)) == sizes_told(chained(1), SIZES) == ()


def test_smaller_inputs_begin_on_the_smallest_function_and_larger_ones_where_the_nearest_did(tmp_path):
    learned_in(tmp_path, prefix="a")  # whose values are of 4 MB, 2**22
    for bucket, begins in ((22, LARGE), (23, LARGE), (15, LARGE), (25, SMALL)):
        folder = tmp_path / str(bucket)
        learned_in(folder)
        learned = learned_in(folder, MemoryLesson(bucket, SMALL, 700 * MB, LARGE), prefix="b")
        graph = chained(1)
        b = numbers(graph, "b")[0]
        assert chosen(graph, learned).get(b, SMALL) == begins


def test_what_is_known_of_memory_stays_small_and_a_table_of_another_version_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("wukong.planning.learned.MOST_ROWS", 3)
    learned = Learned(tmp_path, "place", "platform")
    kinds = [Kind(f"k{n}", "f") for n in range(5)]
    learned.learn([], None, [(kind, MemoryLesson(0, 1, 2, 3)) for kind in kinds])
    assert list(learned.needs(kinds)) == kinds[2:]
    with learned._open() as file:
        file.execute("drop table needs")
        file.execute("create table needs (platform text, prefix text)")
    learned.learn([], None, [(kinds[0], MemoryLesson(0, 1, 2, 3))])
    assert learned.needs(kinds) == {kinds[0]: [MemoryLesson(0, 1, 2, 3)]}


def test_the_peak_is_what_was_in_use_at_most_since_it_was_asked_for_last():
    peak = PeakMemory()
    before = peak()
    np.ones(8 * MB)
    assert peak() > before + 60 * MB
    assert peak() < before + 30 * MB


def function_bytes():
    from wukong.backends.faas.emulator import worker

    assert worker._inside is not None
    return worker._inside.memory_bytes


def test_a_lesson_counts_unless_it_is_annotated_or_turned_off():
    sizes = (200_000_000, 600_000_000)
    kind = Kinds(ingest({"where": (function_bytes,)}, ["where"]))[0]
    Learned(cache_folder(), "local", "local").learn([], None, [(kind, MemoryLesson(0, sizes[0], 0, sizes[1]))])
    with dask.annotate(memory="1 MB"):
        annotated = dask.delayed(function_bytes)(dask_key_name="where")
    for options, task, begins, told in (
        ({}, dask.delayed(function_bytes)(dask_key_name="where"), 1, ("1 layer (1 task) on 572 MB: learned",)),
        ({}, annotated, 0, ()),
        ({"learned_sizes": False}, dask.delayed(function_bytes)(dask_key_name="where"), 0, ()),
    ):
        with wukong.Client(faas={"name": "local", "sizes_bytes": sizes}, progress=False, **options) as client:
            assert client.compute(task, sync=True) == sizes[begins]
            assert client.last_job.summary().sizes == told


def hungry(x):
    kept = np.full(40_000_000, x)
    time.sleep(0.2)
    return kept.nbytes


def test_the_next_job_begins_where_the_last_has_ended():
    faas = {"name": "local", "sizes_bytes": [200_000_000, 900_000_000]}
    with wukong.Client(faas=faas, progress=False, heartbeat_s=0.1, silence_s=60.0) as client:
        seen = []
        for _ in range(2):
            assert client.get({"x": (float, 1), "hungry": (hungry, "x")}, "hungry") == 320_000_000
            seen.append((client.last_job.summary(), client.last_job.record))
    (first, _), (second, record) = seen
    assert (first.repeated, first.sizes) == (1, ()) and first.repeated_s > 0 and "as estimated" in str(first)
    assert (second.repeated, second.repeated_s, second.sizes) == (0, 0.0, ("1 layer (1 task) on 858 MB: learned",))
    assert "on 858 MB: learned" in str(second) and record.summary["sizes"] == second.sizes
    at = list(record.runs.tasks).index(list(record.keys).index("hungry"))
    assert record.invocations[record.runs.executors[at]].function_bytes == 900_000_000
    assert 320_000_000 < record.runs.memory_bytes[at] < 900_000_000
