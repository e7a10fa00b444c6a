"""The suite that proves an intermediate store, for plug-in authors.

    from wukong.testing.storage import StoreTests

    class TestMyStore(StoreTests):
        def make_store(self):
            return MyStore(endpoint="...")

`make_store` opens a store; several of them may be open at once, on the same data or not. The suite closes what it
opened. What is written is read back by another route than it was written: by a second client, in another process,
opened through `Store.spec`. Where the store can be read and written behind the plug-in's back (a bare Redis
connection), override `raw_get` and `raw_put` too.

No test can be overridden: what a store cannot do it declares in its `Capabilities`, which the suite reads.
The suite is one class, so that a subclass gets all of it; hence the length of this module.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Capabilities, Outcome, Store
from wukong.testing.elsewhere import Elsewhere, digest
from wukong.testing.store_machine import StoreMachine, bytes_of, pattern

__all__ = ["StoreMachine", "StoreTests"]

T = TypeVar("T")

_SIZES = (0, 1, 100, 4_096, 65_536, 1 << 20, (1 << 20) + 1, 1 << 24, 1 << 26)
_PATIENCE_S = 30.0


class StoreTests:
    """Holds a store against the contract `wukong.backends.storage.Store`. Subclass it and define `make_store`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in vars(StoreTests).items():
            if name.startswith("test_") and getattr(cls, name) is not test:
                raise TypeError(
                    f"{cls.__name__} overrides {name}. The suite's tests cannot be overridden: declare what the store "
                    "cannot do in its capabilities, and give tests of your own other names."
                )

    def make_store(self) -> Store:
        """Open a store that the suite may write to, and will close."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_store")

    def raw_get(self, store: Store, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read values by another route than `store`."""
        return self.other.get(store.spec(), keys)

    def raw_put(self, store: Store, items: Mapping[bytes, bytes]) -> None:
        """Write values by another route than `store`."""
        self.other.put(store.spec(), items)

    other: Elsewhere
    others: list[Elsewhere]

    @classmethod
    def setup_class(cls) -> None:
        """Start the other processes."""
        cls.others = [Elsewhere() for _ in range(3)]
        cls.other = cls.others[0]

    @classmethod
    def teardown_class(cls) -> None:
        """End the other processes."""
        for other in cls.others:
            other.close()

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """A store of the plug-in's, closed after the test."""
        store = self.make_store()
        spec = store.spec()
        yield store
        for other in self.others:
            other.call(spec, "close")
        store.close()

    @pytest.fixture
    def key(self) -> Callable[[object], bytes]:
        """A function from names to keys which no other test uses."""
        prefix = secrets.token_hex(6)
        return lambda name: f"{prefix}/{name}".encode()

    # What the plug-in says of itself

    def test_is_a_store_with_capabilities(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert isinstance(store.capabilities, Capabilities)
        assert store.capabilities.round_trip_s > 0
        assert store.capabilities.bandwidth_bytes_per_s > 0
        assert store.capabilities.max_value_bytes is None or store.capabilities.max_value_bytes >= 65_536

    def test_spec_is_plain_data(self, store: Store) -> None:
        spec = store.spec()
        assert isinstance(spec, PluginSpec)
        assert json.loads(json.dumps(dict(spec.options))) == spec.options
        assert pickle.loads(pickle.dumps(spec)) == spec

    def test_spec_opens_the_same_store_in_this_process_too(self, store: Store, key: Callable[[object], bytes]) -> None:
        second = store.spec().open()
        second.put({key("a"): b"from the second"})
        assert bytes_of(store.get([key("a")])) == [b"from the second"]
        second.close()
        assert bytes_of(store.get([key("a")])) == [b"from the second"]

    def test_closing_twice_is_no_error(self) -> None:
        store = self.make_store()
        store.close()
        store.close()

    # Values

    @pytest.mark.parametrize("size_bytes", _SIZES)
    def test_bytes_out_are_bytes_in(self, store: Store, key: Callable[[object], bytes], size_bytes: int) -> None:
        value = pattern(at_most(store, size_bytes))
        store.put({key("a"): value})
        assert bytes(some(store.get([key("a")])[0])) == value
        assert self.other.digests(store.spec(), [key("a")]) == [digest(value)]

    def test_what_is_written_elsewhere_is_read_here(self, store: Store, key: Callable[[object], bytes]) -> None:
        small, large = b"\x00\xff\r\n", pattern(at_most(store, 3_000_000))
        self.raw_put(store, {key("small"): small, key("large"): large})
        assert bytes_of(store.get([key("large"), key("small")])) == [large, small]

    def test_what_is_written_here_is_read_elsewhere(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("a"): b"\x00\xff\r\n", key("b"): b""})
        assert self.raw_get(store, [key("a"), key("b"), key("c")]) == [b"\x00\xff\r\n", b"", None]

    @pytest.mark.parametrize("size_bytes", [0, 10, 2_000_000])
    def test_a_value_in_parts_is_stored_back_to_back(
        self, store: Store, key: Callable[[object], bytes], size_bytes: int
    ) -> None:
        value = pattern(at_most(store, size_bytes))
        third = len(value) // 3
        words: Any = memoryview(value[: third // 8 * 8]).cast("d")  # a buffer need not be one of bytes
        parts = (words, b"", bytearray(value[third // 8 * 8 : third]), memoryview(value)[third:])
        store.put({key("a"): parts})
        assert self.other.digests(store.spec(), [key("a")]) == [digest(value)]
        assert bytes_of(store.get([key("a")])) == [value]

    def test_a_value_of_very_many_parts_is_stored_whole(self, store: Store, key: Callable[[object], bytes]) -> None:
        value = pattern(at_most(store, 1_000_000))
        store.put({key("a"): tuple(memoryview(value)[at : at + 500] for at in range(0, len(value), 500))})
        assert bytes_of(store.get([key("a")])) == [value]

    def test_missing_is_none_and_empty_is_a_value(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("empty"): b""})
        missing, empty = store.get([key("missing"), key("empty")])
        assert missing is None
        assert empty is not None
        assert bytes(empty) == b""

    def test_a_batch_comes_back_in_the_order_asked_for(self, store: Store, key: Callable[[object], bytes]) -> None:
        items = {key(n): str(n).encode() * (n % 7) for n in range(2_000)}
        store.put(items)
        asked = [key(n) for n in range(2_100)] + [key(5), key(5)]
        random.Random(1).shuffle(asked)
        assert bytes_of(store.get(asked)) == [items.get(name) for name in asked]
        assert self.raw_get(store, asked[:50]) == [items.get(name) for name in asked[:50]]

    def test_an_empty_batch_does_nothing(self, store: Store) -> None:
        assert store.get([]) == []
        assert store.incr([]) == []
        store.put({})
        store.delete([])

    @pytest.mark.parametrize("sizes", [(10, 20), (10, 2_000_000), (2_000_000, 10), (2_000_000, 2_000_001)])
    def test_a_later_value_replaces_the_earlier(
        self, store: Store, key: Callable[[object], bytes], sizes: tuple[int, int]
    ) -> None:
        for size_bytes in sizes:
            store.put({key("a"): pattern(at_most(store, size_bytes))})
            assert bytes_of(store.get([key("a")])) == [pattern(at_most(store, size_bytes))]
        assert self.other.digests(store.spec(), [key("a")]) == [digest(pattern(at_most(store, sizes[1])))]

    def test_a_value_once_read_does_not_change(self, store: Store, key: Callable[[object], bytes]) -> None:
        first, second = pattern(at_most(store, 2_000_000)), pattern(at_most(store, 2_000_000))[::-1]
        store.put({key("a"): first})
        read = some(store.get([key("a")])[0])
        for _ in range(3):
            store.put({key("a"): second})
            store.delete([key("a")])
            store.put({key("b"): second})
        assert bytes(read) == first

    def test_what_is_read_cannot_be_written_to(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("small"): b"12345678", key("large"): pattern(at_most(store, 2_000_000))})
        for value in store.get([key("small"), key("large")]):
            assert value is not None
            assert not store.capabilities.zero_copy or memoryview(value).readonly

    def test_keys_are_any_bytes(self, store: Store, key: Callable[[object], bytes]) -> None:
        suffixes = [b"", b" ", b"\n", b"\r\n", b"\x00", b"\xff\xfe", b"a" * 200, b"{b}", "é".encode()]
        items = {key("k") + suffix: str(n).encode() for n, suffix in enumerate(suffixes)}
        store.put(items)
        assert bytes_of(store.get(list(items))) == list(items.values())
        assert self.other.get(store.spec(), list(items)) == list(items.values())

    def test_deleted_values_are_missing(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("a"): b"1", key("b"): b"2", key("c"): pattern(at_most(store, 2_000_000))})
        store.delete([key("a"), key("c"), key("never")])
        assert bytes_of(store.get([key("a"), key("b"), key("c")])) == [None, b"2", None]
        assert self.raw_get(store, [key("a"), key("b"), key("c")]) == [None, b"2", None]
        store.put({key("a"): b"3"})
        assert bytes_of(store.get([key("a")])) == [b"3"]

    def test_a_value_stays_for_its_time_to_live(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("a"): b"1", key("b"): pattern(at_most(store, 2_000_000))}, ttl_s=600.0)
        assert self.raw_get(store, [key("a")]) == [b"1"]
        assert all(value is not None for value in store.get([key("a"), key("b")]))

    def test_a_later_write_sets_the_time_to_live_anew(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("a"): b"1", key("canary"): b"1"}, ttl_s=1.0)
        store.put({key("a"): b"2"})
        give_up_s = time.monotonic() + 4.0  # a store need not forget: the time to live is when a key *may* vanish
        while store.get([key("canary")])[0] is not None and time.monotonic() < give_up_s:
            store.wait(key("never"), 0.05)
        assert bytes_of(store.get([key("a")])) == [b"2"]

    # Waiting

    def test_wait_returns_what_is_there(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("a"): b"", key("b"): pattern(at_most(store, 2_000_000))})
        assert bytes(some(store.wait(key("a"), 0.0))) == b""
        assert bytes_of(in_threads([partial(store.wait, key("a"), 10 * _PATIENCE_S)])) == [b""]
        assert bytes(some(store.wait(key("b"), _PATIENCE_S))) == pattern(at_most(store, 2_000_000))

    def test_wait_gives_up_with_none(self, store: Store, key: Callable[[object], bytes]) -> None:
        assert store.wait(key("a"), 0.0) is None
        assert store.wait(key("a"), 0.05) is None

    def test_wait_sees_what_another_process_writes_meanwhile(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        def write_elsewhere() -> None:
            for n, other in enumerate(self.others):
                other.put(store.spec(), {key(n): b"%d" % n})

        waits = [partial(store.wait, key(n), _PATIENCE_S) for n in range(3)]
        answers = in_threads(waits, before_join=write_elsewhere)
        assert bytes_of(answers) == [b"0", b"1", b"2"]

    # Fan-ins

    def test_the_last_arrival_completes_the_set_and_claims_it(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        for member in (2, 0):
            assert store.incr([Arrival(key("f"), (member,), 3, b"id%d" % member)]) == [Outcome(False, False)]
        assert self.other.incr(store.spec(), [Arrival(key("f"), (1,), 3, b"id1")]) == [Outcome(True, True)]

    def test_a_fan_in_of_one_is_claimed_at_once(self, store: Store, key: Callable[[object], bytes]) -> None:
        assert store.incr([Arrival(key("f"), (0,), 1, b"me", b"v")]) == [Outcome(True, True, (b"v",))]

    def test_a_member_that_has_arrived_before_changes_nothing(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        for claimant in (b"a", b"a", b"b"):
            assert store.incr([Arrival(key("f"), (0,), 2, claimant, b"from " + claimant)]) == [Outcome(False, False)]
        assert store.incr([Arrival(key("f"), (1,), 2, b"c", b"from c")])[0].claimed
        assert ridden(store.incr([Arrival(key("f"), (1,), 2, b"c")])) == [b"from a", b"from c"]

    def test_only_the_claimant_is_told_so_again(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.incr([Arrival(key("f"), (0,), 2, b"a", b"0")])
        last = Arrival(key("f"), (1,), 2, b"b", b"1")
        first_time = store.incr([last])
        again = self.other.incr(store.spec(), [last])
        assert ridden(first_time) == ridden(again) == [b"0", b"1"]
        for claimant in (b"a", b"c", b""):
            for members in ((0,), (1,), (0, 1)):
                arrival = Arrival(key("f"), members, 2, claimant, b"late")
                assert store.incr([arrival]) == [Outcome(True, False)]
        assert ridden(store.incr([last])) == [b"0", b"1"]

    def test_only_if_last_is_no_arrival_where_it_is_not_last(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        holder = Arrival(key("f"), (0,), 2, b"a", b"big", only_if_last=True)
        assert store.incr([holder, holder]) == [Outcome(False, False)] * 2
        assert store.incr([Arrival(key("f"), (1,), 2, b"b", b"small")]) == [Outcome(False, False)]
        assert ridden(self.other.incr(store.spec(), [holder])) == [b"big", b"small"]
        assert store.incr([holder])[0].claimed
        late = Arrival(key("f"), (0,), 2, b"late", only_if_last=True)
        assert store.incr([late]) == [Outcome(True, False)]

    def test_two_that_come_only_if_last_leave_the_set_incomplete(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        for member, claimant in ((0, b"a"), (1, b"b"), (0, b"a")):
            arrival = Arrival(key("f"), (member,), 2, claimant, only_if_last=True)
            assert store.incr([arrival]) == [Outcome(False, False, give_way=claimant == b"b")]
        assert store.incr([Arrival(key("f"), (0, 1), 2, b"a", only_if_last=True)]) == [Outcome(True, True)]

    # Those who hold: notes of arrivals that came only if they were last

    @pytest.fixture
    def hold(self, store: Store, key: Callable[[object], bytes]) -> Callable[..., bool]:
        """A function with which a claimant notes what it holds; returns whether it is to give way."""

        def hold(claimant: bytes, *members: int, of: int = 3) -> bool:
            arrival = Arrival(key("f"), members, of, claimant, b"held by " + claimant, only_if_last=True)
            (outcome,) = store.incr([arrival])
            assert outcome == Outcome(False, False, give_way=outcome.give_way)
            return outcome.give_way

        return hold

    @pytest.fixture
    def arrive(self, store: Store, key: Callable[[object], bytes]) -> Callable[..., Outcome]:
        """A function with which a claimant arrives at the fan-in of `hold`, elsewhere."""

        def arrive(claimant: bytes, *members: int, of: int = 3, only_if_last: bool = False) -> Outcome:
            arrival = Arrival(key("f"), members, of, claimant, b"from " + claimant, only_if_last)
            return self.other.incr(store.spec(), [arrival])[0]

        return arrive

    def test_a_note_is_not_an_arrival(self, hold: Callable[..., bool], arrive: Callable[..., Outcome]) -> None:
        hold(b"a", 0)
        hold(b"b", 1)
        assert arrive(b"c", 2) == Outcome(False, False)
        assert arrive(b"c", 1) == Outcome(False, False)
        assert ridden([arrive(b"c", 0)]) == [b"from c"] * 3
        assert arrive(b"a", 0, only_if_last=True) == arrive(b"b", 1, only_if_last=True) == Outcome(True, False)

    def test_the_second_holder_gives_way_and_the_first_does_not(self, hold: Callable[..., bool]) -> None:
        assert [hold(b"a", 0, of=2), hold(b"b", 1, of=2)] == [False, True]

    def test_only_who_comes_only_if_last_is_told_to_give_way(
        self, hold: Callable[..., bool], arrive: Callable[..., Outcome]
    ) -> None:
        hold(b"a", 0)
        hold(b"b", 1, 2)
        assert arrive(b"b", 1) == Outcome(False, False)
        assert arrive(b"b", 1) == Outcome(False, False)
        assert arrive(b"b", 2, only_if_last=True) == Outcome(False, False, give_way=True)

    def test_the_first_holder_completes_after_the_second_has_arrived(
        self, hold: Callable[..., bool], arrive: Callable[..., Outcome]
    ) -> None:
        hold(b"a", 0, of=2)
        assert hold(b"b", 1, of=2)
        assert not arrive(b"b", 1, of=2).complete
        assert ridden([arrive(b"a", 0, of=2, only_if_last=True)]) == [b"from a", b"from b"]
        assert ridden([arrive(b"a", 0, of=2, only_if_last=True)]) == [b"from a", b"from b"]
        assert arrive(b"b", 1, of=2, only_if_last=True) == Outcome(True, False)

    def test_the_same_claimant_asking_again_gets_the_same_answer(self, hold: Callable[..., bool]) -> None:
        assert [hold(b"a", 0, of=2) for _ in range(3)] == [False] * 3
        for _ in range(3):
            assert [hold(b"b", 1, of=2), hold(b"a", 0, of=2)] == [True, False]

    def test_of_three_holders_all_but_the_first_give_way_once_the_last_has_come(
        self, hold: Callable[..., bool], arrive: Callable[..., Outcome]
    ) -> None:
        assert [hold(b"b", 2), hold(b"a", 0), hold(b"b", 2), hold(b"a", 0)] == [False] * 4
        assert hold(b"c", 1)
        for _ in range(2):
            assert [hold(b"a", 0), hold(b"b", 2), hold(b"c", 1)] == [True, False, True]
        arrive(b"c", 1)
        assert [hold(b"a", 0), hold(b"b", 2)] == [True, False]
        arrive(b"a", 0)
        assert arrive(b"b", 2, only_if_last=True).claimed

    def test_who_holds_nothing_that_is_missing_makes_nobody_give_way(
        self, hold: Callable[..., bool], arrive: Callable[..., Outcome]
    ) -> None:
        hold(b"a", 0)
        hold(b"b", 1)
        assert hold(b"c", 2)
        assert arrive(b"a", 0) == Outcome(False, False)
        assert [hold(b"b", 1), hold(b"c", 2)] == [False, True]

    def test_whoever_brought_it_what_has_arrived_is_not_waited_for(
        self, hold: Callable[..., bool], arrive: Callable[..., Outcome]
    ) -> None:
        hold(b"a", 0, 1, of=4)
        hold(b"b", 2, of=4)
        hold(b"c", 3, of=4)
        arrive(b"d", 0, of=4)
        assert hold(b"b", 2, of=4)  # a holds 1 as well
        arrive(b"d", 1, of=4)
        assert [hold(b"b", 2, of=4), hold(b"c", 3, of=4)] == [False, True]

    def test_a_repeated_note_replaces_what_was_noted_and_keeps_its_place(self, hold: Callable[..., bool]) -> None:
        hold(b"a", 0, 1)
        assert hold(b"b", 2)
        assert not hold(b"a", 1)
        assert not hold(b"b", 2)  # nobody holds 0 any more
        assert hold(b"b", 0, 2)
        assert [hold(b"b", 2, 0), hold(b"a", 1)] == [True, False]
        assert [hold(b"a", 0, 1), hold(b"b", 2)] == [False, True]

    def test_delete_takes_the_notes_too(
        self, store: Store, key: Callable[[object], bytes], hold: Callable[..., bool]
    ) -> None:
        hold(b"a", 0, of=2)
        assert hold(b"b", 1, of=2)
        store.delete([key("f")])
        assert not hold(b"b", 1, of=2)
        assert hold(b"a", 0, of=2)

    @pytest.mark.parametrize("of", [8, 64, 5_000])
    def test_holders_of_a_wide_fan_in_give_way_to_the_first(
        self, hold: Callable[..., bool], arrive: Callable[..., Outcome], of: int
    ) -> None:
        members = list(range(of))
        random.Random(of).shuffle(members)
        shares = {b"holder %d" % n: members[n::4] for n in range(4)}
        answers = [hold(claimant, *share, of=of) for claimant, share in shares.items()]
        assert answers == [False, False, False, True]
        assert [hold(claimant, *share, of=of) for claimant, share in shares.items()] == [False, True, True, True]
        assert not hold(b"holder 3", *shares[b"holder 3"][1:], of=of)
        assert not hold(b"holder 1", *shares[b"holder 1"], of=of)
        assert not arrive(b"holder 0", *shares[b"holder 0"], of=of).complete
        arrive(b"other", shares[b"holder 3"][0], of=of)
        later = list(shares.items())[1:]
        assert [hold(claimant, *share, of=of) for claimant, share in later] == [False, True, True]

    def test_of_many_processes_that_hold_all_exactly_one_does_not_give_way(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        n_fanins, of = 100, len(self.others)

        def note(f: int, n: int, *, only_if_last: bool = True) -> Arrival:
            return Arrival(key(f), (n,), of, b"process %d" % n, b"%d" % n, only_if_last)

        orders = [random.Random(n).sample(range(n_fanins), n_fanins) for n in range(of)]
        for n, other in enumerate(self.others):
            other.start(store.spec(), "arrive", [note(f, n) for f in orders[n] for _ in range(2)])
        early = [other.finish() for other in self.others]
        assert not any(outcome.complete for outcomes in early for outcome in outcomes)
        late = [store.incr([note(f, n) for n in range(of)]) for f in range(n_fanins)]
        gives_way = [[outcome.give_way for outcome in outcomes] for outcomes in late]
        assert [sum(answers) for answers in gives_way] == [of - 1] * n_fanins
        for n in range(of):
            for f, outcome in zip(orders[n], early[n][1::2], strict=True):
                assert gives_way[f][n] or not outcome.give_way, "who was told to give way came first after all"
        givers = [note(f, n, only_if_last=False) for f in range(n_fanins) for n in range(of) if gives_way[f][n]]
        assert not any(outcome.complete for outcome in self.other.incr(store.spec(), givers))
        last = store.incr([note(f, gives_way[f].index(False)) for f in range(n_fanins)])
        assert all(ridden([outcome]) == [b"%d" % n for n in range(of)] for outcome in last)

    def test_riding_values_come_back_to_the_claimant(self, store: Store, key: Callable[[object], bytes]) -> None:
        values = [b"", b"\x00", b"x" * 20, pattern(5_000), pattern(16_384), None, b"same", b"same"]
        claims = [store.incr([Arrival(key("f"), (n,), 8, b"c%d" % n, value)]) for n, value in enumerate(values)]
        assert [claim[0].claimed for claim in claims] == [False] * 7 + [True]
        assert ridden(claims[-1]) == sorted(value for value in values if value is not None)

    def test_several_members_arrive_at_once_with_one_value(self, store: Store, key: Callable[[object], bytes]) -> None:
        assert store.incr([Arrival(key("f"), (0, 1, 2), 6, b"a", b"012")]) == [Outcome(False, False)]
        assert store.incr([Arrival(key("f"), (2, 3), 6, b"b", b"3")]) == [Outcome(False, False)]
        assert store.incr([Arrival(key("f"), (1, 3), 6, b"c", b"nothing new")]) == [Outcome(False, False)]
        assert ridden(store.incr([Arrival(key("f"), (5, 4, 0), 6, b"d", b"45")])) == [b"012", b"3", b"45"]

    def test_a_batch_arrives_at_many_fan_ins(self, store: Store, key: Callable[[object], bytes]) -> None:
        first = [Arrival(key(n), (0,), 2, b"a", b"%d" % n) for n in range(1_000)]
        second = [Arrival(key(n), (1,), 2, b"b") for n in reversed(range(1_000))]
        assert store.incr(first) == [Outcome(False, False)] * 1_000
        assert store.incr(second) == [Outcome(True, True, (b"%d" % n,)) for n in reversed(range(1_000))]

    def test_a_batch_may_arrive_twice_at_one_fan_in(self, store: Store, key: Callable[[object], bytes]) -> None:
        outcomes = store.incr([Arrival(key("f"), (n,), 3, b"a", b"%d" % n) for n in (0, 1, 2, 0)])
        assert [outcome.claimed for outcome in outcomes] == [False, False, True, True]
        assert sorted(outcomes[3].values) == [b"0", b"1", b"2"]

    @pytest.mark.parametrize("of", [8, 9, 64, 1_000, 10_000])
    def test_a_wide_fan_in_completes_with_its_last_member(
        self, store: Store, key: Callable[[object], bytes], of: int
    ) -> None:
        members = list(range(of))
        random.Random(of).shuffle(members)
        arrivals = [Arrival(key("f"), (member,), of, b"%d" % member, b"value %d" % member) for member in members]
        outcomes = store.incr(arrivals)
        assert outcomes[:-1] == [Outcome(False, False)] * (of - 1)
        assert ridden(outcomes[-1:]) == sorted(b"value %d" % member for member in members)
        assert store.incr([arrivals[0]]) == [Outcome(True, False)]

    def test_records_and_values_are_separate_name_spaces(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.incr([Arrival(key("a"), (0,), 2, b"c")])
        assert store.get([key("a")]) == [None]
        store.put({key("a"): b"value"})
        assert store.incr([Arrival(key("a"), (1,), 2, b"c")]) == [Outcome(True, True)]
        assert bytes_of(store.get([key("a")])) == [b"value"]

    def test_delete_takes_records_as_well_as_values(self, store: Store, key: Callable[[object], bytes]) -> None:
        for n in range(50):
            store.incr([Arrival(key("a"), (n,), 100, b"c", pattern(1_000))])
        store.put({key("a"): b"value"})
        store.delete([key("a")])
        assert store.get([key("a")]) == [None]
        assert store.incr([Arrival(key("a"), tuple(range(50, 100)), 100, b"c")]) == [Outcome(False, False)]
        assert ridden(store.incr([Arrival(key("a"), tuple(range(50)), 100, b"d", b"new")])) == [b"new"]
        store.delete([key("a")])
        assert store.incr([Arrival(key("a"), (0,), 1, b"e")]) == [Outcome(True, True)]

    def test_a_record_stays_for_its_time_to_live(self, store: Store, key: Callable[[object], bytes]) -> None:
        assert store.incr([Arrival(key("a"), (0,), 2, b"a", b"0")], ttl_s=600.0) == [Outcome(False, False)]
        assert ridden(store.incr([Arrival(key("a"), (1,), 2, b"b", b"1")], ttl_s=600.0)) == [b"0", b"1"]

    # Many at once

    def test_of_many_processes_exactly_one_claims(self, store: Store, key: Callable[[object], bytes]) -> None:
        n_fanins, of = 40, len(self.others)
        for n, other in enumerate(self.others):
            arrivals = [Arrival(key(f), (n,), of, b"process %d" % n, b"%d" % n) for f in range(n_fanins)]
            random.Random(n).shuffle(arrivals)
            other.start(store.spec(), "arrive", [again for arrival in arrivals for again in (arrival, arrival)])
        answers = [outcome for other in self.others for outcome in other.finish()]
        claimed = [outcome for outcome in answers if outcome.claimed]
        assert all(sorted(outcome.values) == [b"%d" % n for n in range(of)] for outcome in claimed)
        # Each claimant asked twice. It may have claimed with its first arrival or, others coming between, its second.
        claimants = [
            [c for c in range(of) if store.incr([Arrival(key(f), (c,), of, b"process %d" % c)])[0].claimed]
            for f in range(n_fanins)
        ]
        assert [len(who) for who in claimants] == [1] * n_fanins
        assert n_fanins <= len(claimed) <= 2 * n_fanins

    def test_of_many_that_race_with_the_whole_set_exactly_one_claims(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        for n, other in enumerate(self.others):
            arrivals = [Arrival(key(f), (0, 1), 2, b"process %d" % n, b"%d" % n, True) for f in range(200)]
            other.start(store.spec(), "incr", arrivals)
        answers = [other.finish() for other in self.others]
        assert [sum(outcome.claimed for outcome in at_one) for at_one in zip(*answers, strict=True)] == [1] * 200
        assert all(outcome.complete for answer in answers for outcome in answer)

    def test_processes_write_into_one_fan_in_without_losing_an_arrival(
        self, store: Store, key: Callable[[object], bytes]
    ) -> None:
        each, n_others = 100, len(self.others)
        of = each * n_others
        for n, other in enumerate(self.others):
            members = range(n, of, n_others)
            arrivals = [Arrival(key("f"), (m,), of, b"%d" % m, b"v%d" % m) for m in members]
            other.start(store.spec(), "arrive", arrivals)
        outcomes = [outcome for other in self.others for outcome in other.finish()]
        claimed = [outcome for outcome in outcomes if outcome.claimed]
        assert ridden(claimed) == sorted(b"v%d" % m for m in range(of))

    def test_threads_may_share_a_store(self, store: Store, key: Callable[[object], bytes]) -> None:
        def work(n: int) -> list[Outcome]:
            outcomes = []
            for turn in range(50):
                value = b"%d/%d" % (n, turn) * 100
                store.put({key(f"{n}/{turn}"): value})
                outcomes += store.incr([Arrival(key(f"f{turn}"), (n,), 4, b"t%d" % n)])
                assert bytes_of(store.get([key(f"{n}/{turn}")])) == [value]
                store.delete([key(f"{n}/{turn}")])
            return outcomes

        outcomes = in_threads([partial(work, n) for n in range(4)])
        assert sum(outcome.claimed for of_one in outcomes for outcome in of_one) == 50

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_store_works_on_both_sides_of_a_fork(self, store: Store, key: Callable[[object], bytes]) -> None:
        store.put({key("before"): b"1"})
        store.incr([Arrival(key("f"), (0,), 3, b"parent")])
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for turn in range(20):
                    assert bytes_of(store.get([key("before")])) == [b"1"]
                    store.put({key(f"child {turn}"): b"%d" % turn})
                store.incr([Arrival(key("f"), (1,), 3, b"child")])
                store.close()
                status = 0
            finally:
                os._exit(status)
        for turn in range(20):
            store.put({key(f"parent {turn}"): b"%d" % turn})
            assert bytes_of(store.get([key(f"parent {turn}")])) == [b"%d" % turn]
        assert os.waitpid(pid, 0)[1] == 0
        for who in ("child", "parent"):
            numbers = [b"%d" % turn for turn in range(20)]
            assert bytes_of(store.get([key(f"{who} {turn}") for turn in range(20)])) == numbers
        assert store.incr([Arrival(key("f"), (2,), 3, b"parent")]) == [Outcome(True, True)]

    # Anything in any order

    def test_any_sequence_of_operations_agrees_with_a_model(self, store: Store) -> None:
        machine: Any = partial(StoreMachine, store)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=30,
                stateful_step_count=25,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


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


def in_threads(calls: Sequence[Callable[[], T]], before_join: Callable[[], object] = lambda: None) -> list[T]:
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
        thread.join(_PATIENCE_S)
        assert not thread.is_alive(), "a call did not return"
    if errors:
        raise errors[0]
    return [results[n] for n in range(len(calls))]
