"""Histories of `Store.incr`: what the checker refuses and what not, and what callers see of real stores."""

import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import count, permutations

import pytest
from waiting import wait

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Arrival, FanInRecord, Outcome, arrive
from wukong.errors import StoreUnavailable
from wukong.testing.linearizable import Call, Forgotten, NotLinearizable, check_linearizable
from wukong.testing.servers import MemcachedServer, RedisServer
from wukong.testing.store_machine import in_order

WAITS = Outcome(False, False)
GIVES_WAY = Outcome(False, False, give_way=True)
ANOTHERS = Outcome(True, False)


def claims(*values):
    return Outcome(True, True, values)


def call(began, ended, who, *members, answer=None, of=2, value=None, last=False, repeated=False):
    ended = ended if answer is not None else float("inf")
    return Call(Arrival(b"fan-in", members, of, who, value, last), began, ended, answer, repeated)


# --- histories written by hand

EXPLAINED = {
    "one after another": [
        call(0, 1, b"a", 0, value=b"v", answer=WAITS),
        call(2, 3, b"b", 1, answer=claims(b"v")),
        call(4, 5, b"a", 0, answer=ANOTHERS),
        call(6, 7, b"b", 1, answer=claims(b"v")),
    ],
    "at once, in the other order": [call(0, 9, b"a", 0, answer=claims()), call(1, 2, b"b", 1, answer=WAITS)],
    "lost, and it took effect": [call(0, 1, b"a", 0), call(2, 3, b"b", 1, answer=claims())],
    "lost, and it never took effect": [call(0, 1, b"a", 0), call(2, 3, b"b", 1, answer=WAITS)],
    "lost, and it took effect later": [
        call(0, 1, b"a", 0),
        call(2, 3, b"b", 1, answer=WAITS),
        call(4, 5, b"b", 1, answer=ANOTHERS),
    ],
    "held, and the second gives way": [
        call(0, 1, b"a", 0, last=True, answer=WAITS),
        call(2, 3, b"b", 1, last=True, answer=GIVES_WAY),
        call(4, 5, b"b", 1, answer=WAITS),
        call(6, 7, b"a", 0, last=True, answer=claims()),
    ],
    "asked twice, answered once": [
        call(0, 9, b"a", 0, answer=ANOTHERS, repeated=True),
        call(1, 2, b"b", 1, answer=claims()),
    ],
}

