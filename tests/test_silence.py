"""A task that holds the interpreter's lock lets no heartbeat through: its invocation looks dead, and is not."""

import re
import threading
import time

import dask
import pytest
from dask.diagnostics import ProgressBar

import wukong
from wukong.backends.faas import Failure
from wukong.backends.storage.layers import Layer
from wukong.backends.storage.local import LocalStore
from wukong.core.codec import Codec
from wukong.core.dag import Page
from wukong.core.events import End, Heartbeat, Report, RunningTask
from wukong.core.executor import Executor
from wukong.core.host import ExecutorHost
from wukong.core.limits import MemoryGauge
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Envelope, Order, Sent
from wukong.core.policy import Policy
from wukong.core.storage import joined
from wukong.core.watch import Watch
from wukong.errors import InvocationFailed, Throttled

NOWHERE = Envelope(("elsewhere:Store", {}), ("elsewhere:FaaS", {}), False, False, None)
SILENCE_S = 30.0
HERE_AND_THERE = ("local", pytest.param("aws-lambda", marks=pytest.mark.xdist_group("everywhere: aws-lambda")))


def holds_the_lock(path, n):
    with open(path, "a") as file:
        file.write("once\n")
    return re.match("(a*)*b", "a" * n) is None  # one call, which takes a second or more and lets no other thread run


@pytest.mark.parametrize("everywhere", HERE_AND_THERE, indirect=True)
def test_a_task_that_holds_the_lock_runs_once(everywhere, tmp_path):
    with wukong.Client(progress=False, heartbeat_s=0.01), ProgressBar(out=open("/dev/null", "w")):
        assert dask.delayed(holds_the_lock)(str(tmp_path / "ran"), 25).compute() is True
    assert (tmp_path / "ran").read_text() == "once\n"


class Silent:
    """A job whose first invocation gives a sign of life whenever it is made, and then none any more.

    Args:
        known: what the platform says that it still has; None: it cannot tell.
        tells: what else its signs of life tell.
    """

    def __init__(self, store, known=None, **tells):
        self.tells = tells
        self.now, self.made, self.known = 0.0, [], known
        self.names, self.codec, self.store = Names("job"), Codec(b"k" * 32, sign_buffers=False), store
        self.policy = Policy(heartbeat_s=1.0, silence_s=SILENCE_S)
        self.record("0")
        self.watch = Watch(
            self.names,
            store,
            self.codec,
            self.send,
            lambda: NOWHERE,
            self.policy,
            ["0"],
            1,
            lambda: self.now,
            known=lambda labels: self.known,
        )
        self.beat(**tells)

    def record(self, invocation):
        order = Order("job", invocation, [(0,)], 1, 512, self.policy, (0.1, 0.1, 1e6))
        envelope = Envelope(("old:Store", {}), NOWHERE.faas, False, False, order)
        self.put(self.names.invocation(invocation), envelope, PAYLOAD)

    def put(self, key, value, name=None):
        self.store.put({key: self.codec.encode(value, name or key)})

    def beat(self, sent=0, **more):
        self.put(self.names.heartbeat("0"), Heartbeat(self.now, 0, (RunningTask("stubborn"),), sent, **more))

    def send(self, calls):
        self.made += [self.codec.decode(payload, PAYLOAD) for _, payload in calls]
        self.beat(**{**self.tells, "attempt": len(self.made)})
        return Sent(len(calls))

    def go_on_until(self, end_s, *, beating=None):
        while self.now < end_s:
            self.now += 1.0
            if beating is not None:
                self.beat(beating)
            self.watch.tend([])

    def runs_again_by_itself(self, times, *, every_s):
        """The platform runs the same attempt once more, before the client looks."""
        for began in range(1, times + 1):
            self.now += every_s
            self.beat(began=began, **self.tells)
            self.watch.tend([])


@pytest.fixture
def store():
    with_store = LocalStore()
    yield with_store
    with_store.close()


def test_what_the_platform_still_has_is_left_alone_however_silent(store):
    silent = Silent(store, known=["job/0"])
    silent.go_on_until(1_000.0)
    assert silent.made == []


def test_what_the_platform_does_not_have_any_more_is_made_again_until_it_is_given_up(store):
    silent = Silent(store, known=[])
    silent.go_on_until(SILENCE_S / 2)
    assert silent.made
    with pytest.raises(InvocationFailed, match="fell silent in stubborn"):
        silent.go_on_until(1_000.0)


def test_what_has_just_ended_when_the_platform_is_asked_is_not_made_again(store):
    silent = Silent(store, known=[])

    def asked(labels):
        silent.put(silent.names.end("0"), End(Report()))
        return []

    silent.watch._known = asked
    silent.go_on_until(6.0)
    assert silent.made == []


