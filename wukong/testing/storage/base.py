"""What the tests of a store stand on: hooks, fixtures, and the other processes."""

from __future__ import annotations

import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import pytest

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.errors import WukongError
from wukong.testing.remote_process import RemoteProcess
from wukong.testing.suite import Suite

Key: TypeAlias = Callable[[object], bytes]
T = TypeVar("T")
_OTHERS = 3
_HOUR_S = 3_600.0
_LOOKS = 20
_TURN_S = 0.005
_REPEATING_S = 5.0


class StoreSuite(Suite):
    """The hooks and fixtures of `wukong.testing.storage.StoreTests`.

    Attributes:
        timeout_s: how long to wait for something that has to happen, seconds.
        thorough: repeat as often on a slow store as on a fast one.
        platform_variables: prefixes of the variables that the platform gives its functions anyway (``AWS_``). The
            suite's other processes have these, those of the machine (``PATH``), and those of `Store.environment`.
    """

    hooks = frozenset(
        {
            *("make_store", "make_unreachable_store", "platform_variables", "raw_get", "raw_put", "restart_server"),
            *("thorough", "timeout_s"),
        }
    )
    timeout_s: float = 30.0
    thorough: bool = False
    platform_variables: Sequence[str] = ()
    round_trip_s: float
    others: list[RemoteProcess]
    other: RemoteProcess
    early: Early

    def make_store(self) -> Store:
        """Open a store that the suite may write to, and will close."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_store")

    def make_unreachable_store(self) -> Store | None:
        """Open a store that cannot be reached, or raise what a user would see; None: no such thing exists."""
        return None

    def restart_server(self) -> None:
        """Stop the servers of the stores that `make_store` has opened and start them again; they may have lost all."""
        raise NotImplementedError

    def raw_get(self, store: Store, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read values by another route than `store`."""
        return self.other.get(store.spec(), keys)

    def raw_put(self, store: Store, items: Mapping[bytes, bytes]) -> None:
        """Write values by another route than `store`."""
        self.other.put(store.spec(), items)

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Iterator[Store]:
        """A store of the plug-in's, closed after the test."""
        self._start_others(request)
        store = self.make_store()
        self._begin_early(request)
        spec = store.spec()
        environment = {name: value for name, value in store.environment().items() if isinstance(value, str)}
        for other in self.others:
            other.configure(environment)
        yield store
        for other in self.others:
            other.call(spec, "close")
        store.close()

    def _start_others(self, request: pytest.FixtureRequest) -> None:
        """Start the other processes; they serve all tests of a class."""
        cls = type(self)
        if "others" in vars(cls):
            return
        cls.others = [RemoteProcess(bare=self.platform_variables) for _ in range(_OTHERS)]
        cls.other = cls.others[0]
        request.node.getparent(pytest.Class).addfinalizer(partial(_end_others, cls))

    def _begin_early(self, request: pytest.FixtureRequest) -> None:
        """Write before the first test of a class what another one looks at once it has grown old."""
        cls = type(self)
        if "early" not in vars(cls):
            cls.early = Early(self.make_store())
            request.node.getparent(pytest.Class).addfinalizer(partial(end_early, cls))

    @pytest.fixture
    def key(self) -> Key:
        """A function from names to keys that no other test uses."""
        prefix = secrets.token_hex(6)
        return lambda name: f"{prefix}/{name}".encode()

    def _fewer(self, store: Store, most: int, least: int, n_calls: int = 1) -> int:
        """Return how often to repeat something that takes `n_calls` calls, one after another: on a slow store less."""
        cls = type(self)
        if self.thorough:
            return most
        if "round_trip_s" not in vars(cls):
            cls.round_trip_s = min(_timed_s(lambda: store.get([b"never"])) for _ in range(3))
        return min(most, max(least, int(_REPEATING_S / (n_calls * cls.round_trip_s))))

    def _in_threads(
        self,
        calls: Sequence[Callable[[], T]],
        before_join: Callable[[], object] = lambda: None,
        *,
        otherwise: str = "a call has not returned",
    ) -> list[T]:
        """Make the calls in one thread each; return their results in order, or raise the first error.

        `otherwise` says which promise was broken if one does not return.
        """
        results: dict[int, T] = {}
        errors: list[BaseException] = []

        def run(n: int) -> None:
            try:
                results[n] = calls[n]()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(calls))]
        for thread in threads:
            thread.start()
        before_join()
        for thread in threads:
            thread.join(self.timeout_s)
            assert not thread.is_alive(), f"{otherwise} within {self.timeout_s:g} s"
        if errors:
            raise errors[0]
        return [results[n] for n in range(len(calls))]

    def _woken(self, store: Store, keys: Sequence[bytes], write: Callable[[], object]) -> list[Any]:
        """Return what `Store.wait` returns, in one thread for each key, while `write` writes the keys.

        A thread that still waits long after the value was there, and after many looks at it, was never woken. Time
        alone would not show that; but if the whole machine stands still, so do the looks.
        """
        entered = threading.Semaphore(0)

        def wait(key: bytes) -> Any:
            entered.release()
            return store.wait(key, self.timeout_s)

        def look() -> None:
            for _ in keys:
                entered.acquire(timeout=self.timeout_s)
            write()
            written_s, looks = time.monotonic(), 0
            while (late := [key for n, key in enumerate(keys) if n not in ended]) and not errors:
                gone_s = time.monotonic() - written_s
                assert gone_s < self.timeout_s / 6 or looks < _LOOKS, (
                    f"wait never woke: {gone_s:.1f} s and {looks} reads after its value was there ({late[0]!r})"
                )
                assert None not in store.get(late), "put has returned, and the value is not there"
                looks += 1
                time.sleep(_TURN_S)

        ended: set[int] = set()
        errors: list[BaseException] = []

        def call(n: int) -> Any:
            try:
                return wait(keys[n])
            except BaseException as error:
                errors.append(error)
                raise
            finally:
                ended.add(n)

        return self._in_threads(
            [partial(call, n) for n in range(len(keys))], before_join=look, otherwise="wait never woke"
        )


