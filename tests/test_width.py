"""How many lanes pay, from the rates at which the running lanes have had CPU."""

import itertools
import threading
import time
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest
from lanes_tools import MET, WAIT_S, carried_out, executor_of, meet

from wukong.backends.faas.aws_lambda.price import cores
from wukong.backends.storage.local import LocalStore
from wukong.core.lanes import Demand, LaneThreads, TaskLane
from wukong.core.limits import MemoryGauge
from wukong.core.more_cores import MoreCores, TogetherClock
from wukong.core.on_core import CoreClocks
from wukong.core.track import Recorder, Track
from wukong.core.watcher import Watcher
from wukong.core.width import MOST_WAITING, Together, Width, telling


def test_tasks_that_wait_get_as_many_lanes_as_there_may_be():
    assert Width(1).look([0.0]) == MOST_WAITING
    assert Width(1).look([0.01, 0.05]) == MOST_WAITING


def test_tasks_that_compute_get_twice_as_many_lanes_up_to_the_cores_once_it_is_known_that_they_compute_at_once():
    width = Width(6)
    assert [width.look([1.0] * n, Together(n, 10.0)) for n in (1, 2, 4, 6)] == [2, 4, 6, 6]
    assert (Width(6).look([1.0] * 2), Width(6).look([1.0] * 2, Together(0.2, 10.0))) == (2, 4)


def test_cores_that_nobody_uses_are_taken_although_others_use_the_machine_as_well():
    assert Width(1).look([0.6], more=1) == 2
    assert Width(1).look([0.6], more=-1) == 1


def test_on_one_core_a_task_that_computes_stays_alone():
    assert Width(1).look([1.0]) == 1


def test_tasks_that_wait_come_besides_one_that_computes():
    assert Width(1).look([1.0, 0.0, 0.0]) == 3


def test_tasks_that_together_get_one_core_are_alone_from_then_on():
    width = Width(4)
    assert width.look([0.5, 0.5], Together(1.8, 700.0)) > 1
    assert width.look([1.0, 1.0], Together(0.2, 700.0)) == 1
    assert width.locked
    assert width.look([1.0]) == 1
    assert width.look([1.0, 0.0]) == 2
    width.look([1.0, 1.0], Together(0.2, 10.0))
    assert width.parallel
    assert not width.locked


def test_it_is_known_by_kind_who_holds_the_lock_but_not_of_each_of_two_kinds_that_let_each_other_be():
    width = Width(2)
    width.look([1.0, 1.0], Together(1.9, 10.0, {"numpy": 3}))
    width.look([1.0, 1.0], Together(1.9, 10.0, {"numpy": 3, "parse": 4}))
    assert width.held == {"numpy": (3, False)}  # parse and parse may wait for each other
    width.look([1.0, 1.0], Together(1.0, 700.0, {"parse": 5}))
    width.look([1.0, 1.0], Together(1.9, 10.0, {"parse": 5}, only=False))  # beside others, which may let go
    assert width.held == {"numpy": (3, False), "parse": (5, True)}
    width.look([1.0, 1.0], both := Together(1.0, 700.0, {"parse": 5, "walk": 6}))
    width.locked = False
    width.look([1.0, 0.0], both)
    assert width.held["walk"] == (6, True)


def test_tasks_that_have_waited_for_each_other_still_do_when_they_have_given_back_the_cores_that_they_tried():
    width = Width(1)
    width.look([1.0, 1.0], Together(1.0, 700.0, {"parse": 1}), more=3)
    width.look([1.0, 1.0], Together(1.0, 700.0, {"parse": 1}), more=width.may_use(5, 0, 3))
    assert width.locked
    assert width.held == {"parse": (1, True)}


