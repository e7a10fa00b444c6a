"""Listing keys: so that what dead clients left is found, and all of it."""

from __future__ import annotations

import pytest

from wukong.backends.storage import Arrival, Store
from wukong.errors import StoreError
from wukong.testing.storage.base import Key, StoreSuite, at_most
from wukong.testing.store_machine import pattern

_WILD = ("*", "?", "[a]", "%", "_", "\\", "^")


class ScanTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_keys_are_listed_by_what_they_begin_with(self, store: Store, key: Key) -> None:
        scanning(store)
        store.put({key("job/v/1"): b"1", key("job/v/2"): b"", key("job"): b"", key("other"): b"1"}, ttl_s=600.0)
        store.put({b"not/" + key("job/v/1"): b"1"}, ttl_s=600.0)
        store.incr([Arrival(key("job/r/1"), (0,), 2, b"a", b"0"), Arrival(key("job/v/1"), (0,), 2, b"a")], ttl_s=600.0)
        store.incr([Arrival(key("job/r/2"), (0,), 2, b"a", only_if_last=True), Arrival(key("else"), (0,), 2, b"a")])
        mine = {key(f"job/{name}") for name in ("v/1", "v/2", "r/1", "r/2")}
        assert set(store.scan(key("job/"))) == mine
        assert set(store.scan(key(""))) == {*mine, key("job"), key("other"), key("else")}
        assert set(store.scan(key("job/v/2"))) == {key("job/v/2")}
        assert not store.scan(key("none"))

    def test_what_keys_begin_with_is_no_pattern(self, store: Store, key: Key) -> None:
        scanning(store)
        store.put({key(f"{wild}x"): b"1" for wild in _WILD} | {key("ax"): b"1"})
        for wild in _WILD:
            assert set(store.scan(key(wild))) == {key(f"{wild}x")}

    def test_a_listing_says_what_values_take(self, store: Store, key: Key) -> None:
        scanning(store)
        sizes = {key(n): at_most(store, size_bytes) for n, size_bytes in enumerate((1_000, 300_000, 5_000_000))}
        store.put({name: pattern(size_bytes) for name, size_bytes in sizes.items()})
        found = store.scan(key(""))
        assert set(found) == set(sizes)
        assert all(0.9 * sizes[name] <= size_bytes <= 1.5 * sizes[name] + 4_096 for name, size_bytes in found.items())

    def test_a_listing_is_whole_and_what_it_names_can_be_deleted(self, store: Store, key: Key) -> None:
        scanning(store)
        n_values = self._fewer(store, 3_000, 1_100)  # more than the thousand that many a server lists at once
        values, records = [key(n) for n in range(n_values)], [key(f"r/{n}") for n in range(n_values // 6)]
        self.other.put(store.spec(), dict.fromkeys(values, b"1"))
        self.other.incr(store.spec(), [Arrival(record, (0,), 2, b"a", b"0") for record in records])
        found = store.scan(key(""))
        assert set(found) == {*values, *records}
        store.delete(list(found))
        assert not store.scan(key(""))

    def test_a_store_that_does_not_list_its_keys_says_so(self, store: Store, key: Key) -> None:
        if store.capabilities.scans:
            pytest.skip("this store declares that it lists its keys")
        with pytest.raises(StoreError):
            store.scan(key(""))


def scanning(store: Store) -> None:
    """Skip the test if the store declares that it does not list its keys."""
    if not store.capabilities.scans:
        pytest.skip("this store declares that it does not list its keys")
