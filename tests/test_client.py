"""The client as a data scientist uses it: a scheduler function, a default, errors, several jobs at once, closing."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from dask import delayed
from dask.callbacks import Callback
from dask.diagnostics import ProgressBar
from dask.utils_test import GetFunctionTestMixin
from waiting import gone, wait

import wukong
from wukong.core.job import Job
from wukong.errors import ClientClosed, ConfigError, GraphError, JobCancelled, JobTimeout, UnknownKeyError, WukongError

pytestmark = pytest.mark.usefixtures("on_every_store")


@pytest.fixture(scope="module")
def client(on_every_store: str) -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def inc(x: int) -> int:
    return x + 1


class TestGet(GetFunctionTestMixin):  # type: ignore[misc]
    @pytest.fixture(autouse=True)
    def _get(self, client: wukong.Client) -> None:
        self.get = client.get


def test_wanted_keys_of_any_hashable_kind_come_back_nested_as_they_were_asked_for(client: wukong.Client) -> None:
    graph = {("a", 0): 1, "b": (inc, ("a", 0)), 3: (operator.add, "b", ("a", 0)), 2.5: (inc, 3), b"c": (inc, 3)}
    assert client.get(graph, [[("a", 0)], ["b", [3]], 2.5, b"c"]) == ((1,), (2, (3,)), 4, 4)


def test_an_empty_request_gives_an_empty_answer(client: wukong.Client) -> None:
    assert client.get({"a": 1}, []) == ()


def test_a_key_that_is_asked_for_twice_comes_back_twice(client: wukong.Client) -> None:
    assert client.get({"a": (inc, 1)}, ["a", "a"]) == (2, 2)


def test_a_wanted_key_which_has_dependents_comes_back(client: wukong.Client) -> None:
    assert client.get({"a": (inc, 1), "b": (inc, "a"), "c": (inc, "b")}, ["a", "b", "c"]) == (2, 3, 4)


@pytest.mark.parametrize("value", [None, 0, "", [], {}, False, (), float("nan")])
def test_falsy_values_are_values(client: wukong.Client, value: Any) -> None:
    graph = {"a": (operator.itemgetter(0), [value]), "b": (repr, "a")}
    assert repr(client.get(graph, "a")) == client.get(graph, "b") == repr(value)


def test_a_tasks_exception_arrives_as_itself_with_its_traceback_and_key(client: wukong.Client) -> None:
    def divide_by_nothing(x: int) -> float:
        return x / 0

    with pytest.raises(ZeroDivisionError) as caught:
        client.get({"a": 1, ("bad", 7): (divide_by_nothing, "a"), "c": (inc, ("bad", 7))}, "c")
    assert "divide_by_nothing" in str(caught.value.__cause__)
    assert "('bad', 7)" in "".join(caught.value.__notes__)
    assert client.get({"a": (inc, 1)}, "a") == 2


def test_an_exception_that_cannot_be_pickled_is_still_told(client: wukong.Client) -> None:
    def raise_it() -> None:
        class Local(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__("both are needed")

        raise Local(1, 2)

    with pytest.raises(Exception, match="both are needed"):
        client.get({"a": (raise_it,)}, "a")


def test_a_failing_task_is_run_again_as_often_as_its_annotation_says(client: wukong.Client, tmp_path: Path) -> None:
    def fails_twice(folder: str) -> int:
        tries = len(os.listdir(folder))
        Path(folder, str(tries)).touch()
        if tries < 2:
            raise OSError("not yet")
        return tries

    with dask.annotate(retries=2):
        value = delayed(fails_twice)(str(tmp_path))
    assert value.compute(scheduler=client.get) == 2
    assert len(list(tmp_path.iterdir())) == 3


def _in_a_closure() -> Any:
    lock = threading.Lock()
    return lambda: lock


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ((id, threading.Lock()), "a _thread.lock, argument 0: TypeError"),
        ((max, 1, [2, {"a": threading.Lock()}]), "a _thread.lock, item 'a' of item 1 of argument 1: TypeError"),
        ((_in_a_closure(),), "a _thread.lock, variable 'lock' of the function _in_a_closure.<locals>.<lambda>"),
        ((next, (i for i in range(3))), "a generator, argument 0: TypeError"),
        (threading.Lock(), "a _thread.lock: TypeError"),
    ],
    ids=["argument", "nested", "closure", "generator", "literal"],
)
def test_what_cannot_be_pickled_is_refused_by_task_and_object(client: wukong.Client, task: Any, says: str) -> None:
    with pytest.raises(WukongError) as caught:
        client.get({"fine": (inc, 1), "bad": task}, ["fine", "bad"])
    assert f"cannot pickle {says}" in str(caught.value) and caught.value.task == "bad"


def test_a_cycle_is_refused_and_spelled_out(client: wukong.Client) -> None:
    with pytest.raises(GraphError, match="'a' -> 'c' -> 'b' -> 'a'"):
        client.get({"a": (inc, "c"), "b": (inc, "a"), "c": (inc, "b")}, "a")


def test_what_is_no_graph_is_refused_with_a_clear_error(client: wukong.Client) -> None:
    with pytest.raises(GraphError, match="a int is not a graph"):
        client.get(5, "a")


def test_an_unknown_key_is_a_key_error(client: wukong.Client) -> None:
    with pytest.raises(UnknownKeyError, match="'nowhere'"):
        client.get({"a": 1}, "nowhere")


def test_with_makes_the_client_dasks_default() -> None:
    with wukong.Client(progress=False) as client:
        assert delayed(inc)(1).compute() == 2
        assert client.last_job is not None
        assert client.last_job.summary().tasks == 1
    assert dask.config.get("scheduler", None) != client.get


def test_a_closed_client_says_so() -> None:
    client = wukong.Client(progress=False)
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.get({"a": (inc, 1)}, "a")


def test_an_unknown_setting_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="fan_out"):
        wukong.Client(fan_uot="eager")


def test_jobs_from_several_threads_do_not_mix(client: wukong.Client) -> None:
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        graph = {("x", j): (inc, ("x", j - 1)) for j in range(1, 30)} | {("x", 0): 100 * i}
        results[i] = client.get(graph, ("x", 29))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: 100 * i + 29 for i in range(8)}


def test_nothing_of_a_job_is_left_in_the_store(client: wukong.Client) -> None:
    def slow_add(a: int, b: int) -> int:
        time.sleep(0.03)
        return a + b

    graph: dict[Any, Any] = {("t", 0, i): (slow_add, i, i) for i in range(32)}
    for level, n in enumerate((16, 8, 4, 2, 1), start=1):
        graph.update(
            {("t", level, i): (slow_add, ("t", level - 1, 2 * i), ("t", level - 1, 2 * i + 1)) for i in range(n)}
        )
    assert client.get(graph, ("t", 5, 0)) == 2 * sum(range(32))
    job = client.last_job
    assert job is not None
    summary = job.summary()
    assert summary.reported == summary.executors > 1
    n = len(graph)
    names = job.names
    keys = [names.done, *map(names.value, range(n)), *map(names.page, range(3))]
    keys += [f("0") for f in (names.invocation, names.n_offloads, names.end, names.heartbeat)]
    assert not any(client.storage.get(keys))


def test_eager_fan_out_starts_an_executor_for_every_leaf() -> None:
    with wukong.Client(progress=False, fan_out="eager") as client:
        graph: dict[Any, Any] = {("a", i): (inc, i) for i in range(20)}
        graph["b"] = (sum, [("a", i) for i in range(20)])
        assert client.get(graph, "b") == sum(range(1, 21))
        assert client.last_job is not None
        assert client.last_job.summary().executors == 20


def test_a_job_over_its_time_limit_is_stopped_and_says_so(client: wukong.Client) -> None:
    with pytest.raises(JobTimeout):
        client.get({"a": (time.sleep, 60)}, "a", timeout=0.2)


def test_dasks_callbacks_hear_of_every_task(client: wukong.Client) -> None:
    seen: list[str] = []

    class Listener(Callback):  # type: ignore[misc]
        def _start(self, dsk: Any) -> None:
            seen.append("start")

        def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
            seen.append(f"before {key}")

        def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
            seen.append(f"after {key}")

        def _finish(self, dsk: Any, state: Any, errored: bool) -> None:
            seen.append(f"finish {errored}")

    with Listener():
        client.get({"a": (inc, 1), "b": (inc, "a")}, "b")
    assert seen == ["start", "before a", "after a", "before b", "after b", "finish False"]


def test_dasks_progress_bar_reaches_the_end(client: wukong.Client, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar():
        client.get({"a": (inc, 1), "b": (inc, "a")}, "b")
    assert "100% Completed" in capsys.readouterr().out


def _run(code: str, tmp_path: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=280, cwd=tmp_path, **options
    )


def test_a_script_needs_no_main_guard_and_its_own_modules_travel(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text(
        "OFFSET = 40\n"
        "def shift(x):\n    return Point(x + OFFSET)\n"
        "class Point:\n    def __init__(self, x):\n        self.x = x\n"
    )
    ran = _run(
        """
        import wukong, dask, beside
        class Mine:
            def __init__(self, x): self.x = x
        def wrap(x): return Mine(x)
        with wukong.Client(progress=False):
            point, mine = dask.compute(dask.delayed(beside.shift)(2), dask.delayed(wrap)(5))
            assert isinstance(point, beside.Point) and isinstance(mine, Mine)
            print(point.x, mine.x)
        """,
        tmp_path,
    )
    assert ran.stdout.split() == ["42", "5"], ran.stderr


def test_what_tasks_print_and_log_reaches_the_client_marked(tmp_path: Path) -> None:
    ran = _run(
        """
        import logging, sys, wukong, dask
        logging.basicConfig(level=logging.INFO, format="%(name)s:%(message)s")
        def speak():
            print("hello from afar")
            logging.getLogger("far").info("logged afar")
        with wukong.Client(progress=False) as client:
            client.get({"speaker": (speak,)}, "speaker")
        """,
        tmp_path,
    )
    assert "[speaker] hello from afar" in ran.stderr and ran.stdout == "", ran
    assert "far:" in ran.stderr and "logged afar" in ran.stderr


def test_ctrl_c_stops_the_job_and_its_executors(tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, pathlib, time, wukong, dask
            def forever(folder):
                pathlib.Path(folder, str(os.getpid())).touch()
                time.sleep(600)
            with wukong.Client(progress=False):
                dask.compute(*[dask.delayed(forever, pure=False)("pids") for _ in range(2)])
            """
        )
    )
    pids = tmp_path / "pids"
    pids.mkdir()
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        wait(lambda: list(pids.iterdir()))
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in stderr
    for each in pids.iterdir():
        wait(lambda pid=int(each.name): gone(pid))  # type: ignore[misc]


