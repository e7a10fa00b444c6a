"""Nothing is lost: crashes, losses, duplicates, deadlines, lost values, a client that dies, on the real emulator."""

from __future__ import annotations

import operator
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import dask
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tree_tasks import tree
from waiting import gone, wait, wait_for

import wukong
from wukong.core.job import Job
from wukong.errors import InvocationFailed, JobCancelled, JobError, ValueLost

pytestmark = pytest.mark.usefixtures("on_every_store")


def slow_add(a: int, b: int) -> int:
    time.sleep(0.01)
    return a + b


def keys_left(client: wukong.Client, job: Job) -> list[bytes]:
    """Which of the keys that the job may have used still have a value."""
    names, n = job.names, job.manifest.n_tasks
    keys = [names.done, names.plan, names.alive, *map(names.value, range(n)), *map(names.page, range(4))]
    made = ["0"] + [f"0.{i}" for i in range(40)] + [f"0~1.{i}" for i in range(10)] + [f"0.0.{i}" for i in range(10)]
    for invocation in made:
        keys += [
            f(invocation) for f in (names.invocation, names.n_offloads, names.end, names.heartbeat, names.attempts)
        ]
    return [key for key, blob in zip(keys, client.storage.get(keys), strict=True) if blob is not None]


def until_nothing_is_left(client: wukong.Client, job: Job) -> None:
    wait(lambda: not keys_left(client, job), "nothing of the job is left")


ONE_KIND = [{"crash_before": 0.08}, {"crash_during": 0.08}, {"crash_after": 0.08}, {"duplicate": 0.5}, {"lost": 0.15}]
CRASHES = {"crash_before": 0.03, "crash_during": 0.05, "crash_after": 0.03}
MANY_KINDS = {**CRASHES, "duplicate": 0.2, "lost": 0.05, "late": 0.2, "late_s": 0.2, "throttle": 0.2}


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))])
@pytest.mark.parametrize(
    "faults",
    [*(pytest.param(each, marks=pytest.mark.thin) for each in ONE_KIND), MANY_KINDS],
    ids=lambda faults: "+".join(name for name in faults if not name.endswith("_s")),
)
def test_a_job_ends_with_the_right_answer_whatever_happens_to_its_invocations(faults: Any, seed: int) -> None:
    faas = {"name": "local", "faults": {"seed": seed, **faults}}
    graph, key, total = tree(64, slow_add)
    with wukong.Client(faas=faas, progress=False, heartbeat_s=0.1) as client:
        assert client.get(graph, key) == total
        job = client.last_job
        assert job is not None
        job.summary(timeout_s=30)
        until_nothing_is_left(client, job)


@pytest.mark.thin
def test_a_job_much_longer_than_one_functions_limit_finishes() -> None:
    def step(x: int) -> int:
        time.sleep(0.4)
        return x + 1

    graph: dict[Any, Any] = {("x", 0): 0} | {("x", i): (step, ("x", i - 1)) for i in range(1, 21)}
    with wukong.Client(faas={"name": "local", "time_s": 4.0}, progress=False, heartbeat_s=0.2) as client:
        assert client.get(graph, ("x", 20)) == 20
        assert client.last_job is not None
        assert client.last_job.summary().executors >= 3


@pytest.mark.thin
def test_a_task_longer_than_the_limit_fails_with_an_error_that_names_it() -> None:
    with wukong.Client(faas={"name": "local", "time_s": 0.5}, progress=False, heartbeat_s=0.1) as client:
        with pytest.raises(InvocationFailed, match="timeout") as caught:
            client.get(
                {"a": (operator.add, 1, 1), "too long": (time.sleep, 60), "c": (max, "a", "a")}, ["too long", "c"]
            )
        assert caught.value.task == "too long"
        assert "smaller" in str(caught.value)


@pytest.mark.thin
def test_a_task_that_needs_too_much_memory_fails_with_an_error_that_names_it() -> None:
    def greedy() -> int:
        kept = []
        for _ in range(100):
            kept.append(np.ones(4_000_000))
            time.sleep(0.02)
        return len(kept)

    faas = {"name": "local", "memory_bytes": 200_000_000}
    with wukong.Client(faas=faas, progress=False, heartbeat_s=0.1) as client:
        with pytest.raises(InvocationFailed, match="memory") as caught:
            client.get({"greedy": (greedy,)}, "greedy")
        assert caught.value.task == "greedy"


