"""Ctrl-C comes between any two steps of the main thread, and Python drops it in finalizers."""

from __future__ import annotations

import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import wukong
from wukong.client.deployment import Deployment
from wukong.core.interrupts import held, interrupt

_LONG_S = 60.0


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(name="heard")
def those_that_were_heard() -> Iterator[list[int]]:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    yield heard
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def while_a_client_is_open() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, interrupt)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_is_held_comes_once_the_block_has_ended(heard: list[int]) -> None:
    with held():
        ctrl_c()
        with held():
            pass
        assert not heard
    assert len(heard) == 1


def test_a_second_ctrl_c_is_not_held(heard: list[int]) -> None:
    with held(), held():
        ctrl_c()
        ctrl_c()
        assert len(heard) == 1


def test_a_block_in_another_thread_holds_nothing(heard: list[int]) -> None:
    before = signal.getsignal(signal.SIGINT)

    def look() -> None:
        with held():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[Any] = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before] and not heard


def wait_after(step: Callable[[], object]) -> None:
    step()
    threading.Event().wait(_LONG_S)


class Finalized:
    def __init__(self, times: int) -> None:
        self.times = times

    def __del__(self) -> None:
        for _ in range(self.times):
            ctrl_c()


@pytest.mark.usefixtures("while_a_client_is_open")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_in_a_finalizer_is_not_lost(times: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        wait_after(lambda: bool(Finalized(times)))


@pytest.mark.usefixtures("while_a_client_is_open")
def test_ctrl_c_in_the_callback_at_the_end_of_an_import_is_not_lost() -> None:
    names: dict[str, Any] = {"ctrl_c": ctrl_c}
    exec(compile("def cb(ref):\n ctrl_c()", "<frozen importlib._bootstrap>", "exec"), names)
    locks = [Finalized(0)]
    ref = weakref.ref(locks[0], names["cb"])
    with pytest.raises(KeyboardInterrupt):
        wait_after(locks.clear)
    assert ref() is None


@pytest.mark.usefixtures("while_a_client_is_open")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_finalizer_that_waits_is_interrupted_too() -> None:
    class Waiting:
        def __del__(self) -> None:
            ctrl_c()
            threading.Event().wait(_LONG_S)
            ended.append(True)

    ended: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        wait_after(lambda: bool(Waiting()))
    assert not ended


def test_while_a_client_is_open_no_ctrl_c_is_lost_and_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with wukong.Client(progress=False):
        assert signal.getsignal(signal.SIGINT) is interrupt
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler


def interrupted(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **named: Any) -> Any:
        ctrl_c()
        return real(*args, **named)

    return call


@pytest.mark.parametrize(("of", "step"), [(threading.Thread, "start"), (Deployment, "close")])
def test_ctrl_c_while_a_thread_starts_or_a_client_closes_leaves_nothing(
    of: type, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> None:
        with client:
            client.submit(abs, -1).result()

    client = wukong.Client(progress=False)
    monkeypatch.setattr(of, step, interrupted(getattr(of, step)))
    with pytest.raises(KeyboardInterrupt):
        ask()
    assert client.closed and not Path(client.storage._path).exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert client.faas._link.process.returncode is not None


def test_ctrl_c_while_a_call_is_begun_is_raised_there_and_the_call_can_be_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with wukong.Client(progress=False) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Deployment, "start", interrupted(Deployment.start))
            with pytest.raises(KeyboardInterrupt):
                client.submit(abs, -1)
        assert client.submit(abs, -1).result() == 1
