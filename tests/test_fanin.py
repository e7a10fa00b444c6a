"""A record for stores that can compare and swap, and the loop around it: against the definition, in any order."""

import itertools
import math
import random
import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wukong.backends.storage.fanin import ALIAS_BYTES, TOKEN_BYTES, FanIn
from wukong.backends.storage.memcached.incr import Batch
from wukong.core.storage import Arrival, FanInRecord, Outcome, arrive
from wukong.errors import StoreError
from wukong.testing.store_machine import in_order

TOKEN = bytes(range(TOKEN_BYTES))
ALIAS = b"ABCDEFGH"
LARGE = b"large" * 1_000


def arrivals_at(of):
    return st.builds(
        Arrival,
        record=st.just(b"record"),
        members=st.sets(st.integers(0, of - 1), min_size=1, max_size=6).map(tuple),
        of=st.just(of),
        claimant=st.sampled_from([b"", b"a", b"b", b"c" * 300]),
        value=st.one_of(st.none(), st.binary(max_size=20), st.sampled_from([LARGE, LARGE + b"2"])),
        only_if_last=st.booleans(),
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), of=st.sampled_from([1, 2, 3, 5, 8, 9, 40]), inside_bytes=st.sampled_from([0, 30, 4_096, 10**6]))
def test_any_sequence_of_arrivals_agrees_with_the_definition(data, of, inside_bytes):
    record, raw, stored, known = FanInRecord(of), FanIn(of, TOKEN).pack(), {}, 0
    for arrival in data.draw(st.lists(arrivals_at(of), max_size=25)):
        alias = data.draw(st.sampled_from([b"", ALIAS]))
        fanin = FanIn.unpack(raw)
        ruling = fanin.arrive(arrival, alias, inside_bytes=inside_bytes)
        if ruling.ride is not None:
            assert ruling.ride not in stored, "two values under one name"
            stored[ruling.ride] = arrival.value
        values = ruling.outcome.values + tuple(stored[name] for name in ruling.collect)
        record, defined = arrive(record, arrival)
        assert in_order(replace(ruling.outcome, values=values)) == in_order(defined)
        assert fanin.changed == (fanin.pack() != raw), "what is to be written is not said, or said if nothing is"
        raw = fanin.pack()
        assert FanIn.unpack(raw).pack() == raw
        assert len(set(fanin.riders())) == len(fanin.riders()) >= known
        known = len(fanin.riders())
    assert set(FanIn.unpack(raw).riders()) == set(stored)


def test_what_contradicts_the_record_or_itself_changes_nothing():
    fanin = FanIn(3, TOKEN)
    fanin.arrive(Arrival(b"r", (0,), 3, b"a", b"0"))
    raw = fanin.pack()
    for members, of in [((), 3), ((3,), 3), ((-1,), 3), ((1, 3), 3), ((1,), 4), ((1,), 2)]:
        for only_if_last in (False, True):
            with pytest.raises(ValueError):
                fanin.arrive(Arrival(b"r", members, of, b"b", b"1", only_if_last))
            assert fanin.pack() == raw