def test_what_two_tasks_have_had_is_told_of_their_kinds_if_no_other_kind_ran_meanwhile(monkeypatch):
    had = iter((0.0, 0.06, 0.12, 0.18))
    monkeypatch.setattr("wukong.core.more_cores.time.process_time", lambda: next(had))
    clock, told = TogetherClock(), []
    for among in ({"sum": 1}, {"sum": 2}, {"sum": 3}, {"sum": 3, "max": 4}):
        clock.look(2, among)
        told.append(clock.told and (clock.told.of, clock.told.only))
    assert told == [None, ({"sum": 2}, True), ({"sum": 2}, True), ({"sum": 3}, False)]


def test_lanes_use_idle_cores_if_tasks_do_not_wait_for_each_other_or_more_are_ready_than_others_have_cores_for():
    """A task cannot leave its lane: two long ones that hold the interpreter's lock would share a core to their end."""
    width = Width(1)
    assert [width.may_use(n_ready, 0, 1) for n_ready in (0, 1, 2)] == [0, 0, 1]
    assert (width.may_use(3, 0, 3), width.may_use(4, 0, 3), width.may_use(0, 1, 2)) == (0, 3, 1)
    width.look([1.0, 1.0], Together(1.9, 10.0), more=1)
    assert (width.may_use(1, 0, 1), width.may_use(0, 1, -1)) == (1, 1)
    width.look([1.0, 1.0], Together(1.9, 10.0), more=1, kinds={"matmul"})
    assert (width.may_use(1, 0, 1, "matmul"), width.may_use(1, 0, 1, "parse"), width.may_use(2, 0, 1, "parse")) == (
        1,
        0,
        1,
    )
    width.look([1.0, 1.0], Together(1.0, 700.0), more=1)
    assert width.may_use(5, 0, 1) == 0


def test_what_tasks_that_compute_at_once_have_had_is_not_read_while_at_most_one_does():
    width = Width(1)
    width.look([1.0, 0.0, 0.0])
    assert (width.at_once(3), width.at_once(4)) == (0, 2)
    width.look([1.0, 1.0, 0.0])
    assert width.unsure
    assert width.at_once(3) == 3


def test_two_times_at_which_a_core_was_given_up_say_nothing_yet():
    """As a busy machine takes it from tasks that hold no lock, too."""
    assert not telling(0.2, 0.02, 2)
    assert telling(0.2, 0.02, 12)
    assert telling(0.2, 0.06, 2)
    assert telling(1.8, 0.02, 0)


def test_tasks_of_arrays_give_up_their_core_for_memory_too_and_lose_no_lanes_for_that():
    locked = []
    for yields in (280.0, 380.0):
        width = Width(1)
        width.look([1.0, 1.0], Together(0.3, yields), more=1)
        locked.append(width.locked)
    assert locked == [False, True]


def test_a_core_that_others_use_as_well_is_not_taken():
    assert Width(4).look([0.6]) == 1


@pytest.mark.parametrize(("turns", "rate"), [(0, 0.0), (1, 0.0), (40, 1.0)])
def test_a_thread_that_looks_for_a_lock_again_and_again_wants_a_core(turns, rate):
    """On a busy machine it has had as little CPU as one that sleeps, and sleeps when one looks at it."""
    lane = TaskLane()
    lane.task, lane.demand = 1, SimpleNamespace(had_s=lambda: 0.0, turns=lambda: 7, sleeps=lambda: True)
    assert lane.rate(0.0) is None
    lane.demand.turns = lambda: 7 + turns
    assert lane.rate(0.0) == rate


@pytest.mark.parametrize(("since_s", "late", "rate"), [(0.002, True, 1.0), (0.002, False, None), (0.02, True, None)])
def test_a_look_of_long_ago_will_do_if_the_task_has_run_for_nearly_all_the_time_since(monkeypatch, since_s, late, rate):
    """As while the watcher waited for the interpreter's lock. Else another task's time would count as this one's."""
    now = [0.0]
    monkeypatch.setattr("wukong.core.lanes.time", SimpleNamespace(perf_counter=lambda: now[0]))
    lane = TaskLane()
    lane.task, lane.demand = 1, SimpleNamespace(had_s=lambda: now[0], turns=lambda: 0, sleeps=lambda: False)
    assert lane.rate(0.0, late=late) is None
    lane.task, lane.since, now[0] = 2, since_s, 0.045
    assert lane.rate(0.0, late=late) == rate


