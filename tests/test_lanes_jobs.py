"""Tasks that run at once in one function of the emulator: each is interrupted, blamed, heard and excluded for itself.

Tasks meet by files: that a job ends shows that they do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import dask.bag as db
import numpy as np
import pytest
import zarr
from waiting import gone, wait

import wukong
from wukong.backends.faas import TaskOutput
from wukong.core.record import JobRecord
from wukong.errors import InvocationFailed, JobCancelled
from wukong.report.boxes import boxes
from wukong.report.trace import chrome_trace

ONE = {"name": "local", "slots": 1, "max_slots": 1}


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    """Of one function, which runs two tasks at once."""
    with wukong.Client(faas=ONE, storage="local", lanes=2, progress=False) as client:
        yield client


def meets(folder: Path, name: str, others: int = 1) -> None:
    """Say that this task runs, in which process, and wait until that many others do."""
    begun = folder.with_name(f"{folder.name} {name}")
    begun.write_text(str(os.getpid()))
    begun.rename(folder / name)  # whoever sees it may end this process at once
    wait(lambda: len(list(folder.iterdir())) > others)


def pids(folder: Path) -> set[int]:
    """Return the processes in which tasks have met."""
    return {int(wait(each.read_text)) for each in folder.iterdir()}


def stays(folder: Path, name: str) -> None:
    meets(folder, name)
    wait(lambda: False)


def both(task: Any, *given: Any) -> tuple[dict[str, Any], list[str]]:
    """Return a graph of two tasks that are to run at once, and its keys."""
    return {f"task {name}": (task, *given, name) for name in ("one", "two")}, ["task one", "task two"]


def test_ctrl_c_ends_the_tasks_of_all_lanes(client: wukong.Client, tmp_path: Path) -> None:
    def interrupt() -> None:
        wait(lambda: len(list(tmp_path.iterdir())) == 2)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    watching = threading.Thread(target=interrupt)
    watching.start()
    with pytest.raises(KeyboardInterrupt):
        client.get(*both(stays, tmp_path))
    watching.join()
    [pid] = pids(tmp_path)
    wait(lambda: gone(pid))


def test_a_job_that_is_cancelled_ends_the_tasks_of_all_lanes(client: wukong.Client, tmp_path: Path) -> None:
    one, two = client.map(stays, [tmp_path] * 2, ["one", "two"], pure=False)
    wait(lambda: len(list(tmp_path.iterdir())) == 2)
    client.cancel([one, two])
    [pid] = pids(tmp_path)
    wait(lambda: gone(pid))
    with pytest.raises(JobCancelled):
        one.result()


def test_the_record_says_in_which_lane_a_task_ran_and_the_drawings_show_it(
    client: wukong.Client, tmp_path: Path
) -> None:
    client.get(*both(meets, tmp_path))
    job = client.last_job
    assert job is not None
    summary, record = job.summary(), job.record
    assert sorted(record.columns("tasks")["lane"]) == [0, 1]
    record.to_json(tmp_path / "record.json")
    assert sorted(JobRecord.load(tmp_path / "record.json").runs.lanes) == [0, 1]
    threads = [event["args"]["name"] for event in chrome_trace(record)["traceEvents"] if event["name"] == "thread_name"]
    assert "executor 0, lane 1" in threads
    assert 1 in boxes(record, 1, None)["l"][::2]
    assert summary.cores == 1 and summary.cpu_s > 0 and summary.core_s > 0
    assert f"up to 2 tasks at once in an executor, cores {summary.cpu_s / summary.core_s:.0%} used" in str(summary)


def raises(folder: Path, name: str) -> None:
    meets(folder, name)
    if name == "two":
        wait(lambda: (folder / "enough").exists())
        return
    try:
        np.empty(1 << 57)
    finally:
        (folder / "enough").touch()


def test_an_error_comes_with_its_own_task_and_traceback(client: wukong.Client, tmp_path: Path) -> None:
    with pytest.raises(MemoryError) as caught:
        client.get(*both(raises, tmp_path))
    notes = "".join(caught.value.__notes__)
    assert "task one" in notes and "task two" not in notes
    assert "np.empty(1 << 57)" in "".join(traceback.format_exception(caught.value))


@pytest.fixture(scope="module")
def unset() -> Iterator[wukong.Client]:
    """Of one function, and nothing is said of lanes."""
    with wukong.Client(faas=ONE, storage="local", progress=False) as client:
        yield client


def fails_beside(folder: Path, name: str) -> None:
    meets(folder, name)
    raise ValueError(name)


def test_by_default_tasks_that_wait_run_beside_others_and_one_that_fails_there_says_so(
    unset: wukong.Client, tmp_path: Path
) -> None:
    graph = {"task one": (fails_beside, tmp_path, "one"), "task two": (stays, tmp_path, "two")}
    with pytest.raises(ValueError, match="one") as caught:
        unset.get(graph, list(graph))
    assert "1 more of the job's tasks beside it in this process (lanes=auto)" in "".join(caught.value.__notes__)


def rests(_: int) -> tuple[int, int]:
    time.sleep(0.02)
    return os.getpid(), threading.get_ident()


def test_by_default_the_tasks_of_a_bag_run_one_by_one(unset: wukong.Client) -> None:
    """Dask by itself runs bags in processes, so their tasks need not be safe beside each other."""
    bag = db.from_sequence(range(4), npartitions=4).map(rests)
    assert len(set(bag.compute(scheduler=unset))) == 1


def begins(folder: Path, name: str) -> None:
    """Meet the other task the first time; later, note which process runs the first one, and if the second one does."""
    if not (folder / name).exists():
        meets(folder, name)
        return
    first, process = folder / "one again", str(os.getpid())
    if name == "one":
        first.write_text(process)
    elif first.exists() and first.read_text() == process:
        (folder / "beside").touch()


def too_long(folder: Path, name: str) -> str:
    begins(folder, name)
    if name == "one":
        wait(lambda: False)
    return name


def swells(folder: Path, name: str) -> str:
    begins(folder, name)
    kept = []
    while name == "one":
        kept.append(np.ones(500_000))
        time.sleep(0.001)
    return name


@pytest.mark.parametrize(
    ("limit", "task", "what"),
    [({"time_s": 0.6}, too_long, "timeout"), ({"memory_bytes": 200_000_000}, swells, "memory")],
)
def test_a_task_over_a_limit_of_its_function_is_blamed_alone(
    tmp_path: Path, limit: dict[str, Any], task: Any, what: str
) -> None:
    """The first time both are; made again, the function runs them one by one."""
    with (
        wukong.Client(faas=ONE | limit, storage="local", lanes=2, progress=False, heartbeat_s=0.05) as client,
        pytest.raises(InvocationFailed, match=what) as caught,
    ):
        client.get(*both(task, tmp_path))
    assert caught.value.task == "task one"
    assert (tmp_path / "one again").exists() and not (tmp_path / "beside").exists()


def speaks(folder: Path, name: str) -> None:
    """Say something in this thread and in one that it starts, while another task runs; write by the file's number."""
    meets(folder, name)
    print(f"{name} speaks")
    started = threading.Thread(target=print, args=(f"a thread of {name} speaks",))
    started.start()
    started.join()
    meets(folder, f"{name} has spoken", others=3)


