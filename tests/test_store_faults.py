"""Real servers that die, come back, stay away, fill up, stall and forget, in the middle of jobs.

Each ends with the right answer, or with an error that says which server and what to do, within a bounded time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from waiting import wait, wait_for

import wukong
from wukong.backends.plugins import load_storage
from wukong.core.codec import Codec
from wukong.core.job import Job
from wukong.errors import AuthenticationError, StoreError, StoreFull, StoreUnavailable, WukongError
from wukong.testing.servers import MemcachedServer, RedisServer, ServerProcess, free_port

SETTINGS: dict[str, Any] = {"progress": False, "heartbeat_s": 0.2}
WIDTH = 24


def part(i: int, size: int) -> Any:
    time.sleep(0.03)
    return np.random.default_rng(i).random(size)


def halves(size: int, go: str) -> tuple[dict[Any, Any], Any, float]:
    """Many parts at once, some of which wait for the file `go`; then their sum, pair by pair."""
    graph: dict[Any, Any] = {}
    for i in range(WIDTH):
        graph["part", i] = (part, i, size)
        graph["kept", 0, i] = (wait_for, go, ("part", i)) if i % 4 == 3 else (np.positive, ("part", i))
    level, width = 0, WIDTH
    while width > 1:
        width = -(-width // 2)
        level += 1
        for i in range(width):
            pair = [("kept", level - 1, j) for j in (2 * i, 2 * i + 1) if ("kept", level - 1, j) in graph]
            graph["kept", level, i] = (np.add, *pair) if len(pair) == 2 else (np.positive, *pair)
    graph["sum"] = (np.sum, ("kept", level, 0))
    return graph, "sum", sum(float(part(i, size).sum()) for i in range(WIDTH))


class Running:
    """A job in a thread."""

    def __init__(self, client: wukong.Client, graph: Any, key: Any) -> None:
        self.client = client
        self.answer: Any = None
        self.error: Exception | None = None
        self._thread = Thread(target=self._run, args=(graph, key), daemon=True)
        self._thread.start()

    def _run(self, graph: Any, key: Any) -> None:
        try:
            self.answer = self.client.get(graph, key)
        except Exception as error:
            self.error = error

    @property
    def job(self) -> Job | None:
        """The job, once it is shipped."""
        job = self.client.last_job
        return job if job is not None and job._manifest is not None else None

    def in_the_middle(self) -> None:
        """Return when some tasks have run, and others wait."""
        wait(lambda: self.job is not None and self.job.progress() >= WIDTH // 2)

    def end(self, timeout_s: float = 90.0) -> Any:
        """Return the answer, or raise what was raised."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"no end within {timeout_s} s"
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def shards() -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RedisServer()) for _ in range(3)]


@pytest.fixture
def caches() -> Iterator[list[MemcachedServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(MemcachedServer()) for _ in range(2)]


def url(servers: Sequence[ServerProcess], scheme: str = "redis") -> str:
    return f"{scheme}://{','.join(server.endpoint for server in servers)}"


def left(servers: Sequence[ServerProcess], scheme: str = "redis") -> list[bytes]:
    """Return the keys that are in the servers."""
    with closing(load_storage(url(servers, scheme))) as store:
        return sorted(store.scan(b""))


@pytest.mark.parametrize("victim", [0, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 2))])
def test_a_redis_shard_is_killed_and_comes_back_empty(shards: list[RedisServer], victim: int, tmp_path: Path) -> None:
    go = tmp_path / "go"
    graph, key, total = halves(20_000, str(go))
    settings = {**SETTINGS, "fan_out": "eager", "page_tasks": 16, "payload_inline_bytes": 0}
    with wukong.Client(storage=url(shards), **settings) as client:
        running = Running(client, graph, key)
        running.in_the_middle()
        shards[victim].kill()
        shards[victim].start()
        go.touch()
        assert running.end() == pytest.approx(total)
    assert left(shards) == []


def test_all_redis_shards_are_killed_one_after_the_other(shards: list[RedisServer], tmp_path: Path) -> None:
    go = tmp_path / "go"
    graph, key, total = halves(1_000, str(go))
    with wukong.Client(storage=url(shards), fan_out="eager", **SETTINGS) as client:
        running = Running(client, graph, key)
        running.in_the_middle()
        for server in shards:
            server.kill()
            server.start()
        go.touch()
        assert running.end() == pytest.approx(total)
    assert left(shards) == []


def test_a_redis_shard_that_stays_away_is_an_error_that_names_it(shards: list[RedisServer], tmp_path: Path) -> None:
    go = tmp_path / "go"
    graph, key, _ = halves(1_000, str(go))
    with wukong.Client(storage=url(shards), fan_out="eager", store_patience_s=1.0, **SETTINGS) as client:
        running = Running(client, graph, key)
        running.in_the_middle()
        shards[1].kill()
        go.touch()
        with pytest.raises(WukongError) as caught:
            running.end(timeout_s=60)
    assert shards[1].endpoint in str(caught.value)