@pytest.mark.parametrize(("idle", "late"), [(0, False), (1, True), (3, False)])
def test_a_late_look_will_do_if_one_core_is_idle_for_tasks_that_hold_the_lock_at_times_do_not_fill_several(idle, late):
    asked, width, lane = [], Width(1), TaskLane()
    lanes = SimpleNamespace(rates=lambda *, late: asked.append(late), at=lane)
    walk = SimpleNamespace(lanes=SimpleNamespace(away={}, most=1), frontier=SimpleNamespace(ready=[*range(9)]))
    walk.patience_s = 0.001
    watcher = Watcher(None, lanes, None, None, report=None, gauge=None, width=width, kind=str)
    watcher.more = MoreCores(lambda n: idle - n)
    assert not watcher._measures(width, walk, 0.045)
    assert asked == [late]


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells")
def test_the_system_tells_how_often_a_thread_has_got_a_core():
    demand = Demand(threading.get_ident(), threading.get_native_id())
    before = demand.turns()
    threading.Event().wait(0.001)
    assert demand.turns() > before
    demand.close()
    assert demand.turns() == 0


def test_lanes_are_looked_at_seldom_while_all_sleep(monkeypatch):
    """A look reads the clocks and states of all threads: that is CPU time which sleeping tasks do not use."""
    now, looks, had_s = [0.0], [], {}
    monkeypatch.setattr("wukong.core.lanes.time", SimpleNamespace(perf_counter=lambda: now[0]))
    lanes = LaneThreads(lambda lane: None)
    for number in range(3):
        lane = lanes.first if number == 0 else TaskLane(number)
        clock = {"had_s": lambda n=number: looks.append(n) or had_s.get(n, 0.0), "turns": lambda: 0}
        lane.task, lane.demand = number, SimpleNamespace(**clock, sleeps=lambda: True)
        lanes._all[number] = lane

    def looked(ms):
        looks.clear()
        for _ in range(ms):
            now[0] += 0.001
            rates = lanes.rates()
        return rates, sum(n > 0 for n in looks)

    assert looked(20) == ([0.0, 0.0, 0.0], 4)
    assert looked(60)[1] <= 4
    had_s[1] = 0.03
    assert max(max(looked(1)[0]) for _ in range(31)) > 0.5


def spun(n, spin):
    """Return what a clock says of so many threads that do this until it knows."""
    clock, over = TogetherClock(), threading.Event()
    threads = [threading.Thread(target=lambda: [spin() for _ in iter(over.is_set, True)]) for _ in range(n)]
    for thread in threads:
        thread.start()
    while clock.told is None:
        clock.look(n)
        threading.Event().wait(0.005)
    over.set()
    for thread in threads:
        thread.join()
    return clock.told


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells")
def test_the_system_tells_tasks_that_wait_for_the_lock_of_the_interpreter_from_those_that_let_go_of_it():
    block = bytes(1 << 24)
    assert spun(2, lambda: sum(range(1_000))).yields > 100 > spun(2, lambda: sha256(block)).yields


def test_cores_that_are_used_besides_those_of_the_function_are_told_and_given_back_if_two_looks_need_fewer():
    told = []
    more = MoreCores(lambda n: told.append(n) or 2 - n)
    assert more.bound() == 2
    more.take(2)
    assert (more.bound(), more.used, more.most) == (2, 2, 2)
    more.needs(1)
    assert more.used == 2
    more.needs(0)
    assert (more.used, more.most, told[-1]) == (1, 2, 1)
    more.needs(-1)
    more.needs(-1)
    assert (more.used, told[-1]) == (0, 0)
    assert more.used_s() > 0
    nobody = MoreCores(None)
    nobody.take(1)
    assert (nobody.used, nobody.bound()) == (0, 0)


