"""A client as an executor of `concurrent.futures`: what CPython promises of one, in the order of its own tests."""

from __future__ import annotations

import concurrent.futures as standard
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait, wait_for

import wukong
from wukong.client.executor import ClientExecutor


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


@pytest.fixture
def executor(client: wukong.Client) -> Iterator[ClientExecutor]:
    with client.get_executor() as executor:
        yield executor


def capture(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def divide(a: int, b: int) -> int:
    return a // b


def held(path: str) -> str:
    """Runs until `path` is there."""
    return str(wait_for(path, path))


def test_submit_hands_on_all_arguments_whatever_their_names(executor: ClientExecutor) -> None:
    future = executor.submit(capture, 1, self=2, fn=3, key=4, retries=5)
    assert isinstance(future, standard.Future)
    assert future.result(60) == ((1,), {"self": 2, "fn": 3, "key": 4, "retries": 5})
    assert future.done() and not future.cancelled() and future.exception() is None
    with pytest.raises(TypeError):
        executor.submit(fn=capture, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit(arg=1)  # type: ignore[call-arg]


def test_equal_calls_are_made_as_often_as_they_are_submitted(executor: ClientExecutor, tmp_path: Path) -> None:
    def note(path: str) -> None:
        with open(path, "a") as file:
            file.write("x")

    path = str(tmp_path / "calls")
    standard.wait([executor.submit(note, path) for _ in range(3)])
    list(executor.map(note, [path, path]))
    assert Path(path).read_text() == "xxxxx"


def test_exceptions_come_with_the_remote_traceback(executor: ClientExecutor) -> None:
    future = executor.submit(divide, 1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result(60)
    assert "in divide" in str(caught.value.__cause__) and isinstance(future.exception(), ZeroDivisionError)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_gives_values_in_order_and_the_first_exception_in_its_turn(
    executor: ClientExecutor, chunksize: int
) -> None:
    assert list(executor.map(divide, range(10), range(1, 12), chunksize=chunksize)) == [0] * 10
    assert list(executor.map(pow, [], [])) == []
    values = executor.map(divide, [6, 6, 6, 6], [1, 2, 3, 0], chunksize=chunksize)
    assert [next(values) for _ in range(3)] == [6, 3, 2]
    with pytest.raises(ZeroDivisionError):
        next(values)
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(divide, [1], [1], chunksize=0)


def test_map_begins_without_iteration_and_its_time_may_be_over(
    client: wukong.Client, executor: ClientExecutor, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    executor.map(Path.touch, [there])
    wait(there.exists)
    before = client.cost().jobs["cancelled"]
    values = executor.map(held, [str(tmp_path / "never")], timeout=0.1)
    with pytest.raises(TimeoutError):
        list(values)
    wait(lambda: client.cost().jobs["cancelled"] > before)


def test_as_completed_and_wait_of_the_standard_library_take_its_futures(
    executor: ClientExecutor, tmp_path: Path
) -> None:
    quick, slow = executor.submit(divide, 4, 2), executor.submit(held, str(tmp_path / "go"))
    done, left = standard.wait([quick, slow], return_when=standard.FIRST_COMPLETED)
    assert done == {quick} and left == {slow}
    failed = executor.submit(divide, 1, 0)
    done, left = standard.wait([failed, slow], return_when=standard.FIRST_EXCEPTION)
    assert done == {failed} and left == {slow}
    (tmp_path / "go").touch()
    assert set(standard.as_completed([quick, slow, quick])) == {quick, slow}


def test_callbacks_are_called_with_the_future(executor: ClientExecutor) -> None:
    told: list[Any] = []
    heard = threading.Event()
    future = executor.submit(divide, 9, 3)
    future.add_done_callback(lambda each: (told.append(each.result()), heard.set()))
    assert heard.wait(60) and told == [3]


def test_a_call_may_be_cancelled_also_while_it_runs(executor: ClientExecutor, tmp_path: Path) -> None:
    def begun(path: str) -> None:
        Path(path, "begun").touch()
        wait_for(path + "/never", None)

    future = executor.submit(begun, str(tmp_path))
    wait((tmp_path / "begun").exists)
    assert future.cancel() and future.cancelled() and future.done()
    with pytest.raises(standard.CancelledError):
        future.result(60)
    assert standard.wait([future], timeout=60).done == {future}
    ended = executor.submit(divide, 4, 2)
    assert ended.result(60) == 2 and not ended.cancel()


def test_after_shutdown_nothing_is_taken_and_what_there_is_is_done(client: wukong.Client) -> None:
    executor = client.get_executor()
    futures = [executor.submit(divide, i, 1) for i in range(3)]
    values = executor.map(divide, [4], [2])
    executor.shutdown()
    assert [future.result(0) for future in futures] == [0, 1, 2] and list(values) == [2]
    for late in (lambda: executor.submit(divide, 1, 1), lambda: executor.map(divide, [1], [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            late()
    executor.shutdown()  # twice is no error
    assert not client.closed


def test_shutdown_may_cancel_and_need_not_wait(client: wukong.Client, tmp_path: Path) -> None:
    executor = client.get_executor()
    slow = executor.submit(held, str(tmp_path / "go"))
    executor.shutdown(wait=False)
    assert not slow.done()
    (tmp_path / "go").touch()
    assert slow.result(60)
    other = client.get_executor()
    never = other.submit(held, str(tmp_path / "never"))
    other.shutdown(cancel_futures=True)
    assert never.cancelled()


def test_ctrl_c_inside_cancels_what_has_not_ended(client: wukong.Client, tmp_path: Path) -> None:
    submitted = []

    def interrupted() -> None:
        with client.get_executor() as executor:
            submitted.append(executor.submit(held, str(tmp_path / "never")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert submitted[0].cancelled()


def test_calls_that_nobody_holds_are_made_and_nothing_is_held_of_them_then(
    executor: ClientExecutor, tmp_path: Path
) -> None:
    future = executor.submit(Path.touch, tmp_path / "made")
    weak = weakref.ref(future)
    del future
    wait((tmp_path / "made").exists)
    wait(lambda: weak() is None)


def test_futures_of_the_client_are_arguments_and_retries_are_heard(client: wukong.Client, tmp_path: Path) -> None:
    def second(path: str) -> bool:
        there = Path(path).exists()
        Path(path).touch()
        return there or divide(1, 0) > 0

    two = client.submit(divide, 4, 2)
    with client.get_executor(retries=1) as executor:
        assert executor.submit(divide, 10, two).result(60) == 5
        assert executor.submit(second, str(tmp_path / "tries")).result(60) is True


def test_closing_the_client_cancels_what_has_not_ended(tmp_path: Path) -> None:
    client = wukong.Client(progress=False)
    future = client.get_executor().submit(held, str(tmp_path / "never"))
    client.close()
    with pytest.raises(standard.CancelledError):
        future.result(60)
