"""Wide fan-ins of the store `dynamodb`: a root and leaves, under any order of their writes, deaths in between, time."""

import random
from contextlib import closing
from itertools import count

import dynamodb_tools
import pytest
from dynamodb_model import ModelTable

from wukong.backends.storage import Arrival, Outcome
from wukong.backends.storage.dynamodb import client as dynamodb_client
from wukong.backends.storage.dynamodb import roots, wide
from wukong.backends.storage.dynamodb.incr import Arrivals
from wukong.backends.storage.dynamodb.items import binary, key_of
from wukong.backends.storage.dynamodb.record import TableRecord
from wukong.backends.storage.dynamodb.rides import Rides
from wukong.backends.storage.dynamodb.wide import WideArrivals
from wukong.errors import StoreError, StoreUnavailable
from wukong.testing.linearizable import Call, check_linearizable

_logged_in, dynalite, opened = dynamodb_tools._logged_in, dynamodb_tools.dynalite, dynamodb_tools.opened
OF = 100
LEAF = roots.LEAF_MEMBERS


@pytest.fixture
def small_leaves(monkeypatch):
    """Fan-ins of three members and more are wide, and a leaf has two."""
    monkeypatch.setattr(roots, "MOST_MEMBERS", 2)
    for module in (roots, wide):
        monkeypatch.setattr(module, "LEAF_MEMBERS", 2)


@pytest.fixture
def table():
    return ModelTable()


def conversation(table, arrival, ttl_s=None):
    return WideArrivals(table, Rides(table, ttl_s, 10_000), ttl_s, 0).arrive(arrival)


def told(table, arrival, ttl_s=None):
    """The outcome of one arrival that nobody disturbs."""
    return Arrivals(table, ttl_s, 0, 10_000).record([arrival])[0]


def interleaved(table, rng, waiting, at_once, p_death):
    """Have arrivals converse in any order, some of which break off; return what their callers saw."""
    clock, open_, calls = count(1), [], []
    while waiting or open_:
        if waiting and (not open_ or (len(open_) < at_once and rng.random() < 0.5)):
            arrival = waiting.pop()
            talk = conversation(table, arrival)
            open_.append((talk, next(talk), arrival, next(clock)))
            continue
        n = rng.randrange(len(open_))
        talk, asked, arrival, began = open_.pop(n)
        if rng.random() < p_death:
            table.ask(asked[: rng.randrange(len(asked) + 1)])
            calls.append(Call(arrival, began))
            waiting.insert(rng.randrange(len(waiting) + 1), arrival)  # whoever does the work again
            continue
        try:
            open_.append((talk, talk.send(table.ask(asked)), arrival, began))
        except StopIteration as end:
            calls.append(Call(arrival, began, next(clock), end.value, arrival.only_if_last))  # noted first, then looked
    return calls


@pytest.mark.parametrize("first", [0, pytest.param(400, marks=pytest.mark.long)])
def test_any_order_of_writes_and_deaths_is_that_of_one_record(small_leaves, first):
    """Of arrivals that bring members of one leaf: what callers see is what one record shows."""
    seen = set()
    for seed in range(first, first + (80 if first == 0 else 4_000)):
        rng, table = random.Random(seed), ModelTable()
        of = rng.choice([3, 4, 5])
        waiting = []
        for n in range(rng.randrange(3, 9)):
            leaf = rng.randrange(0, of, 2)
            some = range(leaf, min(leaf + 2, of))
            members = tuple(sorted(rng.sample(some, rng.randint(1, len(some)))))
            value = None if rng.random() < 0.3 else b"%d" % n
            waiting.append(Arrival(b"f", members, of, b"c%d" % n, value, rng.random() < 0.4))
            if rng.random() < 0.2:
                waiting.append(waiting[-1])
        history = interleaved(table, rng, waiting, 3, rng.choice([0.0, 0.1]))
        check_linearizable(history)
        seen |= {call.outcome and (call.outcome.claimed, call.outcome.give_way) for call in history}
    assert seen >= {None, (True, False), (False, True), (False, False)}, "these orders try too little"


