"""Futures: values that are being computed, or are kept in the store for later work.

A `Future` behaves like one of `concurrent.futures` and may stand in any later graph as an input. Its value is kept
until the last reference to the future is gone, or the client closes.
"""

from __future__ import annotations

import threading
import time
import traceback as tracebacks
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from wukong.client.following import settled
from wukong.client.notebook import card
from wukong.core.partial import FailedValue
from wukong.core.raised import Raised
from wukong.core.time_left import in_time
from wukong.errors import JobCancelled, WukongError

if TYPE_CHECKING:
    from wukong.client.launch import Work
    from wukong.client.registry import Registry
    from wukong.client.session import Session
    from wukong.core.job import Job


class StoredValue(NamedTuple):
    """A value that stays in the store under `key`."""

    key: bytes


class FutureState:
    """What all copies of one future share: pending, then one of finished, error or cancelled.

    Attributes:
        work: the work that makes its value, and its key in that; None if it is not to be done again.
        raised: what a task has raised, if it has failed for that.
    """

    def __init__(self, key: Hashable, registry: Registry) -> None:
        self.key = key
        self.registry = registry
        self.status = "pending"
        self.value: Any = None
        self.error: BaseException | None = None
        self.raised: Raised | None = None
        self.changed = threading.Condition()
        self.callbacks: list[Callable[[FutureState], None]] = []
        self.cancel_job: Callable[[], None] | None = None
        self.job: Job | None = None
        self.work: tuple[Work, Hashable] | None = None
        self._users: deque[Callable[[], None]] = deque()
        self._calling = False

    def settle(
        self, status: str, value: Any = None, error: BaseException | None = None, raised: Raised | None = None
    ) -> bool:
        """Leave ``pending``, once; call the callbacks. Return False if somebody was faster."""
        self.registry.owner.check()
        with self.changed:
            if self.status != "pending":
                return False
            self.status, self.value, self.error, self.raised = status, value, error, raised
            if status != "error":
                self.work = None
            callbacks, self.callbacks = self.callbacks, []
            self.changed.notify_all()
        for callback in callbacks:
            callback(self)
        self._call_users()
        return True

    def reopen(self, *, cancelled: bool = False) -> bool:
        """Be pending again after a failure, since the work is to be done again. Return False if it has not failed.

        `cancelled`: also after that.
        """
        self.registry.owner.check()
        with self.changed:
            if self.status != "error" and not (cancelled and self.status == "cancelled"):
                return False
            self.status, self.error, self.raised, self.cancel_job = "pending", None, None, None
            return True

    def tell(self, callback: Callable[[], None]) -> None:
        """Call a user's callback in another thread once this is no longer pending, after those given before it."""
        self.registry.owner.check()
        with self.changed:
            self._users.append(callback)
        if self.status != "pending":
            self._call_users()

    def _call_users(self) -> None:
        with self.changed:
            if self._calling or not self._users:
                return
            self._calling = True
        self.registry.callers.call(self._call_each)

    def _call_each(self) -> None:
        while True:
            with self.changed:
                if not self._users:
                    self._calling = False
                    return
                callback = self._users.popleft()
            callback()

    def when_done(self, callback: Callable[[FutureState], None]) -> None:
        """Call `callback` once this is no longer pending; at once if it is not.

        That may be in the thread that watches all jobs: `callback` must be short, and run no code of the user's (for
        that, see `tell`).
        """
        self.registry.owner.check()
        with self.changed:
            if self.status == "pending":
                self.callbacks.append(callback)
                return
        callback(self)

    def wait(self, timeout_s: float | None) -> None:
        """Return when this is no longer pending. Raises JobTimeout."""
        settled([self], timeout_s)

    def settled_within(self, timeout_s: float | None) -> bool:
        """Wait at most `timeout_s` seconds; return whether this is no longer pending."""
        self.registry.owner.check()
        with self.changed:
            return self.changed.wait_for(lambda: self.status != "pending", timeout_s)

    def outcome(self) -> Any:
        """Return the value. Raises what the work raised, or JobCancelled."""
        self.registry.owner.check()
        if self.error is not None:
            raise self.error
        return self.registry.fetch([self.value])[0]


def retry(states: Iterable[FutureState]) -> None:
    """Do the work of the failed ones of `states` again, and the work of the failed ones that it needs."""
    for state in states:
        work = state.work
        if work is not None and state.reopen():
            work[0].again(work[1], state)