def laid_out(of=9, *, arrived=b"", until_s=math.inf, riders=b"", aliases=b"", inside=b"", claimant=b"", notes=b""):
    """Return a record as it lies in a store: clients and functions of one version read each other's."""
    rest = (riders, aliases, inside, claimant, notes)
    head = struct.pack("<4s16sId5I", b"fan\x01", TOKEN, of, until_s, *map(len, rest))
    return head + arrived.ljust(-(-of // 8), b"\0") + b"".join(rest)


def test_a_record_lies_in_the_store_like_this():
    fanin = FanIn(9, TOKEN)
    assert fanin.pack() == laid_out()
    fanin.arrive(Arrival(b"r", (8,), 9, b"a", b"in"))
    fanin.arrive(Arrival(b"r", (3, 4), 9, b"b", LARGE))
    fanin.arrive(Arrival(b"r", (4, 5), 9, b"c", LARGE), ALIAS)
    fanin.arrive(Arrival(b"r", (0, 8), 9, b"who", only_if_last=True))
    fanin.riders_until_s = 77.0
    whole = {
        "arrived": b"\x38\x01", "until_s": 77.0, "riders": b"\x08\0", "aliases": b"\5\0\0\0ABCDEFGH",
        "inside": b"\2\0\0\0in",
    }  # fmt: skip
    assert fanin.pack() == laid_out(**whole, notes=b"\3\0\0\0\3\0\0\0who\1\1\1")
    assert fanin.riders() == [TOKEN + b"\3\0\0\0", TOKEN + b"\5\0\0\0" + ALIAS]
    last = fanin.arrive(Arrival(b"r", (0, 1, 2, 6, 7), 9, b"last"))
    assert fanin.pack() == laid_out(**whole | {"arrived": b"\xff\1"}, claimant=b"last")
    assert (last.outcome, last.collect) == (Outcome(True, True, (b"in",)), tuple(fanin.riders()))
    wide = FanIn(100, TOKEN)
    wide.arrive(Arrival(b"r", (99, 7), 100, b"a", only_if_last=True))
    assert wide.pack() == laid_out(100, notes=b"\1\0\0\0\x09\0\0\0a\0\7\0\0\0\x63\0\0\0")


BEYOND = "members beyond the last of 9"


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "0 bytes that are no record"),
        (laid_out()[:-1], "53 bytes that are no record"),
        (laid_out() + b"\0", "55 bytes that are no record"),
        (laid_out().replace(b"fan", b"van"), "54 bytes that are no record"),
        (laid_out(0), "members beyond the last of 0"),
        (laid_out(arrived=b"\0\2"), BEYOND),
        (laid_out(riders=b"\0\2"), BEYOND),
        (laid_out(aliases=b"x" * 11), "no names of what rides beside it"),
        (laid_out(until_s=math.nan), "no names of what rides beside it"),
        (laid_out(arrived=b"\xff\0", inside=b"\1\0\0"), "a value that is cut off"),
        (laid_out(arrived=b"\xff\0", inside=b"\2\0\0\0x"), "a value that is cut off"),
        (laid_out(notes=b"\1\0\0\0\2\0\0"), "a note that is cut off"),
        (laid_out(notes=b"\1\0\0\0\2\0\0\0a\1"), "a note that is cut off"),
        (laid_out(notes=b"\1\0\0\0\3\0\0\0a\1\0\2"), f"a note of {BEYOND}"),
        (laid_out(notes=b"\1\0\0\0\5\0\0\0a\0\x09\0\0\0"), f"a note of {BEYOND}"),
    ],
    ids=itertools.count(),
)
def test_a_damaged_record_is_named_with_what_is_wrong(raw, what):
    arrivals = Arrival(b"r", (7,), 9, b"b", only_if_last=True), Arrival(b"r", (8,), 9, b"c")
    with pytest.raises(StoreError) as damaged:
        [FanIn.unpack(raw, b"job/r/3").arrive(arrival) for arrival in arrivals]
    assert damaged.value.message == f"the record of the fan-in b'job/r/3' is damaged: it has {what}"
    assert damaged.value.hint.startswith("something else writes under the store's keys, or the store has lost a part")


def test_notes_of_a_wide_fan_in_name_their_members():
    """They are kept as numbers there, not as a bitmap. Who holds the last that is missing waits for who held first."""
    fanin = FanIn(100, TOKEN)
    fanin.arrive(Arrival(b"r", tuple(range(96)), 100, b"most"))

    def hold(*members):
        nonlocal fanin
        fanin = FanIn.unpack(fanin.pack())
        return fanin.arrive(Arrival(b"r", members, 100, b"%d" % members[0], only_if_last=True)).outcome.give_way

    assert [hold(97, 96), hold(98), hold(99), hold(98), hold(97, 96)] == [False, False, True, True, False]
    fanin.arrive(Arrival(b"r", (96, 97), 100, b"other"))
    assert [hold(99), hold(98)] == [True, False]


def test_a_note_takes_a_bit_for_each_member_of_the_fan_in_or_less():
    for n_held, most_bytes in (1, 20), (100, 420), (9_000, 1_270):
        fanin = FanIn(10_000, TOKEN)
        fanin.arrive(Arrival(b"r", tuple(range(n_held)), 10_000, b"holder", only_if_last=True))
        assert len(fanin.pack()) - len(FanIn(10_000, TOKEN).pack()) < most_bytes


