"""Whatever ends a client, nothing of it stays in the store; what a killed one leaves is found and deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import ANY

import pytest
from storage_local_tools import places  # noqa: F401
from waiting import wait, wait_for

import wukong
from wukong import cleaning, cli
from wukong.backends.plugins import load_storage
from wukong.backends.storage import Capabilities
from wukong.backends.storage.redis.shard import RedisShard
from wukong.client import background
from wukong.client.lease import RENEW_S, SILENT_S, Lease, machine
from wukong.client.survey import Survey
from wukong.core.ingest import ingest
from wukong.errors import JobCancelled, JobError
from wukong.testing.servers import RedisServer

SCRIPT = """\
import os, signal, socket, sys, threading
sys.path.insert(0, {tests!r})
import wukong
from waiting import wait, wait_for
from wukong.client import signals

class Held:
    def __init__(self, n):
        self.content = os.urandom(300_000)

def hold(n):
    open(f"{{folder}}/{{n}}", "w").close()
    wait_for(f"{{folder}}/never", None)

storage, folder, how = sys.argv[1:]
if how == "handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
client = wukong.Client(storage=storage, faas={{"name": "local", "max_slots": 8}}, progress=False, heartbeat_s=0.2)
futures = client.map(Held, range(4))
client.gather(futures)
scattered = client.scatter([1, "two"])
running = client.map(hold, range(2), pure=False)
wait(lambda: all(os.path.exists(f"{{folder}}/{{n}}") for n in range(2)))
print("ready", flush=True)
if how == "thread":
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
elif how == "lock":
    with client._background._lock:  # as the code that a signal interrupts may have one
        signal.raise_signal(signal.SIGTERM)
    signal.pause()
elif how in ("slow", "closes"):  # closing takes longer than a program that may be stuck is stopped at a time
    signals._STUCK_S = 0.1
    for endpoint in storage.removeprefix("redis://").split(","):
        with socket.create_connection(endpoint.rsplit(":", 1)) as connection:
            connection.sendall(b"CLIENT PAUSE 1500 ALL\\r\\n")
            connection.recv(99)
    if how == "closes":
        threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident, signal.SIGTERM)).start()
        client.close()
    else:
        signal.raise_signal(signal.SIGTERM)
elif how == "get":
    client.get({{"x": (hold, 2), "y": (abs, "x")}}, "y")
elif how != "end":
    signal.pause()
"""


@pytest.fixture(scope="module")
def shards() -> Iterator[str]:
    with RedisServer() as one, RedisServer() as two:
        yield f"redis://{one.endpoint},{two.endpoint}"


def left(storage: str) -> list[bytes]:
    with closing(load_storage(storage)) as store:
        return sorted(store.scan(b""))


@contextmanager
def started(storage: str, folder: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process with kept values and running tasks in the store."""
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, storage, str(folder), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("how", "number", "code"),
    [
        ("end", None, 0),
        pytest.param("thread", None, 0, marks=pytest.mark.long),
        ("pause", signal.SIGTERM, -signal.SIGTERM),
        pytest.param("pause", signal.SIGHUP, -signal.SIGHUP, marks=pytest.mark.long),
        ("get", signal.SIGTERM, -signal.SIGTERM),
        ("lock", None, -signal.SIGTERM),
        ("slow", None, -signal.SIGTERM),
        ("closes", None, -signal.SIGTERM),
        ("handler", signal.SIGTERM, 7),
    ],
)
def test_a_process_that_ends_without_close_leaves_nothing(
    shards: str, tmp_path: Path, how: str, number: int | None, code: int
) -> None:
    with started(shards, tmp_path, how) as process:
        if how == "get":
            wait((tmp_path / "2").exists, "the job runs")
        if number is not None:
            process.send_signal(number)
        assert process.wait(60) == code
    assert left(shards) == []


