"""Values: bytes in are bytes out, whatever their size, whoever reads them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.errors import StoreError
from wukong.testing.remote_process import digest
from wukong.testing.storage.base import Key, StoreSuite, at_most, some
from wukong.testing.store_machine import bytes_of, pattern

_SIZES = (0, 1, 100, 4_096, 65_536, 1 << 20, (1 << 20) + 1, 1 << 24, 1 << 27)


class ValueTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_what_is_taken_is_deleted_and_told_if_it_begins_so_and_is_short(self, store: Store, key: Key) -> None:
        if not store.capabilities.takes:
            with pytest.raises(StoreError):
                store.take([key("a")], b"BEGIN", 10)
            return
        values = {"a": b"BEGIN 1", "b": b"BEGIN", "c": b"other", "d": b"BEG", "e": b"BEGIN" * 9, "f": b""}
        store.put({key(name): value for name, value in values.items()})
        store.incr([Arrival(key("a"), (0,), 2, b"me"), Arrival(key("r"), (0,), 2, b"me")])
        asked = [key(name) for name in ("c", "a", "none", "b", "d", "e", "f", "r")]
        assert bytes_of(store.take(asked, b"BEGIN", 20)) == [None, b"BEGIN 1", None, b"BEGIN", *[None] * 4]
        assert store.get(asked) == store.take(asked, b"BEGIN", 20) == [None] * len(asked)
        assert store.incr([Arrival(key(n), (1,), 2, b"me") for n in "ar"]) == [Outcome(False, False)] * 2

    @pytest.mark.parametrize("size_bytes", _SIZES)
    def test_bytes_out_are_bytes_in(self, store: Store, key: Key, size_bytes: int) -> None:
        value = pattern(at_most(store, size_bytes))
        store.put({key("a"): value})
        assert bytes(some(store.get([key("a")])[0])) == value
        assert self.other.digests(store.spec(), [key("a")]) == [digest(value)]

    def test_what_is_written_elsewhere_is_read_here(self, store: Store, key: Key) -> None:
        small, large = b"\x00\xff\r\n", pattern(at_most(store, 3_000_000))
        self.raw_put(store, {key("small"): small, key("large"): large})
        assert bytes_of(store.get([key("large"), key("small")])) == [large, small]

    def test_what_is_written_here_is_read_elsewhere(self, store: Store, key: Key) -> None:
        store.put({key("a"): b"\x00\xff\r\n", key("b"): b""})
        assert self.raw_get(store, [key("a"), key("b"), key("c")]) == [b"\x00\xff\r\n", b"", None]

    @pytest.mark.parametrize("size_bytes", [0, 10, 2_000_000])
    def test_a_value_in_parts_is_stored_back_to_back(self, store: Store, key: Key, size_bytes: int) -> None:
        value = pattern(at_most(store, size_bytes))
        third = len(value) // 3
        words: Any = memoryview(value[: third // 8 * 8]).cast("d")  # a buffer need not be one of bytes
        parts = (words, b"", bytearray(value[third // 8 * 8 : third]), memoryview(value)[third:])
        store.put({key("a"): parts})
        assert self.other.digests(store.spec(), [key("a")]) == [digest(value)]
        assert bytes_of(store.get([key("a")])) == [value]

    def test_a_value_of_very_many_parts_is_stored_whole(self, store: Store, key: Key) -> None:
        value = pattern(at_most(store, 1_000_000))
        store.put({key("a"): tuple(memoryview(value)[at : at + 500] for at in range(0, len(value), 500))})
        assert bytes_of(store.get([key("a")])) == [value]

    def test_missing_is_none_and_empty_is_a_value(self, store: Store, key: Key) -> None:
        store.put({key("empty"): b""})
        missing, empty = store.get([key("missing"), key("empty")])
        assert missing is None
        assert empty is not None
        assert bytes(empty) == b""

    def test_a_batch_comes_back_in_the_order_asked_for(self, store: Store, key: Key) -> None:
        items = {key(n): str(n).encode() * (n % 7) for n in range(2_000)}
        store.put(items)
        asked = [key(n) for n in range(2_100)] + [key(5), key(5)]
        random.Random(1).shuffle(asked)
        assert bytes_of(store.get(asked)) == [items.get(name) for name in asked]
        assert self.raw_get(store, asked[:50]) == [items.get(name) for name in asked[:50]]

    def test_a_batch_of_large_and_small_values_comes_back_whole(self, store: Store, key: Key) -> None:
        sizes = [0, 2_000_000, 10, 1_500_000, 70_000, 3_000_000, 1, 1_048_576, 999_999]
        items = {key(n): pattern(at_most(store, size_bytes)) for n, size_bytes in enumerate(sizes)}
        store.put(items)
        asked = [key(n) for n in (5, 1, 8, 3, 0, 2, 4, 7, 6, 99, 1)]
        assert bytes_of(store.get(asked)) == [items.get(name) for name in asked]
        assert self.other.digests(store.spec(), list(items)) == [digest(value) for value in items.values()]

    def test_an_empty_batch_does_nothing(self, store: Store) -> None:
        assert store.get([]) == []
        assert store.incr([]) == []
        store.put({})
        store.delete([])

    @pytest.mark.parametrize("sizes", [(10, 20), (10, 2_000_000), (2_000_000, 10), (2_000_000, 2_000_001)])
    def test_a_later_value_replaces_the_earlier(self, store: Store, key: Key, sizes: tuple[int, int]) -> None:
        for size_bytes in sizes:
            store.put({key("a"): pattern(at_most(store, size_bytes))})
            assert bytes_of(store.get([key("a")])) == [pattern(at_most(store, size_bytes))]
        assert self.other.digests(store.spec(), [key("a")]) == [digest(pattern(at_most(store, sizes[1])))]

    @pytest.mark.parametrize("size_bytes", [100, 1_500_000])
    def test_readers_see_the_old_value_or_the_new_and_nothing_between(
        self, store: Store, key: Key, size_bytes: int
    ) -> None:
        one = pattern(at_most(store, size_bytes))
        two = one[::-1]
        store.put({key("a"): one})
        for other in self.others:
            other.start_watching(store.spec(), key("a"), 40)
        while not all(other.has_finished() for other in self.others):
            store.put({key("a"): two})
            store.put({key("a"): one})
        for other in self.others:
            assert other.finish() <= {digest(one), digest(two)}

    def test_a_value_once_read_does_not_change(self, store: Store, key: Key) -> None:
        first, second = pattern(at_most(store, 2_000_000)), pattern(at_most(store, 2_000_000))[::-1]
        store.put({key("a"): first})
        read = some(store.get([key("a")])[0])
        for _ in range(3):
            store.put({key("a"): second})
            store.delete([key("a")])
            store.put({key("b"): second})
            assert bytes_of(store.get([key("b")])) == [second]
        assert bytes(read) == first

    @pytest.mark.parametrize("size_bytes", [8, 2_000_000])
    def test_a_value_once_written_does_not_change_with_the_writers_buffer(
        self, store: Store, key: Key, size_bytes: int
    ) -> None:
        value = pattern(at_most(store, size_bytes))
        whole, part = bytearray(value), bytearray(value)
        store.put({key("whole"): whole, key("part"): (memoryview(part)[:5], memoryview(part)[5:])})
        whole[:] = part[:] = bytes(len(value))
        assert bytes_of(store.get([key("whole"), key("part")])) == [value, value]

    @pytest.mark.parametrize("size_bytes", [8, 2_000_000])
    def test_what_is_read_is_read_only_or_the_readers_own(self, store: Store, key: Key, size_bytes: int) -> None:
        value = pattern(at_most(store, size_bytes))
        store.put({key("a"): value})
        got: Any = some(store.get([key("a")])[0])
        read = memoryview(got)
        assert read.nbytes == len(value)
        assert read.contiguous
        if not read.readonly:
            read[:4] = b"!!!!"
        assert bytes_of(store.get([key("a")])) == [value]
        assert self.other.digests(store.spec(), [key("a")]) == [digest(value)]

    def test_keys_are_any_bytes(self, store: Store, key: Key) -> None:
        suffixes = [b"", b" ", b"\n", b"\r\n", b"\x00", b"\xff\xfe", b"a" * 200, b"{b}", "é".encode()]
        items = {key("k") + suffix: str(n).encode() for n, suffix in enumerate(suffixes)}
        store.put(items)
        assert bytes_of(store.get(list(items))) == list(items.values())
        assert self.other.get(store.spec(), list(items)) == list(items.values())

    def test_long_keys_that_differ_at_their_ends_are_different_keys(self, store: Store, key: Key) -> None:
        long = key("0." * 500)
        items = {long + b"%d" % n: b"%d" % n for n in range(10)}
        store.put(items)
        assert bytes_of(store.get([*items, long])) == [*items.values(), None]
        assert self.other.get(store.spec(), list(items)) == list(items.values())
        arrivals = [Arrival(name, (n % 2,), 2, b"me") for n, name in enumerate(items)]
        assert store.incr(arrivals) == [Outcome(False, False)] * 10

    def test_deleted_values_are_missing(self, store: Store, key: Key) -> None:
        store.put({key("a"): b"1", key("b"): b"2", key("c"): pattern(at_most(store, 2_000_000))})
        assert None not in store.get([key("a"), key("b"), key("c")])
        store.delete([key("a"), key("c"), key("never")])
        assert bytes_of(store.get([key("a"), key("b"), key("c")])) == [None, b"2", None]
        assert self.raw_get(store, [key("a"), key("b"), key("c")]) == [None, b"2", None]
        store.put({key("a"): b"3"})
        assert bytes_of(store.get([key("a")])) == [b"3"]

    @pytest.mark.parametrize("size_bytes", [8, 500_000])
    def test_what_another_client_changes_is_seen_at_once_by_who_has_read_it(
        self, store: Store, key: Key, size_bytes: int
    ) -> None:
        """There is no moment, however short, in which a reader still gets the old value."""
        first, second = pattern(at_most(store, size_bytes)), pattern(at_most(store, size_bytes))[::-1]
        assert store.get([key("a")]) == [None]
        for value in (first, second, first):
            self.other.put(store.spec(), {key("a"): value})
            assert bytes_of([*store.get([key("a")]), store.wait(key("a"), 0.0)]) == [value] * 2
        self.other.call(store.spec(), "delete", [key("a")])
        assert [*store.get([key("a")]), store.wait(key("a"), 0.0)] == [None] * 2
        self.other.put(store.spec(), {key("a"): second})
        assert bytes_of(store.get([key("a")])) == [second]

    def test_many_keys_are_deleted_at_once(self, store: Store, key: Key) -> None:
        store.put({key(n): b"%d" % n for n in range(1_500)})
        store.delete([key(n) for n in range(1, 1_500)])
        assert bytes_of(store.get([key(n) for n in range(1_500)])) == [b"0"] + [None] * 1_499
