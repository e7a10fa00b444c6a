"""Requests to the store that are under way while tasks run: values are fetched ahead, and written behind.

    part of a request                                    who does it
    pickle, pack what rides, copy what is shared         whoever has the walk, when it is begun
    sign and compress, put, arrive; get, check, expand   a thread of `wukong.core.io_threads`
    unpickle, cache, books                               whoever has the walk, when it takes the request in

Pickling and unpickling run code of the user's and hold the interpreter's lock, so another thread would gain nothing
with them. An array of 8 MB takes 10 us of that; to sign it takes 6 ms, and holds no lock. What a task may read here
meanwhile is written from a copy (1 to 4 ms): the task may change it in place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from wukong.core.books import Books
from wukong.core.codec import Opened, unpickled
from wukong.core.effects import Arrived, Came, FetchAhead, TakeIn, WriteBehind
from wukong.core.host import ExecutorHost
from wukong.core.invocation import Execution
from wukong.core.io_threads import IoThreads
from wukong.core.lanes import LaneThreads
from wukong.core.on_core import OnCore
from wukong.core.storage import Arrival, Outcome, blob_size
from wukong.core.store_effects import StoreEffects
from wukong.core.values import Parcel, Values, size_of

_Clock: TypeAlias = Callable[[], "OnCore | None"]
_EXPECTED_BYTES = 1 << 20
"""The size that a value counts with until the first one was fetched."""

_QUEUE_S = 1.0
"""All that is queued for the writer takes no longer than this, seconds, since arrivals wait behind it."""

_OF_MARGIN = 0.5
"""Nor does it take longer than this part of the time that an executor has for leaving, before its time limit."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """When it was, by the executor's clock, and what the thread had had of the cores by then."""

    now: float
    core: OnCore | None


@dataclass(frozen=True, slots=True)
class _Move:
    """A transfer.

    Attributes:
        sizes: of the values, bytes.
        begun, ended: when it began and ended, with what the thread does before and after.
        unix_s: when the values were stored, in Unix time, seconds; 0: they were fetched.
    """

    sizes: Sequence[int]
    begun: _Moment
    ended: _Moment
    unix_s: float = 0.0

    @property
    def took_s(self) -> float:
        return self.ended.now - self.begun.now

    @property
    def waited_s(self) -> float | None:
        """For how long of that the thread has waited for a core; None: not known."""
        begun, ended = self.begun.core, self.ended.core
        return None if begun is None or ended is None else ended[1] - begun[1]


