"""Jobs whose tasks have limits (`dask.annotate(limit=...)`), and what is refused at the call."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import pytest
from dask import delayed
from waiting import wait

import wukong
from wukong.core.policy import Policy
from wukong.core.seats import leased
from wukong.errors import ConfigError, GraphError, StoreUnavailable


def span(fails: bool = False) -> tuple[float, float]:
    begun = time.time()
    time.sleep(0.02)
    if fails:
        raise LookupError("no such row")
    return begun, time.time()


def at_once(spans: Any) -> int:
    """Return how many of these spans overlap at most."""
    events = sorted([(begun, 1) for begun, _ in spans] + [(ended, -1) for _, ended in spans])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


def no_seat_left(client: wukong.Client) -> bool:
    """Wait until no seat of the last job is in the store; return whether that came."""
    job = client.last_job
    assert job is not None

    def gone() -> bool:
        with suppress(StoreUnavailable):  # memcached lists its items for one at a time, and the client may do so now
            return not client.storage.scan(job.names.prefix + b"/q/")
        return False

    return bool(wait(gone))


@pytest.fixture(scope="module")
def client(everywhere: str) -> Iterator[wukong.Client]:
    with wukong.Client(progress=False, fan_out="eager", lanes=2) as client:
        yield client


@pytest.mark.usefixtures("everywhere")
class TestJobs:
    def test_no_more_tasks_run_at_once_than_the_limit_says(self, client: wukong.Client) -> None:
        with dask.annotate(limit={"database": 2}):
            tasks = [delayed(span, pure=False)() for _ in range(10)]
        spans = dask.compute(*tasks, *[delayed(span, pure=False)() for _ in range(4)])
        assert at_once(spans[:10]) <= 2
        assert no_seat_left(client)

    def test_those_that_wait_end_and_are_invoked_again_when_a_seat_is_free(self, tmp_path: Path) -> None:
        def waits_for_most(begun: Path, left: Path, i: int) -> int:
            begun.mkdir(exist_ok=True)
            (begun / str(i)).touch()
            return wait(left.exists) and i

        begun, left = tmp_path / "begun", tmp_path / "left"
        with dask.annotate(limit={"database": 1}):
            tasks = [delayed(waits_for_most, pure=False)(begun, left, i) for i in range(4)]
        settings = {"fan_out": "eager", "heartbeat_s": 0.3, "limit_patience_s": 0.2}
        with wukong.Client(progress=False, **settings) as client:
            future = client.compute(delayed(sum, pure=False)(tasks))
            job = client.last_job
            assert job is not None
            watch = job._watch
            assert watch is not None
            # Each of the other three has left one on record, which nobody has made: so it is no executor.
            wait(lambda: len(watch.tree.parked) == 3 == len(watch.seen) - job.summary(0).executors)
            assert len(list(begun.iterdir())) == 1
            left.touch()
            assert future.result() == 6
            assert len(list(begun.iterdir())) == 4
            assert job.summary().seat_wait_s > 0
            assert no_seat_left(client)

    def test_the_seat_of_a_killed_function_comes_free(self, tmp_path: Path) -> None:
        def dies_once(first: Path) -> float:
            if not first.exists():
                first.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return 1.0

        with dask.annotate(limit={"database": 1}):
            tasks = [delayed(dies_once, pure=False)(tmp_path / "first") for _ in range(3)]
        # Under load such a lease runs out while its holder lives: so nothing is said of how many run at once.
        settings = {"fan_out": "eager", "lanes": 2, "heartbeat_s": 0.3}
        with wukong.Client(progress=False, faas={"name": "local", "time_s": 10.0}, **settings) as client:
            assert client.compute(tasks, sync=True) == [1.0, 1.0, 1.0]
            job = client.last_job
            assert job is not None and job.policy.lease_s == 3.0  # of 30 s, as functions end after 10 s
            assert no_seat_left(client)

    def test_a_cancelled_job_leaves_no_seat_taken(self, client: wukong.Client, tmp_path: Path) -> None:
        def waits(begun: Path, go: Path) -> None:
            begun.touch()
            while not go.exists():
                time.sleep(0.01)

        begun, go = tmp_path / "begun", tmp_path / "go"
        with dask.annotate(limit={"database": 1}):
            tasks = [delayed(waits, pure=False)(begun, go) for _ in range(3)]
        futures = client.compute(tasks)
        wait(begun.exists)
        client.cancel(futures)
        go.touch()
        assert no_seat_left(client)

    def test_a_job_that_fails_leaves_no_seat_taken(self, client: wukong.Client) -> None:
        with dask.annotate(limit={"database": 1}):
            fails = [delayed(span, pure=False)(True) for _ in range(3)]
            fine = delayed(span, pure=False)()
        with pytest.raises(LookupError):
            dask.compute(*fails)
        assert no_seat_left(client)
        assert dask.compute(fine)
        got = client.compute([*fails, fine], sync=True, on_error="collect")
        assert [isinstance(each, wukong.FailedValue) for each in got.results] == [True, True, True, False]
        assert no_seat_left(client)


def test_an_executor_lives_to_see_three_leases_and_a_lease_lasts_three_heartbeats() -> None:
    assert leased(Policy(), None) == leased(Policy(), 900.0) == Policy()
    assert leased(Policy(), 20.0).lease_s == 6.0
    with pytest.raises(ConfigError, match=r"lost after 2.7 s .* functions that end after 9 s"):
        leased(Policy(), 9.0)
    with wukong.Client(faas="local", storage="local", progress=False, heartbeat_s=20.0) as client:
        assert client.compute(delayed(abs, pure=False)(-1), sync=True) == 1
        with dask.annotate(limit={"a": 1}):
            task = delayed(abs, pure=False)(-1)
        with pytest.raises(ConfigError, match=r"lost after 30 s \(lease_s\): less than three heartbeats of 20 s"):
            client.compute(task, sync=True)


def test_a_limit_that_means_nothing_is_an_error_at_the_call() -> None:
    with wukong.Client(faas="local", storage="local", progress=False) as client:
        for wrong in ({"a": 0}, {"a": 1.5}, {"a": True}, {1: 2}, {}, "a", 4):
            with dask.annotate(limit=wrong):
                task = delayed(abs, pure=False)(1)
            with pytest.raises(GraphError, match="is no limit"):
                client.compute(task, sync=True)
        with dask.annotate(limit={"a": 10**12}):
            assert client.compute(delayed(abs, pure=False)(-1), sync=True) == 1
        with dask.annotate(limit={"a": 2}):
            one = delayed(abs)(1, dask_key_name="one")
        with dask.annotate(limit={"a": 3, "b": 1}):
            other = delayed(abs)(1, dask_key_name="other")
        with pytest.raises(GraphError, match=r"'a' is 2 for 'one', and 3 for 'other'"):
            client.compute([one, other], sync=True)


def test_what_is_annotated_around_calls_holds_for_them_also_if_they_are_made_later(tmp_path: Path) -> None:
    tries = tmp_path / "tries"

    def fails_once(_: object) -> int:
        tries.open("a").write("x")
        if tries.stat().st_size == 1:
            raise LookupError
        return 3

    with wukong.Client(faas="local", storage="local", progress=False, fan_out="eager") as client:
        first = client.submit(abs, -1)
        with dask.annotate(limit={"database": 1}, retries=1):
            later, spans = client.submit(fails_once, first), client.map(lambda _: span(), range(6))
        with dask.annotate(limit={"database": 0}):
            wrong = client.submit(abs, -2)
        assert later.result() == 3
        assert at_once(client.gather(spans)) == 1
        with pytest.raises(GraphError, match="is no limit"):
            wrong.result()