class Early:
    """A store of the class's first test, and what was written to it then.

    Attributes:
        key: of a value and a record with a time to live of an hour.
        begun_s: when they had been written, on the monotonic clock.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.key = b"early/" + secrets.token_hex(6).encode()
        store.put({self.key: b"old"}, ttl_s=_HOUR_S)
        store.incr([Arrival(self.key, (0,), 2, b"early", b"riding")], ttl_s=_HOUR_S)
        self.begun_s = time.monotonic()


def end_early(cls: type[StoreSuite]) -> None:
    if "early" in vars(cls):
        cls.early.store.close()
        del cls.early


def _end_others(cls: type[StoreSuite]) -> None:
    for other in cls.others:
        other.close()
    del cls.others, cls.other


def _timed_s(call: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    call()
    return time.perf_counter() - begun_s


def at_most(store: Store, size_bytes: int) -> int:
    """`size_bytes`, or the largest value that the store takes."""
    limit = store.capabilities.max_value_bytes
    return size_bytes if limit is None else min(size_bytes, limit)


def some(value: T | None) -> T:
    """The value, which is not missing."""
    assert value is not None, "the value is missing"
    return value


def ridden(outcomes: Sequence[Outcome]) -> list[bytes]:
    """The values that came with the one claim there is."""
    (outcome,) = outcomes
    assert outcome.complete
    assert outcome.claimed
    return sorted(outcome.values)


def holds_as_error(error: BaseException) -> None:
    """Check that an error which leaves a store is Wukong's own, and reaches the client as it is."""
    assert isinstance(error, WukongError), f"a vendor's exception escapes: {type(error).__module__}.{error!r}"
    assert str(error), "an error says what happened"
    copy: Any = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