def test_a_worker_that_dies_is_noticed_and_its_invocation_made_again(tmp_path: Path) -> None:
    def dies_once(folder: str) -> int:
        first = Path(folder, "first")
        if not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 42

    with wukong.Client(progress=False) as client:
        assert client.get({"a": (dies_once, str(tmp_path))}, "a") == 42
        assert client.last_job is not None
        assert client.last_job.summary().repeated == 1


def test_a_task_that_always_kills_its_worker_ends_the_job_with_its_story() -> None:
    with wukong.Client(progress=False) as client:
        with pytest.raises(wukong.errors.InvocationFailed, match="SIGKILL") as caught:
            client.get({"deadly": (os.kill, (os.getpid,), signal.SIGKILL)}, "deadly")
        assert caught.value.task == "deadly"
        assert client.get({"a": (inc, 1)}, "a") == 2


def dies_if(i: int) -> int:
    if i in (2, 3):
        os._exit(7)
    return i


def test_calls_that_always_kill_their_worker_leave_the_others_of_a_map_alone() -> None:
    with wukong.Client(progress=False) as client:
        futures = client.map(dies_if, range(5))
        errors = [future.exception(120) for future in futures]
        assert [error is None for error in errors] == [True, True, False, False, True]
        partial = client.compute([delayed(dies_if)(i) for i in (1, 2)], sync=True, on_error="collect")
        assert partial.results[0] == 1 and "status 7" in partial.results[1].message
        assert [futures[i].result() for i in (0, 1, 4)] == [0, 1, 4]
        for future, error in zip(futures[2:4], errors[2:4], strict=True):
            assert (
                isinstance(error, wukong.errors.InvocationFailed)
                and error.task == future.key
                and "exited with status 7" in str(error)
            )


def test_a_job_that_is_cancelled_while_it_is_shipped_invokes_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship = Job.ship

    def cancelled(self: Job) -> None:
        ship(self)
        self.cancel()

    monkeypatch.setattr(Job, "ship", cancelled)
    with wukong.Client(progress=False) as client:
        with pytest.raises(JobCancelled):
            client.get({"a": (Path.touch, tmp_path / "ran")}, "a")
        assert client.last_job is not None
        assert client.last_job.summary().reported == 0
        monkeypatch.undo()
        assert client.get({"a": (sum, [1, 2])}, "a") == 3  # whoever was invoked before this would have run by now
    assert not (tmp_path / "ran").exists()