class StoreRequests:
    """Carries out `FetchAhead`, `WriteBehind` and `TakeIn`.

    Args:
        books, values, stored, execution, lanes: the executor's.
        host: has the store and the codec.
    """

    def __init__(
        self,
        books: Books,
        values: Values,
        stored: StoreEffects,
        execution: Execution,
        lanes: LaneThreads,
        host: ExecutorHost,
    ) -> None:
        self._names, self._recorder, self._report = books.names, books.recorder, books.report
        self._values, self._stored, self._execution = values, stored, execution
        self._store, self._codec, self._ttl_s = host.store, host.codec, books.order.policy.ttl_s
        self._threads = IoThreads(lanes, host.gauge)
        self._costs = books.costs
        self._most_s = min(_QUEUE_S, _OF_MARGIN * execution.margin_s)
        self._n_writing, self._writing_s = 0, 0.0
        self._slower = 1.0

    def fetch_ahead(self, effect: FetchAhead) -> bool:
        """See `effects.FetchAhead`. Sizes are not known: each counts as a large one of late until it is here."""
        expected_bytes = len(effect.tasks) * (self._costs.fetched_bytes or _EXPECTED_BYTES)
        work = partial(self._fetch, effect, [self._names.value(task) for task in effect.tasks])
        return self._counted(self._threads.begin("reader", expected_bytes, work, partial(self._failed, effect)))

    def write_behind(self, effect: WriteBehind) -> bool:
        """See `effects.WriteBehind`. Raises CodecError if a value cannot be pickled."""
        had = self._recorder.on_core()
        parcel, arrivals = self._values.parcel(effect), self._stored.arrivals(effect.arrivals)
        size_bytes = parcel.size_bytes + sum(len(arrival.value or b"") for arrival in arrivals)
        n_trips = bool(effect.put) + bool(arrivals)
        takes_s = max(1e-6, n_trips * self._costs.round_trip_s + size_bytes / self._costs.bandwidth_bytes_per_s)
        begun = not self._n_writing or self._slower * (self._writing_s + takes_s) <= self._most_s
        if begun:
            work = partial(self._write, effect, takes_s, parcel, arrivals)
            held_bytes = size_bytes + parcel.copied_bytes  # what was copied is here twice
            begun = self._threads.begin("writer", held_bytes, work, partial(self._failed, effect))
        if begun:
            self._n_writing += 1
            self._writing_s += takes_s
        self._recorder.aside("put", had)
        return self._counted(begun)

    def take_in(self, effect: TakeIn) -> tuple[Came, ...]:
        """See `effects.TakeIn`. Raises what a request has failed with."""
        if effect.wait:
            begun = time.perf_counter()
            self._threads.wait()
            self._recorder.span("wait", begun, time.perf_counter())
        return tuple(each.take_in() for each in self._threads.landed())

    def stop(self) -> None:
        """Begin nothing more: the walk has ended."""
        self._threads.stop()

    def end(self, *, at_once: bool = False) -> None:
        """End the threads: the walk has ended. `at_once`: do not wait for the store."""
        self._threads.end(at_once=at_once)

    def _counted(self, begun: bool) -> bool:
        if begun:
            self._report.overlapped += 1
        else:
            self._report.refused += 1
        return begun

    def _failed(self, effect: FetchAhead | WriteBehind, error: BaseException) -> Came:
        """Raise what a request has failed with. Once the client has been told the outcome, nobody needs its answer."""
        if not self._execution.told:
            raise error
        if isinstance(effect, FetchAhead):
            return Came(effect, effect.tasks)
        return Came(effect, tuple(Arrived(False, False) for _ in effect.arrivals))

    # --- in a thread

    def _fetch(
        self, effect: FetchAhead, keys: Sequence[bytes], clock: _Clock, holds: Callable[[int], None]
    ) -> Callable[[], Came]:
        begun = _moment(clock)
        blobs = self._store.get(keys)
        found = zip(keys, blobs, strict=True)
        opened = [None if blob is None else self._codec.opened(blob, key) for key, blob in found]
        holds(sum(map(size_of, opened)))
        sizes = [0 if blob is None else blob_size(blob) for blob in blobs]
        return partial(self._fetched, effect, opened, _Move(sizes, begun, _moment(clock)))

    def _write(
        self,
        effect: WriteBehind,
        takes_s: float,
        parcel: Parcel,
        arrivals: Sequence[Arrival],
        clock: _Clock,
        holds: Callable[[int], None],
    ) -> Callable[[], Came]:
        begun = _moment(clock)
        items = parcel.items(self._codec)
        if items:
            self._store.put(items, self._ttl_s)
        stored, unix_s = _moment(clock), time.time()
        move = _Move(list(map(blob_size, items.values())), begun, stored, unix_s)
        outcomes = self._store.incr(arrivals, self._ttl_s) if arrivals else []
        return partial(self._wrote, effect, takes_s, move, arrivals, outcomes, _moment(clock))

    # --- whoever has the walk

    def _fetched(self, effect: FetchAhead, opened: Sequence[Opened | None], move: _Move) -> Came:
        self._values.note_moved(sum(move.sizes), move.took_s, read=True, waited_s=move.waited_s)
        self._costs.fetched([size_of(parts) for parts in opened if parts is not None])
        self._note("get", move.begun, move.ended, sum(move.sizes))
        had, cache = self._recorder.on_core(), self._values.cache
        for task, parts in zip(effect.tasks, opened, strict=True):
            if parts is not None and task not in cache:
                cache[task] = unpickled(parts)
        self._recorder.aside("get", had)
        return Came(effect, tuple(task for task, parts in zip(effect.tasks, opened, strict=True) if parts is None))

    def _wrote(
        self,
        effect: WriteBehind,
        takes_s: float,
        move: _Move,
        arrivals: Sequence[Arrival],
        outcomes: Sequence[Outcome],
        ended: _Moment,
    ) -> Came:
        self._n_writing -= 1
        self._writing_s = self._writing_s - takes_s if self._n_writing else 0.0
        self._slower = max(1.0, (ended.now - move.begun.now) / takes_s)
        if move.sizes:
            self._values.note_stored(effect.put, move.sizes, move.unix_s)
            self._values.note_moved(sum(move.sizes), move.took_s, waited_s=move.waited_s)
            self._note("put", move.begun, move.ended, sum(move.sizes))
        if arrivals:
            self._note("arrive", move.ended, ended, 0)
        return Came(effect, self._stored.arrived(arrivals, outcomes))

    def _note(self, kind: str, begun: _Moment, ended: _Moment, size_bytes: int) -> None:
        self._recorder.span(kind, begun.now, ended.now, size_bytes)
        if begun.core is not None and ended.core is not None:
            self._recorder.beside(kind, begun.core, ended.core)


def _moment(clock: _Clock) -> _Moment:
    return _Moment(time.perf_counter(), clock())
