"""Holders: the notes that arrivals leave which count only if they are last."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from wukong.backends.storage import Arrival, FanInRecord, Outcome, Store, arrive
from wukong.testing.storage.base import Key, StoreSuite, ridden
from wukong.testing.store_machine import in_order


class HoldTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_two_that_come_only_if_last_leave_the_set_incomplete(self, store: Store, key: Key) -> None:
        for member, claimant in ((0, b"a"), (1, b"b"), (0, b"a")):
            arrival = Arrival(key("f"), (member,), 2, claimant, only_if_last=True)
            assert store.incr([arrival]) == [Outcome(False, False, give_way=claimant == b"b")]
        assert store.incr([Arrival(key("f"), (0, 1), 2, b"a", only_if_last=True)]) == [Outcome(True, True)]

    @pytest.fixture
    def hold(self, store: Store, key: Key) -> Callable[..., bool]:
        """A function with which a claimant notes what it holds; returns whether it is to give way."""

        def hold(claimant: bytes, *members: int, of: int = 3) -> bool:
            arrival = Arrival(key("f"), members, of, claimant, b"held by " + claimant, only_if_last=True)
            (outcome,) = store.incr([arrival])
            assert outcome == Outcome(False, False, give_way=outcome.give_way)
            return outcome.give_way

        return hold

    @pytest.fixture
    def arrive(self, store: Store, key: Key) -> Callable[..., Outcome]:
        """A function with which a claimant arrives at the fan-in of `hold`, from another process."""

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

    def test_delete_takes_the_notes_too(self, store: Store, key: Key, hold: Callable[..., bool]) -> None:
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

    @pytest.mark.parametrize("of", [5, 64, 5_000])
    def test_any_sequence_of_arrivals_agrees_with_the_definition(self, store: Store, key: Key, of: int) -> None:
        """`wukong.backends.storage.arrive` is the definition. Who arrives or holds brings one or two of four shares."""
        rng, told = random.Random(of), set()
        for turn in range(20):
            cuts = [0, *sorted(rng.sample(range(1, of), 3)), of]
            shares = [tuple(range(*ends)) for ends in pairwise(cuts)]
            arrivals = []
            for n in range(25):
                members = {*rng.choice(shares), *(rng.choice(shares) if rng.random() < 0.5 else ())}
                last = rng.random() < 0.8
                few = not last and rng.random() < 0.7
                brought = tuple(sorted(members)[: rng.randrange(1, 4)] if few else members)
                value = rng.choice([None, b"%d" % n, b"large %d" % n * 600])
                arrivals.append(Arrival(key(turn), brought, of, b"%d" % rng.randrange(3), value, last))
            record = FanInRecord(of)
            for arrival, outcome in zip(arrivals, store.incr(arrivals), strict=True):
                record, defined = arrive(record, arrival)
                assert in_order(outcome) == in_order(defined)
                told.add((outcome.complete, outcome.claimed, outcome.give_way))
        assert len(told) == 4, "these sequences try too little"
