"""What a user has called back when a future is done may do anything, and the client goes on."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait, wait_for

import wukong
from wukong.client.callers import Callers
from wukong.errors import JobCancelled


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def then(future: wukong.Future, callback: Callable[[wukong.Future], Any]) -> list[Any]:
    """Return a list with what the callback returns, once it has been called."""
    told: list[Any] = []
    future.add_done_callback(lambda it: told.append(callback(it)))
    wait(lambda: told, "the callback has returned")
    return told


def test_a_callback_may_submit_and_wait(client: wukong.Client) -> None:
    assert then(client.submit(abs, -1), lambda it: client.submit(abs, -2).result() + it.result()) == [3]


def test_a_callback_may_wait_for_another_callback(client: wukong.Client) -> None:
    event = threading.Event()
    first, second = client.submit(abs, -3), client.submit(abs, -4)
    told: list[bool] = []
    first.add_done_callback(lambda _: told.append(event.wait(60)))
    second.add_done_callback(lambda _: event.set())
    wait(lambda: told)
    assert told == [True]


def test_a_callback_that_never_returns_stops_nobody(client: wukong.Client, tmp_path: Path) -> None:
    go = threading.Event()
    late = client.submit(wait_for, str(tmp_path / "go"), -5)
    late.add_done_callback(lambda _: go.wait())
    after = client.submit(abs, late)
    (tmp_path / "go").touch()
    try:
        assert after.result(timeout=60) == 5
        assert then(after, lambda it: it.result()) == [5]
    finally:
        go.set()


def test_callbacks_of_a_future_are_called_in_their_order_whatever_they_raise(
    client: wukong.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    order: list[Any] = []
    future = client.submit(wait_for, str(tmp_path / "go"), 1)
    for i in range(100):
        future.add_done_callback(lambda _, i=i: order.append(i))
    future.add_done_callback(lambda _: sys.exit("this thread, not the program"))
    future.add_done_callback(lambda _: {}["nothing"])
    (tmp_path / "go").touch()
    with caplog.at_level(logging.ERROR, "wukong"):
        then(future, lambda _: order.append("last"))
    assert order == [*range(100), "last"]
    assert "KeyError" in caplog.text and future.key in caplog.text


def test_callbacks_run_neither_in_the_watcher_nor_in_the_thread_that_adds_them(client: wukong.Client) -> None:
    future = client.submit(abs, -6)
    future.result()
    [name] = then(future, lambda _: threading.current_thread().name)
    assert name == "wukong-callback"


def test_a_callback_may_close_the_client(tmp_path: Path) -> None:
    client = wukong.Client(progress=False)
    pending = client.submit(wait_for, str(tmp_path / "never"), 1)
    assert then(client.submit(abs, -7), lambda it: client.close()) == [None]
    with pytest.raises(JobCancelled):
        pending.result(timeout=60)
    assert then(pending, lambda it: it.status) == ["cancelled"]


def test_who_closes_the_client_lets_callbacks_finish_first() -> None:
    told: list[int] = []
    with wukong.Client(progress=False) as client:
        for future in client.map(abs, range(20)):
            future.add_done_callback(lambda it: told.append(it.result()))
            future.result()
    assert sorted(told) == list(range(20))


def test_threads_for_callbacks_are_as_many_as_wait_and_end_when_there_is_nothing_to_do() -> None:
    callers, go, called = Callers(), threading.Event(), threading.Semaphore(0)
    for _ in range(3):
        callers.call(lambda: (called.release(), go.wait()))
    for _ in range(3):
        assert called.acquire(timeout=60)
    callers.drain(0.0)  # they never end, and nobody waits for them
    go.set()
    callers.drain(60.0)
    wait(lambda: not callers._threads)
