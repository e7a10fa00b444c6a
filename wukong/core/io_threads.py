"""The threads that carry out an executor's requests to the store while it runs tasks: a reader, and a writer.

    whoever has the walk            reader or writer                        whoever has the walk
    begin: work, its bytes    -->   work(), one after the other       -->   what work() has returned, called once:
    (False: no room)                `- error                                takes in what has come; or `failed`

Who owns what: a thread has the store, the codec and its own request, and nothing else of the executor. Whoever has the
walk puts what has come into the cache and into the books. So none of the user's code runs in these threads.

The writer carries requests out in the order in which they were begun. If one fails, its error is raised when the walk
takes it in, and the thread carries out none of those after it: an arrival might announce a value that was not stored.

A thread starts with the first request of its kind, and ends with the walk. It does not carry out those that it has not
begun by then, as if the executor had died before them. On Ctrl-C, the executor does not wait for one under way either.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from wukong.core.effects import Came
from wukong.core.lanes import LaneThreads, RequestResult
from wukong.core.limits import MemoryGauge
from wukong.core.on_core import CoreClock, OnCore
from wukong.core.policy import UNKNOWN_BYTES

Kind: TypeAlias = Literal["reader", "writer"]
Work: TypeAlias = Callable[[Callable[[], "OnCore | None"], Callable[[int], None]], Callable[[], Came]]
"""What a thread does. It is given the thread's clock, and what to call once it knows how many bytes the request holds.

It returns a function, which whoever has the walk calls to take in what has come.
"""

Failure: TypeAlias = Callable[[BaseException], Came]
"""What whoever has the walk calls if the work has raised."""

_SHARE = 8
_BRIEFLY_S = 0.2


def budget_bytes(gauge: MemoryGauge | None) -> int:
    """Return what requests may hold together, and likewise what waits for seats of limits."""
    return UNKNOWN_BYTES if gauge is None else gauge.most_bytes // _SHARE


class IoThreads:
    """See the module's docstring.

    Args:
        lanes: those of the executor; whichever of them has the walk takes in what has come.
        gauge: how full this process's memory is; None: the platform does not end it for that.

    Attributes:
        budget_bytes: how many bytes the requests that are under way may hold together.
    """

    def __init__(self, lanes: LaneThreads, gauge: MemoryGauge | None = None) -> None:
        self._lanes, self._gauge = lanes, gauge
        self.budget_bytes = budget_bytes(gauge)
        self._under_way: list[_Request] = []
        self._threads: dict[Kind, _IoThread] = {}
        self._landing = threading.Condition(threading.Lock())
        self._over = threading.Event()
        self._n_begun = self._n_landed = 0

    # --- for whoever has the walk

    @property
    def held_bytes(self) -> int:
        """How many bytes the requests that are under way hold."""
        return sum(request.held_bytes for request in self._under_way)

    def begin(self, kind: Kind, held_bytes: int, work: Work, failed: Failure) -> bool:
        """Have a thread do this work. Returns False if it would hold more bytes than there is room for."""
        free_bytes = self.budget_bytes - self.held_bytes
        if held_bytes > free_bytes or (self._gauge is not None and held_bytes > self._gauge.free_bytes()):
            return False
        thread = self._threads.get(kind)
        if thread is None:
            thread = _IoThread(kind, self._land, self._over)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left: the walk does it
                return False
            self._threads[kind] = thread
        request = _Request(held_bytes, failed, work)
        self._under_way.append(request)
        self._n_begun += 1
        thread.requests.put(request)
        return True

    def wait(self) -> None:
        """Return once a request has ended that the walk has not taken in. Raises RuntimeError if none will."""
        with self._landing:
            self._landing.wait_for(lambda: self._has_landed() or self._n_landed == self._n_begun or self._over.is_set())
        if not self._has_landed():
            raise RuntimeError("no request to the store is under way")

    def _has_landed(self) -> bool:
        return any(isinstance(each, RequestResult) for each in list(self._lanes.landed))

    def landed(self) -> list[RequestResult]:
        """Return the requests that have ended; whoever has the walk takes them in."""
        landed = self._lanes.landed
        ended = [each for each in list(landed) if isinstance(each, RequestResult)]
        for each in ended:
            landed.remove(each)
        return ended

    def stop(self) -> None:
        """Have the threads begin nothing more, and nobody wait for them: the walk has ended."""
        with self._landing:
            self._over.set()
            self._landing.notify_all()

    def end(self, *, at_once: bool) -> None:
        """Let the threads end, and wait for that; `at_once`: only briefly, whatever the store does meanwhile."""
        self.stop()
        for thread in self._threads.values():
            thread.requests.put(None)
        for thread in self._threads.values():
            thread.join(_BRIEFLY_S if at_once else None)
        self._threads.clear()

    # --- in a thread

    def _land(self, request: _Request) -> None:
        with self._landing:
            self._lanes.landed.append(RequestResult(partial(self._taken_in, request)))
            self._n_landed += 1
            self._landing.notify_all()
        self._lanes.rouse()

    def _taken_in(self, request: _Request) -> Came:
        self._under_way.remove(request)
        if request.error is not None:
            return request.failed(request.error)
        assert request.take_in is not None
        return request.take_in()


@dataclass(slots=True, eq=False)
class _Request:
    held_bytes: int
    failed: Failure
    work: Work | None
    take_in: Callable[[], Came] | None = None
    error: BaseException | None = None

    def hold(self, held_bytes: int) -> None:
        """Note how many bytes it holds, now that this is known."""
        self.held_bytes = held_bytes


class _IoThread:
    """One thread: carries out requests one after the other, until one fails."""

    def __init__(self, kind: Kind, land: Callable[[_Request], None], over: threading.Event) -> None:
        self.requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._land, self._over = land, over
        self._thread = threading.Thread(target=self._run, name=f"wukong-{kind}", daemon=True)

    def start(self) -> None:
        """Start it. Raises RuntimeError if the system has no thread left."""
        self._thread.start()

    def join(self, timeout_s: float | None) -> None:
        """Return when it has ended, or when the time is over."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        clock, failed = CoreClock(), None
        try:
            while (request := self.requests.get()) is not None and not self._over.is_set():
                work, request.work, request.error = request.work, None, failed
                if failed is None and work is not None:
                    try:
                        request.take_in = work(clock.read, request.hold)
                    except BaseException as error:
                        request.error = failed = error
                del work  # what it held is stored
                self._land(request)
                del request  # an idle thread keeps nobody's values
        finally:
            clock.close()
