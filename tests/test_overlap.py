"""Executors whose requests to the store are under way while tasks run.

The store waits for tasks: that a run ends shows it.
"""

import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from lanes_tools import NAMES, executor_of
from protocol_scenarios import ByHand
from waiting import wait

from wukong.backends.storage.layers.layer import Layer
from wukong.backends.storage.local import LocalStore
from wukong.core import task_context
from wukong.core.effects import Arrived, Came, Landed, WriteBehind
from wukong.core.io_threads import IoThreads
from wukong.core.lanes import LaneThreads
from wukong.core.limits import MemoryGauge
from wukong.core.policy import Policy
from wukong.errors import AuthenticationError, StoreFull, StoreUnavailable
from wukong.testing.graphs import depth_first

WAIT_S = 20.0
NOW = SimpleNamespace(runs=None, calls=None, executor=None)
OUTPUTS = ["join 0", "join 1"]


class Steered(Layer):
    """A store that calls `at[verb]`, with the keys, before each call of `get`, `put` and `incr`."""

    def __init__(self, inner):
        super().__init__(inner)
        self.at = {}

    def get(self, keys):
        self.at.get("get", passes)(keys)
        return super().get(keys)

    def put(self, items, ttl_s=None):
        self.at.get("put", passes)(list(items))
        super().put(items, ttl_s)

    def incr(self, arrivals, ttl_s=None):
        self.at.get("incr", passes)([arrival.record for arrival in arrivals])
        return super().incr(arrivals, ttl_s)


def passes(keys):
    """Let a call pass."""


@pytest.fixture
def store():
    inner = LocalStore()
    yield Steered(inner)
    inner.close()


@pytest.fixture(autouse=True)
def no_thread_survives():
    NOW.runs, NOW.calls = threading.Event(), []
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("wukong-")]


def here(keys, kind=b"v"):
    """Whether a call is about values, and a thread of the executor's makes it."""
    return threading.current_thread().name in ("wukong-writer", "wukong-reader") and b"/%s/" % kind in keys[0]


def waits_for_the_task(keys):
    if here(keys):
        NOW.calls.append(keys)
        assert NOW.runs.wait(WAIT_S), "no task runs meanwhile"


def large(i):
    return np.full(10_000, float(i))


def runs(*values):
    NOW.runs.set()
    return 0


def fails(*values):
    raise ZeroDivisionError("the task's own")


def fails_beside_a_write(*values):
    assert NOW.runs.wait(WAIT_S), "nothing is written"
    fails()


def lasts(*values):
    """Last until the watcher has found what has failed; then until it has looked again, at the end of the time."""
    NOW.runs.set()
    wait(lambda: NOW.executor.loop.lanes.broken)
    NOW.executor.execution.walk.leaving.deadline = 0.0
    n = len(NOW.calls)
    wait(lambda: len(NOW.calls) >= n + 3)


def joined(one, other):
    NOW.runs.set()
    return one + other


def zeros():
    return np.zeros(10_000)


def zeros_in_a_list():
    return [np.zeros(10_000)]


def changes(value):
    """Change a value in place, as its only reader here may."""
    array = value[0] if isinstance(value, list) else value
    array += 1
    NOW.runs.set()
    return float(array[0])


def joins(after=runs):
    """Two joins of large values, and a few short tasks that two others wait for."""
    leaves = {f"{side} {i}": (large, i) for side in ("left", "right") for i in (0, 1)}
    short = {"short 0": (runs, 0), "short 1": (after, 1), "last": (runs, "short 0", "short 1", "left 0")}
    return leaves | short | {f"join {i}": (joined, f"left {i}", f"right {i}") for i in (0, 1)}


def writer_of(store, **how):
    """Return the executor of the joins' left sides, and of what it may do meanwhile."""
    first = ["left 0", "left 1", "short 0", "short 1"]
    return executor_of(
        store, joins(how.pop("after", runs)), [*OUTPUTS, "last"], first=first, lanes=1, overlap="on", **how
    )