def test_a_redis_shard_that_stalls_for_a_while_only_costs_time(shards: list[RedisServer], tmp_path: Path) -> None:
    go = tmp_path / "go"
    graph, key, total = halves(1_000, str(go))
    with wukong.Client(storage=url(shards), fan_out="eager", **SETTINGS) as client:
        running = Running(client, graph, key)
        running.in_the_middle()
        shards[0].freeze()
        go.touch()
        time.sleep(2.0)
        shards[0].thaw()
        assert running.end() == pytest.approx(total)


def test_a_full_redis_is_an_error_that_says_so(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    graph, key, _ = halves(200_000, str(go))
    settings = {**SETTINGS, "fan_out": "eager", "large_object_bytes": 1 << 40}
    with (
        RedisServer("--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as server,
        wukong.Client(storage=url([server]), **settings) as client,
        pytest.raises(StoreFull) as caught,
    ):
        Running(client, graph, key).end()
    assert server.endpoint in str(caught.value)
    assert "memory" in str(caught.value)


def test_a_wrong_password_is_refused_at_once() -> None:
    with (
        RedisServer(password="right") as server,
        pytest.raises(StoreError) as caught,
        wukong.Client(storage={"url": url([server]), "password": "hunter2"}, **SETTINGS) as client,
    ):
        client.get({"a": (max, 1, 2)}, "a")
    assert "password" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not isinstance(caught.value, StoreUnavailable)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_memcached_is_restarted_in_the_middle_of_a_job(
    caches: list[MemcachedServer], victim: int, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    graph, key, total = halves(20_000, str(go))
    storage = url(caches, "memcached")
    with wukong.Client(storage=storage, fan_out="eager", page_tasks=16, payload_inline_bytes=0, **SETTINGS) as client:
        running = Running(client, graph, key)
        running.in_the_middle()
        caches[victim].kill()
        caches[victim].start()
        go.touch()
        assert running.end() == pytest.approx(total)
    assert left(caches, "memcached") == []


def test_what_a_memcached_has_evicted_is_computed_again(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    graph, key, total = halves(400_000, str(go))  # 24 parts of 3.2 MB through 32 MB
    with MemcachedServer(memory_mb=32) as server:
        settings = {**SETTINGS, "fan_out": "eager", "large_object_bytes": 1 << 40}
        with wukong.Client(storage=url([server], "memcached"), **settings) as client:
            assert Running(client, graph, key).end() == pytest.approx(total)
            assert client.last_job is not None
            summary = client.last_job.summary()
            assert summary.restored + summary.repeated > 0, "nothing was evicted: make the parts larger"


@pytest.mark.parametrize("forgery", ["forged", pytest.param("cut short", marks=pytest.mark.long), "of another job"])
def test_what_somebody_else_wrote_into_redis_is_refused_and_not_unpickled(
    shards: list[RedisServer], forgery: str, tmp_path: Path
) -> None:
    go, witness = tmp_path / "go", tmp_path / "witness"
    graph: dict[Any, Any] = {"x": (part, 1, 5_000), "late": (wait_for, str(go), 1.0)}
    graph |= {"a": (np.multiply, "x", "late"), "b": (np.add, "x", 1.0), "sum": (np.sum, ["a", "b"])}
    settings = {**SETTINGS, "fan_out": "eager", "large_object_bytes": 1 << 40, "ride_bytes": 0}
    with wukong.Client(storage=url(shards), **settings) as client:
        running = Running(client, graph, "sum")
        wait(lambda: running.job is not None)
        job = running.job
        assert job is not None
        names = [job.names.value(task) for task in range(job.manifest.n_tasks)]
        wait(lambda: any(client.storage.get(names)))
        [(key, value), *_] = [
            pair for pair in zip(names, client.storage.get(names), strict=True) if pair[1] is not None
        ]
        codec = client._deployment.codec
        evil = {
            "forged": Codec(b"somebody else's key" * 2).encode(Explosive(str(witness)), key),
            "cut short": bytes(value)[:-1],
            "of another job": codec.encode(Explosive(str(witness)), key.replace(job.id.encode(), b"other-job")),
        }
        client.storage.put(dict.fromkeys(names, evil[forgery]))
        go.touch()
        with pytest.raises(AuthenticationError, match="refused to unpickle"):
            running.end()
    assert not witness.exists()


class Explosive:
    """Leaves a file where it is unpickled."""

    def __init__(self, witness: str) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.witness),)


@pytest.mark.parametrize(
    "use", [lambda client: client.get({"a": (sum, [1])}, "a"), lambda client: client.submit(sum, [1]).result()]
)
def test_a_store_that_nobody_answers_at_is_waited_for_once(
    use: Callable[[wukong.Client], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """There is no executor to be told to stop, and nothing to be deleted."""
    caplog.set_level("INFO", "wukong")
    address = f"127.0.0.1:{free_port()}"
    client = wukong.Client(storage=f"redis://{address}", store_patience_s=0.3, **SETTINGS)
    with client, pytest.raises(StoreUnavailable, match=f"the Redis server {address} cannot be reached"):
        use(client)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("wukong")]
    assert len([line for line in said if line.startswith("trying again for")]) == 1, said
    assert not any("cannot tell" in line or "cleaning up failed" in line for line in said)
