"""What the tests of a store stand on: hooks, fixtures, and the other processes."""

from __future__ import annotations

import pickle
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import pytest

from wukong.backends.storage import Outcome, Store
from wukong.errors import WukongError
from wukong.testing.elsewhere import Elsewhere
from wukong.testing.suite import Suite

Key: TypeAlias = Callable[[object], bytes]
T = TypeVar("T")
_OTHERS = 3


class StoreSuite(Suite):
    """The hooks and fixtures of `wukong.testing.storage.StoreTests`.

    Attributes:
        timeout_s: how long to wait for something that has to happen, seconds.
    """

    hooks = frozenset({"make_store", "make_unreachable_store", "raw_get", "raw_put", "timeout_s"})
    timeout_s: float = 30.0
    others: list[Elsewhere]
    other: Elsewhere

    def make_store(self) -> Store:
        """Open a store that the suite may write to, and will close."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_store")

    def make_unreachable_store(self) -> Store | None:
        """Open a store that cannot be reached, or raise what a user would see; None: there is no such thing."""
        return None

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
        spec = store.spec()
        environment = {name: value for name, value in store.environment().items() if isinstance(value, str)}
        for other in self.others:
            other.configure(environment)
        yield store
        for other in self.others:
            other.call(spec, "close")
        store.close()

    def _start_others(self, request: pytest.FixtureRequest) -> None:
        """The other processes serve all tests of a class."""
        cls = type(self)
        if "others" in vars(cls):
            return
        cls.others = [Elsewhere() for _ in range(_OTHERS)]
        cls.other = cls.others[0]
        request.node.getparent(pytest.Class).addfinalizer(partial(_end_others, cls))

    @pytest.fixture
    def key(self) -> Key:
        """A function from names to keys which no other test uses."""
        prefix = secrets.token_hex(6)
        return lambda name: f"{prefix}/{name}".encode()

    def _in_threads(
        self, calls: Sequence[Callable[[], T]], before_join: Callable[[], object] = lambda: None
    ) -> list[T]:
        """Make the calls in one thread each; return their results in order, or raise the first error."""
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
            assert not thread.is_alive(), "a call did not return"
        if errors:
            raise errors[0]
        return [results[n] for n in range(len(calls))]


def _end_others(cls: type[StoreSuite]) -> None:
    for other in cls.others:
        other.close()
    del cls.others, cls.other


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
    """An error that leaves a store is Wukong's own, and reaches the client as it is."""
    assert isinstance(error, WukongError), f"a vendor's exception escapes: {type(error).__module__}.{error!r}"
    assert str(error), "an error says what happened"
    copy: Any = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