def test_what_a_thread_of_a_task_prints_is_marked_with_all_that_run(client: wukong.Client, tmp_path: Path) -> None:
    """A thread does not say who has started it."""
    heard: list[TaskOutput] = []
    shown = client.faas._link.callback  # type: ignore[attr-defined]
    client.faas.subscribe(heard.append)  # type: ignore[attr-defined]
    try:
        client.get(*both(speaks, tmp_path))
        client.faas.drain()  # type: ignore[attr-defined]
    finally:
        client.faas.subscribe(shown)  # type: ignore[attr-defined]
    of = {each.text: each.task for each in heard}
    assert of["one speaks\n"] == "task one" and of["two speaks\n"] == "task two"
    for name in ("one", "two"):
        assert set((of[f"a thread of {name} speaks\n"] or "").split(", ")) == {"task one", "task two"}


def takes_turns(folder: Path, lock: wukong.Lock, name: str) -> list[str]:
    """Read a file and write it with a name more, alone; the other task is there, and waits."""
    meets(folder, name)
    for _ in range(20):
        with lock:
            names = (folder.parent / "names").read_text()
            time.sleep(0)
            (folder.parent / "names").write_text(f"{names}{name} ")
    return [str(os.getpid())]


def test_a_lock_excludes_two_lanes_of_one_function(client: wukong.Client, tmp_path: Path) -> None:
    (tmp_path / "names").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    one, two = client.get(*both(takes_turns, folder, wukong.Lock("file")))
    assert one == two
    names = (tmp_path / "names").read_text().split()
    assert [names.count(name) for name in ("one", "two")] == [20, 20]


class Slow:
    """A target that reads, waits and writes all of its array for each region: two at once lose what one has written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shape, self.dtype = (40,), np.dtype("i8")

    def __setitem__(self, region: Any, chunk: Any) -> None:
        array = zarr.open_array(self.path)
        whole = array[:]
        time.sleep(0.005)
        whole[region] = chunk
        array[:] = whole


def test_a_lock_given_to_store_excludes_two_lanes_of_one_function(client: wukong.Client, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", shape=(40,), chunks=(40,), dtype="i8")
    da.store(da.arange(40, chunks=2), Slow(tmp_path / "x.zarr"), lock=True, scheduler=client)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x.zarr")[:], np.arange(40))