def test_small_values_ride_inside_and_large_ones_beside():
    fanin = FanIn(3, TOKEN)
    assert fanin.arrive(Arrival(b"r", (0,), 3, b"a", b"small")).ride is None
    beside = fanin.arrive(Arrival(b"r", (1,), 3, b"b", LARGE)).ride
    last = fanin.arrive(Arrival(b"r", (2,), 3, b"c", LARGE))
    assert beside is not None and last.ride not in (None, beside)
    assert last.outcome == Outcome(True, True, (b"small",))
    assert set(last.collect) == {beside, last.ride} == set(fanin.riders())


def test_values_take_as_many_bytes_of_the_record_as_they_may():
    fanin = FanIn(3, TOKEN)
    rides = [
        fanin.arrive(Arrival(b"r", (member,), 3, b"a", b"x" * size), inside_bytes=50).ride is None
        for member, size in enumerate((20, 23, 22))
    ]
    assert rides == [True, False, True]
    assert len(fanin.pack()) == len(FanIn(3, TOKEN).pack()) + len(b"a") + len(b"\2") + 50


def test_names_differ_between_records_and_by_alias():
    arrival = Arrival(b"r", (0,), 2, b"a", LARGE)
    names = {FanIn(2, token).arrive(arrival, alias).ride for token in (TOKEN, TOKEN[::-1]) for alias in (b"", ALIAS)}
    assert len(names) == 4
    assert len(ALIAS) == ALIAS_BYTES


def test_the_record_of_10_000_with_a_value_beside_it_for_each_stays_small():
    fanin = FanIn(10_000, TOKEN)
    for member in random.Random(1).sample(range(10_000), 10_000):
        last = fanin.arrive(Arrival(b"r", (member,), 10_000, b"%d" % member, LARGE))
    assert len(last.collect) == 10_000
    assert len(fanin.pack()) < 3_000


def test_10_000_holders_fit_into_an_item_of_memcached():
    fanin = FanIn(10_000, TOKEN)
    for member in range(10_000):
        if member % 500 == 0:
            fanin.arrive(Arrival(b"r", (member,), 10_000, b"holder %d" % member, only_if_last=True))
    per_note = (len(fanin.pack()) - len(FanIn(10_000, TOKEN).pack())) / 20
    assert 10_000 * per_note < 500_000


def test_a_holder_all_of_whose_members_have_arrived_otherwise_makes_nobody_give_way():
    fanin = FanIn(3, TOKEN)

    def hold(member, claimant):
        return fanin.arrive(Arrival(b"r", (member,), 3, claimant, only_if_last=True)).outcome.give_way

    assert [hold(0, b"a"), hold(1, b"b"), hold(2, b"c")] == [False, False, True]
    fanin.arrive(Arrival(b"r", (0,), 3, b"other"))
    assert [hold(1, b"b"), hold(2, b"c")] == [False, True]


def test_notes_are_gone_from_a_complete_record():
    fanin = FanIn(2, TOKEN)
    fanin.arrive(Arrival(b"r", (0,), 2, b"holder" * 100, only_if_last=True))
    fanin.arrive(Arrival(b"r", (0, 1), 2, b"x"))
    assert b"holder" not in fanin.pack()


# The loop: batches of several clients, interleaved at every step


class Cells:
    """Records and riders in dictionaries. `between` is called before and after each step."""

    def __init__(self, between=lambda: None):
        self.rows, self.kept, self.touched, self.version, self.between = {}, {}, [], 0, between

    def step(self, act):
        self.between()
        answer = act()
        self.between()
        return answer

    def records(self, keys):
        return self.step(lambda: {key: self.rows[key] for key in keys if key in self.rows})

    def swap(self, records):
        return self.step(lambda: [self._swap(*each) for each in records])

    def _swap(self, key, raw, version):
        if (self.rows[key][1] if key in self.rows else None) != version:
            return False
        self.version += 1
        self.rows[key] = raw, b"%d" % self.version
        return True

    def add(self, riders):
        return self.step(lambda: [self.kept.setdefault(name, value) is value for name, value in riders])

    def touch(self, names):
        self.touched += names

    def riders(self, names):
        return self.step(lambda: {name: self.kept[name] for name in names if name in self.kept})

    def drop(self, names):
        for name in names:
            self.kept.pop(name, None)