@pytest.mark.thin
def test_tasks_annotated_with_memory_run_on_functions_that_have_it_and_no_others() -> None:
    def memory() -> int | None:
        from wukong.backends.faas.emulator import worker

        assert worker._inside is not None
        return worker._inside.memory_bytes

    with dask.annotate(memory="500 MB"):
        large = [dask.delayed(memory)() for _ in range(2)]
    with dask.annotate(memory="900 GB"):
        largest = dask.delayed(memory)()
    small = dask.delayed(memory)()
    sizes = [200_000_000, 600_000_000, 900_000_000]
    with wukong.Client(faas={"name": "local", "sizes_bytes": sizes}, progress=False) as client:
        found = dask.compute(small, *large, largest)
        assert found == (sizes[0], sizes[1], sizes[1], sizes[2])
        assert client.last_job.summary().repeated == 0


@pytest.mark.thin
def test_a_task_that_needs_more_memory_than_its_function_has_runs_on_a_larger_one() -> None:
    def hungry(x: float) -> int:
        kept = np.full(40_000_000, x)
        time.sleep(0.2)
        return kept.nbytes

    sizes = [200_000_000, 900_000_000]
    with wukong.Client(
        faas={"name": "local", "sizes_bytes": sizes},
        progress=False,
        heartbeat_s=0.1,
        silence_s=60.0,
        learned_sizes=False,
    ) as client:
        assert client.get({"x": (float, 1), "hungry": (hungry, "x")}, "hungry") == 320_000_000
        summary, record = client.last_job.summary(), client.last_job.record
    [story] = [each for each in record.stories if "it goes to a function of" in each.what]
    assert (story.task, story.then) == ("hungry", "made again")
    assert summary.repeated == 1
    assert summary.bill.gb_seconds > 0.2 * sizes[1] / 2**30  # billed as what it ran on


def test_values_that_the_store_has_lost_are_computed_again_and_reported(tmp_path: Path) -> None:
    # Eagerly, so that the large values go through the store: a fan-in of two arrays, one of which waits.
    go = str(tmp_path / "go")
    graph: dict[Any, Any] = {
        "seed": (np.full, 30_000, 2.0),
        "base": (np.add, "seed", 1.0),
        "left": (np.multiply, "base", 2.0),
        "right": (np.multiply, "base", 3.0),
        "late": (wait_for, go, 1.0),
        "sum": (operator.add, "left", "right"),
        "end": (operator.add, "sum", "late"),
        "total": (np.sum, "end"),
    }
    with wukong.Client(progress=False, heartbeat_s=0.1, fan_out="eager", large_object_bytes=10**9) as client:
        results: list[Any] = []
        thread = Thread(target=lambda: results.append(client.get(graph, "total")))
        thread.start()
        wait(lambda: client.last_job is not None and client.last_job._manifest is not None)
        job = client.last_job
        assert job is not None
        values = [job.names.value(task) for task in range(len(graph))]
        wait(lambda: sum(blob is not None for blob in client.storage.get(values)) >= 2)
        wait(lambda: client.storage.get([values[i] for i in range(len(values))]) != [None] * len(values))
        time.sleep(0.3)  # let what can run do so: what is left is waiting for "late"
        client.storage.delete(values)
        Path(go).touch()
        thread.join(60)
        assert results == [30_000 * (3.0 * 5 + 1.0)]


