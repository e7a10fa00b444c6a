"""What a store shows of its clients: which live, which are dead, who runs a job; and how one is cancelled."""

from __future__ import annotations

import json
import os
import subprocess
import time
from contextlib import closing
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest

from wukong import cleaning
from wukong.backends.storage import Store
from wukong.backends.storage.local import LocalStore
from wukong.client import lease, survey
from wukong.client.lease import RENEW_S, Holder, Lease, machine
from wukong.core.names import Names


def leased(client: str, said: Lease) -> dict[bytes, bytes]:
    return {f"{client}/lease".encode(): json.dumps(asdict(said)).encode()}


def here(pid: int = 0, **jobs: Any) -> Lease:
    now_s = time.time()
    return Lease(now_s, now_s, pid=pid or os.getpid(), machine=machine(), jobs=jobs)


def test_a_client_that_has_just_begun_is_not_taken_for_dead() -> None:
    client = "0123456789ab"
    with closing(LocalStore()) as store:
        store.put({b"%b-0/job" % client.encode(): b"0"})

        def begins(_: float) -> None:
            store.put(leased(client, here()))

        assert survey.Survey(store, sleep=lambda _: None).left(None) != []
        assert survey.Survey(store, sleep=begins).left(None) == []


def test_who_asks_for_one_job_waits_for_no_lease_that_says_nothing_of_it() -> None:
    young, old, taker = "0" * 12, "1" * 12, "2" * 12
    waited: list[float] = []

    def look(job: str) -> survey.Survey:
        waited.clear()
        return survey.Survey(store, job, sleep=waited.append)

    with closing(LocalStore()) as store:
        jobs = {f"{client}-0/job".encode(): b"0" for client in (young, old)}
        store.put({**jobs, **leased(old, here())})
        assert look(f"{old}-0").runner(f"{old}-0") and not waited
        look(f"{young}-0")
        assert sum(waited) >= 2 * RENEW_S, "its own client may be about to say that it lives"
        store.put(leased(old, here(1 << 30)))
        look(f"{old}-0")
        assert sum(waited) >= 2 * RENEW_S, "one that has taken it over may be about to say so"
        store.put(leased(taker, here(**{f"{old}-0": {}})))
        assert look(f"{old}-0").runner(f"{old}-0").client == taker and not waited  # type: ignore[union-attr]
        store.delete([f"{old}-0/job".encode(), f"{taker}/lease".encode()])
        store.put({f"{old}-0/f/1".encode(): b"1"})
        assert look(f"{old}-0").runner(f"{old}-0") is None and not waited, "it has ended"
        store.delete([f"{old}/lease".encode()])
        store.put({f"{old}-0/job".encode(): b"0", **leased(taker, here(**{f"{old}-0": {}}))})
        assert look(f"{old}-0").runner(f"{old}-0") and not waited, "who has taken it over is known"


def test_a_client_that_drops_its_lease_between_two_looks_is_not_taken_for_dead() -> None:
    """It is idle when it would renew its lease, and begins its next job at once, while another is waited for."""
    waited_for, idle, begun = "0" * 12, "1" * 12, "2" * 12

    def meanwhile(_: float) -> None:
        store.delete([f"{idle}-0/job".encode(), f"{idle}/lease".encode(), f"{begun}-0/job".encode()])
        store.put({f"{idle}-1/job".encode(): b"0", f"{begun}-1/job".encode(): b"0", f"{begun}/kept/0".encode(): b"0"})
        store.put(leased(waited_for, here()))  # and of its first job one key is still there

    with closing(LocalStore()) as store:
        store.put({f"{client}-0/job".encode(): b"0" for client in (waited_for, idle, begun)} | leased(idle, here()))
        store.put({f"{idle}-0/v/1".encode(): b"0"})
        assert survey.Survey(store, sleep=meanwhile).left(None) == []


def test_what_a_client_without_a_lease_has_had_at_both_looks_is_left() -> None:
    client = "0" * 12
    with closing(LocalStore()) as store:
        store.put({f"{client}-0/job".encode(): b"0", f"{client}/kept/0".encode(): b"0"})
        young = {f"{client}-1/job".encode(): b"0", f"{client}/kept/1".encode(): b"0"}
        [left] = survey.Survey(store, sleep=lambda _: store.put(young)).left(None)
        assert (list(left.jobs), left.own.keys) == ([f"{client}-0"], [f"{client}/kept/0".encode()])


class Deadly:
    """A store whose client dies when it is told to cancel a job."""

    def __init__(self, store: Store, process: subprocess.Popen[bytes]) -> None:
        self.store, self.process = store, process

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put(self, items: Any, ttl_s: float) -> None:
        self.store.put(items, ttl_s)
        self.process.kill()
        self.process.wait()


def test_who_cancels_a_job_is_told_that_its_client_has_died_and_what_it_left_is_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleaning, "_LOOK_S", 0.0)
    client, job = "0" * 12, "0" * 12 + "-0"
    with closing(LocalStore()) as store, subprocess.Popen(["sleep", "1000"]) as process:
        store.put(dict.fromkeys((Names(job).alive, Names(job).value(1)), b"0") | leased(client, here(process.pid)))
        looked = survey.Survey(store, job)
        cancelled, n_keys, said = cleaning._stopped(
            Deadly(store, process),  # type: ignore[arg-type]
            looked,
            job,
            looked.tenants[client].jobs[job],
        )
        assert (cancelled, n_keys) == (False, 3)
        assert f"process {process.pid}), has died before it cancelled it: deleted 3 keys" in said
        assert list(store.scan(Names(job).prefix)) == []


@pytest.mark.parametrize("whose", ["mine", "taken over", "taken over, and awaited"])
def test_a_job_that_was_taken_over_is_cancelled_from_outside_though_nobody_waits_for_it(whose: str) -> None:
    """Whoever waits for a job, and the thread that watches a client's own, cleans up after it."""
    client, done = "0" * 12, []
    job: Any = SimpleNamespace(id=f"{client if whose == 'mine' else '1' * 12}-0", ended=False, began_at=0.0, n_tasks=1)
    job.names, job.awaited = Names(job.id), whose.endswith("awaited")
    job.cancel, job.settle = (lambda: done.append("cancel")), (lambda: done.append("settle"))
    with closing(LocalStore()) as store:
        holder = Holder(store, 60.0, 60.0, client, lambda: [job], lambda: False)
        holder.renew()
        assert done == []
        store.put({job.names.cancel: b"1"})
        holder.renew()
        assert done == (["cancel", "settle"] if whose == "taken over" else ["cancel"])


def test_a_system_without_a_clock_that_counts_sleep_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")  # as on macOS
    now_s = lease._now_s()
    assert 0.0 <= time.monotonic() - now_s < 60.0