def test_a_program_that_never_ends_closing_its_client_ends_by_the_signal_in_time() -> None:
    script = """\
import signal, threading, weakref
from wukong.client import signals
signals._CLOSE_S = 0.1
never = threading.Event()
signals.close_on_signals(weakref.finalize(never, print))
with signals.closing():
    signal.raise_signal(signal.SIGTERM)
    never.wait()
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=250).returncode == -signal.SIGTERM


def test_a_forked_child_that_ends_deletes_nothing(shards: str) -> None:
    script = """\
import os, sys, wukong
client = wukong.Client(storage=sys.argv[1], progress=False)
futures = [client.submit(bytes, 300_000), client.scatter("scattered")]
client.gather(futures)
child = os.fork()
if child == 0:
    sys.exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
assert client.gather(futures) == [bytes(300_000), "scattered"]
"""
    subprocess.run([sys.executable, "-c", script, shards], check=True, timeout=250)
    assert left(shards) == []


def test_a_client_that_closes_leaves_nothing(shards: str, tmp_path: Path) -> None:
    client = wukong.Client(storage=shards, progress=False, heartbeat_s=0.2)
    kept = client.map(lambda n: bytes(300_000) + bytes(n), range(8))
    client.gather(kept)
    scattered = client.scatter({"a": 1, "b": bytes(300_000)})
    running = client.submit(wait_for, str(tmp_path / "never"), None)
    assert len(left(shards)) > 8
    client.close()
    assert left(shards) == []
    assert running.cancelled()
    assert len(kept) == 8 and len(scattered) == 2


def test_a_client_whose_store_has_gone_closes_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        client = wukong.Client(storage=f"redis://{server.endpoint}", progress=False, store_patience_s=0.1)
        kept = client.scatter([1])
        server.kill()
        client.close()
    assert "'wukong clean'" in caplog.text
    assert kept


def test_a_shard_that_was_away_when_a_job_ended_has_nothing_left_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer()) for _ in range(3)]
        storage = {"name": "redis", "endpoints": [server.endpoint for server in servers], "answer_timeout_s": 0.2}
        url = "redis://" + ",".join(server.endpoint for server in servers)
        client = stack.enter_context(wukong.Client(storage=storage, progress=False, store_patience_s=0.1))
        kept = client.scatter(list(range(12)))
        wait(lambda: any(key.endswith(b"/lease") for key in left(url)), "the lease is there")
        for server in servers:
            server.freeze()
        kept.clear()  # the futures' values, and then the lease, are to be deleted
        wait(lambda: caplog.text.count("cleaning up failed") > 12, "the janitor cannot")
        for server in servers:
            server.thaw()
        wait(lambda: not left(url), "all is deleted all the same")


# --- by itself, some time later


@pytest.mark.parametrize("store", [pytest.param("redis", marks=pytest.mark.long), "memcached"])
def test_what_a_killed_client_left_goes_when_its_time_to_live_is_over(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    url: str = request.getfixturevalue(f"{store}_url")
    before = set(left(url))
    monkeypatch.setenv("WUKONG_TTL_S", "2")
    with started(url, tmp_path, "pause") as process:
        process.kill()
    assert set(left(url)) > before
    wait(lambda: not set(left(url)) - before, "everything has expired")


@pytest.mark.parametrize("store", ["redis", pytest.param("memcached", marks=pytest.mark.long), "local"])
def test_while_a_client_lives_so_does_what_it_has_in_the_store(request: pytest.FixtureRequest, store: str) -> None:
    url = store if store == "local" else request.getfixturevalue(f"{store}_url")
    with wukong.Client(storage=url, progress=False, ttl_s=2) as client:
        kept = client.map(lambda n: bytes(300_000 + n), range(3))
        kept += client.scatter([1, bytes(3_000_000)])
        before = [len(value) for value in client.gather(kept[:3])]
        client._deployment.store.put({b"canary": b"1"}, 5.0)
        wait(lambda: client._deployment.store.get([b"canary"]) == [None], "the time to live is over, twice")
        assert [len(value) for value in client.gather(kept[:3])] == before
        assert client.gather(kept[3:]) == [1, bytes(3_000_000)]
        assert client.submit(lambda value: len(value), kept[0]).result(timeout=60) == before[0]


def test_a_store_that_renews_nothing_keeps_things_for_a_day_and_is_swept_by_the_next_client(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewing = RedisShard.capabilities
    monkeypatch.setattr(RedisShard, "capabilities", replace(renewing, renews=False))
    dead_client(redis_url, "0123456789ab", ttl_s=50.0)
    dead_client(redis_url, "ba9876543210", ttl_s=3_600.0)
    dead = [key for key in left(redis_url) if key.startswith(b"0123456789ab")]
    with wukong.Client(storage=redis_url, progress=False, ttl_s=40.0) as client:
        assert client._deployment.job(ingest({"x": (abs, -1)}, ["x"])).policy.ttl_s == 86_400.0
        kept = client.scatter([1])
        wait(lambda: not set(dead) & set(left(redis_url)), "the next client has swept")
        assert client.gather(kept) == [1]
    spared = [key for key in left(redis_url) if key.startswith(b"ba9876543210")]
    assert len(spared) == len(dead)
    with closing(load_storage(redis_url)) as store:
        store.delete(spared)


def test_a_job_that_was_taken_over_lives_as_long_as_its_new_client(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WUKONG_TTL_S", "6")
    monkeypatch.setenv("WUKONG_KEY", "theirs")
    with started(shards, tmp_path, "pause") as process:
        [job] = {key.partition(b"/")[0].decode() for key in left(shards) if key.endswith(b"-1/plan")}
        process.kill()
    with wukong.Client(storage=shards, progress=False, heartbeat_s=1.0) as client:
        attached = client.attach(job)
        with closing(load_storage(shards)) as store:
            runner = Survey(store, job, looks=0).runner(job)
        assert runner is not None and runner.client == client._deployment.client, "at once"
        client._deployment.store.put({b"canary": b"1"}, 12.5)
        wait(lambda: client._deployment.store.get([b"canary"]) == [None], "the time to live is over, twice")
        (tmp_path / "never").touch()
        assert attached.result(timeout=100) == [None, None]
    assert left(shards) == []


# --- from outside


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; return its exit code and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        said = capsys.readouterr()
        return code, said.out or said.err

    return run


def test_what_a_killed_client_left_is_shown_and_deleted_and_nothing_else(
    shards: str, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    with wukong.Client(storage=shards, progress=False) as living:
        kept = living.scatter(["mine"])
        wait(lambda: any(key.endswith(b"/lease") for key in left(shards)), "the lease is there")
        mine = left(shards)
        with started(shards, tmp_path, "pause") as process:
            wait(lambda: sum(key.endswith(b"/lease") for key in left(shards)) == 2, "the other lease is there")
            jobs = json.loads(command("jobs", "--storage", shards, "--json")[1])["jobs"]
            assert [(each["state"], each["tasks"]) for each in jobs] == [("kept", None), ("running", jobs[1]["tasks"])]
            assert str(process.pid) in jobs[1]["client"]
            assert "no dead client" in command("clean", "--storage", shards)[1]
            process.kill()
            process.wait()
        jobs = json.loads(command("jobs", "--storage", shards, "--json")[1])["jobs"]
        assert [each["state"] for each in jobs] == ["left", "left"]
        assert "no dead client" in command("clean", "--storage", shards, "--older-than", "1h")[1]
        before = left(shards)
        code, said = command("clean", "--storage", shards, "--dry-run")
        assert (code, left(shards)) == (0, before)
        assert f"would delete {len(before) - len(mine)} keys" in said
        document = json.loads(command("clean", "--storage", shards, "--json")[1])
        assert [len(each["jobs"]) for each in document["clients"]] == [2]
        assert document["clients"][0]["size_bytes"] > 4 * 300_000
        assert left(shards) == mine
        assert living.gather(kept) == ["mine"]


def test_a_running_job_is_cancelled_from_outside(
    shards: str, tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    with wukong.Client(storage=shards, progress=False, heartbeat_s=0.2) as client:
        future = client.submit(wait_for, str(tmp_path / "never"), None)
        assert client.last_job is not None
        job = client.last_job.id
        wait(lambda: any(key.endswith(b"/lease") for key in left(shards)), "the lease is there")
        code, said = command("cancel", job, "--storage", shards)
        assert (code, said.startswith(f"cancelled the job {job}")) == (0, True)
        with pytest.raises(JobCancelled):
            future.result(timeout=60)
        assert not [key for key in left(shards) if key.startswith(job.encode())]
    code, said = command("cancel", job, "--storage", shards)
    assert code == 1
    assert "there is no such job" in said


def test_a_job_that_was_left_is_deleted(shards: str, command: Callable[..., tuple[int, str]]) -> None:
    dead_client(shards, "0123456789ab")
    assert command("cancel", "0123456789ab-1", "--storage", shards)[0] == 0
    assert not [key for key in left(shards) if key.startswith(b"0123456789ab-1")]
    assert [key for key in left(shards) if key.startswith(b"0123456789ab-0")]
    assert command("clean", "--storage", shards)[0] == 0
    assert left(shards) == []


@pytest.mark.parametrize("store", ["redis", "memcached", "local"])
def test_every_store_is_cleaned(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, command: Callable[..., tuple[int, str]]
) -> None:
    """On the embedded store, one at a `path` whose owner has died."""
    choice = ["--storage", store, "--set", f"storage.path={tmp_path}"]
    where: object = {"name": "local", "path": str(tmp_path)}
    if store != "local":
        where = request.getfixturevalue(f"{store}_url")
        choice = ["--storage", str(where)]
        dead_client(where, "0123456789ab")
    else:
        fill = f"import test_cleaning; test_cleaning.dead_client({where!r}, '0123456789ab'); "
        subprocess.run([sys.executable, "-c", fill], cwd=Path(__file__).parent, check=True, timeout=120)
    document = json.loads(command("clean", *choice, "--json", "--dry-run")[1])
    [found] = [each for each in document["clients"] if each["client"] == "0123456789ab"]
    assert found["keys"] == 8
    assert found["size_bytes"] >= 300_000
    assert command("clean", *choice)[0] == 0
    assert not [each for each in json.loads(command("jobs", *choice, "--json")[1])["jobs"] if each["state"] == "left"]


def test_the_embedded_stores_of_this_machine_are_looked_at(
    places: tuple[Path, Path],  # noqa: F811
    command: Callable[..., tuple[int, str]],
) -> None:
    dead = places[0] / f"wukong-{os.getuid()}-dead"
    with wukong.Client(progress=False) as client:
        future = client.submit(bytes, 300_000)
        future.result()
        dead.mkdir()
        (dead / "data.mdb").write_bytes(bytes(10_000))
        assert client.last_job is not None
        kept = [(client.last_job.id, "kept")]

        def shown() -> list[tuple[str, str]]:
            return [(job["job"], job["state"]) for job in json.loads(command("jobs", "--json")[1])["jobs"]]

        wait(lambda: shown() == kept, "the job has ended")
        assert json.loads(command("jobs", "--json")[1])["dead_stores"] == [{"path": str(dead), "size_bytes": ANY}]
        assert "dead processes have left 1 store" in command("jobs")[1]
        assert f"would delete the store {dead}" in command("clean", "--dry-run")[1]
        assert dead.exists()
        assert f"deleted the store {dead}" in command("clean")[1]
        assert not dead.exists()
        assert future.result() == bytes(300_000)


def test_who_is_dead() -> None:
    now = time.time()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = Lease(now, now, pid=os.getpid(), machine=machine())
    assert not here.dead(now + 60, 1.0), "it runs, whatever its lease says"
    assert here.dead(now + SILENT_S + 1), "another process has its number"
    died = Lease(now, now, pid=gone.pid, machine=machine())
    assert died.dead(now)
    assert not died.dead(now + 60, 3_600.0)
    elsewhere = Lease(now, now, pid=gone.pid, machine="elsewhere")
    assert not elsewhere.dead(now + 60)
    assert elsewhere.dead(now + 60, 50.0)
    assert not elsewhere.dead(now + 2 * RENEW_S, 0.0), "a lease may come late"
    assert Lease.read(b"\x80\x04no json") is None
    assert Lease.read(b"[]") is None


def dead_client(storage: object, client: str, ttl_s: float = 600.0) -> None:
    """Put into a store what a client has left whose process is gone, since a minute."""
    with closing(load_storage(storage)) as store:  # type: ignore[arg-type]
        word = {
            "at": time.time() - 60.0,
            "began": 0.0,
            "pid": 1 << 30,
            "machine": machine(),
            "jobs": {},
            "ttl_s": ttl_s,
        }
        items = {f"{client}-{n}/{key}": b"1" for n in (0, 1) for key in ("job", "i/0", "v/7")}
        items |= {f"{client}/lease": json.dumps(word).encode(), f"{client}/kept/0": bytes(300_000)}
        store.put({key.encode(): value for key, value in items.items()}, 600.0)
        if not isinstance(storage, str):
            os._exit(0)  # as one that is killed: its owner does not remove it


class Unlisted:
    """A store that lists no keys, and has one client's lease; `heard`: what that is once it is told to cancel a job."""

    capabilities = Capabilities(scans=False)

    def __init__(self, said: Lease, heard: Lease) -> None:
        self.said, self.heard, self.asked = said, heard, 0

    def get(self, keys: Sequence[bytes]) -> list[bytes]:
        self.asked += 1
        return [json.dumps(asdict(self.said)).encode()]

    def put(self, items: object, ttl_s: float) -> None:
        self.said = self.heard