def test_what_is_on_record_but_not_handed_to_the_platform_yet_is_not_lost(store):
    silent = Silent(store, known=["job/0"])
    silent.record("0.0")
    silent.put(silent.names.n_offloads("0"), 1)
    silent.go_on_until(200.0, beating=0)
    assert silent.made == []
    silent.go_on_until(210.0, beating=1)
    assert [envelope.order.invocation for envelope in silent.made] == ["0.0"]


def test_what_was_made_by_one_whose_own_record_is_lost_is_not_waited_for_for_ever(store):
    """Nobody makes its maker again, but the maker's maker, under another id."""
    silent = Silent(store)
    for maker, made in (("0", "0.0"), ("0.0", "0.0.0")):
        silent.record(made)
        silent.put(silent.names.n_offloads(maker), 1)
    silent.watch.tend([])
    store.delete([silent.names.invocation("0.0")])
    silent.watch.tend([Failure("job/0.0", "crash", "died")])
    silent.put(silent.names.end("0"), End(Report()))
    silent.go_on_until(3 * SILENCE_S)
    assert "0.0.0" in [envelope.order.invocation for envelope in silent.made]


def test_who_is_silent_elsewhere_is_made_again_late_and_given_up_with_a_hint_for_who_is_not_dead(store):
    silent = Silent(store)
    silent.go_on_until(SILENCE_S)
    assert silent.made == []
    silent.go_on_until(4 * SILENCE_S)
    assert silent.made
    with pytest.raises(InvocationFailed, match=r"(?s)fell silent in stubborn.*silence_s") as caught:
        silent.go_on_until(40 * SILENCE_S)  # after twice the time each time
    assert caught.value.task == "stubborn"


LIMITS = {"timeout": {"left_s": 2.5}, "memory": {"memory": (1_700 << 20, 1_769 << 20)}}


@pytest.mark.parametrize("limit", LIMITS)
def test_who_has_told_of_a_limit_and_falls_silent_was_ended_for_it(store, limit):
    silent = Silent(store, **LIMITS[limit])
    while not silent.made:
        silent.go_on_until(silent.now + 1.0)
    with pytest.raises(InvocationFailed, match=rf"2 times: {limit}: .*stubborn.*; then {limit}: ") as caught:
        silent.go_on_until(SILENCE_S)
    assert caught.value.task == "stubborn" and "smaller" in caught.value.hint


@pytest.mark.parametrize("limit", LIMITS)
def test_a_platform_that_can_tell_is_believed_not_a_limit_that_was_near(store, limit):
    silent = Silent(store, known=["job/0"], **LIMITS[limit])
    silent.go_on_until(100 * SILENCE_S)
    assert silent.made == []


def test_who_was_near_its_memorys_limit_and_lives_on_is_left_alone(store):
    silent = Silent(store, **LIMITS["memory"])
    silent.go_on_until(3.0)
    silent.beat()
    silent.go_on_until(SILENCE_S)
    assert silent.made == []


def test_a_platform_that_is_late_to_end_who_runs_too_long_is_waited_for(store):
    silent = Silent(store, left_s=0.0)
    for left_s in range(10):
        silent.beat(left_s=-left_s)
        silent.go_on_until(silent.now + 2.0)
    assert silent.made == []
    silent.go_on_until(silent.now + 6.0)
    assert len(silent.made) == 1


@pytest.mark.parametrize(("limit", "attempts"), [("timeout", 2), ("memory", 2), (None, 5)])
def test_that_the_platform_runs_it_again_by_itself_is_no_sign_of_life(store, limit, attempts):
    silent = Silent(store, **LIMITS.get(limit, {}))
    what = f"{limit}: " if limit else "fell silent in stubborn"
    silent.go_on_until(1.0)
    with pytest.raises(InvocationFailed, match=f"{attempts} times: {what}"):
        silent.runs_again_by_itself(10, every_s=SILENCE_S / 2)
    assert silent.made == []


def test_two_runs_that_were_delivered_at_once_are_both_left_alone(store):
    silent = Silent(store, left_s=1_000.0)
    for n in range(100):
        silent.beat(began=n % 2, left_s=1_000.0)
        silent.go_on_until(silent.now + 1.0)
    assert silent.made == []


def test_what_is_made_again_is_told_where_the_store_is_now(store):
    silent = Silent(store, known=[])
    silent.go_on_until(10.0)
    assert silent.made[0].store == ("elsewhere:Store", {})
    assert silent.made[0].order.attempt == 1


class FailsAtHeartbeats(Layer):
    """A store whose vendor's exception escapes, whenever a sign of life is written."""

    def put(self, items, ttl_s=None):
        if any(b"/h/" in key for key in items):
            raise ZeroDivisionError("the vendor's own")
        super().put(items, ttl_s)


