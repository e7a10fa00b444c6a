"""A client as an executor of `concurrent.futures`, for programs that are written for one.

    submit  ->  one job  ->  a future of `concurrent.futures`, so that its `wait` and `as_completed` take it
    map     ->  one job of all calls, in chunks  ->  their values in order

What is different from a pool: there is no number of workers, so nothing queues here, and a call may be cancelled also
while it runs; a future is never `running`. A Ctrl-C inside ``with client.get_executor()`` cancels what has not ended.
"""

from __future__ import annotations

import concurrent.futures as standard
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any, TypeVar

from wukong.client.calls import call
from wukong.client.following import settled
from wukong.client.futures import Future
from wukong.client.session import Session

_READ_AT_ONCE = 64

T = TypeVar("T")


class ClientExecutor(standard.Executor):
    """Runs calls on a client; made by `wukong.Client.get_executor`.

    Args:
        client: who runs them. It stays open after `shutdown`.
        retries: how often a call that fails is run again; None: as configured.
        budget_usd: what one `submit`, or one `map`, may cost; None: as configured.
    """

    def __init__(self, client: Session, *, retries: int | None = None, budget_usd: float | None = None) -> None:
        self._client = client
        self._given: dict[str, Any] = {"retries": retries, "pure": False, "budget_usd": budget_usd}
        # Reentrant: a future may be collected at any line, and is taken out then.
        self._lock = threading.RLock()
        self._open: weakref.WeakSet[_Submitted | Future] = weakref.WeakSet()
        self._down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> standard.Future[T]:
        """Run ``fn(*args, **kwargs)``. Futures of the client among the arguments stand for their values.

        Raises RuntimeError after `shutdown`.
        """
        with self._lock:
            self._check()
            [work] = call(self._client, fn, [args], [kwargs], None, **self._given)
            submitted = _Submitted(work)
            self._open.add(submitted)
        submitted.begin()
        return submitted

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Run `fn` for each tuple of items, as one job that starts at once; return an iterator over the values.

        Args:
            timeout: how many seconds after this call TimeoutError is raised, by the iterator.
            chunksize: how many calls are one task.

        The values come in order. An exception is raised when its value's turn comes; what has not ended is cancelled.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        until_s = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._check()
            calls = list(zip(*iterables, strict=False))
            if chunksize == 1:
                works = call(self._client, fn, calls, [{}] * len(calls), None, **self._given)
            else:
                chunks = [(fn, calls[i : i + chunksize]) for i in range(0, len(calls), chunksize)]
                works = call(self._client, _chunk, chunks, [{}] * len(chunks), None, **self._given)
            self._open.update(works)
        return _values(works, until_s, chunked=chunksize > 1)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; wait for those that there are, or with `cancel_futures` cancel what has not ended."""
        with self._lock:
            self._down = True
            left = [each for each in self._open if not each.done()]
        if cancel_futures:
            for each in left:
                each.cancel()
        if wait:
            settled([each._state for each in left if isinstance(each, Future)])
            standard.wait([each for each in left if isinstance(each, _Submitted)])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shut down. After a Ctrl-C inside, what has not ended is cancelled: whoever interrupts waits no longer."""
        self.shutdown(cancel_futures=kind is not None and issubclass(kind, KeyboardInterrupt))

    def _check(self) -> None:
        if self._down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._client._check_open()

    def __repr__(self) -> str:
        return f"<executor of {self._client!r}{': shut down' if self._down else ''}>"


class _Submitted(standard.Future[Any]):
    """A future of `concurrent.futures` for one of a client's."""

    def __init__(self, work: Future) -> None:
        super().__init__()
        self._work: Future | None = work

    def begin(self) -> None:
        """Hear of the work's end from now on."""
        work = self._work
        if work is not None:
            work.add_done_callback(self._ended)

    def cancel(self) -> bool:
        """Cancel the call, also if it runs already. Return False if it has ended."""
        work = self._work
        if not super().cancel():
            return False
        if work is not None:
            work.cancel()
        return True

    def _ended(self, work: Future) -> None:
        self._work = None
        if work.cancelled() and not self.cancelled():  # by the client, or because it was closed
            super().cancel()
        if not self.set_running_or_notify_cancel():
            return
        try:
            value = work._result()
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(value)


def _chunk(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*args) for args in calls]


def _values(works: list[Future], until_s: float | None, *, chunked: bool) -> Iterator[Any]:
    left = deque(works)
    works.clear()  # a value is the caller's alone once it is handed out
    try:
        while left:
            left[0]._state.wait(None if until_s is None else max(0.0, until_s - time.monotonic()))
            if left[0].status != "finished":
                left[0]._result()  # raises
            ready = [each._state for each in takewhile(_is_there, islice(left, _READ_AT_ONCE))]
            for value in ready[0].registry.fetch([state.value for state in ready]):
                left.popleft()
                if chunked:
                    yield from value
                else:
                    yield value
    finally:
        for each in left:
            each.cancel()


def _is_there(future: Future) -> bool:
    return future.status == "finished"