def test_a_client_that_dies_before_it_cancels_its_job_has_not_cancelled_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaning, "_LOOK_S", 0.0)
    job, now_s = "6f2ac5466e41-0", time.time()
    runs = Lease(now_s, now_s, "host", "user", os.getpid(), machine(), {job: {}})
    dead = replace(runs, pid=1 << 30)
    with pytest.raises(JobError, match="has died before") as error:
        cleaning._cancel_unlisted(Unlisted(runs, dead), job)  # type: ignore[arg-type]
    assert "time to live" in str(error.value)
    for heard in (replace(runs, jobs={}), replace(dead, jobs={})):
        who = cleaning._cancel_unlisted(Unlisted(runs, heard), job)  # type: ignore[arg-type]
        assert who.startswith("6f2ac5466e41 (user@host")


def test_a_client_that_closes_too_early_says_what_becomes_of_what_it_leaves_in_its_kind_of_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "_JOIN_S", 0.0)
    monkeypatch.setattr(background, "_LEAST_JOIN_S", 0.0)
    store, ends = Unlisted(Lease(0.0, 0.0), Lease(0.0, 0.0)), threading.Event()
    janitor = background.Background(store)  # type: ignore[arg-type]
    janitor.aside(ends.wait)
    janitor.close(lambda: None)
    ends.set()
    assert "(this store does not list its keys: what stays goes" in caplog.text
    assert "wukong clean" not in caplog.text


@pytest.mark.parametrize("text", ["nonsense", "6f2ac5466e41", "6f2ac5466e41-0/done", ""])
def test_what_is_no_jobs_id_is_not_looked_up(text: str) -> None:
    now_s = time.time()
    store = Unlisted(Lease(now_s, now_s), Lease(now_s, now_s))
    with pytest.raises(JobError, match="no job's id"):
        cleaning._cancel_unlisted(store, text)  # type: ignore[arg-type]
    assert not store.asked


def test_no_key_is_deleted_before_whoever_cancels_has_stopped_the_executors() -> None:
    with wukong.Client(faas="local", storage="local", progress=False) as client:
        future = client.submit(time.sleep, 600, pure=False)
        wait(lambda: client.last_job is not None and client.last_job._invoked)
        job = client.last_job
        assert job is not None
        early: list[bool] = []

        def stop(prefix: str) -> None:
            early.append(job._settled.wait(0.5))
            client.faas.cancel(prefix)

        job._ground = replace(job._ground, stop=stop)
        client.cancel(future)
        assert job._settled.wait(60) and early == [False]