REFUSED = {
    "two claim": [call(0, 1, b"a", 0, answer=claims()), call(0, 1, b"b", 1, answer=claims())],
    "two at once claim": [
        call(0, 1, b"a", 0, answer=WAITS),
        call(2, 4, b"b", 1, answer=claims()),
        call(3, 5, b"c", 1, answer=claims()),
    ],
    "nobody claims": [call(0, 9, b"a", 0, answer=WAITS), call(1, 2, b"b", 1, answer=WAITS)],
    "the first claims": [call(0, 1, b"a", 0, answer=claims()), call(2, 3, b"b", 1, answer=WAITS)],
    "one that comes twice is counted twice": [
        call(0, 1, b"a", 0, answer=WAITS),
        call(2, 3, b"a", 0, answer=claims()),
    ],
    "the claim does not come back": [
        call(0, 1, b"a", 0, 1, answer=claims()),
        call(2, 3, b"a", 0, 1, answer=ANOTHERS),
    ],
    "what was complete is not any more": [
        call(0, 1, b"a", 0, 1, answer=claims()),
        call(2, 3, b"b", 1, answer=WAITS),
    ],
    "a value is lost": [call(0, 1, b"a", 0, value=b"v", answer=WAITS), call(2, 3, b"b", 1, answer=claims())],
    "a value is another's": [call(0, 1, b"a", 0, answer=WAITS), call(2, 3, b"b", 1, answer=claims(b"v"))],
    "a value comes twice": [
        call(0, 1, b"a", 0, value=b"v", answer=WAITS),
        call(2, 3, b"b", 1, answer=claims(b"v", b"v")),
    ],
    "both give way": [
        call(0, 1, b"a", 0, last=True, answer=GIVES_WAY),
        call(2, 3, b"b", 1, last=True, answer=GIVES_WAY),
    ],
    "nobody gives way": [
        call(0, 1, b"a", 0, last=True, answer=WAITS),
        call(2, 3, b"b", 1, last=True, answer=WAITS),
    ],
    "what only holds has arrived": [
        call(0, 1, b"a", 0, last=True, answer=WAITS),
        call(2, 3, b"b", 1, answer=claims()),
    ],
    "what failed took effect before it began": [call(0, 1, b"b", 1, answer=claims()), call(2, 3, b"a", 0)],
    "asked once, answered as if asked twice": [
        call(0, 9, b"a", 0, answer=ANOTHERS),
        call(1, 2, b"b", 1, answer=claims()),
    ],
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_history_that_an_order_explains_passes(name):
    check_linearizable(EXPLAINED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_history_that_no_order_explains_is_refused(name):
    with pytest.raises(NotLinearizable, match="no order explains"):
        check_linearizable(REFUSED[name])


def test_what_was_acknowledged_is_forgotten_only_by_a_store_that_started_again_empty():
    forgetful = [call(0, 1, b"a", 0, answer=WAITS), call(4, 5, b"b", 1, answer=WAITS)]
    with pytest.raises(NotLinearizable, match="which would be"):
        check_linearizable(forgetful)
    check_linearizable(forgetful, [Forgotten(2, 3)])
    check_linearizable(forgetful, [Forgotten(2, 9)])
    for too_late_or_early in (Forgotten(6, 7), Forgotten(-2, -1)):
        with pytest.raises(NotLinearizable):
            check_linearizable(forgetful, [too_late_or_early])


def test_a_store_that_forgets_has_forgotten():
    with pytest.raises(NotLinearizable):
        check_linearizable([call(0, 1, b"a", 0, answer=WAITS), call(4, 5, b"b", 1, answer=claims())], [Forgotten(2, 3)])


def test_values_may_be_lost_if_a_store_says_so_and_never_made_up():
    check_linearizable(REFUSED["a value is lost"], loses_values=True)
    for name in ("a value is another's", "a value comes twice"):
        with pytest.raises(NotLinearizable):
            check_linearizable(REFUSED[name], loses_values=True)


def test_each_record_is_checked_alone():
    other = [
        replace(call, arrival=replace(call.arrival, record=b"other"))
        for call in EXPLAINED["at once, in the other order"]
    ]
    check_linearizable(EXPLAINED["one after another"] + other)
    with pytest.raises(NotLinearizable, match="the fan-in b'fan-in'"):
        check_linearizable(other + REFUSED["two claim"])


def test_it_says_the_same_as_a_search_through_all_orders():
    """Histories of up to five calls, drawn by a record that is kept, and in every other one answer is another's."""
    verdicts = []
    for seed in range(400):
        rng = random.Random(seed)
        record, history = FanInRecord(3), []
        for at in range(rng.randint(2, 5)):
            arrival = Arrival(
                b"r",
                tuple(rng.sample(range(3), rng.choice((1, 1, 2)))),
                3,
                rng.choice((b"a", b"b", b"c")),
                rng.choice((None, b"%d" % at)),
                rng.random() < 0.3,
            )
            record, outcome = arrive(record, arrival)
            history.append(Call(arrival, at - 2 * rng.random(), at + 2 * rng.random(), outcome))
        if seed % 2:
            at, other = rng.randrange(len(history)), rng.choice(history)
            history[at] = replace(history[at], outcome=other.outcome)
        rng.shuffle(history)
        explained = any(explains(order) for order in permutations(history))
        if explained:
            check_linearizable(history)
        else:
            with pytest.raises(NotLinearizable):
                check_linearizable(history)
        verdicts.append(explained)
    assert 200 < sum(verdicts) < 370


def explains(order):
    record = FanInRecord(3)
    for n, step in enumerate(order):
        record, outcome = arrive(record, step.arrival)
        if in_order(outcome) != in_order(step.outcome) or any(later.ended < step.began for later in order[n:]):
            return False
    return True


def test_a_long_history_of_calls_that_all_overlap_is_checked():
    """Without its memory of what was reached the search would go through 20! orders."""
    waits = [call(0, 9, b"%d" % n, n, of=21, answer=WAITS) for n in range(20)]
    check_linearizable([*waits, call(0, 9, b"last", 20, of=21, answer=claims())])


# --- broken stores


class ReadsThenWrites:
    """It keeps a set, but others come between its reading and its writing."""

    def __init__(self, meet):
        self.records, self.meet = {}, meet

    def incr(self, arrivals):
        outcomes = []
        for arrival in arrivals:
            read = self.records.get(arrival.record, FanInRecord(arrival.of))
            self.meet()
            self.records[arrival.record], outcome = arrive(read, arrival)
            outcomes.append(outcome)
        return outcomes


class WritesBehind:
    """It answers before it has written, and forgets when it is started again what it has not."""

    def __init__(self):
        self.records, self.written = {}, {}

    def incr(self, arrivals):
        outcomes = []
        for arrival in arrivals:
            record = self.records.get(arrival.record, FanInRecord(arrival.of))
            self.records[arrival.record], outcome = arrive(record, arrival)
            outcomes.append(outcome)
        return outcomes

    def restart(self):
        self.records = dict(self.written)


def seen(store, arrival):
    began = time.monotonic()
    (outcome,) = store.incr([arrival])
    return Call(arrival, began, time.monotonic(), outcome)


def at_once(*calls):
    """Make calls in threads; return what they return."""
    answers = []
    threads = [threading.Thread(target=lambda made=made: answers.append(made())) for made in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("n_callers", [1, 2])
def test_a_store_that_reads_and_then_writes_is_caught_if_two_call_it_at_once(n_callers):
    store = ReadsThenWrites(threading.Barrier(n_callers).wait)
    arrivals = [Arrival(b"r", (n,), n_callers, b"%d" % n) for n in range(n_callers)]
    history = at_once(*(partial(seen, store, arrival) for arrival in arrivals))
    if n_callers == 1:
        check_linearizable(history)
    else:
        with pytest.raises(NotLinearizable):
            check_linearizable(history)


def test_a_store_that_forgets_what_it_has_acknowledged_is_caught():
    store = WritesBehind()
    first = seen(store, Arrival(b"r", (0,), 2, b"a"))
    check_linearizable([first])
    store.restart()
    with pytest.raises(NotLinearizable):
        check_linearizable([first, seen(store, Arrival(b"r", (1,), 2, b"b"))])


# --- real stores

OF = 4
CALLERS, THREADS = 2, 3
CALLS_AT_A_RECORD = 10
CALLS = 120
KINDS = {"redis": RedisServer, "memcached": MemcachedServer}


def calls_on(spec, path, seed, counter, up, stop):
    """Arrive at one record after another, from several threads, and write down what is seen of it."""
    store = spec.open()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    names = count()

    def arrive(thread):
        rng = random.Random(f"{seed} {thread}")
        while not stop.is_set():
            up.wait()
            with counter.get_lock():
                counter.value += 1
                record = counter.value // CALLS_AT_A_RECORD
            arrivals = [arrival(rng, record, f"{seed}.{thread}.{next(names)}") for _ in range(rng.choice((1, 1, 2)))]
            name, calls = next(names), [Call(each, time.monotonic()) for each in arrivals]
            os.write(log, pickle.dumps((name, calls)))
            with suppress(StoreUnavailable):
                outcomes = store.incr(arrivals)
                ended = time.monotonic()
                calls = [replace(each, ended=ended, outcome=it) for each, it in zip(calls, outcomes, strict=True)]
                os.write(log, pickle.dumps((name, calls)))

    at_once(*(partial(arrive, thread) for thread in range(THREADS)))
    store.close()


def arrival(rng, record, name):
    members = tuple(rng.sample(range(OF), rng.choice((1, 1, 2))))
    value = rng.choice((None, b"", b"large" * 1_000))
    at = max(0, record - (rng.random() < 0.2))  # sometimes at the one before, which is complete or forgotten
    value = None if value is None else name.encode() + value
    return Arrival(b"%d" % at, members, OF, b"%d" % min(members), value, rng.random() < 0.3)


def written_down(path):
    calls = {}
    with open(path, "rb") as log, suppress(EOFError, pickle.UnpicklingError):  # its writer was killed
        while True:
            name, latest = pickle.load(log)
            calls[name] = latest
    return [call for batch in calls.values() for call in batch]


def history_of(spec, folder, server=None, restarts=0, kills=0):
    """Return what callers in two processes see, while the server is started again, or callers are killed."""
    context = multiprocessing.get_context("spawn")
    counter, up, stop = context.Value("l", 0), context.Event(), context.Event()
    callers, forgotten = [], []

    def begin():
        at = len(callers)
        callers.append(context.Process(target=calls_on, args=(spec, folder / f"{at}", at, counter, up, stop)))
        callers[-1].start()

    def go_on():
        until = counter.value + CALLS
        wait(lambda: counter.value >= until)

    for _ in range(CALLERS):
        begin()
    wait(lambda: all(os.path.exists(folder / f"{at}") for at in range(CALLERS)))
    up.set()
    go_on()
    for _ in range(restarts):
        began = time.monotonic()
        up.clear()
        server.kill()
        server.start()
        forgotten.append(Forgotten(began, time.monotonic()))
        up.set()
        go_on()
    for at in range(kills):
        os.kill(callers[at].pid, signal.SIGKILL)
        up.clear()
        begin()
        wait(lambda: os.path.exists(folder / f"{len(callers) - 1}"))
        up.set()
        go_on()
    stop.set()
    for caller in callers:
        caller.join()
    history = [call for at in range(len(callers)) for call in written_down(folder / f"{at}")]
    return [replace(call, repeated=any(overlaps(call, each) for each in forgotten)) for call in history], forgotten


def overlaps(call, forgotten):
    return call.began <= forgotten.ended and forgotten.began <= call.ended


def test_what_callers_see_of_the_embedded_store_can_be_explained_though_some_are_killed(tmp_path):
    with closing(load_storage("local")) as store:
        history, _ = history_of(store.spec(), tmp_path, kills=1)
        check_linearizable(history)
        assert len({call.arrival.record for call in history if call.outcome and call.outcome.claimed}) > 10


@pytest.mark.parametrize("kind", KINDS)
def test_what_callers_see_of_a_server_that_is_killed_and_restarted_can_be_explained(kind, tmp_path):
    with KINDS[kind]() as server, closing(load_storage(f"{kind}://{server.endpoint}")) as store:
        history, forgotten = history_of(store.spec(), tmp_path, server, restarts=3)
        check_linearizable(history, forgotten, loses_values=kind == "memcached")
        assert len({call.arrival.record for call in history if call.outcome and call.outcome.claimed}) > 10
        with pytest.raises(NotLinearizable):  # the restarts had to be explained
            check_linearizable(history, loses_values=kind == "memcached")
