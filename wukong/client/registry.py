"""What a client knows of its futures: their states by key, whether any are still in use, and where their values are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

from wukong.client.callers import Callers
from wukong.client.futures import FutureState, StoredValue
from wukong.client.owner import Owner
from wukong.client.resuming import hinted
from wukong.client.rows import Setting
from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.interrupts import waiting
from wukong.core.job import Job
from wukong.core.raised import Raised
from wukong.core.results import Result
from wukong.core.shipment import KeptValue
from wukong.core.storage import StorePort
from wukong.errors import JobCancelled, ValueLost


class NotReady(Exception):
    """A graph needs a future that is still pending."""

    def __init__(self, state: FutureState) -> None:
        super().__init__(state.key)
        self.state = state


class Registry:
    """The states of one client's futures.

    Args:
        store, codec: where kept values are, and how they are read.
        delete: called with the keys of values that nobody refers to any more.
        owner: the process that all of this is for.

    Attributes:
        progress: whether progress is shown to a caller that waits.
        drain: returns when all has been shown that tasks had said before; takes the longest wait, seconds.
        evictions: returns which servers of the store drop what they were given, one line each.
        callers: the threads for slow work when a future is done.
        owner: as given.
    """

    def __init__(self, store: StorePort, codec: Codec, delete: Callable[[Sequence[bytes]], None], owner: Owner) -> None:
        self.owner = owner
        self._store, self._codec, self._delete = store, codec, delete
        self._states: dict[Hashable, FutureState] = {}
        self._holders: dict[int, int] = {}
        # Any thread may collect a future at any line, and let it go, even while that thread holds the lock.
        self._lock = threading.RLock()
        self._closed = False
        self.progress: Setting = False
        self.drain: Callable[[float], None] = lambda timeout_s: None
        self.evictions: Callable[[], Sequence[str]] = tuple
        self.callers = Callers()

    def state(self, key: Hashable, *, reuse: bool = True) -> tuple[FutureState, bool]:
        """Return the state of `key`, and whether it is new: its work has yet to be started."""
        with self._lock:
            state = self._states.get(key)
            if reuse and state is not None and state.status in ("pending", "finished"):
                return state, False
            state = self._states[key] = FutureState(key, self)
            return state, True

    def hold(self, state: FutureState) -> None:
        """Count one more future that refers to this state."""
        with self._lock:
            self._holders[id(state)] = self._holders.get(id(state), 0) + 1

    def let_go(self, state: FutureState) -> None:
        """Count one future less that refers to this state; with the last one, its value is deleted from the store."""
        if not self.owner.here():
            return
        with self._lock:
            left = self._holders.get(id(state), 0) - 1
            if left > 0:
                self._holders[id(state)] = left
                return
            if self._holders.pop(id(state), None) is None:
                return
            if self._states.get(state.key) is state:
                del self._states[state.key]
        if type(state.value) is StoredValue and state.status == "finished" and not self._closed:
            # Its job may be resumed, and then has to compute this again.
            state.error, state.status = JobCancelled(f"the future {state.key!r} was released"), "cancelled"
            self._delete([state.value.key])

    @waiting()
    def fetch(self, values: Sequence[Any]) -> list[Any]:
        """Return the values of states; those in the store are fetched in one round trip. Raises ValueLost."""
        keys = [value.key for value in values if type(value) is StoredValue]
        blobs = iter(self._store.get(keys) if keys else ())
        results = []
        for value in values:
            if type(value) is StoredValue:
                blob = next(blobs)
                if blob is None:
                    raise ValueLost(
                        f"a kept value is not in the store any more ({value.key.decode()})",
                        hint="; ".join(
                            [
                                *self.evictions(),
                                "its future was released, the client was closed, or the store dropped it",
                            ]
                        ),
                    )
                value = self._codec.decode(blob, value.key)
                if type(value) is Raised:
                    raise value.error()
            results.append(value)
        return results

    def known(self, without: Collection[Hashable] = ()) -> Mapping[Hashable, Any]:
        """Return the futures' values as `wukong.core.ingest.ingest` takes them. A pending one raises `NotReady`."""
        return _Known(self._states, without) if self._states else {}

    def reopen(self, states: Collection[FutureState]) -> list[FutureState]:
        """Return those of these states that have no value: they are pending again, and known by their keys."""
        opened = [state for state in states if state.reopen(cancelled=True)]
        with self._lock:
            for state in opened:
                self._states.setdefault(state.key, state)
        return opened

    def fail(self, states: Collection[FutureState], error: BaseException) -> None:
        """Settle these states with an error: their work has failed, or was cancelled."""
        status = "cancelled" if isinstance(error, JobCancelled) else "error"
        for state in states:
            state.settle(status, error=error)

    def kept(self) -> list[bytes]:
        """Return the keys of all values that the store keeps."""
        with self._lock:
            values = [state.value for state in self._states.values()]
        return [value.key for value in values if type(value) is StoredValue]

    def close(self) -> None:
        """Cancel what is pending: no further values will come."""
        self._closed = True
        with self._lock:
            states = list(self._states.values())
        self.fail(states, JobCancelled("the client was closed"))

    def sink(
        self,
        job: Job,
        graph: Graph,
        states: Mapping[Hashable, FutureState],
        forget: Callable[[Job], None],
        again: Callable[[BaseException], bool] = lambda error: False,
    ) -> RegistrySink:
        """Return what takes the values of a background job; they go to `states`, by the graph's keys.

        `again`: told why it has failed; returns whether it is begun again, so that the states stay as they are.
        """
        by_task: dict[int, list[FutureState]] = {}
        for state in states.values():
            state.job = job
        for key, where in graph.request.items():
            if isinstance(where, int):
                by_task.setdefault(where, []).append(states[key])
            else:
                states[key].settle("finished", where.value)
        return RegistrySink(self, job, by_task, forget, again)

    def settle(self, state: FutureState, result: Result) -> bool:
        """Settle a state with its value, or with where the store keeps it. False: nobody wants what the store keeps."""
        if type(result.value) is Raised:
            return not state.settle("error", error=result.value.error(), raised=result.value)
        with self._lock:
            wanted = id(state) in self._holders
        return wanted and state.settle("finished", result.value if result.key is None else StoredValue(result.key))


