"""A lock excludes tasks that run in different functions."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.utils import SerializableLock
from lock_tools import what_a_job_has_is_free_once_it_is_over
from waiting import GIVE_UP_S, wait

import wukong
from wukong.backends.storage import Store
from wukong.core import lock as lock_module
from wukong.core.lock import Locks, Tickets
from wukong.core.names import Names
from wukong.core.storage import Arrival, Outcome
from wukong.errors import JobCancelled, LockError, StoreUnavailable


def add_line(path: Path, lock: Any) -> None:
    """Read a file and write it with one line more; others who do so meanwhile lose theirs."""
    with lock or nullcontext():
        text = path.read_text()
        time.sleep(0.01)
        path.write_text(text + "line\n")


@pytest.mark.usefixtures("everywhere")
def test_tasks_in_different_functions_exclude_each_other_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    target = zarr.create_array(
        tmp_path / "x.zarr", shape=(60,), chunks=(60,), dtype="i8"
    )  # every task writes all of it
    lock = SerializableLock()
    with wukong.Client(progress=False, fan_out="eager") as client:
        dask.compute(*(dask.delayed(add_line, pure=False)(file, wukong.Lock("file")) for _ in range(8)))
        assert len(file.read_text().splitlines()) == 8
        da.store(da.arange(60, chunks=7), target, lock=lock)
        np.testing.assert_array_equal(target[:], np.arange(60))
        job = client.last_job
        assert job is not None
        job.summary()
        base = job.names.lock(str(lock.token))
        assert not any(client.storage.get([base + b"/next", *(b"%b/%d/free" % (base, i) for i in range(10))]))


def test_any_lock_of_a_process_may_be_given_to_store(tmp_path: Path) -> None:
    import multiprocessing
    import threading

    with wukong.Client(faas="local", storage="local", progress=False, fan_out="eager"):
        for i, lock in enumerate((threading.Lock(), threading.RLock(), multiprocessing.Lock(), wukong.Lock())):
            target = zarr.create_array(tmp_path / f"{i}.zarr", shape=(60,), chunks=(60,), dtype="i8")
            stored = da.store(da.arange(60, chunks=7), target, lock=lock, compute=False)
            stored.compute()
            np.testing.assert_array_equal(target[:], np.arange(60))


def test_misuse_is_an_error_and_hangs_nobody() -> None:
    def twice(lock: wukong.Lock) -> None:
        with lock, lock:
            pass

    lock = wukong.Lock()
    with wukong.Client(faas="local", storage="local", progress=False) as client:
        with pytest.raises(LockError, match=r"taken already, by twice"):
            client.submit(twice, lock).result()
        with pytest.raises(LockError, match="not taken"):
            client.submit(wukong.Lock.release, lock).result()
    with pytest.raises(LockError, match="held by tasks"):
        lock.acquire()


def holds(lock: wukong.Lock, path: Path) -> None:
    with lock:
        path.touch()
        wait(lambda: False)


def takes(lock: wukong.Lock) -> bool:
    with lock:
        return True


def test_a_lock_of_a_job_that_was_killed_and_is_over_is_free(tmp_path: Path) -> None:
    lock, path = wukong.Lock("x"), tmp_path / "taken"
    with wukong.Client(faas="local", storage="local", progress=False) as client:
        killed = client.submit(holds, lock, path)
        wait(path.exists)
        waits = client.submit(takes, lock)
        killed.cancel()
        assert waits.result(GIVE_UP_S), "one that was waiting meanwhile"
        assert client.submit(takes, lock, pure=False).result(GIVE_UP_S)


@pytest.mark.parametrize("where", ["local", "redis", "memcached"])
def test_what_a_job_has_is_free_once_it_is_over_on_every_store(where: str, request: pytest.FixtureRequest) -> None:
    url = "local" if where == "local" else request.getfixturevalue(f"{where}_url")
    with wukong.Client(faas="local", storage=url, progress=False) as client:
        what_a_job_has_is_free_once_it_is_over(client.storage)


def fails_beside(path: Path) -> None:
    wait(path.exists)
    raise ValueError("beside")


def test_a_lock_of_a_lane_whose_job_another_lane_has_failed_is_free(tmp_path: Path) -> None:
    lock, path = wukong.Lock("x"), tmp_path / "taken"
    with wukong.Client(faas="local", storage="local", progress=False, lanes=2) as client:
        with pytest.raises(ValueError, match="beside"):
            dask.compute(dask.delayed(holds)(lock, path), dask.delayed(fails_beside)(path))
        assert client.submit(takes, lock).result(GIVE_UP_S)


def test_what_a_task_never_releases_is_free_when_its_executor_ends() -> None:
    lock = wukong.Lock("x")
    with wukong.Client(faas="local", storage="local", progress=False) as client:
        assert client.submit(wukong.Lock.acquire, lock).result(GIVE_UP_S)
        assert client.submit(takes, lock).result(GIVE_UP_S)


class TestTickets:
    """Executors, by what they have of locks, on the embedded store."""

    names = Names("abcdefabcdef-0")

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with wukong.Client(faas="local", storage="local", progress=False) as client:
            client.storage.put({self.names.alive: b"0"})
            yield client.storage

    def executor(self, store: Store, task: int) -> Tickets:
        return Tickets(self.names, store, None, lambda: task, lambda: f"task {task}")

    def test_who_does_not_wait_is_told_so_and_who_waits_comes_after(self, store: Store) -> None:
        one, two = self.executor(store, 1), self.executor(store, 2)
        assert one.acquire("x", None)
        assert two.acquire("y", None)
        assert not two.acquire("x", 0.0)
        assert not two.acquire("x", 0.01)
        one.release("x")
        assert two.acquire("x", 0.0)
        assert not one.acquire("x", 0.0)
        two.release("x")
        assert self.executor(store, 3).acquire("x", 0.0)

    def test_a_task_that_is_run_again_gets_back_what_it_had_and_never_what_it_gave_away(self, store: Store) -> None:
        assert self.executor(store, 1).acquire("x", None)
        again = self.executor(store, 1)
        assert again.acquire("x", 0.0)
        again.release("x")
        two = self.executor(store, 2)
        assert two.acquire("x", 0.0)
        assert not self.executor(store, 1).acquire("x", 0.0)

    def test_a_task_that_is_run_again_gets_back_what_it_took_for_the_second_time(self, store: Store) -> None:
        first = self.executor(store, 1)
        for _ in range(2):
            assert first.acquire("x", None)
            first.release("x")
        assert first.acquire("x", None)
        assert self.executor(store, 1).acquire("x", 0.0)

    def test_a_lock_that_is_left_is_free_but_not_that_of_a_task_that_runs(self, store: Store) -> None:
        one, two = self.executor(store, 1), self.executor(store, 2)
        assert one.acquire("x", None)
        one.leave(lambda: {1})
        assert not two.acquire("x", 0.0)
        one.leave(lambda: {2})
        one.leave(tuple)
        assert two.acquire("x", 0.0)

    def test_a_task_that_takes_a_lock_while_others_are_left_keeps_it(self, store: Store) -> None:
        one = self.executor(store, 1)
        assert one.acquire("x", None)
        one.release("x")
        one.leave(lambda: one.acquire("x", None) and {2})
        one.release("x")

    def test_nobody_waits_on_for_a_job_that_is_not_wanted(self, store: Store) -> None:
        assert self.executor(store, 1).acquire("x", None)
        store.delete([self.names.alive])
        with pytest.raises(JobCancelled, match="'x'"):
            self.executor(store, 2).acquire("x", None)

    def test_jobs_of_a_client_share_a_lock_which_is_deleted_after_the_last(self, store: Store) -> None:
        locks, other = Locks(), Names("abcdefabcdef-1")
        for names in (self.names, other):
            locks.use(names, ["x"])
        one, two = self.executor(store, 1), Tickets(other, store, None, lambda: 1, lambda: None)
        store.put({other.alive: b"0"})
        assert one.acquire("x", None)
        assert not two.acquire("x", 0.0)
        one.release("x")
        free = self.names.lock("x") + b"/0/free"
        locks.leave(store, self.names, one.used)
        assert store.get([free]) == [b""]
        locks.leave(store, other, two.used)
        assert store.get([free]) == [None]
        assert self.executor(store, 2).acquire("z", None)
        locks.leave(store, self.names, ["z"])
        locks.close(store)
        assert self.executor(store, 3).acquire("z", 0.0)

    def test_who_waits_asks_once_in_the_name_of_each_job_that_is_over(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bytes] = []

        def incr(arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
            asked.extend(arrival.claimant for arrival in arrivals)
            return before(arrivals, ttl_s)

        before, other = store.incr, Names("abcdefabcdef-1")
        store.put({other.alive: b"0", other.over: b'{"a-0": 0, "a-1": 0}'})
        assert self.executor(store, 1).acquire("x", None)
        monkeypatch.setattr(lock_module, "_WAIT_S", 0.01)
        monkeypatch.setattr(store, "incr", incr)
        for names, n in ((other, 1), (self.names, 0)):
            assert not Tickets(names, store, None, lambda: 2, lambda: None).acquire("x", 0.1)
            assert asked.count(b"a-0") == asked.count(b"a-1") == n
            asked.clear()

    def test_every_ticket_is_deleted_also_if_the_dead_had_some_and_the_slow_release_theirs(self, store: Store) -> None:
        locks, names = Locks(), [Names(f"abcdefabcdef-{i}") for i in range(3)]
        for each in names:
            store.put({each.alive: b"0", **locks.use(each, [])})
        tasks = [Tickets(each, store, None, lambda: 1, lambda: None) for each in names]
        for each, task in zip(names, tasks, strict=True):
            assert task.acquire("x", 0.0)
            locks.leave(store, each, ["x"], 0.0)
        tasks[0].release("x")
        locks.close(store)
        ahead = [Arrival(b"%b/%d" % (names[0].lock("x"), i), (0,), 1, b"new") for i in range(3)]
        assert all(outcome.claimed for outcome in store.incr(ahead))

    def test_a_job_that_leaves_twice_is_one_user_less(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        locks, other = Locks(), Names("abcdefabcdef-1")
        locks.use(self.names, ["x", "y"])
        locks.use(other, ["x"])
        assert self.executor(store, 1).acquire("x", None)
        y = self.executor(store, 1)
        assert y.acquire("y", None)
        y.release("y")
        with monkeypatch.context() as patch:
            patch.setattr(store, "delete", _refuse)
            with pytest.raises(StoreUnavailable):
                locks.leave(store, self.names, [])
        for _ in range(2):
            locks.leave(store, self.names, [])
        assert store.get([self.names.lock("y") + b"/next"]) == [None]
        assert not self.executor(store, 2).acquire("x", 0.0)

    def test_the_locks_of_a_job_that_may_run_on_stay(self, store: Store) -> None:
        locks, other = Locks(), Names("abcdefabcdef-1")
        store.put({other.alive: b"0", **locks.use(self.names, ["x"])})
        assert self.executor(store, 1).acquire("x", None)
        for since in (time.time() + 1_000, math.inf):
            locks.leave(store, self.names, ["x"], since)
            locks.use(other, ["x"])
            assert not Tickets(other, store, None, lambda: 1, lambda: None).acquire("x", 0.0)
            locks.leave(store, other, [])
        assert not self.executor(store, 2).acquire("x", 0.0)
        locks.close(store)
        assert self.executor(store, 2).acquire("x", 0.0)

    def test_who_takes_a_job_over_forgets_and_deletes_nothing_of_its_client(self, store: Store) -> None:
        first, second, third = (Names(f"abcdefabcdef-{i}") for i in range(3))
        theirs, mine = Locks(), Locks()
        for names in (first, second, third):
            theirs.use(names, [])
        assert Tickets(first, store, None, lambda: 1, lambda: None).acquire("x", None)
        theirs.leave(store, first, ["x"], 0.0)
        store.put({third.alive: b"0"})
        assert Tickets(third, store, None, lambda: 1, lambda: None).acquire("x", 0.0)
        mine.take_over(store, second)
        wanted = (lambda prefix: [third.alive] if third.alive.startswith(prefix) else [],)
        mine.leave(store, second, ["x"], 1.0, None, *wanted)
        mine.close(store, *wanted)
        assert json.loads(bytes(store.get([third.over])[0] or b"")) == {first.job: 0.0, second.job: 1.0}
        assert not Tickets(third, store, None, lambda: 2, lambda: None).acquire("x", 0.0)
        late = (lambda prefix: [second.heartbeat("0")],)
        mine.leave(store, second, ["x"], 1.0, None, *late)
        assert store.get([third.over]) == [None], "nobody wants a job that could ask"
        mine.close(store, *late)
        assert store.get([third.lock("x") + b"/next"]) == [None]


def _refuse(keys: object) -> None:
    raise StoreUnavailable("not now")
