"""Times to live: a key may vanish its time to live after its last write, and not before."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.errors import StoreError
from wukong.testing.storage.base import Early, Key, StoreSuite, at_most, ridden
from wukong.testing.store_machine import bytes_of, pattern

_SHORT_S = (0.5, 2.0, 8.0)
_ENOUGH_S = 2.5
_OLD_S = 11.0


class LifetimeTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_a_value_stays_for_its_time_to_live(self, store: Store, key: Key) -> None:
        store.put({key("a"): b"1", key("b"): pattern(at_most(store, 2_000_000))}, ttl_s=600.0)
        assert self.raw_get(store, [key("a")]) == [b"1"]
        assert all(value is not None for value in store.get([key("a"), key("b")]))

    def test_a_long_time_to_live_is_not_cut_short(self, store: Store) -> None:
        """Look at what was written, with an hour to live, before the first of these tests, in a store still open."""
        time.sleep(max(0.0, self.early.begun_s + _OLD_S - time.monotonic()))
        assert bytes_of(self.early.store.get([self.early.key])) == [b"old"]
        assert ridden(self.early.store.incr([Arrival(self.early.key, (1,), 2, b"late")])) == [b"riding"]
        type(self).early = Early(self.early.store)

    def test_a_later_write_sets_the_time_to_live_anew(self, store: Store, key: Key) -> None:
        small, large = b"2", pattern(at_most(store, 2_000_000))

        def write(ttl_s: float) -> None:
            store.put({key("a"): b"1", key("b"): b"1", key("c"): large, key("canary"): b"1"}, ttl_s=ttl_s)
            store.put({key("a"): small, key("c"): large})
            store.put({key("b"): small}, ttl_s=600.0)

        outlived(store, key, write, self.timeout_s)
        assert bytes_of(store.get([key("a"), key("b"), key("c")])) == [small, small, large]

    def test_a_record_stays_for_its_time_to_live(self, store: Store, key: Key) -> None:
        assert store.incr([Arrival(key("a"), (0,), 2, b"a", b"0")], ttl_s=600.0) == [Outcome(False, False)]
        assert ridden(store.incr([Arrival(key("a"), (1,), 2, b"b", b"1")], ttl_s=600.0)) == [b"0", b"1"]

    def test_a_later_arrival_sets_the_time_to_live_anew_of_the_record_and_all_in_it(
        self, store: Store, key: Key
    ) -> None:
        large = pattern(16_384)

        def write(ttl_s: float) -> None:
            store.delete([key("f"), key("g")])
            store.put({key("canary"): b"1"}, ttl_s=ttl_s)
            begun = [Arrival(key("f"), (0,), 3, b"a", b"0"), Arrival(key("f"), (1,), 3, b"b", large)]
            store.incr([*begun, Arrival(key("g"), (0,), 3, b"holder", only_if_last=True)], ttl_s=ttl_s)
            store.incr([Arrival(key("g"), (1,), 3, b"c")])
            store.incr([Arrival(key("f"), (1,), 3, b"late"), Arrival(key("f"), (2,), 3, b"d", b"2")])

        outlived(store, key, write, self.timeout_s)
        assert ridden(self.other.incr(store.spec(), [Arrival(key("f"), (2,), 3, b"d")])) == sorted([b"0", large, b"2"])
        second_holder = Arrival(key("g"), (2,), 3, b"second", only_if_last=True)
        assert store.incr([second_holder]) == [Outcome(False, False, give_way=True)]

    def test_what_is_renewed_lives_on_with_all_that_belongs_to_it_and_nothing_else_does(
        self, store: Store, key: Key
    ) -> None:
        if not store.capabilities.renews:
            with pytest.raises(StoreError):
                store.renew(key(""), 600.0)
            pytest.skip("this store declares that it does not renew")
        small, large, rides = [key(f"job/v/{n}") for n in range(700)], key("job/v/large"), pattern(16_384)

        def write(ttl_s: float) -> None:
            store.delete([key("job/f"), key("job/g")])
            store.put({**dict.fromkeys(small, b"1"), large: pattern(at_most(store, 2_000_000))}, ttl_s=ttl_s)
            begun = [Arrival(key("job/f"), (0,), 2, b"a", rides)]
            store.incr([*begun, Arrival(key("job/g"), (0,), 2, b"holder", only_if_last=True)], ttl_s=ttl_s)
            store.put({key("canary"): b"1"}, ttl_s=ttl_s)
            store.renew(key("job/"), 600.0)
            store.renew(key("none"), 600.0)

        outlived(store, key, write, self.timeout_s)
        assert bytes_of(store.get([*small, large])) == [b"1"] * 700 + [pattern(at_most(store, 2_000_000))]
        assert ridden(self.other.incr(store.spec(), [Arrival(key("job/f"), (1,), 2, b"b")])) == [rides]
        second_holder = Arrival(key("job/g"), (1,), 2, b"second", only_if_last=True)
        assert store.incr([second_holder]) == [Outcome(False, False, give_way=True)]

    def test_what_is_renewed_for_a_short_time_is_gone_after_it(self, store: Store, key: Key) -> None:
        if not (store.capabilities.renews and store.capabilities.expires):
            pytest.skip("this store declares that it does not renew, or never forgets")
        store.put({key("a"): b"1", key("b"): pattern(at_most(store, 2_000_000))}, ttl_s=600.0)
        store.incr([Arrival(key("f"), (0,), 2, b"a")], ttl_s=600.0)
        store.renew(key(""), _SHORT_S[0])
        give_up_s = time.monotonic() + self.timeout_s
        while store.get([key("a"), key("b")]) != [None, None] or (store.capabilities.scans and store.scan(key(""))):
            assert time.monotonic() < give_up_s, "what was renewed for half a second is still there"
            store.wait(key("never"), 0.02)


def outlived(store: Store, key: Key, write: Callable[[float], None], timeout_s: float) -> None:
    """Have `write` give something a short time to live, and then a longer one; let the short one pass.

    The short one has passed when the key ``canary`` is gone; or, in a store that declares that it never forgets, some
    seconds later.
    """
    expires = store.capabilities.expires
    for ttl_s in _SHORT_S:
        begun_s = time.monotonic()
        write(ttl_s)
        if time.monotonic() - begun_s < ttl_s:  # else something may have vanished before it was renewed
            break
    give_up_s = time.monotonic() + ttl_s + (timeout_s if expires else _ENOUGH_S)
    while store.get([key("canary")])[0] is not None:
        if time.monotonic() > give_up_s:
            assert not expires, f"what has {ttl_s:g} s to live is there after {ttl_s + timeout_s:g} s: expires=False?"
            break
        store.wait(key("never"), 0.02)
