"""A model of a store in memory, and a Hypothesis state machine that compares any store with it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wukong.backends.storage import Arrival, FanInRecord, Outcome, Store, arrive

__all__ = ["StoreMachine", "bytes_of", "in_order", "pattern"]


def pattern(size_bytes: int) -> bytes:
    """Bytes in which a shift, a repeat or a missing piece shows."""
    block = random.Random(size_bytes).randbytes(min(size_bytes, 65_521))
    return (block * (size_bytes // max(1, len(block)) + 1))[:size_bytes]


def in_order(outcome: Outcome) -> Outcome:
    """An outcome, to compare: its values are in no particular order."""
    return replace(outcome, values=tuple(sorted(outcome.values)))


def bytes_of(values: Sequence[Any]) -> list[bytes | None]:
    """Values as bytes, to compare."""
    return [None if value is None else bytes(value) for value in values]


_KEYS = st.sampled_from([b"a", b"b", b"a\x00", b"c" * 40])
_VALUES = st.one_of(
    st.just(b""), st.binary(max_size=40), st.integers(0, 300_000).map(lambda size_bytes: pattern(size_bytes))
)


class StoreMachine(RuleBasedStateMachine):
    """Compares a store with a model in memory, driven by Hypothesis. Every run uses keys of its own."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.prefix = secrets.token_bytes(8)
        self.values: dict[bytes, bytes] = {}
        self.records: dict[bytes, FanInRecord] = {}

    @rule(items=st.dictionaries(_KEYS, _VALUES, max_size=3), ttl_s=st.sampled_from([None, 900.0]))
    def put(self, items: dict[bytes, bytes], ttl_s: float | None) -> None:
        """Put some values."""
        self.store.put({self.prefix + key: value for key, value in items.items()}, ttl_s)
        self.values |= items

    @rule(keys=st.lists(_KEYS, max_size=5))
    def get(self, keys: list[bytes]) -> None:
        """Get some values."""
        found = self.store.get([self.prefix + key for key in keys])
        assert bytes_of(found) == [self.values.get(key) for key in keys]

    @rule(keys=st.lists(_KEYS, max_size=3))
    def delete(self, keys: list[bytes]) -> None:
        """Delete values and records."""
        self.store.delete([self.prefix + key for key in keys])
        for key in keys:
            self.values.pop(key, None)
            self.records.pop(key, None)

    @rule(key=_KEYS)
    def wait(self, key: bytes) -> None:
        """Look whether a value is there."""
        assert bytes_of([self.store.wait(self.prefix + key, 0.0)]) == [self.values.get(key)]

    @rule(
        arrivals=st.lists(
            st.tuples(
                _KEYS,
                st.sets(st.integers(0, 3), min_size=1),
                st.sampled_from([b"x", b"y", b"y.1"]),
                st.one_of(st.none(), st.binary(max_size=5), st.just(b"large" * 600)),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        ttl_s=st.sampled_from([None, 900.0]),
    )
    def incr(self, arrivals: list[tuple[bytes, set[int], bytes, bytes | None, bool]], ttl_s: float | None) -> None:
        """Arrive at some fan-ins of four."""
        asked = [
            Arrival(self.prefix + key, tuple(members), 4, who, value, last)
            for key, members, who, value, last in arrivals
        ]
        outcomes = self.store.incr(asked, ttl_s)
        assert len(outcomes) == len(arrivals)
        for (key, *_), arrival, outcome in zip(arrivals, asked, outcomes, strict=True):
            self.records[key], expected = arrive(self.records.get(key, FanInRecord(4)), arrival)
            assert in_order(outcome) == in_order(expected)

    @rule(
        key=_KEYS,
        members=st.sampled_from([(), (4,), (0, 4), (-1, 0)]),
        who=st.sampled_from([b"x", b"y"]),
        last=st.booleans(),
    )
    def contradict(self, key: bytes, members: tuple[int, ...], who: bytes, last: bool) -> None:
        """Arrive in a way that contradicts the record, if the set is not complete."""
        record = self.records.get(key)
        if record is None or record.claimant is None:
            with pytest.raises(ValueError):
                self.store.incr([Arrival(self.prefix + key, members, 4, who, b"wrong", last)])

    @invariant()
    def all_values_are_there(self) -> None:
        """Check that the store holds what the model holds."""
        keys = [b"a", b"b", b"a\x00", b"c" * 40]
        assert bytes_of(self.store.get([self.prefix + key for key in keys])) == [self.values.get(key) for key in keys]

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.store.delete([self.prefix + key for key in {*self.values, *self.records}])