def reader_of(store, **how):
    """Return the executor of the joins' right sides, which comes last, and arrives at both joins at once."""
    first, how = ["right 0", "right 1"], {"patience_s": WAIT_S, "lanes": 1, "overlap": "on", **how}
    return executor_of(store, joins(how.pop("after", runs)), [*OUTPUTS, "last"], first=first, invocation="1", **how)


def holds(outcome):
    values = outcome()
    assert [float(values[key][0]) for key in OUTPUTS] == [0.0, 2.0] and values["last"] == 0


def test_a_task_runs_while_a_value_is_stored_and_one_while_a_value_is_fetched(store):
    store.at = {"put": waits_for_the_task}
    writer, _ = writer_of(store)
    assert writer.execute().overlapped
    assert NOW.calls
    NOW.runs.clear()
    NOW.calls.clear()
    store.at = {"get": waits_for_the_task}
    reader, outcome = reader_of(store)
    assert reader.execute().overlapped
    assert NOW.calls
    holds(outcome)


def test_arrivals_come_after_the_values_that_they_announce(store):
    announced = {NAMES.record(i): NAMES.value(i - 2) for i in (2, 5)}  # the number of a join, and of its left side
    there = {}

    def looks(records):
        if here(records, b"r"):
            there.update({each: store.get([announced[each]])[0] for each in records if each in announced})

    store.at = {"incr": looks}
    writer_of(store)[0].execute()
    assert there.keys() == announced.keys() and None not in there.values()


@pytest.mark.parametrize("verb", ["get", "put", "incr"])
@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("no answer", backend="storage: own"), StoreFull("no room", backend="storage: own")],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_meanwhile_is_the_error_that_it_is_at_once(store, verb, error):
    """One that may not come again fails the invocation, which is made again; any other is the job's, with its text."""
    calls = []

    def fails_in_a_thread(keys):
        if here(keys, b"r" if verb == "incr" else b"v"):
            calls.append(keys)
            raise error

    if verb == "get":
        writer_of(store)[0].execute()
    store.at = {verb: fails_in_a_thread}
    executor, outcome = (reader_of if verb == "get" else writer_of)(store)
    if isinstance(error, StoreUnavailable):
        with pytest.raises(StoreUnavailable, match="no answer"):
            executor.execute()
        assert store.get([NAMES.done]) == [None]
    else:
        executor.execute()
        with pytest.raises(StoreFull, match=r"no room.*storage: own"):
            outcome()
    assert len(calls) == 1, "what comes after it is not carried out"


def test_a_value_that_is_forged_is_refused_though_another_thread_has_fetched_it(store):
    writer_of(store)[0].execute()
    forged = store.get([NAMES.value(0)])[0]
    store.put({NAMES.value(3): forged})
    executor, outcome = reader_of(store)
    executor.execute()
    with pytest.raises(AuthenticationError, match="v/3"):
        outcome()


def test_a_value_that_is_lost_while_it_is_fetched_is_computed_again(store):
    writer_of(store)[0].execute()
    store.at = {"get": lambda keys: here(keys) and store.delete(keys)}
    executor, outcome = reader_of(store)
    assert executor.execute().restored == 1
    holds(outcome)


@pytest.mark.parametrize("why", ["no memory", "no thread"])
def test_what_there_is_no_room_for_is_done_at_once(store, monkeypatch, why):
    gauge, start = MemoryGauge(lambda: 950, 1_000) if why == "no memory" else None, threading.Thread.start

    def refuse(thread):
        if thread.name in ("wukong-writer", "wukong-reader"):
            raise RuntimeError("can't start new thread")
        start(thread)

    if why == "no thread":
        monkeypatch.setattr(threading.Thread, "start", refuse)
    report = writer_of(store, gauge=gauge)[0].execute()
    executor, outcome = reader_of(store, gauge=gauge)
    report.add(executor.execute())
    assert report.refused >= 2 and report.overlapped == 0
    holds(outcome)


@pytest.mark.parametrize("bound", ["store_requests._QUEUE_S", "policy._MARGIN_MOST_S"])
def test_what_would_take_long_to_write_is_not_queued(store, monkeypatch, bound):
    monkeypatch.setattr(f"wukong.core.{bound}", 0.3)  # a value and its arrival are supposed to take 0.28 s
    executor, _ = writer_of(store, time_limit_s=900.0)
    store.at = {"put": lambda keys: here(keys) and wait(lambda: executor.books.report.refused)}
    report = executor.execute()
    assert report.overlapped >= 1 and report.refused >= 1


