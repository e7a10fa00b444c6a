"""A task that has failed is run again where a person can look, with the inputs that it had."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from waiting import wait

import wukong
from wukong import cli
from wukong.backends.plugins import load_storage
from wukong.core.codec import Codec
from wukong.core.failed import FailureKeeper
from wukong.core.policy import Policy
from wukong.core.raised import Raised
from wukong.errors import JobError, StoreUnavailable


@pytest.fixture(scope="module")
def client(everywhere: str) -> Iterator[wukong.Client]:
    with wukong.Client(progress=False, keep_failed=True) as one:
        yield one


@pytest.fixture(scope="module")
def here() -> Iterator[wukong.Client]:
    with wukong.Client("local", "local", progress=False) as one:
        yield one


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Type these lines, whoever asks for them."""
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def fail(*args: Any, **kwargs: Any) -> Any:
    secret = len(args)
    raise KeyError(f"after {secret} arguments")


def double(x: Any) -> Any:
    return x * 2


def left(client: wukong.Client) -> set[bytes]:
    client._background.settle(client.last_job)  # behind the one that is under way
    client.last_job.summary()
    return {key for key in client._deployment.store.scan(client._deployment.client.encode()) if b"lease" not in key}


def calls(client: wukong.Client) -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Ways in which a task has inputs: what computes it, the arguments that it has, and its named ones."""
    large = np.arange(100_000)
    kept = client.scatter(np.ones(20_000))
    delayed = dask.delayed(fail)([dask.delayed(double)(4), 1], {"x": dask.delayed(double)("a")}, named=2)
    return {
        "inputs": (lambda: client.get({"a": (double, 3), "bad": (fail, "a", "a")}, "bad"), (6, 6), {}),
        "literals": (lambda: client.get({"a": (double, 3), "bad": (fail, 1, "a", "z")}, "bad"), (1, 6, "z"), {}),
        "large": (lambda: client.get({"bad": (fail, large)}, "bad"), (large,), {}),
        "nested": (lambda: delayed.compute(scheduler=client), ([8, 1], {"x": "aa"}), {"named": 2}),
        "future": (lambda: client.submit(fail, kept, of=1).result(), (np.ones(20_000),), {"of": 1}),
    }


@pytest.mark.parametrize("way", ["inputs", "literals", "large", "nested", "future"])
def test_the_function_and_its_arguments_are_those_that_it_had(client: wukong.Client, way: str) -> None:
    compute, args, kwargs = calls(client)[way]
    with pytest.raises(KeyError, match="after") as raised:
        compute()
    assert f"wukong debug {client.last_job.id} " in raised.value.__notes__[1]
    call = client.debug(run=False)
    assert call.func.__name__ == "fail"
    np.testing.assert_equal((call.args, call.kwargs), (args, kwargs))
    with pytest.raises(KeyError, match=f"after {len(args)} arguments"):
        call.func(*call.args, **call.kwargs)


def test_inputs_of_other_executors_are_kept_too(client: wukong.Client) -> None:
    with dask.config.set({"wukong.fan_out": "eager"}):
        parts = {f"part-{n}": (np.full, 200_000, n) for n in range(4)}
        with pytest.raises(KeyError):
            client.get({**parts, "bad": (fail, *parts)}, "bad")
    assert [each[0] for each in client.debug(client.last_job, "bad", run=False).args] == [0, 1, 2, 3]


def test_pdb_begins_where_the_task_raises(
    here: wukong.Client, typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyError):
        here.get({"a": (double, 3), "bad": (fail, "a", 1)}, "bad")
    typed("p secret, args", "up", "q")
    assert here.debug() is None
    said = capsys.readouterr().out
    assert '-> raise KeyError(f"after {secret} arguments")' in said
    assert "(2, (6, 1))" in said


def test_the_command_lists_what_has_failed_and_runs_it(
    client: wukong.Client, typed: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    futures = client.map(fail, [10, 20], key=["one", "two"], pure=False)
    wukong.wait(futures)
    job = client.last_job.id
    key = ["--set", f"key={client.settings.key}"] if client.settings.key else []
    assert cli.main(["debug", job, *key]) == 0
    listed = capsys.readouterr().out
    assert listed.count("KeyError") == 2 and "one  fail" in listed
    assert cli.main(["debug", job, "--json", *key]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(each["key"], each["kept"], each["message"]) for each in document["failed"]] == [
        (key, True, "'after 1 arguments'") for key in [each["key"] for each in document["failed"]]
    ]
    typed("p args", "q")
    assert cli.main(["debug", job, "tw", *key]) == 0
    assert "(20,)" in capsys.readouterr().out
    assert cli.main(["debug", job, "three", *key]) == 1
    assert "no task with this key has failed" in capsys.readouterr().err


def test_a_future_says_which_task_is_meant(here: wukong.Client) -> None:
    good, bad = here.map(lambda n: 1 // n, [1, 0])
    wukong.wait([good, bad])
    assert here.debug(bad, run=False).args == (0,)
    with pytest.raises(JobError, match="no task with this key has failed"):
        here.debug(good)


def test_a_task_that_does_not_raise_here_gives_its_value(
    here: wukong.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FileNotFoundError):
        here.get({"bad": (lambda path: Path(path).read_text(), str(tmp_path / "late"))}, "bad")
    (tmp_path / "late").write_text("here now")
    assert here.debug() == "here now"
    assert "does not raise here" in caplog.text


def test_locks_are_free_and_targets_of_the_clients_are_not_written(here: wukong.Client) -> None:
    lock = wukong.Lock()

    def locked(n: int) -> float:
        with lock:
            return 1 / n

    with pytest.raises(ZeroDivisionError):
        here.get({"bad": (locked, 0)}, "bad")
    call = here.debug(run=False)
    with pytest.raises(wukong.errors.LockError):
        call.func(*call.args)
    seen: list[Any] = []
    from wukong.client.debugging import Debugger

    ready = Debugger(here._deployment.store, here._deployment.codec).call(here.last_job, "bad")
    assert ready.run(seen.append) is None
    assert seen[0].tb_frame.f_code.co_name == "locked"


# --- what cannot be run again


def test_what_did_not_fail_is_no_task_or_is_of_no_job_is_said(here: wukong.Client) -> None:
    with pytest.raises(KeyError):
        here.get({"fine": (double, 3), "bad": (fail, "fine")}, "bad")
    job = here.last_job
    with pytest.raises(JobError, match=r"no task with this key has failed.*\n  -> these have: bad"):
        here.debug(job, "fine")
    with pytest.raises(JobError, match=r"no task of the job: .*fused.*\n  -> did you mean fine"):
        here.debug(job, "fin")
    with pytest.raises(JobError, match="no such job in this store"):
        here.debug("0123456789ab-0", "bad")
    here.get({"x": (double, 1)}, "x")
    with pytest.raises(JobError, match="no task of this job has failed"):
        here.debug()
    assert here.debug(job.id, "bad", run=False).args == (6,), "an earlier job's is there still"


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        ({"a": (Unpicklable,), "bad": (fail, "a")}, "cannot be pickled"),
        ({"a": (lambda: (n for n in range(3)),), "bad": (fail, "a")}, "is an iterator"),
        ({"a": (bytes, 200_000), "bad": (fail, "a")}, "200,033 bytes, and of 100,000 bytes that an executor may keep"),
    ],
)
def test_inputs_that_cannot_be_kept_are_named_and_the_error_arrives_all_the_same(
    graph: dict[str, Any], says: str
) -> None:
    with wukong.Client("local", "local", progress=False, keep_failed_bytes="100 kB") as client:
        with pytest.raises(KeyError) as raised:
            client.get(graph, "bad")
        assert raised.value.__notes__ == ["raised by task bad"]
        with pytest.raises(JobError, match=says):
            client.debug()


def test_a_store_that_has_no_room_costs_the_inputs_only(tmp_path: Path) -> None:
    store = {"name": "local", "size_bytes": 3_000_000}
    with wukong.Client("local", store, progress=False) as client:
        with pytest.raises(KeyError):
            client.get({"a": (np.zeros, 1_000_000), "bad": (fail, "a")}, "bad")
        with pytest.raises(JobError, match=r"could not be stored: .* has no room"):
            client.debug()


def test_that_a_task_cannot_be_kept_is_said_where_its_error_is_seen() -> None:
    def put(_: object) -> None:
        raise StoreUnavailable("the store is away")

    order: Any = SimpleNamespace(job="a-0", policy=Policy(keep_failed=True), invocation="0", modules=None)
    keeper = FailureKeeper(order, Codec(b"k" * 32), put, lambda _: 1, [])
    kept = keeper.keep(0, (fail, (), ()), Raised.of(KeyError("bad"), "bad"))
    error = kept.error()
    assert isinstance(error, KeyError)
    assert "it could not be kept for client.debug(): the store is away" in error.__notes__


def test_without_the_setting_nothing_is_kept() -> None:
    with wukong.Client("local", "local", progress=False, keep_failed=False) as client:
        with pytest.raises(KeyError) as raised:
            client.get({"bad": (fail, 1)}, "bad")
        assert raised.value.__notes__ == ["raised by task bad"]
        assert left(client) == set()
        with pytest.raises(JobError, match=r"(?s)were not kept.*keep_failed=True"):
            client.debug()


def test_a_task_that_ends_its_process_leaves_nothing_to_run(here: wukong.Client) -> None:
    with pytest.raises(wukong.errors.InvocationFailed):
        here.get({"bad": (os._exit, 1)}, "bad")
    with pytest.raises(JobError, match=r"(?s)is in the store.*a task that ends its process|one that ends its process"):
        here.debug()


# --- how long it stays


def test_only_failed_tasks_stay_and_they_go_with_the_client(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(load_storage(redis_url)) as store:
        client = wukong.Client("local", redis_url, progress=False)
        client.get({"a": (bytes, 300_000), "b": (double, "a")}, "b")
        wait(lambda: not left(client), "a job without a failure leaves nothing")
        with pytest.raises(KeyError):
            client.get({"a": (bytes, 300_000), "b": (double, "a"), "bad": (fail, "b")}, "bad")
        prefix = client.last_job.id.encode()
        held = prefix + b"/held", prefix + b"/v/", prefix + b"/i/"  # for client.resume
        wait(lambda: all(key.startswith((prefix + b"/f/", *held)) for key in left(client)), "the rest of the job goes")
        assert cli.main(["jobs", "--storage", redis_url, "--json"]) == 0
        states = {each["job"]: each["state"] for each in json.loads(capsys.readouterr().out)["jobs"]}
        assert states[client.last_job.id] == "failed"
        assert cli.main(["cancel", client.last_job.id, "--storage", redis_url]) == 1
        assert "are left for client.resume" in capsys.readouterr().err
        assert len(client.debug(run=False).args[0]) == 600_000
        client.close()
        assert not store.scan(client._deployment.client.encode())
    with wukong.Client("local", redis_url, progress=False, resume_jobs=0) as client:
        with pytest.raises(KeyError):
            client.get({"a": (bytes, 300_000), "bad": (fail, "a")}, "bad")
        prefix = client.last_job.id.encode()
        wait(lambda: all(key.startswith(prefix + b"/f/") for key in left(client)), "the rest of the job goes")
        assert cli.main(["cancel", client.last_job.id, "--storage", redis_url]) == 1
        assert "what is left are its failed tasks" in capsys.readouterr().err


def test_they_go_when_their_time_is_over() -> None:
    with wukong.Client("local", "local", progress=False, ttl_s=1) as client:
        with pytest.raises(KeyError):
            client.get({"bad": (fail, 1)}, "bad")
        assert client.debug(run=False).args == (1,)
        wait(lambda: not left(client), "they are gone")
        with pytest.raises(JobError, match="that failed is in the store"):
            client.debug()


SCRIPT = """\
import signal, sys, wukong
import failing_module
client = wukong.Client("local", sys.argv[1], progress=False)
try:
    client.get({"bad": (failing_module.divide, failing_module.Number(0))}, "bad")
