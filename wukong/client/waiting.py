"""Waiting for futures: until all have ended, or for one after the other, from threads and from asyncio."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from wukong.client.display import Bar
from wukong.client.following import counts_of, details_of, first
from wukong.client.futures import Future, FutureState
from wukong.client.nested import find_futures
from wukong.errors import JobTimeout

logger = logging.getLogger("wukong")


class DoneAndNotDone(NamedTuple):
    """What `wait` returns."""

    done: set[Future]
    not_done: set[Future]


def wait(fs: Any, timeout: float | None = None, return_when: str = "ALL_COMPLETED") -> Any:
    """Wait until all futures have ended, or the first (``FIRST_COMPLETED``, ``FIRST_EXCEPTION``).

    `fs` are futures and persisted collections, alone or in lists, tuples, sets and dicts. Raises JobTimeout after
    `timeout` seconds. The exceptions of the futures are not raised. Returns a `DoneAndNotDone`; of an asynchronous
    client's futures an awaitable of that.
    """
    if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"):
        raise ValueError(f"return_when={return_when!r}: one of ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION")
    futures = set(find_futures(fs))
    if any(future._asynchronous for future in futures):
        return _waited(futures, timeout, return_when)
    for future in as_completed(futures, timeout=timeout):
        if _enough(future, return_when):
            break
    return _told(futures)


async def _waited(futures: set[Future], timeout: float | None, return_when: str) -> DoneAndNotDone:
    async for future in as_completed(futures, timeout=timeout):
        if _enough(future, return_when):
            break
    return _told(futures)


def _enough(future: Future, return_when: str) -> bool:
    return return_when == "FIRST_COMPLETED" or (return_when == "FIRST_EXCEPTION" and future.status != "finished")


def _told(futures: set[Future]) -> DoneAndNotDone:
    done = {future for future in futures if future.done()}
    return DoneAndNotDone(done, futures - done)


def futures_of(o: Any, client: Any = None) -> list[Future]:
    """Return the futures in `o`: itself, under persisted collections, inside lists, tuples, sets and dicts.

    With a `client` given, as in `distributed`, raises JobCancelled if one of them was cancelled.
    """
    futures = find_futures(o)
    if client is not None:
        for future in futures:
            if future.cancelled():
                future._result()
    return futures


def fire_and_forget(obj: Any) -> None:
    """Have futures' work done although nobody holds them: those in `obj`, also inside lists, dicts and collections.

    Their client stays open until the work has ended, or it is closed. What fails is logged.
    """
    for future in find_futures(obj):
        future.add_done_callback(_forget)


def _forget(future: Future) -> None:
    if future.status == "error":
        logger.warning("a future that nobody waits for has failed: %r: %r", future.key, future._state.error)


class as_completed:  # noqa: N801 - the name of the function it stands for everywhere else
    """Iterate over futures as they end: ``for``, ``async for``, or by `batches`.

    Args:
        futures: the first ones; more may be added meanwhile.
        with_results: yield ``(future, value)``; if a future failed, raise its exception.
        raise_errors: False: do not raise it; instead of the value there is ``(type, exception, traceback)``, or the
            exception of a cancelled future.
        timeout: how many seconds after the start JobTimeout is raised.
    """

    def __init__(
        self,
        futures: Iterable[Future] = (),
        loop: Any = None,
        with_results: bool = False,
        raise_errors: bool = True,
        *,
        timeout: float | None = None,
    ) -> None:
        self._changed = threading.Condition()
        self._ended: deque[Future] = deque()
        self._left: dict[object, Future] = {}
        self._sleepers: list[Callable[[], None]] = []
        self._states: list[FutureState] = []
        self._bar: Bar | None = None
        self._until = None if timeout is None else time.monotonic() + timeout
        self.with_results = with_results
        self.raise_errors = raise_errors
        self.update(futures)

    def add(self, future: Future) -> None:
        """Wait for this future as well."""
        ticket = object()
        with self._changed:
            self._left[ticket] = future
            self._states.append(future._state)

        def ended(_: FutureState) -> None:
            with self._changed:
                if self._left.pop(ticket, None) is None:  # not wanted any more
                    return
                self._ended.append(future)
                sleepers, self._sleepers = self._sleepers, []
                self._changed.notify_all()
            for wake in sleepers:
                wake()

        future._state.when_done(ended)

    def update(self, futures: Iterable[Future]) -> None:
        """Wait for these futures as well."""
        for future in futures:
            self.add(future)

    def count(self) -> int:
        """Number of futures that are still to come."""
        with self._changed:
            return len(self._left) + len(self._ended)

    def is_empty(self) -> bool:
        """Whether none is still to come."""
        return self.count() == 0

    def has_ready(self) -> bool:
        """Whether there is one that can be had without waiting."""
        return bool(self._ended)

    def clear(self) -> None:
        """Wait for none of them any more."""
        with self._changed:
            self._left.clear()
            self._ended.clear()
            sleepers, self._sleepers = self._sleepers, []
            self._changed.notify_all()
        for wake in sleepers:
            wake()

    def next_batch(self, block: bool = True) -> list[Any]:
        """Return all that have ended by now; with `block`, wait for the first. Raises StopIteration if none is left."""
        batch = [next(self)] if block else []
        while (future := self._take()) is not None:
            batch.append(self._given(future))
        return batch

    def batches(self) -> Iterator[list[Any]]:
        """Yield lists of those that have ended meanwhile, until none is left."""
        while not self.is_empty():
            with suppress(StopIteration):
                yield self.next_batch()

    def __iter__(self) -> as_completed:
        return self

    def __next__(self) -> Any:
        if self._states:
            self._states[0].registry.owner.check()
        if not self._ended and self._left:
            self._await()
        with self._changed:
            future = self._take()
            if future is None:
                if self._left:
                    raise self._too_late()
                raise StopIteration
        if self._bar is not None and self.is_empty():
            self._bar.close(done=True)
        return self._given(future)

    def _await(self) -> None:
        """Wait until one has ended, or none is wanted any more, or the time is over."""
        if self._bar is None:
            setting = self._states[0].registry.progress
            details = details_of(self._states)
            self._bar = Bar(setting, lambda: counts_of(self._states)(), details)

        def any_ended(longest_s: float | None) -> bool:
            with self._changed:
                return bool(self._changed.wait_for(lambda: self._ended or not self._left, longest_s))

        try:
            first(any_ended, self._bar, self._until)
        finally:
            self._bar.release()  # between two futures the terminal is the caller's

    next = __next__

    def __aiter__(self) -> as_completed:
        return self

    async def __anext__(self) -> Any:
        from wukong.client.awaiting import Waker, in_thread

        while True:
            waker = Waker()
            with self._changed:
                future = self._take()
                if future is None:
                    if not self._left:
                        raise StopAsyncIteration
                    self._sleepers.append(waker)
            if future is not None:
                return await in_thread(self._given, future) if self.with_results else future
            try:
                await waker.wait(self._left_s())
            except TimeoutError:
                raise self._too_late() from None

    def _take(self) -> Future | None:
        with self._changed:
            return self._ended.popleft() if self._ended else None

    def _given(self, future: Future) -> Any:
        if not self.with_results:
            return future
        error = future._state.error
        if self.raise_errors or error is None:
            return future, future._result(self._left_s())
        return future, error if future.cancelled() else (type(error), error, error.__traceback__)

    def _left_s(self) -> float | None:
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def _too_late(self) -> JobTimeout:
        return JobTimeout(f"{self.count()} futures are not done within the time given")
