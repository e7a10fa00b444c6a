"""Jobs that have not succeeded, and others that go on with them: what is stored is not run again, and nothing stays."""

from __future__ import annotations

import asyncio
import math
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import redis
from dask import delayed
from waiting import wait, wait_for

import wukong
from wukong.core import remains_keeper
from wukong.core.codec import Codec
from wukong.core.effects import Delete, Read
from wukong.core.failed import hint, resume_hint, without_hint
from wukong.core.invocation import Execution
from wukong.core.names import Names
from wukong.core.payload import Order
from wukong.core.policy import Costs, Policy
from wukong.core.remains import JobRemains
from wukong.core.remains_keeper import RemainsKeeper
from wukong.errors import JobCancelled, JobError, StoreUnavailable, WukongError
from wukong.testing.servers import RedisServer


@pytest.fixture(scope="module", params=["local", "redis"])
def client(request: pytest.FixtureRequest) -> Iterator[wukong.Client]:
    storage = request.getfixturevalue("redis_url") if request.param == "redis" else "local"
    with wukong.Client(progress=False, storage=storage, keep_failed=False, fan_out="eager", heartbeat_s=0.05) as one:
        yield one


def there(client: wukong.Client) -> set[bytes]:
    """Return what the client has in its store."""
    deployment = client._deployment
    return {key for key in deployment.store.scan(deployment.client.encode()) if not key.endswith(b"/lease")}


