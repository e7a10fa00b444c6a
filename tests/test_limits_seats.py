"""Seats of limits in a store: their holders, in any order of operations, with deaths."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count
from random import Random
from typing import Any

import pytest

from wukong.backends.storage import Arrival, FanInRecord, arrive
from wukong.core.effects import Stopped
from wukong.core.names import Names
from wukong.core.seats import SeatTickets, keys_of
from wukong.planning.seat_model import SeatModel

ONE = (("a", 1),)
NAMES = Names("abcdefabcdef-0")


class Mixed:
    """A store in memory. `before` is called before each operation, and `n` counts them."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.values: dict[bytes, bytes] = {NAMES.alive: b""}
        self.records: dict[bytes, FanInRecord] = {}
        self.n, self.before = 0, before

    def get(self, keys: Sequence[bytes]) -> list[Any]:
        self.before()
        self.n += 1
        return [self.values.get(key) for key in keys]

    def put(self, items: Any, ttl_s: float | None = None) -> None:
        self.before()
        self.n += 1
        self.values.update(items)

    def delete(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.values.pop(key, None)
            self.records.pop(key, None)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Any]:
        self.before()
        self.n += 1
        [each] = arrivals
        record, outcome = arrive(self.records.get(each.record, FanInRecord(each.of)), each)
        self.records[each.record] = record
        return [outcome]


class Dead(BaseException):
    """An executor has died."""


class Crowd:
    """Executors that want seats, each in a thread; one of them goes on at a time, chance says which, or dies."""

    LIMITS = (("a", 2), ("b", 1))
    LEASE_S = 30.0

    def __init__(self, seed: int) -> None:
        self.rng, self.now = Random(seed), 0.0
        self.store = Mixed(self.pause)
        self.here = threading.local()
        self.back = threading.Semaphore(0)
        self.holding: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.taken = self.deaths = 0
        self.members = [Member(self) for _ in range(4)]

    def pause(self) -> None:
        """Let another one go on; called before each operation in the thread of a member."""
        member = getattr(self.here, "member", None)
        if member is not None:
            self.back.release()
            member.turn.acquire()
            if member.dies:
                raise Dead

    def run(self) -> None:
        """Go on until all have done what they wanted, or have died."""
        live = list(self.members)
        while live:
            self.now += 0.01
            member = self.rng.choice(live)
            if self.deaths < 2 and self.rng.random() < 0.02:
                self.deaths += 1
                member.dies = True
            self.step(member)
            if self.rng.random() < 0.03:
                self.leases_pass(live)
            live = [each for each in live if each.thread.is_alive()]

    def step(self, member: Member) -> None:
        member.turn.release()
        self.back.acquire()
        if member.over:
            member.thread.join()

    def leases_pass(self, live: Sequence[Member]) -> None:
        """Let a lease go by, while those who live renew theirs."""
        for _ in range(4):
            self.now += self.LEASE_S / 3
            for member in live:
                while member.seats._guard.locked() and not member.over:
                    self.step(member)
                if not member.over:
                    member.seats.keep()


