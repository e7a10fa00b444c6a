"""Waiting for a value: it returns at once if the value is there, waits no longer than asked, and holds nobody up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from functools import partial

import pytest

from wukong.backends.storage import Arrival, Store
from wukong.testing.storage.base import Key, StoreSuite, at_most, some
from wukong.testing.store_machine import bytes_of, pattern

_LOOK_S = 0.5
_TURN_S = 0.02  # lets those that have come as far as `wait` get into it, before and between the work
_RACES, _RACERS, _RACE_S = 40, 8, 0.002
_MOST_LOOKS = 25  # a look every 20 ms in `_LOOK_S`: nobody calls that blocking


class WaitingTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_wait_returns_what_is_there(self, store: Store, key: Key) -> None:
        store.put({key("a"): b"", key("b"): pattern(at_most(store, 2_000_000))})
        assert bytes(some(store.wait(key("a"), 0.0))) == b""
        there = [partial(store.wait, key("a"), 10 * self.timeout_s)]
        assert bytes_of(self._in_threads(there, otherwise="wait has not returned a value that was there")) == [b""]
        assert bytes(some(store.wait(key("b"), self.timeout_s))) == pattern(at_most(store, 2_000_000))

    def test_wait_gives_up_with_none_and_not_before_its_time(self, store: Store, key: Key) -> None:
        assert store.wait(key("a"), 0.0) is None
        begun_s = time.monotonic()
        assert store.wait(key("a"), 0.1) is None
        assert time.monotonic() - begun_s > 0.09

    def test_wait_sees_what_another_process_writes_meanwhile(self, store: Store, key: Key) -> None:
        def write_elsewhere() -> None:
            for n, other in enumerate(self.others):
                other.put(store.spec(), {key(n): b"%d" % n})

        assert bytes_of(self._woken(store, [key(n) for n in range(3)], write_elsewhere)) == [b"0", b"1", b"2"]

    def test_a_value_that_comes_while_wait_begins_wakes_it_too(self, store: Store, key: Key) -> None:
        """A store that looks, and only then listens, misses what comes between: some of a few hundred races show it."""
        dice = random.Random(1)
        for race in range(_RACES):
            keys = [key(f"{race}/{n}") for n in range(_RACERS)]

            def write(keys: Sequence[bytes] = keys) -> None:
                time.sleep(dice.uniform(0, _RACE_S))
                store.put(dict.fromkeys(keys, b"1"), ttl_s=600.0)

            assert bytes_of(self._woken(store, keys, write)) == [b"1"] * _RACERS

    def test_all_that_wait_for_one_value_get_it_whole_and_leave_it_there(self, store: Store, key: Key) -> None:
        value = pattern(at_most(store, 2_000_000))
        for other in self.others[1:]:
            other.start(store.spec(), "wait", key("a"), self.timeout_s)
        answers = self._woken(store, [key("a")] * 3, lambda: self.other.put(store.spec(), {key("a"): value}))
        assert bytes_of([*answers, *(other.finish() for other in self.others[1:])]) == [value] * 5
        assert bytes_of([store.wait(key("a"), 0.0), *store.get([key("a")])]) == [value] * 2

    def test_many_that_wait_hold_nobody_up(self, store: Store, key: Key) -> None:
        entered = threading.Barrier(17)

        def wait(n: int) -> object:
            entered.wait(self.timeout_s)
            return store.wait(key(n), 3 * self.timeout_s)

        def work() -> None:
            for turn in range(10):
                time.sleep(_TURN_S)
                store.put({key("b"): b"%d" % turn})
                assert bytes_of(store.get([key("b")])) == [b"%d" % turn]
                store.incr([Arrival(key("f"), (turn,), 10, b"me")])
                store.delete([key("b")])
            store.put({key(n): b"%d" % n for n in range(8)})

        def work_and_wake() -> None:
            entered.wait(self.timeout_s)
            try:
                self._in_threads([work], otherwise="those who wait hold the others up: these have not ended")
            finally:
                self.other.put(store.spec(), {key(n): b"%d" % n for n in range(16)})

        answers = self._in_threads(
            [partial(wait, n) for n in range(16)], before_join=work_and_wake, otherwise="wait never woke"
        )
        assert bytes_of(answers) == [b"%d" % n for n in range(16)]

    def test_a_record_or_another_key_is_not_what_is_waited_for(self, store: Store, key: Key) -> None:
        store.incr([Arrival(key("a"), (0,), 1, b"me", b"riding")])
        store.put({key("ab"): b"1", key("b"): b"2"})
        assert store.wait(key("a"), 0.05) is None

    def test_what_has_been_deleted_is_waited_for_anew(self, store: Store, key: Key) -> None:
        store.put({key("a"): b"1"})
        assert bytes_of([store.wait(key("a"), self.timeout_s)]) == [b"1"]
        store.delete([key("a")])
        assert store.wait(key("a"), 0.05) is None
        assert bytes_of(self._woken(store, [key("a")], lambda: store.put({key("a"): b"2"}))) == [b"2"]

    def test_a_wait_that_is_declared_to_block_does_not_poll(self, store: Store, key: Key) -> None:
        if not store.capabilities.wait_blocks:
            pytest.skip("this store declares that it polls")
        resource = pytest.importorskip("resource")
        if not hasattr(resource, "RUSAGE_THREAD"):
            pytest.skip("this platform does not count how often one thread slept")
        store.wait(key("a"), 0.01)  # connections are opened
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        assert store.wait(key("a"), _LOOK_S) is None
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before <= _MOST_LOOKS
