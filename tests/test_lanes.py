"""Executors that run several tasks at once. The tasks meet at barriers: that a run ends shows that they do."""

import threading
from types import SimpleNamespace

import dask
import lanes_tools
import numpy as np
import pytest
from dask import delayed
from lanes_tools import MET, NAMES, WAIT_S, carried_out, executor_of, meet, meet_by_name
from threadpoolctl import ThreadpoolController, threadpool_info
from waiting import wait

from wukong.backends.faas.emulator.output import Streams
from wukong.backends.storage.local import LocalStore
from wukong.core import task_context
from wukong.core.codec import Codec
from wukong.core.cores import CoreShares
from wukong.core.effects import Run, Stopped
from wukong.core.lanes import LaneThreads, TaskLane


@pytest.fixture(scope="module")
def store():
    with_store = LocalStore()
    yield with_store
    with_store.close()


@pytest.fixture(autouse=True)
def nobody_has_met():
    MET.barrier, MET.event, MET.seen = threading.Barrier(2), threading.Event(), []


def leaves(task, n=2):
    return {f"leaf {i}": (task, i) for i in range(n)}


def test_as_many_tasks_run_at_once_as_there_are_lanes(store):
    MET.barrier = threading.Barrier(3)
    threads = carried_out(store, leaves(meet, 3), ["leaf 0", "leaf 1", "leaf 2"], lanes=3)
    assert len(set(threads.values())) == 3


def thread(*values):
    return threading.get_ident()


def test_short_tasks_stay_in_one_thread(store):
    graph = {"first": (thread, 0), **{f"task {i}": (thread, "first") for i in range(300)}}
    assert len(set(carried_out(store, graph, list(graph), lanes=4, patience_s=10.0).values())) <= 2


def test_each_lane_knows_its_task_and_who_is_no_lane_all_of_them(store):
    describes = []

    def announced(name):
        describes.append(name)

    task_context.set_announcer(announced)
    try:
        names = carried_out(store, leaves(meet_by_name), ["leaf 0", "leaf 1"])
    finally:
        task_context.set_announcer(None)
    assert names == {"leaf 0": "leaf 0", "leaf 1": "leaf 1"}
    assert describes[0] == "leaf 0"


def names_in_a_thread(*values):
    MET.barrier.wait(WAIT_S)
    seen = []
    started = threading.Thread(target=lambda: seen.append(task_context.task()))
    started.start()
    started.join()
    MET.barrier.wait(WAIT_S)
    return seen[0]


def test_a_thread_that_a_task_has_started_names_all_that_run(store):
    names = carried_out(store, leaves(names_in_a_thread), ["leaf 0", "leaf 1"])
    assert set(names["leaf 0"].split(", ")) == {"leaf 0", "leaf 1"}


def test_a_sign_of_life_tells_all_tasks_that_run_each_with_its_lane(store):
    executor, _ = executor_of(store, leaves(gives_a_sign), ["leaf 0", "leaf 1"])
    MET.executor, MET.store, key = executor, store, NAMES.heartbeat("0")
    executor.execute()
    beat = Codec(b"k" * 32).decode(MET.seen[0], key)
    assert {each.key for each in beat.running} == {"leaf 0", "leaf 1"}
    assert {each.lane for each in beat.running} == {0, 1}
    assert beat.running[0].for_s >= beat.running[1].for_s > 0
    assert beat.report.busy_s > 0


def gives_a_sign(which):
    MET.barrier.wait(WAIT_S)
    if which:
        MET.executor.loop.watcher.beat()
        MET.seen += MET.store.get([NAMES.heartbeat("0")])
    MET.barrier.wait(WAIT_S)


def test_a_task_that_has_ended_beside_another_is_announced_no_more(store):
    task_context.set_announcer(MET.seen.append)
    try:
        carried_out(store, leaves(is_announced_alone), ["leaf 0", "leaf 1"])
    finally:
        task_context.set_announcer(None)


def is_announced_alone(which):
    MET.barrier.wait(WAIT_S)
    if which:
        wait(lambda: MET.seen[-1:] and ", " in MET.seen[-1], "both are announced")
    else:
        wait(lambda: any(", " in each for each in MET.seen), "both are announced")
        wait(lambda: MET.seen[-1] == "leaf 0", "the other one has ended")


def fails_first(value):
    """Read a value, wait until the other reader is through, and fail once."""
    MET.event.wait(WAIT_S)
    MET.seen.append(value)
    if len(MET.seen) == 1:
        raise ValueError("the first time")
    return value


def reads_and_goes(value):
    return value


def lets_go(value):
    MET.event.set()
    return value


def test_what_runs_again_still_has_its_inputs_when_all_others_are_through_with_them(store):
    """`reader` and `through` read `x`; that both are done lets the failing task begin again."""
    graph = {
        "x": (list, [1, 2]),
        "again": (fails_first, "x"),
        "reader": (reads_and_goes, "x"),
        "through": (lets_go, "reader"),
    }
    values = carried_out(store, graph, ["again", "through"], retries=1)
    assert values == {"again": [1, 2], "through": [1, 2]}
    assert MET.seen == [[1, 2], [1, 2]]