def test_a_lost_fan_in_record_is_made_again(tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    graph: dict[Any, Any] = {"a": (operator.add, 1, 1), "b": (wait_for, go, 5), "c": (operator.add, "a", "b")}
    with wukong.Client(progress=False, heartbeat_s=0.1, fan_out="eager") as client:
        results: list[Any] = []
        thread = Thread(target=lambda: results.append(client.get(graph, "c")))
        thread.start()
        wait(lambda: client.last_job is not None and client.last_job._manifest is not None)
        job = client.last_job
        assert job is not None
        wait(lambda: sum(state.end is not None for state in job._states()) == 1)  # "a" has arrived
        client.storage.delete([job.names.record(task) for task in range(4)])
        Path(go).touch()
        thread.join(60)
        assert results == [7]
        assert job.summary().repeated >= 1


def test_a_result_that_was_lost_before_it_was_read_is_computed_again() -> None:
    class Forgetful:
        """The first read of a requested value finds nothing."""

        def __init__(self, store: Any) -> None:
            self.store, self.lost = store, False

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

        def get(self, keys: Any) -> Any:
            if not self.lost and any(b"/v/" in key for key in keys):
                self.lost = True
                self.store.delete(keys)
            return self.store.get(keys)

    with wukong.Client(progress=False, heartbeat_s=0.1) as client:
        client._deployment.ground = replace(client._deployment.ground, store=Forgetful(client.storage))
        np.testing.assert_array_equal(client.get({"a": (np.arange, 100_000)}, "a"), np.arange(100_000))


def test_cancel_from_another_thread_stops_the_job_and_leaves_nothing() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            client.get({"a": (time.sleep, 600)}, "a")
        except BaseException as error:
            raised.append(error)

    with wukong.Client(progress=False, heartbeat_s=0.1) as client:
        thread = Thread(target=run)
        thread.start()
        wait(lambda: client.last_job is not None and client.last_job._manifest is not None)
        job = client.last_job
        assert job is not None
        job.cancel()
        thread.join(30)
        assert isinstance(raised[0], JobCancelled)
        until_nothing_is_left(client, job)


def test_an_unknown_job_cannot_be_taken_over() -> None:
    with wukong.Client(progress=False) as client, pytest.raises(JobError, match="no such job"):
        client.attach("0123456789ab")


def test_another_client_takes_over_the_job_of_one_that_was_killed(tmp_path: Path) -> None:
    store, go, begun = tmp_path / "store", tmp_path / "go", tmp_path / "begun"
    begun.mkdir()
    program = textwrap.dedent(
        f"""
        import operator, os, time, pathlib, wukong
        def wait_for(path, value):
            pathlib.Path({str(begun)!r}, str(os.getpid())).touch()
            while not pathlib.Path(path).exists():
                time.sleep(0.01)
            return value
        client = wukong.Client(storage={{"name": "local", "path": {str(store)!r}}}, key="of this deployment",
                               progress=False, heartbeat_s=0.1)
        future = client.submit(wait_for, {str(go)!r}, 41)
        graph = {{"a": (wait_for, {str(go)!r}, 41), "b": (operator.add, "a", 1)}}
        import threading
        threading.Thread(target=client.get, args=(graph, ["b", "a"]), daemon=True).start()
        job = None
        while job is None or job._manifest is None or len(job.manifest.outputs) != 2:
            time.sleep(0.01)
            job = client.last_job
        print(job.id, flush=True)
        time.sleep(600)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        job_id = process.stdout.readline().strip()
        wait(lambda: len(list(begun.iterdir())) == 2)
        workers = [int(each.name) for each in begun.iterdir()]
    finally:
        process.kill()
        process.communicate()
    wait(lambda: all(map(gone, workers)))  # they live on for a moment, and might end the job
    storage = {"name": "local", "path": str(store), "adopt": True}
    settings = {"key": "of this deployment", "heartbeat_s": 0.1, "progress": False, "set_as_default": False}
    taken = wukong.Client(storage=storage, **settings).attach(job_id)  # the handle keeps the client open
    assert taken.id == job_id
    go.touch()
    assert taken.result(timeout=60) == [42, 41]
    assert taken.summary().repeated >= 1
    told, exporter = TracerProvider(), InMemorySpanExporter()
    told.add_span_processor(SimpleSpanProcessor(exporter))
    trace_id, spans = taken.spans(told), exporter.get_finished_spans()
    assert Counter(span.name for span in spans)["tasks"] == len(taken.record.runs) > 0
    assert {format(span.context.trace_id, "032x") for span in spans} == {trace_id}
    [whole] = [span for span in spans if span.name == "job"]
    assert whole.start_time == min(span.start_time for span in spans)
    with taken._client as client:
        until_nothing_is_left(client, taken._job)


@pytest.mark.thin
def test_tasks_of_a_higher_priority_come_first(tmp_path: Path) -> None:
    def note(name: str) -> None:
        with (tmp_path / "order").open("a") as file:
            file.write(name)

    plain = [dask.delayed(note, pure=False)("-") for _ in range(20)]
    with dask.annotate(priority=10):
        urgent = [dask.delayed(note, pure=False)("!") for _ in range(20)]
    with wukong.Client(progress=False, patience_s=60.0):  # a single executor: several have an order each
        dask.compute(*plain, *urgent)
    assert (tmp_path / "order").read_text() == "!" * 20 + "-" * 20


@pytest.mark.thin
def test_backups_are_made_where_use_is_billed_and_for_a_share_of_the_job_unless_settings_say_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def backups(**settings: Any) -> tuple[bool, float | None]:
        with wukong.Client("local", "local", progress=False, **settings) as client:
            policy = client._deployment.policy()
            return policy.backup, policy.backup_share

    assert backups() == (False, None) and backups(backup=True) == (True, None)
    monkeypatch.setattr("wukong.backends.faas.local.LocalFaaS.billed", True)
    assert backups() == (True, 0.02) and backups(backup=False) == (False, None)


@pytest.mark.thin
def test_an_invocation_far_slower_than_its_peers_is_backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs_once(folder: str, i: int) -> int:
        first = Path(folder, "first")
        if i == 3 and not first.exists():
            first.touch()
            time.sleep(600)
        return i

    monkeypatch.setattr("wukong.core.backups._SLOW_S", 0.5)
    graph: dict[Any, Any] = {("a", i): (hangs_once, str(tmp_path), i) for i in range(20)}
    graph["sum"] = (sum, [("a", i) for i in range(20)])
    with wukong.Client(progress=False, fan_out="eager", heartbeat_s=0.1, backup=True) as client:
        assert client.get(graph, "sum") == sum(range(20))
        job = client.last_job
        assert job is not None
        summary = job.summary()
        assert summary.repeated >= summary.backed_up >= 1 and f"{summary.backed_up} of them as backups" in str(summary)
        told = [story for story in job.record.stories if story.then == "backed up"]
        assert len(told) == summary.backed_up and "half of its peers took" in told[0].what


def started(client: wukong.Client, graph: Any, key: Any) -> tuple[Thread, Job, list[Any]]:
    """A job that runs in a thread, once it is shipped; its result, or the error, will be in the list."""
    results: list[Any] = []

    def get() -> None:
        try:
            results.append(client.get(graph, key))
        except Exception as error:
            results.append(error)

    thread = Thread(target=get)
    thread.start()
    wait(lambda: client.last_job is not None and client.last_job._manifest is not None)
    assert client.last_job is not None
    return thread, client.last_job, results


def test_large_values_are_released_with_their_last_reader_and_the_peak_is_told(tmp_path: Path) -> None:
    n, values = 12, 100_000

    def peak(release: bool) -> int:
        """A chain, of which each step begins once it is known what of the chain is stored."""
        folder = tmp_path / str(release)
        folder.mkdir()
        first = np.random.default_rng(0).random(values)  # which no compression makes smaller
        graph: dict[Any, Any] = {("a", 0): (np.add, "first", 1.0), "first": first}
        for i in range(1, n):
            graph["go", i] = (wait_for, str(folder / str(i)), i)
            graph["a", i] = (np.add, ("a", i - 1), ("go", i))
        graph["sum"] = (np.sum, ("a", n - 1))
        options = {"fan_out": "eager", "large_object_bytes": 10**9, "ride_bytes": 100, "release": release}
        with wukong.Client(progress=False, **options) as client:
            thread, job, results = started(client, graph, "sum")
            assert job._graph is not None
            key_of = {key: job.names.value(task) for task, key in enumerate(job._graph.keys)}

            def stored(i: int) -> bool:
                return client.storage.get([key_of["a", i]]) != [None]

            for i in range(1, n):
                wait(lambda i=i: stored(i - 1))  # type: ignore[misc]
                (folder / str(i)).touch()
                if release:
                    wait(lambda i=i: not stored(i - 1))  # type: ignore[misc]
            thread.join(60)
            np.testing.assert_allclose(results, [first.sum() + values * (1 + sum(range(1, n)))])
            summary = job.summary()
            until_nothing_is_left(client, job)
            assert not any(client.storage.get(list(key_of.values())))
            return summary.peak_store_bytes

    size_bytes = 8 * values
    assert peak(release=True) < 4 * size_bytes < (n - 2) * size_bytes < peak(release=False)


@pytest.mark.parametrize("what", ["pages", "object", "root", "everything"])
def test_what_the_client_has_shipped_is_shipped_again_if_the_store_has_lost_it(what: str, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    large = np.arange(300_000.0)
    graph: dict[Any, Any] = {("x", 0): (wait_for, go, 5), "large": large}
    graph |= {("x", i): (operator.add, ("x", i - 1), 1) for i in range(1, 40)}
    graph["total"] = (operator.add, ("x", 39), (np.sum, "large"))
    settings: dict[str, Any] = {"page_tasks": 4, "payload_inline_bytes": 0, "heartbeat_s": 0.1}
    with wukong.Client(progress=False, **settings) as client:
        thread, job, results = started(client, graph, "total")
        names = job.names
        wait(lambda: any(state.beat is not None for state in job._states()))  # it runs, and has read its first page
        lost = {
            "pages": [names.page(index) for index in range(1, 11)],
            "object": [names.object(0)],
            "root": [names.invocation("0"), names.heartbeat("0")],
        }
        client.storage.delete([key for kind, keys in lost.items() for key in keys if what in (kind, "everything")])
        if what in ("root", "everything"):
            for state in job._states():  # and the invocation is not heard of any more
                client.storage.delete([names.heartbeat(state.invocation)])
            client.faas.cancel(names.label(""))
        Path(go).touch()
        thread.join(60)
        assert results == [5 + 39 + large.sum()]
        assert job.summary().repeated >= 1


def test_a_lost_value_of_a_future_is_an_error_that_says_so() -> None:
    with wukong.Client(progress=False, heartbeat_s=0.1) as client:
        [future] = client.scatter([np.arange(100_000.0)])
        client.storage.delete([future._state.value.key])
        with pytest.raises(ValueLost, match="future"):
            client.submit(np.sum, future).result(timeout=60)
