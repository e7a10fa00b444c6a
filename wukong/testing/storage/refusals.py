"""What a store refuses; and what it refuses changes nothing."""

from __future__ import annotations

import pytest

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.errors import StoreError
from wukong.testing.storage.base import Key, StoreSuite, holds_as_error, ridden
from wukong.testing.store_machine import bytes_of

_LARGEST_TRIED_BYTES = 1 << 28
_CONTRADICTIONS = {
    "no member": ((), 4),
    "a member beyond the last": ((4,), 4),
    "a negative member": ((-1,), 4),
    "one member right, one wrong": ((2, 4), 4),
    "more members than others say": ((2,), 5),
    "fewer members than others say": ((2,), 3),
}


class RefusalTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_a_value_above_the_largest_is_refused_and_not_seen(self, store: Store, key: Key) -> None:
        limit = store.capabilities.max_value_bytes
        if limit is None or limit > _LARGEST_TRIED_BYTES:
            pytest.skip("this store declares no limit, or one beyond what is tried")
        store.put({key("a"): b"old"})
        with pytest.raises(StoreError) as refused:
            store.put({key("a"): bytes(limit + 1)})
        holds_as_error(refused.value)
        assert bytes_of(store.get([key("a")])) in ([None], [b"old"])
        with pytest.raises(StoreError):
            store.put({key("b"): (bytes(limit), b"1")})
        assert self.other.get(store.spec(), [key("b")]) == [None]
        store.put({key("a"): b"new"})
        assert bytes_of(store.get([key("a")])) == [b"new"]

    @pytest.mark.parametrize("only_if_last", [False, True])
    @pytest.mark.parametrize("contradiction", _CONTRADICTIONS)
    def test_an_arrival_that_contradicts_is_refused_and_changes_nothing(
        self, store: Store, key: Key, contradiction: str, only_if_last: bool
    ) -> None:
        members, of = _CONTRADICTIONS[contradiction]
        store.incr([Arrival(key("f"), (0,), 4, b"a", b"0")])
        with pytest.raises(ValueError):
            store.incr([Arrival(key("f"), members, of, b"wrong", b"wrong", only_if_last)])
        first = Arrival(key("f"), (1, 2), 4, b"first", b"12", only_if_last=True)
        second = Arrival(key("f"), (3,), 4, b"second", b"3", only_if_last=True)
        assert store.incr([first, second]) == [Outcome(False, False), Outcome(False, False, give_way=True)]
        assert store.incr([first]) == [Outcome(False, False)], "the wrong one's note has been made"
        assert store.incr([Arrival(key("f"), (3,), 4, b"second", b"3")]) == [Outcome(False, False)]
        assert ridden(store.incr([first])) == [b"0", b"12", b"3"]

    @pytest.mark.parametrize("only_if_last", [False, True])
    def test_an_arrival_that_contradicts_itself_begins_no_record(
        self, store: Store, key: Key, only_if_last: bool
    ) -> None:
        with pytest.raises(ValueError):
            store.incr([Arrival(key("f"), (3,), 3, b"me", b"wrong", only_if_last)])
        assert store.incr([Arrival(key("f"), (0,), 1, b"me", b"right")]) == [Outcome(True, True, (b"right",))]

    def test_a_complete_record_is_not_changed_by_one_who_contradicts_it(self, store: Store, key: Key) -> None:
        last = Arrival(key("f"), (0, 1), 2, b"me", b"01")
        store.incr([last])
        for claimant in (b"me", b"late"):
            with pytest.raises(ValueError):
                store.incr([Arrival(key("f"), (2,), 3, claimant, b"wrong")])
        assert ridden(self.other.incr(store.spec(), [last])) == [b"01"]

    def test_a_batch_with_a_contradiction_can_be_repeated_without_it(self, store: Store, key: Key) -> None:
        before, after = Arrival(key("f"), (0,), 3, b"a", b"0"), Arrival(key("f"), (1,), 3, b"b", b"1")
        with pytest.raises(ValueError):
            store.incr([before, Arrival(key("g"), (7,), 3, b"wrong"), after])
        assert store.incr([before, after]) == [Outcome(False, False)] * 2
        assert ridden(store.incr([Arrival(key("f"), (2,), 3, b"c", b"2")])) == [b"0", b"1", b"2"]
