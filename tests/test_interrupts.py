"""Ctrl-C comes between any two steps of the main thread, and Python drops it in finalizers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import wukong
from wukong.backends.faas import Invocation
from wukong.backends.faas.http.posting import Posting
from wukong.backends.faas.http.wire import Posted
from wukong.client.background import Background
from wukong.client.deployment import Deployment
from wukong.client.display import Bar
from wukong.core.interrupts import held, waiting

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
def while_the_program_waits() -> Iterator[None]:
    with waiting():
        yield


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


@pytest.mark.usefixtures("while_the_program_waits")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_in_a_finalizer_is_not_lost(times: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        wait_after(lambda: bool(Finalized(times)))


@pytest.mark.usefixtures("while_the_program_waits")
def test_ctrl_c_in_the_callback_at_the_end_of_an_import_is_not_lost() -> None:
    names: dict[str, Any] = {"ctrl_c": ctrl_c}
    exec(compile("def cb(ref):\n ctrl_c()", "<frozen importlib._bootstrap>", "exec"), names)
    locks = [Finalized(0)]
    ref = weakref.ref(locks[0], names["cb"])
    with pytest.raises(KeyboardInterrupt):
        wait_after(locks.clear)
    assert ref() is None


@pytest.mark.usefixtures("while_the_program_waits")
def test_ctrl_c_in_a_finalizer_of_weakref_is_not_lost() -> None:
    objects = [Finalized(0)]
    weakref.finalize(objects[0], ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        wait_after(objects.clear)


@pytest.mark.usefixtures("while_the_program_waits")
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


def waits_and_loses_ctrl_c(client: wukong.Client, how: str) -> None:
    if how == "get":
        client.get({"x": (time.sleep, _LONG_S)}, "x")
    future = client.submit(time.sleep, _LONG_S)
    if how == "result":
        future.result()
    elif how == "gather":
        client.gather([future])
    elif how == "as_completed":
        next(wukong.as_completed([future]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["get", "result", "gather", "as_completed"])
def test_no_ctrl_c_is_lost_while_the_program_waits(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Bar.tick

    def tick(bar: Bar) -> None:
        monkeypatch.setattr(Bar, "tick", real)
        Finalized(1)

    monkeypatch.setattr(Bar, "tick", tick)
    monkeypatch.setattr(Bar, "pause_s", 0.1)
    with wukong.Client(progress=False) as client, pytest.raises(KeyboardInterrupt):
        waits_and_loses_ctrl_c(client, how)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_while_a_client_is_open_asyncio_run_cancels_its_main_task_on_ctrl_c() -> None:
    async def main() -> None:
        try:
            ctrl_c()
            await asyncio.sleep(_LONG_S)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    cancelled: list[bool] = []
    with wukong.Client(progress=False) as client:
        assert client.submit(abs, -1).result() == 1
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    assert cancelled


def test_ctrl_c_that_is_held_reaches_an_event_loop_once() -> None:
    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: heard.append(True))
        with held():
            ctrl_c()
        await asyncio.sleep(0.1)

    heard: list[bool] = []
    asyncio.run(main())
    assert len(heard) == 1


def test_a_child_that_is_forked_while_another_thread_holds_ctrl_c_hears_it(heard: list[int]) -> None:
    def fork() -> None:
        child = os.fork()
        if not child:
            ctrl_c()
            os._exit(len(heard))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    codes: list[int] = []
    with held():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert codes == [1]


def test_a_handler_that_is_set_while_ctrl_c_is_held_stays(heard: list[int]) -> None:
    with held():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and not heard


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


@pytest.mark.parametrize("step", ["before the start", "at the watcher's start", "watched"])
def test_ctrl_c_while_a_call_is_begun_stops_it_and_the_call_can_be_made_again(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, watch = threading.Thread.start, Background.watch

    def start_thread(thread: threading.Thread) -> None:
        if thread.name == "wukong-jobs":
            ctrl_c()
        start(thread)

    def watched(*args: Any) -> None:
        watch(*args)
        ctrl_c()

    with wukong.Client(progress=False) as client:
        with monkeypatch.context() as patched:
            if step == "before the start":
                patched.setattr(Deployment, "start", interrupted(Deployment.start))
            elif step == "watched":
                patched.setattr(Background, "watch", watched)
            else:
                patched.setattr(threading.Thread, "start", start_thread)
            with pytest.raises(KeyboardInterrupt):
                client.submit(time.sleep, _LONG_S, key="same")
        assert client.last_job is not None and client.last_job.status in ("cancelled", "failed")
        assert client.submit(abs, -1, key="same").result() == 1


def test_ctrl_c_while_invocations_are_posted_ends_that(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(Posting):
        def _deliver(self, posted: Posted) -> None:
            posts.append(posted)
            may_end.wait(_LONG_S)

    start = threading.Thread.start

    def start_thread(thread: threading.Thread) -> None:
        threads.append(thread)
        if len(threads) == 2:
            ctrl_c()
        start(thread)

    posts: list[Posted] = []
    threads: list[threading.Thread] = []
    may_end = threading.Event()
    monkeypatch.setattr(threading.Thread, "start", start_thread)
    calls = [Invocation(str(n), b"") for n in range(9)]
    with pytest.raises(KeyboardInterrupt):
        Counted([], calls, pytest.fail, False, 4, 5.0).run()
    may_end.set()
    for thread in threads:
        thread.join()
    assert len(posts) <= len(threads) == 2


def test_signals_are_the_programs_own_again_when_all_clients_have_closed() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_DFL:
            pytest.skip("somebody handles this signal here")
    with wukong.Client(progress=False, close_on_signals=False):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with wukong.Client(progress=False), wukong.Client(progress=False):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
