"""Many at once: processes, threads, a forked child, and anything in any order."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.testing.storage.base import Key, StoreSuite, ridden
from wukong.testing.store_machine import StoreMachine, bytes_of

_STEPS, _CALLS = 25, 2  # after each of the model's steps all values are read


class CrowdTests(StoreSuite):
    """A part of `wukong.testing.storage.StoreTests`."""

    def test_of_many_processes_exactly_one_claims(self, store: Store, key: Key) -> None:
        n_fanins, of = self._fewer(store, 40, 20, 9), len(self.others)
        for n, other in enumerate(self.others):
            arrivals = [Arrival(key(f), (n,), of, b"process %d" % n, b"%d" % n) for f in range(n_fanins)]
            random.Random(n).shuffle(arrivals)
            other.start(store.spec(), "arrive", [again for arrival in arrivals for again in (arrival, arrival)])
        answers = [outcome for other in self.others for outcome in other.finish()]
        claimed = [outcome for outcome in answers if outcome.claimed]
        assert all(sorted(outcome.values) == [b"%d" % n for n in range(of)] for outcome in claimed)
        # Each claimant asked twice. It may have claimed with its first arrival or, if others came between, its second.
        claimants = [
            [c for c in range(of) if store.incr([Arrival(key(f), (c,), of, b"process %d" % c)])[0].claimed]
            for f in range(n_fanins)
        ]
        assert [len(who) for who in claimants] == [1] * n_fanins
        assert n_fanins <= len(claimed) <= 2 * n_fanins

    def test_of_many_that_race_with_the_whole_set_exactly_one_claims(self, store: Store, key: Key) -> None:
        for n, other in enumerate(self.others):
            arrivals = [Arrival(key(f), (0, 1), 2, b"process %d" % n, b"%d" % n, True) for f in range(200)]
            other.start(store.spec(), "incr", arrivals)
        answers = [other.finish() for other in self.others]
        assert [sum(outcome.claimed for outcome in at_one) for at_one in zip(*answers, strict=True)] == [1] * 200
        assert all(outcome.complete for answer in answers for outcome in answer)

    def test_processes_write_into_one_fan_in_without_losing_an_arrival(self, store: Store, key: Key) -> None:
        each, n_others = 100, len(self.others)
        of = each * n_others
        for n, other in enumerate(self.others):
            members = range(n, of, n_others)
            arrivals = [Arrival(key("f"), (m,), of, b"%d" % m, b"v%d" % m) for m in members]
            other.start(store.spec(), "arrive", arrivals)
        outcomes = [outcome for other in self.others for outcome in other.finish()]
        claimed = [outcome for outcome in outcomes if outcome.claimed]
        assert ridden(claimed) == sorted(b"v%d" % m for m in range(of))

    def test_of_many_processes_that_hold_all_exactly_one_does_not_give_way(self, store: Store, key: Key) -> None:
        n_fanins, of = self._fewer(store, 100, 25, 12), len(self.others)

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

    def test_threads_may_share_a_store(self, store: Store, key: Key) -> None:
        def work(n: int) -> list[Outcome]:
            outcomes = []
            for turn in range(50):
                value = b"%d/%d" % (n, turn) * 100
                store.put({key(f"{n}/{turn}"): value})
                outcomes += store.incr([Arrival(key(f"f{turn}"), (n,), 4, b"t%d" % n)])
                assert bytes_of(store.get([key(f"{n}/{turn}")])) == [value]
                store.delete([key(f"{n}/{turn}")])
            return outcomes

        outcomes = self._in_threads(
            [partial(work, n) for n in range(4)], otherwise="threads hold one another up: one has not ended"
        )
        assert sum(outcome.claimed for of_one in outcomes for outcome in of_one) == 50

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_store_works_on_both_sides_of_a_fork(self, store: Store, key: Key) -> None:
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

    def test_any_sequence_of_operations_agrees_with_a_model(self, store: Store) -> None:
        machine: Any = partial(StoreMachine, store)
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=self._fewer(
                    store, 100, 20, _CALLS * _STEPS
                ),  # half of them Hypothesis makes from others, with small changes
                stateful_step_count=_STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