class Cut(Exception):
    """The connection broke: before or after the step took effect, nobody knows."""


class World:
    """Clients that arrive at some fan-ins. At any step of one, others may do all or a part of theirs, or it is cut."""

    def __init__(self, rng, *, cuts):
        self.rng, self.cuts, self.depth = rng, cuts, 0
        self.cells = Cells(self.between)
        self.of = rng.randint(1, 6)
        self.records = [b"record %d" % n for n in range(rng.randint(1, 2))]
        self.waiting = [self.client(n) for n in range(rng.randint(2, 5))]
        self.done = []

    def client(self, n):
        """Arrivals whose values nobody else brings: who shares a member brings another value for it."""
        arrivals = []
        for nth in range(self.rng.randint(1, 4)):
            members = tuple(self.rng.sample(range(self.of), self.rng.randint(1, min(3, self.of))))
            size = self.rng.choice([1, 1_000])
            last = self.rng.random() < 0.3
            value = b"%d.%d:%s" % (n, nth, bytes(members)) * size
            arrivals.append(Arrival(self.rng.choice(self.records), members, self.of, b"client %d" % n, value, last))
        return arrivals, Batch(arrivals, math.inf, math.inf, self.rng.randbytes)

    def between(self):
        if self.cuts and self.rng.random() < 0.05:
            raise Cut
        if self.depth < 3 and self.waiting and self.rng.random() < 0.3:
            self.go_on(self.rng.choice(self.waiting))

    def go_on(self, client):
        self.waiting.remove(client)
        self.depth += 1
        try:
            client[1].turn(self.cells)
        except Cut:
            pass  # once more, from the beginning
        finally:
            self.depth -= 1
            (self.waiting if client[1].n_open else self.done).append(client)

    def run(self):
        while self.waiting:
            self.go_on(self.waiting[0])
        self.cuts, self.depth = False, 3

    def arrive(self, arrival):
        batch = Batch([arrival], math.inf, math.inf, self.rng.randbytes)
        batch.turn(self.cells)
        return batch.outcomes()[0]


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.booleans())
def test_of_clients_that_overtake_each_other_at_every_step_one_claims_and_gets_each_value_once(seed, cuts):
    world = World(random.Random(seed), cuts=cuts)
    world.run()
    claims = {key: [] for key in world.records}
    for arrivals, batch in world.done:
        for arrival, outcome in zip(arrivals, batch.outcomes(), strict=True):
            assert outcome.claimed or not outcome.values
            claims[arrival.record] += [(arrival.claimant, outcome.values)] * outcome.claimed
    for key, told in claims.items():
        brought = {a.value: set(a.members) for arrivals, _ in world.done for a in arrivals if a.record == key}
        rest = Arrival(key, tuple(range(world.of)), world.of, b"the rest", b"the rest")
        completed = world.arrive(rest)
        brought[rest.value] = set(rest.members)
        told += [(rest.claimant, completed.values)] * completed.claimed
        if not told:  # the claimant's answer was cut off; it asks again
            claimants = [a.claimant for arrivals, _ in world.done for a in arrivals if a.record == key]
            again = {who: world.arrive(Arrival(key, (0,), world.of, who)) for who in claimants}
            told += [(who, outcome.values) for who, outcome in again.items() if outcome.claimed]
        assert len({claimant for claimant, _ in told}) == 1, "not exactly one claimant"
        assert len({tuple(sorted(values)) for _, values in told}) == 1, "another answer the second time"
        values = told[0][1]
        assert len(set(values)) == len(values), "a value came twice"
        assert set(values) <= brought.keys(), "a value came that nobody brought here"
        assert set().union(*(brought[value] for value in values)) == set(range(world.of)), "a value is lost"
    if not cuts:
        mentioned = {name for raw, _ in world.cells.rows.values() for name in FanIn.unpack(raw).riders()}
        assert world.cells.kept.keys() == mentioned, "something is left that no record mentions"


def batch(*arrivals, until_s=math.inf, riders_until_s=math.inf):
    return Batch(arrivals, until_s, riders_until_s)