def fails_beside(which):
    MET.barrier.wait(WAIT_S)
    if which == 1:
        raise KeyError("the second leaf")
    MET.event.wait(0.2)
    return which


def test_a_task_that_fails_beside_another_is_the_one_that_is_blamed(store):
    with pytest.raises(KeyError, match="the second leaf") as caught:
        carried_out(store, leaves(fails_beside), ["leaf 0", "leaf 1"])
    assert "leaf 1" in "".join(getattr(caught.value, "__notes__", [])) + str(caught.value)


@pytest.mark.parametrize(
    ("error", "others", "first", "says"),
    [
        (ValueError("signal only works in main thread"), 0, False, "another thread than the executor's first"),
        (ValueError("beside"), 2, True, "2 more of the job's tasks beside it"),
        (ValueError("alone"), 0, True, None),
        (KeyboardInterrupt(), 2, False, None),
    ],
)
def test_an_error_says_last_in_which_thread_its_task_ran_if_that_may_be_why(store, error, others, first, says):
    executor, _ = executor_of(store, leaves(thread), ["leaf 0"], lanes="auto", keep_failed=True, resume_jobs=False)
    loop = executor.loop
    lane = loop.lanes.first if first else TaskLane(1)
    loop.lanes._all = dict(enumerate([lane, *(TaskLane(2 + i) for i in range(others))]))
    for task, each in loop.lanes._all.items():
        each.task = task
    loop._again(lane, (thread, 0), error)
    hint = loop.errors[0].hint
    assert hint.count("(lanes=auto)") == (says is not None)
    if says is not None:
        assert says in hint and hint.endswith("or wukong.Client(lanes=1)") and hint.index("debug") < hint.index(says)


def counts(*values):
    MET.seen.append(1)
    most = len(MET.seen)
    MET.event.wait(0.02)
    MET.seen.pop()
    return most, threading.get_ident()


def test_a_task_that_is_to_run_alone_does(store):
    with dask.annotate(lanes=1):
        alone = [delayed(counts)(i, dask_key_name=f"alone {i}") for i in range(4)]
    beside = [delayed(counts)(i, dask_key_name=f"beside {i}") for i in range(6)]
    both = delayed(list)([*alone, *beside], dask_key_name="both")
    with dask.config.set({"optimization.annotations.fuse": False}):
        seen = carried_out(store, both.__dask_graph__(), ["both"], lanes=3)["both"]
    assert seen[:4] == [(1, threading.get_ident())] * 4
    assert max(most for most, _ in seen[4:]) > 1


def ends_last(which):
    MET.barrier.wait(WAIT_S)
    lanes = MET.executor.loop.lanes
    if threading.get_ident() != MET.here:
        wait(lambda: lanes.first in lanes._idle, "the first lane is idle")  # so that another has the walk next
    return threading.get_ident()


def test_a_task_that_is_to_run_alone_does_so_in_the_first_lane_whoever_has_the_walk(store):
    ended = [delayed(ends_last)(i, dask_key_name=f"leaf {i}") for i in range(2)]
    with dask.annotate(lanes=1):
        alone = delayed(thread)(ended, dask_key_name="alone")
    both = delayed(list)([alone, *ended], dask_key_name="all")
    with dask.config.set({"optimization.annotations.fuse": False}):
        MET.executor, outcome = executor_of(store, both.__dask_graph__(), ["all"])
    MET.here = threading.get_ident()
    MET.executor.execute()
    ran, *others = outcome()["all"]
    assert ran == MET.here and set(others) != {MET.here}


def test_the_first_lane_runs_nothing_that_is_due_if_the_walk_ends_before_it_has_the_gate():
    lanes, woken = LaneThreads(lambda lane: None), []

    def first():
        lanes.gate.acquire()
        lanes.enter(lanes.first)
        woken.append(lanes.wait(lanes.first))

    thread = threading.Thread(target=first)
    thread.start()
    wait(lambda: lanes.first in lanes._idle, "the first lane is idle")
    lanes.gate.acquire()
    lanes.give_first(Run(0, []))
    lanes.end()
    thread.join(WAIT_S)
    assert woken == [None] and not lanes.gate.locked()


def test_a_run_that_is_made_again_has_one_lane(store):
    executor, _ = executor_of(store, leaves(thread), ["leaf 0", "leaf 1"], attempt=1, lanes=5)
    executor.execute()
    assert executor.execution.walk.lanes.most == 1


def test_a_job_that_is_not_wanted_any_more_ends_with_the_tasks_that_run(store):
    executor, _ = executor_of(store, leaves(stops_executor), ["leaf 0", "leaf 1"])
    MET.executor = executor
    executor.execute()
    assert len(MET.seen) == 2
    assert store.get([lanes_tools.NAMES.done])[0] is None or not executor.execution.told
    assert all(not lane.is_alive() for lane in executor.loop.lanes._threads)


def stops_executor(which):
    MET.barrier.wait(WAIT_S)
    MET.executor.loop.lanes.broken = Stopped()
    MET.seen.append(which)