@pytest.mark.parametrize(("memory_mb", "n"), [(128, 1), (1_769, 1), (3_008, 2), (5_307, 3), (10_240, 6)])
def test_the_cores_of_a_function_come_with_its_memory(memory_mb, n):
    assert cores(memory_mb << 20) == n


@pytest.fixture(scope="module")
def store():
    with_store = LocalStore()
    yield with_store
    with_store.close()


def spins(value):
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells")
def test_what_tasks_have_had_of_the_cores_is_that_of_all_lanes_and_told_unless_they_may_have_waited_for_each_other():
    clocks = CoreClocks()
    clocks.begin()
    recorder = Recorder(Track(0, False, b"", 0.0, 0.0, 0.0), "on", clocks)
    other = threading.Thread(target=lambda: (recorder.begin_lane(), spins(0), recorder.on_core()))
    other.start()
    spins(1)
    other.join()
    recorder.settle(apart=True)
    assert recorder.track.on_core["run"][0] >= 0.04
    recorder.busy_s = 9.0
    recorder.settle(apart=False, busy=True)  # so the rest was waiting for each other
    assert 8.0 < recorder.track.on_core["run"][1] < 9.0
    recorder.settle(apart=False)
    assert recorder.track.on_core == {}
    clocks.close()


def test_each_further_core_is_billed_as_a_further_function(store):
    executor, _ = executor_of(store, {"leaf": (spins, 0)}, ["leaf"], lanes="auto")
    executor.loop.watcher.more.used_s = lambda: 5.0
    report = executor.execute()
    assert report.billed_s == report.wall_s + 5.0


def rests(value):
    threading.Event().wait(0.02)
    return threading.get_ident()


def threads(store, task, used_bytes):
    """Return in which threads two such tasks have run, in an executor with so many of 1,000 bytes in use."""
    graph = {f"leaf {i}": (task, i) for i in range(2)}
    gauge = MemoryGauge(lambda: used_bytes, 1_000)
    return set(carried_out(store, graph, list(graph), lanes="auto", gauge=gauge).values())


def test_no_task_begins_beside_another_while_more_than_half_of_the_memory_is_taken(store):
    MET.barrier = threading.Barrier(2)
    assert len(threads(store, meet, 400)) == 2
    assert len(threads(store, rests, 600)) == 1


def test_tasks_that_wait_for_each_other_meet_without_a_setting_of_how_many(store):
    """A barrier of five, in one executor, which nobody else helps."""
    MET.barrier = threading.Barrier(5)
    graph = {f"leaf {i}": (meet, i) for i in range(5)}
    assert len(set(carried_out(store, graph, list(graph), lanes="auto").values())) == 5


def waits_for_a_look(value):
    return MET.event.wait(WAIT_S)


def test_a_task_has_run_for_no_longer_while_it_waits_for_a_core(store, monkeypatch):
    told, waits = [], itertools.count(0.0, 1_000.0)
    MET.event = threading.Event()

    def overdue(_, elapsed_s, now, waited_s=0.0):
        told.append(waited_s)
        if waited_s > 0:
            MET.event.set()
        yield from ()

    monkeypatch.setattr("wukong.core.invocation.Execution.overdue", overdue)
    monkeypatch.setattr("wukong.core.lanes.Demand.waited_s", lambda _: next(waits))
    assert carried_out(store, {"a": (waits_for_a_look, 1)}, ["a"], lanes="auto", patience_s=0.001) == {"a": True}
    assert told[-1] >= 1_000, "it has waited for a thousand seconds since the look before"


def test_a_task_that_runs_again_in_another_lane_has_waited_for_what_that_lane_has():
    watcher, lanes = Watcher.__new__(Watcher), (TaskLane(1), TaskLane(2))
    watcher._waited = None, 0.0
    for lane, waited_s in zip(lanes, (9.0, 0.1), strict=True):
        lane.task, lane.since, lane.demand = 7, waited_s, SimpleNamespace(waited_s=lambda waited_s=waited_s: waited_s)
    assert [watcher._waited_s(lane) for lane in lanes] == [0.0, 0.0]