class Tasks:
    """Tasks that say that they have run, by files in a folder; one raises until it is told not to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fixed = folder, folder / "fixed"

    def ran(self, name: str) -> None:
        (self.folder / f"{name}.{uuid.uuid4().hex}").touch()

    def runs(self) -> list[str]:
        """Return what has run since this was asked last."""
        found = [path for path in self.folder.iterdir() if path.suffix]
        for path in found:
            path.unlink()
        return sorted(path.stem for path in found)

    def load(self, n: int, size: int = 1) -> Any:
        self.ran(f"load{n}")
        return np.full(size, n)

    def add(self, *parts: Any) -> Any:
        self.ran("add")
        return sum(parts)

    def risky(self, total: Any) -> int:
        self.ran("risky")
        if not self.fixed.exists():
            raise ValueError("not yet")
        return int(total[0])

    def divided(self, n: int) -> float:
        self.ran(f"divided{n}")
        return 1 / n if self.fixed.exists() else 1 // (n - 1)

    def sized(self, n: int) -> Any:
        self.ran(f"sized{n}")
        if n == 1 and not self.fixed.exists():
            raise ValueError("not yet")
        return np.ones(100_000)

    def held(self, *parts: Any) -> int:
        self.ran("held")
        return int(wait_for(str(self.fixed), 10))


@pytest.fixture
def tasks(tmp_path: Path) -> Tasks:
    return Tasks(tmp_path)


def fails(client: wukong.Client, tasks: Tasks, size: int = 100_000) -> Any:
    """Compute what fails at its last task; return it."""
    wanted = delayed(tasks.risky)(delayed(tasks.load)(1, size))
    with pytest.raises(ValueError, match="not yet"):
        client.compute(wanted, sync=True)
    assert client.last_job is not None and client.last_job.held.wait(60)
    assert tasks.runs() == ["load1", "risky"]
    return wanted


@pytest.mark.parametrize("size", [1, 100_000])
def test_only_what_failed_runs_again_and_nothing_stays(client: wukong.Client, tasks: Tasks, size: int) -> None:
    parts = [delayed(tasks.load)(n, size) for n in range(3)]
    wanted = delayed(tasks.risky)(delayed(tasks.add)(*parts))
    with pytest.raises(ValueError, match="not yet"):
        wanted.compute()
    job = client.last_job
    assert job is not None
    assert tasks.runs() == ["add", "load0", "load1", "load2", "risky"]
    with pytest.raises(ValueError, match="not yet"):
        client.resume(job)
    assert tasks.runs() == ["risky"]
    tasks.fixed.touch()
    name, job = job.id, None  # nobody else has it either, for another one has gone on with it
    assert client.submit(int).result() == 0
    assert client.resume(name) == 3 and tasks.runs() == ["risky"]
    wait(lambda: not there(client), "nothing is stored")
    for one in (client.last_job, None):
        with pytest.raises(JobError, match="has succeeded"):
            client.resume(one)


@pytest.mark.parametrize("how", ["sync", "future"])
@pytest.mark.parametrize("complete", [False, True])
def test_what_a_job_had_made_before_it_was_cancelled_is_taken(
    client: wukong.Client, tasks: Tasks, how: str, complete: bool
) -> None:
    parts = delayed(tasks.load)(1), delayed(tasks.load)(2)
    wanted = delayed(tasks.held)(*parts) if complete else delayed(tasks.add)(*parts, delayed(tasks.held)())
    before = client.last_job
    with ThreadPoolExecutor(1) as threads:
        future = client.compute(wanted) if how == "future" else threads.submit(client.compute, wanted, sync=True)
        job = wait(lambda: client.last_job if client.last_job is not before else None, "the job begins")
        wait(lambda: any(path.stem == "held" for path in tasks.folder.iterdir()), "the last task runs")
        ended = 1 if complete else 2
        wait(lambda: sum(each.end is not None for each in job.heard()) == ended, "the other executors have ended")
        with pytest.raises(JobError, match="still runs"):
            client.resume(job)
        future.cancel() if how == "future" else job.cancel()
        with pytest.raises(JobCancelled) as raised:
            future.result()
    if how == "sync":
        assert f"client.resume({job.id!r}) goes on with it" in str(raised.value)
    assert tasks.runs() == ["held", "load1", "load2"]
    tasks.fixed.touch()
    again, value = client.resume(job), 10 if complete else [13]
    assert (again.result() if how == "future" else again) == value
    assert tasks.runs() == (["held"] if complete else ["add", "held"])
    if how == "future":
        assert future.result() == value  # it is the same one
        del future, again
    wait(lambda: not there(client), "nothing is stored")


def test_futures_of_a_call_are_pending_again(client: wukong.Client, tasks: Tasks) -> None:
    futures = client.map(tasks.divided, [1, 2, 4])
    wukong.wait(futures)
    assert [each.status for each in futures] == ["error", "finished", "finished"] and len(tasks.runs()) == 3
    tasks.fixed.touch()
    again = client.resume(futures[0])
    assert client.gather(again) == client.gather(futures) == [1.0, 1, 0] and tasks.runs() == ["divided1"]
    del futures, again

    tasks.fixed.unlink()
    total = client.compute(delayed(tasks.risky)(delayed(tasks.load)(4, 100_000)))
    assert isinstance(total.exception(), ValueError) and tasks.runs() == ["load4", "risky"]
    tasks.fixed.touch()
    assert client.resume().result() == total.result() == 4 and tasks.runs() == ["risky"]
    del total
    wait(lambda: not there(client), "nothing is stored")


def test_results_that_are_stored_are_taken_too(client: wukong.Client, tasks: Tasks) -> None:
    large = delayed(tasks.load)(3, 100_000)
    with pytest.raises(ValueError, match="not yet"):
        dask.compute(large, delayed(tasks.risky)(large))
    assert tasks.runs() == ["load3", "risky"]
    tasks.fixed.touch()
    array, first = client.resume()
    assert (len(array), first) == (100_000, 3) and tasks.runs() == ["risky"]
    wait(lambda: not there(client), "nothing is stored")


@pytest.mark.parametrize("how", ["sync", "future"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_has_gone_is_computed_again(
    client: wukong.Client, tasks: Tasks, monkeypatch: pytest.MonkeyPatch, how: str, when: str
) -> None:
    wanted = delayed(tasks.risky)(delayed(tasks.load)(1, 100_000))
    if how == "sync":
        fails(client, tasks)
    else:
        assert client.compute(wanted).exception() is not None and len(tasks.runs()) == 2
    job, values = client.last_job, JobRemains.values
    assert job is not None and job.held.wait(60)

    def lose() -> None:
        client._deployment.store.delete([key for key in there(client) if b"/v/" in key])

    def losing(remains: JobRemains, *args: Any) -> Any:
        found = values(remains, *args)
        assert len(found) == 1
        lose()
        return found

    if when == "before":
        lose()
    else:
        monkeypatch.setattr(JobRemains, "values", losing)
    tasks.fixed.touch()
    again = client.resume(job)
    assert (again if how == "sync" else again.result()) == 1 and "load1" in tasks.runs()
    del again
    wait(lambda: not there(client), "nothing is stored")


def test_what_is_retried_leaves_nothing(client: wukong.Client, tasks: Tasks) -> None:
    total = client.compute(delayed(tasks.risky)(delayed(tasks.load)(4, 100_000)))
    assert isinstance(total.exception(), ValueError)
    job = client.last_job
    assert job is not None and job.held.wait(60) and there(client)
    tasks.fixed.touch()
    total.retry()
    assert total.result() == 4
    wait(lambda: not there(client), "nothing is stored")
    assert client.resume(job) is not None and tasks.runs() == ["load4", "load4", "risky", "risky"]


def test_released_futures_are_computed_again(client: wukong.Client, tasks: Tasks) -> None:
    futures = client.map(tasks.sized, [1, 2])
    wukong.wait(futures)
    name = futures[0]._state.job.id
    assert [each.status for each in futures] == ["error", "finished"] and len(tasks.runs()) == 2
    del futures
    wait(lambda: not any(b"/v/" in key for key in there(client)), "the value has gone")
    tasks.fixed.touch()
    again = client.resume(name)
    assert list(map(len, client.gather(again))) == [100_000, 100_000]
    assert tasks.runs() == ["sized1", "sized2"]
    del again
    wait(lambda: not there(client), "nothing is stored")


def test_a_future_that_nobody_has_is_held_before_its_job_begins(
    client: wukong.Client, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    future, resume = client.submit(tasks.divided, 1), client._resume
    assert future.exception() is not None
    job = client.last_job
    del future
    tasks.fixed.touch()

    def slowly(*args: Any) -> Any:
        resume(*args)
        assert client.last_job is not None and client.last_job.settled_within(60)

    monkeypatch.setattr(client, "_resume", slowly)
    assert client.resume(job.id).result(timeout=60) == 1.0


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[wukong.Client, redis.Redis]]:
    with (
        RedisServer() as server,
        wukong.Client(
            progress=False, storage=f"redis://127.0.0.1:{server.port}", keep_failed=False, fan_out="eager"
        ) as client,
        redis.Redis(port=server.port) as bare,
    ):
        yield client, bare


@pytest.mark.parametrize("how", ["sync", "future"])
def test_what_a_job_has_left_makes_room_for_the_next(
    full: tuple[wukong.Client, redis.Redis], tasks: Tasks, how: str
) -> None:
    client, bare = full
    noise = delayed(np.random.default_rng(0).random)  # nothing compresses it
    with pytest.raises(ValueError, match="not yet"):
        client.compute(delayed(tasks.risky)(noise(4_000_000)), sync=True)
    failed = client.last_job
    assert failed is not None and failed.held.wait(60) and there(client)
    bare.config_set("maxmemory", bare.info("memory")["used_memory"] + 1_000_000)
    total = delayed(tasks.add)(*(noise(500_000) for _ in range(3)))
    found = client.compute(total, sync=how == "sync")
    assert len(found if how == "sync" else found.result(60)) == 500_000
    bare.config_set("maxmemory", 0)


def test_what_is_kept_of_failed_tasks_makes_room_too(redis_url: str, tasks: Tasks) -> None:
    with wukong.Client(progress=False, storage=redis_url, resume_jobs=0, keep_failed=True) as client:
        fails(client, tasks)
        assert client.last_job is not None and client.last_job.settled_within(60)
        wait(lambda: client._holdings.idle, "the failed task is kept")
        assert there(client)
        client._make_room()
        assert not there(client) and not client._holdings.idle


def test_what_stays_is_bounded_and_goes_when_the_client_closes(redis_url: str, tasks: Tasks) -> None:
    with wukong.Client(progress=False, storage=redis_url, keep_failed=False) as client:
        store, name = client._deployment.store, client._deployment.client.encode()
        fails(client, tasks)
        first = client.last_job
        fails(client, tasks)
        second = client.last_job
        assert first is not None and second is not None
        wait(lambda: not any(first.id.encode() in key for key in there(client)), "the first has gone")
        assert Names(second.id).value(0) in there(client)
        client._holdings._remains[second.id] = (0.0, client._holdings._remains[second.id][1])
        client._holdings.renew()
        assert not there(client)
        fails(client, tasks)
        assert there(client)
    with wukong.Client(progress=False, storage=redis_url, resume_jobs=0, keep_failed=False) as other:
        assert not other._deployment.store.scan(name) and store is not other._deployment.store
        with pytest.raises(JobError, match="does not have this job's graph") as raised:
            other.resume(second)
        assert "keep=" in str(raised.value)
        wanted = fails(other, tasks)
        assert not there(other) and not other._failed_jobs
        with pytest.raises(JobError, match="does not have this job's graph"):
            other.resume()
        tasks.fixed.touch()
        assert wanted.compute() == 1


def test_an_asynchronous_client_awaits_it(tasks: Tasks) -> None:
    async def main() -> None:
        async with wukong.Client(asynchronous=True, progress=False) as client:
            with pytest.raises(JobError, match="there is no job yet"):
                await client.resume()
            with pytest.raises(JobError, match="there is no job yet"):
                await client.resume(await client.scatter(1))
            with pytest.raises(ValueError, match="not yet"):
                await client.compute(delayed(tasks.risky)(delayed(tasks.load)(2)), sync=True)
            tasks.fixed.touch()
            assert await client.resume(retries=1) == 2

    asyncio.run(main())


@pytest.mark.parametrize("held", [None, b"1"])
def test_a_run_that_ends_late_leaves_values_while_they_are_held(held: bytes | None) -> None:
    order = Order("a-0", "0", (0,), 2, 512, Policy(resume_jobs=1), (0.0, 0.0, 0.0))
    execution, names = Execution(order, Costs(0.0, 0.0, 1.0)), Names("a-0")
    execution.ledger.stored.append(0)
    execution.ledger.arrived.append(1)
    effects = execution.clean_up()
    assert next(effects) == Read((names.alive,))
    assert effects.send([None]) == Read((names.held,))
    deleted = effects.send([held])
    assert isinstance(deleted, Delete) and names.end("0") in deleted.keys
    assert ({names.value(0), names.record(1)} <= set(deleted.keys)) is (held is None)
    assert not held or not {names.value(0), names.record(1)} & set(deleted.keys)


class Endless:
    """Waits for an event when it is pickled, or raises what a program ends with."""

    def __init__(self, go: threading.Event | None) -> None:
        self.go = go

    def __reduce__(self) -> Any:
        if self.go is None:
            raise SystemExit("not to be pickled")
        self.go.wait(60)
        return int, ()


def keeper(cache: dict[int, Any], most_bytes: int, written: dict[bytes, Any]) -> tuple[RemainsKeeper, list[int]]:
    ledger: list[int] = []
    return RemainsKeeper(cache, Codec(b"k" * 32), written.update, Names("a-0"), ledger, most_bytes), ledger


def test_lanes_that_fail_leave_each_value_once_and_share_what_may_be_left() -> None:
    cache, written = {-1: b"object", 0: b"0" * 400, 1: b"1" * 400}, dict[bytes, Any]()
    one, ledger = keeper(cache, 1_500, written)
    one.keep({1}, math.inf)
    assert ledger == [0] and [*written] == [Names("a-0").value(0)]
    written.clear()
    cache |= {2: b"2" * 400, 3: b"3" * 2_000, 4: b"4" * 400, 5: b"5" * 400}
    one.keep({1}, math.inf)
    assert ledger == [0, 2, 4] and [*written] == [*map(Names("a-0").value, [2, 4])]
    one.keep((), 0.5)  # the platform ends this soon
    assert ledger == [0, 2, 4]


def test_an_error_is_not_held_back_by_what_pickling_does(monkeypatch: pytest.MonkeyPatch) -> None:
    written, go = dict[bytes, Any](), threading.Event()
    one, ledger = keeper({0: Endless(None), 1: b"1"}, 1_000, written)
    one.keep((), math.inf)
    assert ledger == [1] and len(written) == 1
    monkeypatch.setattr(remains_keeper, "MOST_S", 0.05)
    one, ledger = keeper({0: b"0", 1: Endless(go)}, 1_000, written := {})
    one.keep((), math.inf)
    others = [each for each in threading.enumerate() if each.name == "wukong-remains"]
    assert others and not ledger
    go.set()
    for each in others:
        each.join(60)
    assert not ledger and not written  # it is too late for that: the executor may have cleaned up


def test_a_job_is_told_to_stop_even_if_what_it_leaves_cannot_be_held(
    client: wukong.Client, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    future = client.compute(delayed(tasks.held)())
    job = client.last_job
    wait(lambda: any(path.stem == "held" for path in tasks.folder.iterdir()), "the task runs")
    store = client._deployment.store
    put = type(store).put

    def away(self: Any, items: Any, *args: Any) -> None:
        if job.names.held in items:
            raise StoreUnavailable("away")
        put(self, items, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "put", away)
        job.cancel()
    assert store.get([job.names.alive]) == [None]
    tasks.fixed.touch()
    del future


@pytest.mark.parametrize("first", ["", "mine"])
def test_a_program_that_has_ended_is_not_told_how_to_go_on(first: str) -> None:
    for error in (ValueError("x"), WukongError("x", hint=first)):
        if first and not isinstance(error, WukongError):
            error.add_note(first)
        for text in (hint("a-0", "key"), resume_hint("a-0")):
            if isinstance(error, WukongError):
                error.hint = "; ".join(filter(None, [error.hint, text]))
            else:
                error.add_note(text)
        without_hint(error)
        assert (error.hint or "" if isinstance(error, WukongError) else "".join(error.__notes__)) == first