class Future:
    """A value that is being computed by a client; made by `Client.submit` and its like, never by hand.

    It stands for its value in any graph or call of the same client, also inside lists, tuples, sets and dicts.

    Attributes:
        key: its Dask key.
    """

    __dask_future__ = True

    def __init__(self, state: FutureState, client: Session | None = None) -> None:
        self._state = state
        self._client = client  # for as long as anybody has this future, the client stays open
        self.key = state.key
        self._collect = self._released = False
        state.registry.hold(state)

    def result(self, timeout: float | None = None) -> Any:
        """Return the value, waiting `timeout` seconds at most. Raises what the work raised, JobTimeout/JobCancelled.

        If it is of a `map` with ``on_error="collect"``, a `wukong.FailedValue` instead of what its task raised. An
        asynchronous client's futures return an awaitable of all that.
        """
        return self._awaited(self._result, timeout) if self._asynchronous else self._result(timeout)

    def _result(self, timeout: float | None = None) -> Any:
        with in_time(timeout, f"the value of the future {self.key!r} is not here"):
            self._state.wait(timeout)
            if self._collect and self._state.raised is not None:
                return FailedValue(self.key, self._state.raised)
            return self._state.outcome()

    def exception(self, timeout: float | None = None) -> Any:
        """Return what the work raised, or None, waiting `timeout` seconds at most; see `result`."""
        return self._awaited(self._exception, timeout) if self._asynchronous else self._exception(timeout)

    def _exception(self, timeout: float | None = None) -> BaseException | None:
        self._state.wait(timeout)
        if isinstance(self._state.error, JobCancelled):
            raise self._state.error
        return self._state.error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """Return the traceback of what the work raised, or None. The remote part is the exception's ``__cause__``."""
        error = self._exception(timeout)
        return None if error is None else error.__traceback__

    def done(self) -> bool:
        """Whether the work has ended, in whatever way."""
        return self._state.status != "pending"

    def running(self) -> bool:
        """Whether the work has been started and has not ended."""
        return not self.done()

    def cancelled(self) -> bool:
        """Whether the work was cancelled."""
        return self._state.status == "cancelled"

    @property
    def client(self) -> Session | None:
        """The client whose future it is."""
        return self._client

    @property
    def status(self) -> str:
        """``pending``, ``finished``, ``error`` or ``cancelled``."""
        return self._state.status

    def cancel(self, **_: Any) -> bool:
        """Cancel the work, and that of all futures of the same call. Return False if it had ended already."""
        if self.done():
            return False
        cancel = self._state.cancel_job
        settled = self._state.settle("cancelled", error=JobCancelled(f"the future {self.key!r} was cancelled"))
        if cancel is not None:
            cancel()
        return settled

    def add_done_callback(self, fn: Callable[[Future], Any]) -> None:
        """Call ``fn(self)`` in a thread for callbacks when the work has ended; one future's callbacks run in order.

        `fn` may wait, use the client and close it. What it raises is logged, not raised.
        """

        def call() -> None:
            try:
                fn(self)
            except BaseException:  # also SystemExit: it is that thread's, not the program's
                _log_callback(self.key)

        self._state.tell(call)

    def retry(self) -> None:
        """Run the work again if it has failed, and the work of the failed futures that it needs."""
        retry([self._state])

    def release(self) -> None:
        """Give the value up before the last reference is gone. The future must not be used afterwards."""
        if not self._released:
            self._released = True
            self._state.registry.let_go(self._state)

    def __dask_tokenize__(self) -> tuple[str, Hashable]:
        return "wukong.Future", self.key

    def __await__(self) -> Iterator[Any]:
        return self._awaited(self._result, None).__await__()

    @property
    def _asynchronous(self) -> bool:
        return self._client is not None and self._client.asynchronous

    async def _awaited(self, asked: Callable[[float | None], Any], timeout: float | None) -> Any:
        from wukong.client.awaiting import in_thread, settled

        until_s = None if timeout is None else time.monotonic() + timeout
        await settled([self], timeout)
        return await in_thread(asked, None if until_s is None else max(0.0, until_s - time.monotonic()))

    def __del__(self) -> None:
        self.release()

    def __reduce__(self) -> tuple[Any, ...]:
        raise WukongError(
            f"the future {self.key!r} cannot be pickled",
            hint="give it to the function as an argument, or inside a list, tuple, set or dict; inside other objects, "
            "and among the variables of a function, it is not found",
        )

    def _repr_html_(self) -> str:
        state, rows = self._state, [("status", self.status)]
        link = None if self._client is None else self._client._live.link
        if state.error is not None:
            raised = Raised.of(state.error, None)
            rows.append(("error", f"{raised.kind}: {raised.message}"))
        if state.job is not None:
            rows.append(("job", repr(state.job)))
        return card(f"Future {self.key!r}", rows, link)

    def __repr__(self) -> str:
        return f"<Future {self.key!r}: {self.status}>"


def _log_callback(key: Hashable) -> None:
    import logging

    logging.getLogger("wukong").error("a callback of future %r failed:\n%s", key, tracebacks.format_exc())