def test_whoever_dies_while_it_arrives_at_several_leaves_and_comes_again_brings_its_value_once(small_leaves):
    for seed in range(40):
        rng, table = random.Random(seed), ModelTable()
        of = 9
        members = rng.sample(range(of), of)
        shares = [tuple(sorted(members[at : at + 3])) for at in range(0, of, 3)]
        waiting = [Arrival(b"f", share, of, b"c%d" % n, b"v%d" % n) for n, share in enumerate(shares)]
        calls = interleaved(table, rng, [*waiting], 3, 0.15)
        for arrival in waiting:
            again = told(table, arrival)
            assert again.complete
            calls.append(Call(arrival, 0, 0, again))
        claims = [call for call in calls if call.outcome and call.outcome.claimed]
        assert len({call.arrival.claimant for call in claims}) == 1
        assert all(sorted(call.outcome.values) == [b"v0", b"v1", b"v2"] for call in claims)


def test_who_dies_before_it_has_counted_a_leaf_is_counted_by_whoever_finds_it_and_claims_when_it_comes_again(
    small_leaves, table
):
    first = Arrival(b"f", (2,), 3, b"died", b"2")
    talk = conversation(table, first)
    asked = next(talk)
    while not any("got" in call.parameters.get("ExpressionAttributeNames", {}).values() for call in asked):
        asked = talk.send(table.ask(asked))  # the root
    table.ask(asked)  # the leaf; then it dies
    assert told(table, Arrival(b"f", (0, 1), 3, b"other", b"01")) == Outcome(False, False)
    assert told(table, Arrival(b"f", (2,), 3, b"finds it")) == Outcome(True, False)
    assert sorted(told(table, first).values) == [b"01", b"2"]


def test_of_very_many_holders_most_give_way_at_once(monkeypatch, table):
    monkeypatch.setattr(wide, "_MOST_NOTES_BYTES", 24)
    answers = [told(table, Arrival(b"f", (n,), OF, b"c%d" % n, None, True)).give_way for n in range(4)]
    assert answers == [False, False, True, True]
    assert told(table, Arrival(b"f", (50,), OF, b"c1", None, True)) == Outcome(False, False), "who is known may change"
    more = Arrival(b"f", (50, 90), OF, b"c0", None, True)
    assert told(table, more) == Outcome(False, False, give_way=True), "but not hold more, be it the first one"


def ended(table, talk, calls):
    """What a conversation comes to that nobody disturbs any more."""
    try:
        while True:
            calls = talk.send(table.ask(calls))
    except StopIteration as end:
        return end.value