except ZeroDivisionError as error:
    print(client.last_job.id, flush=True)
signal.pause()
"""
MODULE = """\
class Number:
    def __init__(self, n):
        self.n = n

def divide(by):
    return 1 / by.n
"""


@pytest.mark.parametrize("store", ["redis", "local"])
def test_another_process_runs_it_while_the_client_lives_or_once_it_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: Any, store: str
) -> None:
    storage = "local" if store == "local" else request.getfixturevalue("redis_url")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "failing_module.py").write_text(MODULE)
    command = [sys.executable, str(tmp_path / "script.py"), storage]
    path = list(sys.path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            job = process.stdout.readline().strip()
            if store != "local":
                process.send_signal(signal.SIGKILL)
                process.wait()
            typed("p by.n", "q")
            assert cli.main(["debug", job, "bad", "--faas", "local", "--storage", storage]) == 0
            said = capsys.readouterr().out
            assert "-> return 1 / by.n" in said and "(Pdb) 0" in said
        finally:
            process.kill()
            sys.path[:] = path
            sys.modules.pop("failing_module", None)
    if store != "local":
        assert cli.main(["clean", "--storage", storage]) == 0
        assert job.encode() + b"/f/" not in b"".join(open_keys(storage))


def open_keys(storage: str) -> list[bytes]:
    with closing(load_storage(storage)) as store:
        return sorted(store.scan(b""))