def test_without_a_thread_for_another_lane_one_does_all(store, monkeypatch):
    def refuse(self):
        if self.name == "wukong-lane":
            raise RuntimeError("can't start new thread")
        start(self)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", refuse)
    MET.event.wait(0)
    assert len(set(carried_out(store, leaves(waits_a_little), ["leaf 0", "leaf 1"]).values())) == 1


def waits_a_little(which):
    MET.event.wait(0.02)
    return threading.get_ident()


def test_what_tasks_print_at_once_comes_by_whole_lines_from_the_thread_that_wrote_them():
    lines = []
    streams = Streams(lambda stream, text, logger, level: lines.append((threading.get_ident(), text)))

    def write(text):
        print(f"{text} begins", end=", ", file=streams._streams[0])
        MET.barrier.wait(WAIT_S)
        print(f"{text} ends", file=streams._streams[0])
        print("and more", end="", file=streams._streams[0], flush=True)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for each in threads:
        each.start()
    idents = [each.ident for each in threads]
    for each in threads:
        each.join()
    assert sorted(lines) == sorted(zip(idents, ("one begins, one ends\n", "two begins, two ends\n"), strict=True))
    streams.finish()
    assert "".join(text for _, text in lines[2:]) == "and moreand more"


def asks_for_threads(*values):
    """Return how many threads NumPy's library may start beside another task."""
    MET.barrier.wait(WAIT_S)
    beside = blas_threads()
    MET.barrier.wait(WAIT_S)
    return beside


def blas_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    return max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")


def test_lanes_share_the_cores_with_the_threads_of_numerical_libraries(store):
    """Until the executor ends."""
    libraries = ThreadpoolController().select(user_api="blas")
    with libraries.limit(limits=2):  # on a machine of one core it has one
        for each in libraries.lib_controllers:
            getattr(each, "clear_controlling_thread", lambda: None)()  # another thread is to set it
        assert blas_threads() == 2
        for _ in range(2):  # whoever may set the number of a process lets go of it
            values = carried_out(store, leaves(asks_for_threads), ["leaf 0", "leaf 1"], cores=2).values()
            assert set(values) == {1}
            assert blas_threads() == 2


class Library:
    """Stands for one that `threadpoolctl` has found."""

    def __init__(self, name, n):
        self.filepath, self.num_threads = name, n

    def set_num_threads(self, n):
        self.num_threads = n


def test_no_library_gets_more_threads_than_it_had():
    few, many = Library("few", 1), Library("many", 8)
    shares = CoreShares(8)
    shares._libraries = [(few, 1), (many, 8)]
    seen = []
    for lanes in (2, 3, 16, 2):
        shares.share(lanes)
        seen.append((few.num_threads, many.num_threads))
    assert seen == [(1, 4), (1, 2), (1, 1), (1, 4)]
    few.num_threads, many.num_threads = 1, 8  # what a new thread finds, if each has a number of its own
    shares.enter()
    assert (few.num_threads, many.num_threads) == (1, 4)
    shares.end()
    assert (few.num_threads, many.num_threads) == (1, 8)


def test_a_lane_enters_its_share_when_it_begins_and_whenever_it_is_idle():
    """The share may have changed since then. The first lane's is set by whoever shares."""
    entered = []
    lanes, lane = LaneThreads(lambda lane: None), TaskLane(1)
    lanes.shares = SimpleNamespace(enter=lambda: entered.append(threading.get_ident()))
    lanes.enter(lanes.first)
    assert not entered
    lanes.enter(lane)
    assert entered == [threading.get_ident()]
    lanes.gate.acquire()
    lane.wake.release()
    assert lanes.wait(lane)
    assert entered == [threading.get_ident()] * 2


def test_lanes_wait_for_a_core_as_long_as_the_mean_of_those_that_do_something():
    class Demand:
        def __init__(self):
            self.had_waited_s = 0.0

        def waited_s(self):
            return self.had_waited_s

    lanes = LaneThreads(lambda lane: None)
    others = TaskLane(1), TaskLane(2)
    lanes._lanes += [lanes.first, *others]
    assert lanes.waited_s() == 0.0, "the system does not tell"
    for lane in lanes._lanes:
        lane.demand, lanes._waits[lane] = Demand(), 0.0
    lanes.first.demand.had_waited_s = 1.0
    assert lanes.waited_s() == 1.0
    others[0].task = 7
    for lane in lanes._lanes[:2]:
        lane.demand.had_waited_s += 2.0
    assert lanes.waited_s() == 3.0, "two waited at once, the third was idle"
    lanes.first.demand.had_waited_s = 0.0
    assert lanes.waited_s() == 3.0, "no wait is undone if it cannot be read once"
    lanes.first.demand.had_waited_s = 3.0
    assert lanes.waited_s() == 3.0


def test_a_thread_that_has_waited_before_begins_anew(monkeypatch):
    """A process runs one invocation after the other in the same thread."""
    waited = iter((7.0, 7.5))
    monkeypatch.setattr("wukong.core.lanes.Demand.waited_s", lambda _: next(waited))
    lanes = LaneThreads(lambda lane: None, watched=True)
    lanes.enter(lanes.first)
    assert lanes.waited_s() == 0.5
    lanes.join()
