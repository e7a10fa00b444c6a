"""What a user holds of a client keeps it open; when nothing is held any more, it closes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import pytest
from waiting import wait_for

import wukong
from wukong.client.deployment import Deployment
from wukong.client.job import ClientJob
from wukong.errors import CodecError


def made() -> wukong.Client:
    return wukong.Client(progress=False, set_as_default=False)


@pytest.mark.parametrize(
    ("hold", "read"),
    [
        (lambda client: client.submit(abs, -1), lambda held: held.result()),
        (lambda client: client.map(lambda x: x * x, [1]), lambda held: held[0].result()),
        (lambda client: client.scatter(b"1" * 100_000), lambda held: held.result()[:1] == b"1"),
        (lambda client: client.compute(da.ones(1)), lambda held: held.result()[0]),
        (
            lambda client: client.persist(da.ones(4, chunks=2)),
            lambda held: wukong.wait(list(held.dask.values()))[1] == set(),
        ),
        (lambda client: client.get, lambda held: dask.delayed(abs)(-1).compute(scheduler=held)),
    ],
    ids=["submit", "map", "scatter", "compute", "persist", "get"],
)
def test_what_came_from_a_client_keeps_it_open(hold: Callable[..., Any], read: Callable[..., Any]) -> None:
    client = made()
    alive, held = weakref.ref(client), hold(client)
    del client
    gc.collect()
    assert alive() is not None
    assert read(held) == 1
    del held
    gc.collect()
    assert alive() is None


def test_work_that_nobody_can_ask_for_any_more_does_not_keep_a_client_open(tmp_path: Path) -> None:
    client = made()
    first = client.submit(wait_for, str(tmp_path / "never"), 1)
    second = client.submit(abs, first)
    alive = weakref.ref(client)
    gc.disable()
    try:
        del client, first, second
        assert alive() is None
    finally:
        gc.enable()


def test_a_failed_future_leaves_nothing_behind() -> None:
    client = made()
    failed = client.submit(divmod, 1, client.submit(abs, 0))
    assert isinstance(failed.exception(), ZeroDivisionError)
    alive = weakref.ref(client)
    gc.disable()
    try:
        del client, failed
        assert alive() is None
    finally:
        gc.enable()


def test_a_job_that_can_be_neither_watched_nor_cancelled_fails_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreadable(*_: object) -> None:
        raise CodecError("made by another version")

    with made() as client:
        with monkeypatch.context() as patched:
            patched.setattr(ClientJob, "tend", unreadable)
            patched.setattr(ClientJob, "cancel", unreadable)
            failed = client.submit(wait_for, str(tmp_path / "end"), 1)
            assert isinstance(failed.exception(timeout=60), CodecError)
            patched.setattr(Deployment, "start", unreadable)
            assert isinstance(client.submit(abs, -2).exception(timeout=60), CodecError)
        (tmp_path / "end").touch()
        assert client.submit(abs, -1).result(timeout=60) == 1


def test_a_job_that_cannot_be_cancelled_when_its_client_closes_keeps_no_other_one_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    real, jobs = ClientJob.cancel, []

    def cancel(job: ClientJob, *because: Any) -> None:
        if job is jobs[0]:
            raise CodecError("made by another version")
        real(job, *because)

    monkeypatch.setattr(ClientJob, "cancel", cancel)
    client = made()
    futures = []
    for n in range(2):
        futures.append(client.submit(wait_for, str(tmp_path / "end"), n))
        jobs.append(client.last_job)
    client.close()
    assert all(future.cancelled() for future in futures)
    assert jobs[1] is not None and jobs[1].status == "cancelled"
    assert "it cannot be stopped" in caplog.text and "in the store stays" not in caplog.text
    (tmp_path / "end").touch()