def test_a_value_whose_name_is_taken_rides_under_another():
    cells = Cells()
    first, second = (batch(Arrival(b"r", (0,), 2, who, LARGE + who)) for who in (b"a", b"b"))
    batch(Arrival(b"r", (1,), 2, b"c", b"c")).turn(cells)
    cells.swap = lambda records: [False] * len(records)
    first.turn(cells)  # has stored its value, and then its process died
    del cells.swap
    second.turn(cells)
    assert second.n_open == 1
    second.turn(cells)
    assert sorted(second.outcomes()[0].values) == sorted([LARGE + b"b", b"c"])


def test_of_one_batch_too_nobody_takes_over_the_name_that_anothers_value_has():
    cells = Cells()
    batch(Arrival(b"r", (2,), 3, b"first")).turn(cells)
    holder = Arrival(b"r", (0,), 3, b"holder", LARGE + b"held", only_if_last=True)
    two = batch(holder, Arrival(b"r", (0,), 3, b"other", LARGE + b"other"))
    between = batch(Arrival(b"r", (1,), 3, b"between"))
    cells.between = lambda: (setattr(cells, "between", lambda: None), between.turn(cells)) if cells.kept else None
    while two.n_open:
        two.turn(cells)
    again = batch(holder)
    again.turn(cells)
    assert [outcome.values for outcome in two.outcomes() + again.outcomes()] == [(holder.value,), (), (holder.value,)]


def test_what_a_lost_race_has_stored_is_deleted():
    cells = Cells()
    loser, winner = (batch(Arrival(b"r", (0,), 2, who, LARGE + who)) for who in (b"a", b"b"))
    cells.between = lambda: (setattr(cells, "between", lambda: None), winner.turn(cells)) if cells.kept else None
    loser.turn(cells)
    assert (loser.n_open, winner.n_open) == (1, 0)
    loser.turn(cells)
    assert loser.outcomes() == [Outcome(False, False)]
    assert list(cells.kept.values()) == [LARGE + b"b"]


def test_a_record_that_is_gone_begins_anew_without_what_rode_before():
    cells = Cells()
    batch(Arrival(b"r", (0,), 2, b"a", LARGE)).turn(cells)
    del cells.rows[b"r"]
    last = batch(Arrival(b"r", (0, 1), 2, b"b", LARGE + b"new"))
    last.turn(cells)
    assert last.outcomes() == [Outcome(True, True, (LARGE + b"new",))]


def test_a_value_that_is_gone_is_not_handed_over_and_not_replaced_by_another():
    cells = Cells()
    batch(Arrival(b"r", (0,), 3, b"a", LARGE + b"0"), Arrival(b"r", (1,), 3, b"b", LARGE + b"1")).turn(cells)
    del cells.kept[next(name for name, value in cells.kept.items() if value == LARGE + b"0")]
    last = batch(Arrival(b"r", (2,), 3, b"c", b"2"))
    last.turn(cells)
    assert sorted(last.outcomes()[0].values) == sorted([b"2", LARGE + b"1"])


def test_values_beside_a_record_get_a_longer_life_only_when_theirs_would_end_first():
    cells = Cells()
    for member, now_s in enumerate([0.0, 50.0, 90.0, 140.0]):
        at = batch(
            Arrival(b"r", (member,), 9, b"%d" % member, LARGE + b"%d" % member),
            until_s=now_s + 100,
            riders_until_s=now_s + 200,
        )
        before = list(cells.kept)
        cells.touched = []
        at.turn(cells)
        assert cells.touched == (before if now_s + 100 > 200 and member == 3 else []), f"at {now_s} s"
    assert FanIn.unpack(cells.rows[b"r"][0]).riders_until_s == 340.0


def test_of_a_batch_each_record_is_read_and_written_once_however_many_arrive_there():
    cells = Cells()
    steps = []
    cells.between = lambda: steps.append(None)
    many = batch(*(Arrival(b"%d" % (n % 10), (n // 10,), 50, b"c", b"%d" % n) for n in range(500)))
    many.turn(cells)
    assert many.n_open == 0
    assert cells.version == 10
    assert len(steps) == 2 * 2
    assert sum(outcome.claimed for outcome in many.outcomes()) == 10


def test_a_contradiction_leaves_nothing_written():
    cells = Cells()
    with pytest.raises(ValueError):
        batch(Arrival(b"r", (0,), 2, b"a", LARGE), Arrival(b"s", (5,), 2, b"b")).turn(cells)
    assert (cells.rows, cells.kept) == ({}, {})