def one_task(store, attempt):
    """Return an executor of a job of one task, and what reads the job's outcome."""
    names, codec = Names("job"), Codec(b"k" * 32, sign_buffers=False)
    store.put({names.alive: b"1"})
    page = Page(0, ((),), ((),), ((tuple, ()),), ("a task",))
    pages = {0: bytes(joined(codec.encode(page, names.page(0))))}
    order = Order("job", "0", (0,), 1, 512, Policy(), (0.1, 0.1, 1e6), pages, attempt=attempt)
    envelope = Envelope(NOWHERE.store, NOWHERE.faas, False, False, order)
    executor = Executor(envelope, ExecutorHost(store=store, codec=codec, send=lambda _: Sent(0)))
    return executor, lambda: codec.decode(store.get([names.done])[0], names.done)


def test_what_fails_before_the_watcher_runs_is_the_error_that_the_client_reads(store):
    executor, told = one_task(FailsAtHeartbeats(store), attempt=1)
    executor.execute()
    assert str(told().raised.error()) == "the vendor's own"


@pytest.mark.parametrize("refusals", [3, 1_000_000], ids=["for a while", "for ever"])
def test_an_executor_waits_for_a_thread_and_is_made_again_if_there_is_none(store, monkeypatch, refusals):
    left, start = iter(range(refusals)), threading.Thread.start

    def refuse(thread):
        if next(left, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("wukong.core.watcher._THREAD_S", 0.5 if refusals > 3 else 60.0)
    executor, _ = one_task(store, attempt=0)
    if refusals > 3:
        with pytest.raises(Throttled, match="no thread could be started"):
            executor.execute()
    else:
        assert executor.execute().tasks == 1


def test_a_late_run_gives_no_sign_of_life_in_the_place_of_who_was_made_instead(store):
    names, codec = Names("job"), Codec(b"k" * 32, sign_buffers=False)
    key = names.heartbeat("0")
    store.put({names.alive: b"1"})
    for attempt in (1, 0, 2):
        order = Order("job", "0", (0,), 1, 512, Policy(), (0.1, 0.1, 1e6), attempt=attempt)
        envelope = Envelope(NOWHERE.store, NOWHERE.faas, False, False, order)
        gauge = MemoryGauge(lambda: 950, 1_000)
        host = ExecutorHost(store=store, codec=codec, send=lambda _: Sent(0), time_limit_s=9.0, gauge=gauge)
        executor = Executor(envelope, host)
        executor.books.recorder.track.zero_s = time.perf_counter()
        executor.loop.watcher.beat()
        beat = codec.decode(store.get([key])[0], key)
        assert beat.attempt == max(1, attempt)
    assert executor.loop.lanes.broken is None
    assert 0 < beat.left_s < 9.0 and beat.report.wall_s + beat.left_s == 9.0


@pytest.mark.parametrize(
    ("used_mb", "urgent", "told"),
    [
        ([100, 890], [False, False], [False, False]),  # far from full
        ([950, 950], [True, False], [True, False]),  # nearly full: told once, while it grows
        ([910, 990], [True, True], [True, True]),
        ([990, 100, 990], [True, False, True], [True, False, True]),
    ],
)
def test_memory_is_told_of_when_it_is_nearly_full_and_growing(used_mb, urgent, told):
    used = iter([mb << 20 for mb in used_mb for _ in range(2)])
    gauge = MemoryGauge(lambda: next(used), 1_000 << 20)
    seen = [(gauge.urgent(), gauge.tell() is not None) for _ in used_mb]
    assert seen == list(zip(urgent, told, strict=True))


def death(task):
    return Failure("job/0", "crash", "the process was killed by SIGKILL", task)


def test_a_task_that_was_running_each_time_is_convicted_and_the_job_goes_on(store):
    silent = Silent(store)
    silent.watch._alone = {"stubborn": 7}.get
    for task in (None, "stubborn", "stubborn", "stubborn"):
        assert not silent.watch._convicted
        silent.watch.tend([death(task)])
    raised = silent.made[-1].order.convicted[7]
    assert isinstance(raised.error(), InvocationFailed) and raised.task == "stubborn" and "SIGKILL" in raised.message


def test_who_dies_by_chance_in_one_task_and_then_another_convicts_neither(store):
    silent = Silent(store)
    silent.watch._alone = {"stubborn": 7, "innocent": 8}.get
    deaths = [death(task) for task in ("stubborn", "innocent", "stubborn", "innocent")]
    with pytest.raises(InvocationFailed):
        silent.watch.tend(deaths)
    assert not silent.watch._convicted