class Member:
    """One of a crowd."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd, self.turn = crowd, threading.Semaphore(0)
        self.dies = self.over = False
        self.seats = SeatTickets(NAMES, crowd.store, None, crowd.LEASE_S, clock=lambda: crowd.now)
        self.thread = threading.Thread(target=self.live, daemon=True)
        self.thread.start()

    def live(self) -> None:
        self.crowd.here.member = self
        self.turn.acquire()
        try:
            for _ in range(3):
                self.work(self.crowd.rng.choice((self.crowd.LIMITS, self.crowd.LIMITS[:1])))
        except Dead:
            pass
        self.over = True
        self.crowd.back.release()

    def work(self, limits: Any) -> None:
        crowd, names = self.crowd, [name for name, _ in limits]
        while self.seats.take(limits) is not None:
            pass
        crowd.taken += 1
        crowd.holding.update(names)
        crowd.most |= crowd.holding
        try:
            for _ in range(crowd.rng.randrange(4)):
                self.seats.free(limits)  # some operation
        finally:
            crowd.holding.subtract(names)
        self.seats.give(limits)


def test_in_any_order_of_their_operations_with_deaths_no_more_have_a_seat_than_there_are() -> None:
    deaths = 0
    for seed in range(40):
        crowd = Crowd(seed)
        crowd.run()
        deaths += crowd.deaths
        assert crowd.most["a"] <= 2 and crowd.most["b"] <= 1, seed
        assert crowd.deaths or crowd.taken == 12
    assert deaths > 20


class TestSeats:
    """Executors, by what they have of limits."""

    def executor(self, store: Any, clock: Any = time.monotonic, lease_s: float = 30.0) -> SeatTickets:
        return SeatTickets(NAMES, store, None, lease_s, clock=clock)

    def test_a_seat_costs_three_operations_one_more_to_give_back_and_one_look_if_there_is_none(self) -> None:
        store = Mixed()
        one, two = self.executor(store), self.executor(store)
        assert one.take(ONE) is None and store.n == 3
        assert two.take(ONE) == "a" and store.n == 4
        assert (one.free(ONE), two.free(ONE), two.free((("a", 3),))) == (0, 0, 2)
        store.n = 0
        one.give(ONE)
        assert store.n == 1
        assert two.take(ONE) is None and two.free(ONE) == 0

    def test_who_is_refused_one_limit_keeps_no_seat_of_another(self) -> None:
        store = Mixed()
        one, two, both = self.executor(store), self.executor(store), (("a", 1), ("b", 1))
        assert one.take((("b", 1),)) is None
        assert two.take(both) == "b"
        assert two.free(ONE) == 1

    def test_the_seat_of_a_dead_holder_is_free_after_its_lease_and_of_one_that_lives_never(self) -> None:
        store, now = Mixed(), 0.0
        dead, lives, waits = (self.executor(store, lambda: now) for _ in range(3))
        limits = (("a", 2),)
        assert dead.take(limits) is None and lives.take(limits) is None
        for _ in range(31):
            assert waits.take(limits) == "a"
            lives.keep()
            now += 1.0
        assert waits.take(limits) is None and waits.take(limits) == "a"
        dead.give(limits)  # it was only paused
        assert self.executor(store, lambda: now).take(limits) == "a"

    def test_who_was_paused_for_longer_than_its_lease_signs_no_more_for_that_seat_and_says_so(self) -> None:
        store, now = Mixed(), 0.0
        paused, waits, other = (self.executor(store, lambda: now) for _ in range(3))
        both = (("a", 1), ("b", 1))
        assert paused.take(ONE) is None and paused.keep() and waits.take(ONE) == "a"
        now = 31.0
        assert waits.take(ONE) is None and paused.take(both[1:]) is None
        assert not paused.keep() and waits.keep()
        signed = store.values[NAMES.seat("a", 0)]
        for _ in range(35):
            now += 1.0
            assert not paused.keep() and waits.keep() and other.take(both) == "a"
        assert store.values[NAMES.seat("a", 0)] != signed and other.take(both[1:]) == "b"
        paused.give(ONE)
        assert paused.keep() and other.take(ONE) == "a"

    def test_whoever_leaves_gives_all_back_but_what_it_has_lost(self) -> None:
        store, now = Mixed(), 0.0
        leaves, other = self.executor(store, lambda: now), self.executor(store, lambda: now)
        for limits in ((("a", 2),), (("a", 2),), (("b", 1),)):
            assert leaves.take(limits) is None
        leaves.leave()
        assert (other.free((("a", 2),)), other.free((("b", 1),))) == (2, 1)
        store.n = 0
        leaves.leave()
        assert store.n == 0

    def test_the_model_of_them_loses_a_seat_likewise(self) -> None:
        now = 0.0
        model = SeatModel(30.0, lambda: now)
        assert model.take("paused", ONE) is None and model.keep("paused")
        now = 31.0
        assert model.take("waits", ONE) is None
        assert not model.keep("paused") and model.keep("waits")
        model.give("paused", ONE)
        assert model.keep("paused") and model.take("other", ONE) == "a"

    def test_a_holder_that_dies_before_it_signs_is_found_as_well(self) -> None:
        store, now = Mixed(), 0.0
        store.incr([Arrival(NAMES.seat("a", 0) + b"/0", (0,), 1, b"dead")])
        waits = self.executor(store, lambda: now)
        assert waits.take(ONE) == "a"
        now = 31.0
        assert waits.take(ONE) is None

    @pytest.mark.parametrize("signed", [True, False])
    def test_who_leaves_before_a_lease_is_over_gets_a_dead_holders_seat_by_one_that_stays(self, signed: bool) -> None:
        store, now = Mixed(), 0.0

        def clock() -> float:
            return now

        stays, dead = self.executor(store, clock), self.executor(store, clock)
        if signed:
            assert dead.take(ONE) is None
        else:
            store.incr([Arrival(NAMES.seat("a", 0) + b"/0", (0,), 1, b"dead")])
        for _ in range(70):
            now += 1.0
            stays.mend(ONE)
            if self.executor(store, clock).take(ONE) is None:
                break
        assert 30 < now < 70
        store.delete(keys_of(NAMES, store, {"a": 1}))
        assert not store.records

    def test_one_that_stays_takes_no_seat_from_one_that_lives_and_keeps_none(self) -> None:
        store, now = Mixed(), 0.0
        stays, lives = self.executor(store, lambda: now), self.executor(store, lambda: now)
        limits = (("a", 2),)
        assert lives.take(limits) is None
        for _ in range(100):
            now += 1.0
            assert lives.keep() and stays.mend(limits) == 1
        assert self.executor(store, lambda: now).take(limits) is None
        assert lives.keep() and self.executor(store, lambda: now).take(limits) == "a"

    @pytest.mark.parametrize("n", [100, 256])
    def test_of_256_seats_the_last_free_one_is_found_at_once(self, n: int) -> None:
        store, limits = Mixed(), (("a", n),)
        one = self.executor(store)
        for _ in range(n - 1):
            assert one.take(limits) is None
        store.n = 0
        assert self.executor(store).take(limits) is None and store.n <= 3 + n // 64
        assert self.executor(store).take(limits) == "a"

    @pytest.mark.parametrize(("n", "free"), [(256, 64), (300, 0), (512, 128)])
    def test_how_many_of_256_seats_are_free_is_counted_in_one_look_and_of_more_it_is_guessed(
        self, n: int, free: int
    ) -> None:
        store, limits = Mixed(), (("a", n),)
        for seat in range(n):
            if seat % n >= free:
                store.values[NAMES.seat("a", seat)] = b"0 someone/1"
        one, store.n = self.executor(store), 0
        told = [one.mend(limits) for _ in range(2)] + [one.free(limits)]
        assert store.n == 3
        assert told == [free] * 3 if n <= 256 else max(told) <= 2 * free

    def test_whoever_finds_a_seat_claimed_leaves_its_claimant_a_lease_to_sign(self) -> None:
        now, seen = 0.0, []
        store = Mixed()
        late, waits = self.executor(store, lambda: now), self.executor(store, lambda: now)
        assert waits.free(ONE) == 1
        now = 31.0
        put = store.put

        def before_its_sign(items: Any, ttl_s: float | None = None) -> None:
            nonlocal now
            store.put = put  # type: ignore[method-assign]
            for _ in range(3):
                seen.append(waits.take(ONE))
                now += 1.0
            put(items, ttl_s)

        store.put = before_its_sign  # type: ignore[method-assign]
        assert late.take(ONE) is None and seen == ["a"] * 3

    def test_who_is_paused_between_claim_and_sign_does_not_count_on_its_seat(self) -> None:
        times = iter([0.0, 0.0, 20.0])
        assert self.executor(Mixed(), times.__next__).take(ONE) == "a"

    def test_no_key_is_left_of_them(self) -> None:
        store, rng, times = Mixed(), Random(1), count(0.0, 2.0)
        limits = (("a", 2), ("b", 1))
        for _ in range(20):
            one = self.executor(store, times.__next__)
            while one.take(limits) is not None:
                pass
            if rng.random() < 0.7:
                one.give(limits)
        store.delete(keys_of(NAMES, store, dict(limits)))
        assert not store.records and list(store.values) == [NAMES.alive]
        store.values.clear()
        with pytest.raises(Stopped):
            one.take(limits)