class RegistrySink:
    """Takes the values of one background job; see `wukong.client.background.Sink`."""

    def __init__(
        self,
        registry: Registry,
        job: Job,
        by_task: Mapping[int, Sequence[FutureState]],
        forget: Callable[[Job], None],
        again: Callable[[BaseException], bool],
    ) -> None:
        self._registry, self._job, self._by_task, self._forget, self._again = registry, job, by_task, forget, again

    def one(self, result: Result) -> None:
        """Take a requested task's value, or the key under which it stays in the store."""
        wanted = [self._registry.settle(state, result) for state in self._by_task[result.task]]
        if result.key is not None and not any(wanted):
            self._registry._delete([result.key])

    def failed(self, error: BaseException) -> None:
        """Hear that the job has failed as a whole."""
        if self._again(error):
            return
        hinted(error, self._job)
        self._registry.fail([state for states in self._by_task.values() for state in states], error)

    def ended(self) -> None:
        """Hear that the job has ended, one way or the other."""
        self._forget(self._job)


class _Known(Mapping[Hashable, Any]):
    def __init__(self, states: Mapping[Hashable, FutureState], without: Collection[Hashable]) -> None:
        self._states, self._without = states, without

    def __getitem__(self, key: Hashable) -> Any:
        state = self._states[key]
        if state.status == "pending":
            raise NotReady(state)
        if state.error is not None:
            raise state.error
        return KeptValue(state.value.key) if type(state.value) is StoredValue else state.value

    def __contains__(self, key: object) -> bool:
        return key in self._states and key not in self._without

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)