def test_what_fails_once_the_outcome_is_told_changes_nothing(store):
    def fails_late(keys):
        if here(keys):
            assert store.wait(NAMES.done, WAIT_S) is not None
            raise StoreFull("no room", backend="storage: own")

    store.at = {"put": fails_late}
    executor, outcome = writer_of(store, after=fails)
    executor.execute()
    with pytest.raises(ZeroDivisionError, match="the task's own"):
        outcome()


def test_the_watcher_looks_no_more_once_a_request_has_failed(store):
    """Nor does it tell the platform that the executor waits: its task runs."""
    telling = []
    task_context.set_waiting(lambda waits: telling.append(threading.current_thread().name))

    def beats(keys):
        if threading.current_thread().name == "wukong-watcher":
            NOW.calls.append(keys)

    def breaks(keys):
        beats(keys)
        if here(keys):
            assert NOW.runs.wait(WAIT_S)
            raise StoreUnavailable("no answer", backend="storage: own")

    store.at = {"put": breaks, "get": beats}
    graph = {**joins(), "short 0": (lasts, 0), "short 1": (lasts, 1)}
    first = ["left 0", "left 1", "short 0", "short 1"]
    how = {"lanes": 1, "overlap": "on", "heartbeat_s": 0.02}
    NOW.executor, _ = executor_of(store, graph, [*OUTPUTS, "last"], first=first, **how)
    task_context.set_waiting(None)
    with pytest.raises(StoreUnavailable, match="no answer"):
        NOW.executor.execute()
    assert telling and "wukong-watcher" not in telling


def test_nobody_waits_for_a_request_if_none_is_under_way():
    with pytest.raises(RuntimeError, match="under way"):
        IoThreads(LaneThreads(passes)).wait()


@pytest.mark.parametrize("make", [zeros, zeros_in_a_list], ids=["array", "list"])
def test_what_is_stored_is_the_value_before_its_reader_has_changed_it(store, make):
    store.at = {"put": waits_for_the_task}
    executor, outcome = executor_of(
        store, {"x": (make,), "y": (changes, "x")}, ["x", "y"], lanes=1, overlap="on", ride_bytes=1_000
    )
    assert executor.execute().overlapped
    values = outcome()
    assert (float(np.sum(values["x"])), values["y"]) == (0.0, 1.0)


def test_ctrl_c_while_an_executor_waits_ends_its_threads(store):
    def interrupts(keys):
        if here(keys) and not NOW.calls:
            NOW.calls.append(keys)
            assert NOW.runs.wait(WAIT_S)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    store.at = {"put": interrupts}
    with pytest.raises(KeyboardInterrupt):
        writer_of(store)[0].execute()


def test_ctrl_c_does_not_wait_for_the_store(store):
    left = threading.Event()

    def interrupts(keys):
        if here(keys) and not NOW.calls:
            NOW.calls.append(threading.current_thread())
            assert NOW.runs.wait(WAIT_S)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            NOW.calls.append(left.wait(WAIT_S))

    store.at = {"put": interrupts}
    with pytest.raises(KeyboardInterrupt):
        writer_of(store)[0].execute()
    left.set()
    NOW.calls[0].join()
    assert NOW.calls[1], "it has waited"


def test_what_is_queued_is_not_written_once_the_job_has_failed(store):
    stopped = threading.Event()

    def lasts_till_the_walk_has_ended(keys):
        if here(keys):
            NOW.runs.set()
            NOW.calls.append(stopped.wait(WAIT_S))

    store.at = {"put": lasts_till_the_walk_has_ended}
    graph = {"x": (zeros,), "y": (zeros,), "bad": (fails_beside_a_write, "x", "y")}
    executor, outcome = executor_of(store, graph, list(graph), lanes=1, overlap="on", ride_bytes=1_000)
    stop = executor.loop.stop_requests
    executor.loop.stop_requests = lambda: (stop(), stopped.set())
    assert executor.execute().overlapped == 2
    assert NOW.calls == [True]
    with pytest.raises(ZeroDivisionError, match="the task's own"):
        outcome()