def test_the_notes_of_many_who_hold_scattered_members_at_once_leave_the_root_small(table):
    of, n_holders = 20_000, 50
    told(table, Arrival(b"f", (of // 2,), of, b"makes the root"))
    talks = [conversation(table, Arrival(b"f", (n, of - 1 - n), of, b"%d" % n, None, True)) for n in range(n_holders)]
    asked = [talk.send(table.ask(next(talk))) for talk in talks]  # all have read the root without a note
    give_way = [ended(table, talk, calls).give_way for talk, calls in zip(talks, asked, strict=True)]
    root = table.items[binary(b"rf")["B"]]
    notes = TableRecord.read(root, b"f").notes
    assert 29_000 < sum(map(len, notes)) + len(notes) == int(root["held"]["N"]) <= 32_768
    assert give_way == [False] * len(notes) + [True] * (n_holders - len(notes))


def test_holders_whose_notes_have_no_room_arrive_and_exactly_one_claims(small_leaves, monkeypatch):
    monkeypatch.setattr(wide, "_MOST_NOTES_BYTES", 24)
    gave_way = 0
    for seed in range(30):
        rng, table, of = random.Random(seed), ModelTable(), 8
        members = rng.sample(range(of), of)
        holders = {b"%d" % n: members[2 * n : 2 * n + 2] for n in range(4)}
        waits, claims = dict.fromkeys(holders, 1), []
        while waits:
            who = rng.choice([*waits])
            share, waits[who] = tuple(holders[who][: waits[who]]), 2  # at first it holds one, then both
            outcome = told(table, Arrival(b"f", share, of, who, who + bytes(share), True))
            if outcome.give_way:
                gave_way += 1
                share = tuple(holders[who])
                outcome = told(table, Arrival(b"f", share, of, who, who + bytes(share)))
                del waits[who]
            elif outcome.complete:
                del waits[who]
            claims += [outcome.values] if outcome.claimed else []
        assert [len(values) for values in claims] == [4]
    assert gave_way > 30


def test_a_claimant_notes_that_it_holds_more_in_one_write_while_others_write_to_the_root(table):
    for who in (b"first", b"holds"):
        told(table, Arrival(b"f", (0,) if who == b"first" else (1,), OF, who, None, True))
    talk = conversation(table, Arrival(b"f", (1, 2), OF, b"holds", None, True))
    asked = talk.send(table.ask(next(talk)))
    told(table, Arrival(b"f", (4,), OF, b"another", None, True))
    told(table, Arrival(b"f", tuple(range(LEAF, 2 * LEAF)), OF, b"counts"))
    n = int(table.items[binary(b"rf")["B"]]["n"]["N"])
    asked = talk.send(table.ask(asked))
    assert asked[0].operation == "BatchGetItem", "it has written already"
    assert ended(table, talk, asked) == Outcome(False, False)
    root = TableRecord.read(table.items[binary(b"rf")["B"]], b"f")
    assert root.n == n + 1
    assert root.noted.held == ((b"first", 1), (b"holds", 0b110), (b"another", 0b10000))


def test_a_claimant_hears_that_a_part_of_the_record_was_lost(table):
    told(table, Arrival(b"f", tuple(range(LEAF)), OF, b"first", b"rides"))
    last = Arrival(b"f", tuple(range(LEAF, OF)), OF, b"last")
    assert told(table, last).values == (b"rides",)
    leaf = roots.leaf_record(b"f", TableRecord.read(table.items[binary(b"rf")["B"]], b"f"), 0)
    del table.items[key_of(b"r", leaf)["k"]["B"]]
    with pytest.raises(StoreError, match="was lost before its time"):
        told(table, last)


def test_what_an_arrival_finds_out_while_it_prolongs_the_record_it_need_not_write(table):
    ttl_s = 60.0
    told(table, Arrival(b"f", tuple(range(LEAF)), OF, b"early"), ttl_s)
    table.now_s += 100.0
    talk = conversation(table, Arrival(b"f", (OF - 1,), OF, b"late"), ttl_s)
    asked = next(talk)
    while asked[0].operation != "UpdateItem" or asked[0].parameters["Key"] != key_of(b"r", b"f"):
        asked = talk.send(table.ask(asked))
    assert told(table, Arrival(b"f", tuple(range(LEAF, OF)), OF, b"last"), ttl_s).claimed
    with pytest.raises(StopIteration) as end:
        talk.send(table.ask(asked))
    assert end.value.value == Outcome(True, False)


def test_all_of_a_record_lives_as_long_as_after_its_last_change(table):
    """Leaves that nobody writes to any more, and what rides beside them, live on with the others."""
    ttl_s = 60.0
    told(table, Arrival(b"f", tuple(range(LEAF)), OF, b"early", b"rides"), ttl_s)
    for _ in range(5):
        table.now_s += 50.0
        told(table, Arrival(b"f", (LEAF,), OF, b"meanwhile"), ttl_s)
    table.now_s += 50.0
    alive = {key: item for key, item in table.items.items() if int(item["expires"]["N"]) > table.now_s}
    assert alive.keys() == table.items.keys() and len(alive) == 4
    rest = Arrival(b"f", tuple(range(LEAF, OF)), OF, b"last")
    assert told(table, rest, ttl_s) == Outcome(True, True, (b"rides",))


def test_what_rides_beside_a_record_lives_as_long_as_its_root_says_though_its_own_time_is_shorter(table):
    told(table, Arrival(b"f", (0,), OF, b"long"), 600.0)
    told(table, Arrival(b"f", (1,), OF, b"short", b"rides"), 60.0)
    table.now_s += 1_000.0
    assert told(table, Arrival(b"f", tuple(range(2, OF)), OF, b"last"), 60.0).values == (b"rides",)


def test_a_record_whose_time_is_over_begins_anew_with_leaves_of_its_own(table):
    told(table, Arrival(b"f", tuple(range(50)), OF, b"old", b"old"), 10.0)
    table.now_s += 100.0
    assert told(table, Arrival(b"f", tuple(range(50, OF)), OF, b"new"), 10.0) == Outcome(False, False)
    assert told(table, Arrival(b"f", tuple(range(50)), OF, b"new"), 10.0) == Outcome(True, True)


# On a server


def test_an_arrival_is_a_read_and_a_write_of_a_leaf_and_who_completes_a_leaf_counts_it(opened, monkeypatch):
    asked, real = [], dynamodb_client.DynamoClient.ask

    def ask(self, calls):
        asked.append([call.operation for call in calls])
        return real(self, calls)

    def operations():
        made = [each for each in asked if each]
        asked.clear()
        return made

    store = opened()
    monkeypatch.setattr(dynamodb_client.DynamoClient, "ask", ask)
    store.incr([Arrival(b"wide", (0,), OF, b"c", b"small")], 60.0)
    assert operations() == [["GetItem"], ["PutItem"], ["UpdateItem"]], "the first one makes the root"
    store.incr([Arrival(b"wide", (1,), OF, b"c")], 60.0)
    assert operations() == [["GetItem"], ["UpdateItem"]]
    store.incr([Arrival(b"wide", (2,), OF, b"c", bytes(1_000))], 60.0)
    assert operations() == [["GetItem", "PutItem"], ["UpdateItem"]]
    store.incr([Arrival(b"wide", tuple(range(3, LEAF)), OF, b"c")], 60.0)
    assert operations() == [["GetItem"], ["UpdateItem"], ["UpdateItem"]]
    [outcome] = store.incr([Arrival(b"wide", tuple(range(LEAF, OF)), OF, b"last")], 60.0)
    assert sorted(outcome.values) == [bytes(1_000), b"small"]
    leaves = -(-OF // LEAF) - 1
    written = [["UpdateItem"] * leaves] * 2
    assert operations() == [["GetItem"], ["BatchGetItem"], *written, ["BatchGetItem"], ["BatchGetItem"]]


def test_an_arrival_costs_the_same_in_a_fan_in_of_a_thousand_as_in_one_of_a_hundred(opened):
    store, usd = opened(), []
    for of in (100, 1_000):
        before_usd = store.spent().usd
        for member in range(0, of, of // 20):
            store.incr([Arrival(b"of %d" % of, (member,), of, b"%d" % member, bytes(60))], 60.0)
        usd.append(store.spent().usd - before_usd)
    assert usd[1] == pytest.approx(usd[0])


def test_a_server_takes_notes_in_place_of_others_and_no_more_than_there_is_room_for(opened, dynalite, monkeypatch):
    monkeypatch.setattr(wide, "_MOST_NOTES_BYTES", 24)
    store = opened()

    def give_way(who, *members):
        return store.incr([Arrival(b"notes", members, OF, who, None, True)], 60.0)[0].give_way

    answers = [give_way(b"c0", 0), give_way(b"c1", 8), give_way(b"c1", 9), give_way(b"c2", 2), give_way(b"c0", 0, 90)]
    assert answers == [False, False, False, True, True]
    monkeypatch.setattr(roots, "_weighs", lambda note: 0)  # as if the others had noted since the root was read
    monkeypatch.setattr(wide, "_MOST_NOTES_BYTES", 23)
    monkeypatch.setattr(wide, "_TRIES", 2)
    with pytest.raises(StoreUnavailable, match="others came first"):
        give_way(b"c2", 2)
    with closing(dynamodb_tools.client(dynalite)) as raw:
        item = raw.get_item(TableName="wukong", Key={"k": {"B": b"rnotes"}})["Item"]
    assert [note["B"][-3:] for note in item["notes"]["L"]] == [b"c0\1", b"c1\2"] and item["held"] == {"N": "24"}


def test_the_root_of_a_wide_fan_in_stays_small(opened, dynalite):
    store = opened()
    store.incr([Arrival(b"root", (member,), 300, b"%d" % member, bytes(100)) for member in range(0, 300, 3)], 60.0)
    with closing(dynamodb_tools.client(dynalite)) as raw:
        item = raw.get_item(TableName="wukong", Key={"k": {"B": b"rroot"}})["Item"]
    assert item.keys() <= {"k", "of", "n", "token", "expires", "got", "who"}