def test_how_large_values_are_is_seen_in_all_that_are_fetched(store):
    """None is fetched ahead at first, for want of room: it might be larger than this one was found to be."""
    writer_of(store)[0].execute()
    store.at = {"get": lambda keys: NOW.calls.append(here(keys)) if b"/v/" in keys[0] else None}
    executor, outcome = reader_of(store, gauge=MemoryGauge(lambda: 0, 800_000))
    executor.execute()
    assert NOW.calls == [False, True]
    holds(outcome)


def test_a_request_holds_what_it_says_once_it_knows():
    threads, ends = IoThreads(LaneThreads(passes)), threading.Event()

    def work(clock, holds):
        holds(7)
        NOW.runs.set()
        assert ends.wait(WAIT_S)
        return passes

    assert threads.begin("reader", 1_000, work, passes)
    assert NOW.runs.wait(WAIT_S)
    assert threads.held_bytes == 7
    ends.set()
    threads.end(at_once=False)


def test_slow_and_quick_transfers_beside_tasks_tell_of_the_store_alike(store):
    """Those alone that were quicker than believed would have it believed ever quicker."""
    executor, _ = writer_of(store)
    costs, values = executor.books.costs, executor.values
    for took_s in (100.0, 0.01):
        values.note_moved(1 << 20, took_s, waited_s=None)
    assert costs.measured == (0.0, 0.0), "nobody knows how long the thread waited for a core"
    for took_s in (0.5, 1.5) * 20:
        values.note_moved(10**8, took_s + costs.round_trip_s + 3.0, waited_s=3.0)
    assert costs.measured == pytest.approx((4e9, 40.0))


def test_the_uses_of_a_cold_task_are_counted_once_though_its_input_runs_here_too():
    """Task 2 waits for its inputs, task 3 has not been popped, when task 1 runs again, which another run had stored."""
    dag = depth_first({0: (), 1: (), 2: (0, 1), 3: (0, 1), 4: (2, 3)}, [4])
    parents = [(), (), (0, 1), (0, 1), (2, 3)]
    hand = ByHand(dag, (2, 3, 1), overlap=True)
    fetched = []

    def pause(effect):
        hand.walk.validate(parents, settled=True)
        return Landed(hand.clock, (), (), (Came(fetched.pop(0), ()),))

    hand.run(FetchAhead=lambda effect: fetched.append(effect) is None, Pause=pause)
    assert hand.tasks_run()[0] == 1 and sorted(hand.tasks_run()) == [1, 2, 3, 4]


def test_what_is_being_stored_is_stored_before_a_task_runs_again_that_may_change_it():
    """Input 0 of task 3 is being written behind when task 4, whose input 3 is lost, is popped."""
    dag = depth_first({0: (), 1: (), 2: (0, 1), 3: (0, 1), 4: (3,), 5: (), 6: (4, 5)}, [2, 6])
    policy = Policy(patience_s=0.0, ride_bytes=0, large_object_bytes=1 << 50)
    hand = ByHand(dag, (0, 5, 4), policy=policy, sizes=10_000_000, overlap=True)
    under_way = []

    def run(effect):
        hand.clock += 1.0
        assert effect.task != 3 or not under_way, "task 3 may change what is being stored"
        return hand.clock

    def came(_):
        landed = [Came(each, tuple(Arrived(False, False) for _ in each.arrivals)) for each in under_way]
        under_way.clear()
        return landed

    def behind(effect):
        under_way.append(effect)
        return True

    hand.run(
        Run=run,
        WriteBehind=behind,
        FetchAhead=False,
        TakeIn=lambda effect: tuple(came(effect)),
        Pause=lambda effect: Landed(hand.clock, (), (), tuple(came(effect))),
        Get=lambda effect: tuple(task for task in effect.tasks if task == 3),
    )
    assert 3 in hand.tasks_run() and any(isinstance(each, WriteBehind) for each in hand.seen)
