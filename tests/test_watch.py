"""What the client's watch makes again, when, and what it says: a store that is a mapping, a clock that is a number."""

import logging
import re
from dataclasses import replace

import pytest

from wukong.core.account import Moment, account
from wukong.core.events import End, Heartbeat, Report
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Envelope, Order, Sent
from wukong.core.policy import Policy
from wukong.core.track import Track
from wukong.core.watch import Watch
from wukong.errors import InvocationFailed, JobStalled, ValueLost
from wukong.testing.faulty import Plain
from wukong.testing.platform import Reported

NAMES = Names("job")
BEAT_S, SILENCE_S = 1.0, 100.0


class Store(dict):
    """A mapping with the verbs of a store, which notes what it is told."""

    def __init__(self):
        super().__init__()
        self.lives, self.deletes = {}, []

    def get(self, keys):
        return [dict.get(self, key) for key in keys]

    def put(self, items, ttl_s=None):
        self.update(items)
        self.lives.update(dict.fromkeys(items, ttl_s))

    def delete(self, keys):
        self.deletes.append([*keys])
        for key in keys:
            self.pop(key, None)


class Job:
    """A watch over first invocations 0, 1, ..., and what it does."""

    def __init__(
        self,
        n=1,
        known=lambda labels: None,
        reship=lambda: False,
        alone=lambda key: None,
        sizes=(),
        free=None,
        **policy,
    ):
        self.sizes, self.proxy = [], None
        self.now, self.store, self.codec, self.made = 1_000.0, Store(), Plain(), []
        self.roots = [str(i) for i in range(n)]
        policy = Policy(heartbeat_s=BEAT_S, silence_s=SILENCE_S, **policy)
        self.policy = policy
        for root in self.roots:
            self.record(root)
        self.watch = Watch(
            NAMES, self.store, self.codec, self.send, self.envelope, policy, self.roots, 5_000,
            lambda: self.now, reship, known, alone, lambda: sizes, free,
        )  # fmt: skip

    def record(self, invocation, **how):
        order = Order("job", invocation, (0,), 5_000, 512, self.policy, (0.01, 0.001, 1e8), **how)
        self.store[NAMES.invocation(invocation)] = self.codec.encode(self.envelope(order), PAYLOAD)

    def envelope(self, order=None):
        return replace(Envelope(("", {}), ("", {}), False, False, None), order=order, proxy=self.proxy)

    def send(self, calls, size=0):
        self.made += [invocation for invocation, _ in calls]
        self.sizes += [size] * len(calls)
        return Sent(len(calls))

    def beats(self, invocation="0", at=0.0, **how):
        self.store[NAMES.heartbeat(invocation)] = Heartbeat(at, 0, how.pop("task", None), **how)

    def ends(self, invocation="0", **how):
        how.setdefault("attempt", self.watch.tree.attempts[invocation])
        self.store[NAMES.end(invocation)] = End(Report(**{"wall_s": 1.0, **how.pop("report", {})}), **how)

    def pass_time(self, seconds, *failures):
        """Look once in a heartbeat."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + BEAT_S)
            self.watch.tend([])
        return [*self.made]

    def fails(self, reason="crash", task=None, invocation="0"):
        self.watch.tend([Reported(NAMES.label(invocation), reason, "died", task)])


def test_it_gives_a_sign_of_life_with_each_look_for_as_long_as_keys_live():
    job = Job(ttl_s=77.0)
    job.beats()
    job.pass_time(2 * BEAT_S)
    assert job.store[NAMES.alive] == b"2"
    assert job.store.lives[NAMES.alive] == 77.0


def test_it_looks_once_in_a_heartbeat():
    job = Job()
    for _ in range(10):
        job.now += BEAT_S / 10
        job.watch.tend([])
    assert job.store[NAMES.alive] == b"1"


def test_silence_alone_is_given_twice_as_long_each_time_where_the_platform_cannot_tell():
    job = Job()
    job.beats()
    job.pass_time(2 * BEAT_S)
    times = []
    for n in range(1, 4):
        while len(job.made) < n:
            job.pass_time(BEAT_S)
        times.append(job.now)
    assert 100 <= times[0] - 1_000 <= 104
    assert 200 <= times[1] - times[0] <= 204
    assert 400 <= times[2] - times[1] <= 404


def test_what_gives_signs_of_life_is_left_alone():
    job = Job()
    for at in range(500):
        job.beats(at=float(at))
        job.pass_time(BEAT_S)
    assert job.made == []


@pytest.mark.parametrize("begun", [True, False])
def test_what_the_platform_does_not_have_at_two_looks_was_lost(begun):
    known = {"0"}
    job = Job(known=lambda labels: [label for label in labels if label.partition("/")[2] in known])
    if begun:
        job.beats()
    assert job.pass_time(300 * BEAT_S) == []  # the platform has it, queued or running
    known.clear()
    assert job.pass_time(BEAT_S) == []
    assert job.pass_time(BEAT_S) == ["0"]


def test_a_story_names_how_often_what_failed_and_the_task():
    job = Job()
    for _ in range(3):
        job.fails()
    with pytest.raises(InvocationFailed) as failed:
        job.fails("error", task="x")
    told = "invocation 0 failed 4 times: " + 3 * "crash: died; then " + "error: died"
    assert str(failed.value).startswith(told)
    assert (failed.value.job, failed.value.task) == ("job", "x")
    assert "wukong doctor" in failed.value.hint
    assert job.made == ["0"] * 3
    assert job.watch.repeated == job.watch.sent.requests == 3


@pytest.mark.parametrize(("reason", "hint"), [("timeout", "raise the limit"), ("memory", "more memory")])
def test_a_task_over_a_limit_fails_the_second_time_and_is_told_what_to_do(reason, hint):
    job = Job()
    job.fails(reason, task="x")
    with pytest.raises(InvocationFailed, match=f"{reason}: died; then {reason}: died") as failed:
        job.fails(reason, task="x")
    assert hint in failed.value.hint


def test_what_takes_too_much_memory_goes_to_ever_larger_functions_and_fails_only_on_the_largest():
    job = Job(2, sizes=(1 << 30, 2 << 30, 4 << 30))
    for _ in range(2):
        job.fails("memory", task="x")
    job.fails("crash", task="x")  # it stays where it is
    job.fails("memory", task="y", invocation="1")  # which is another's affair
    assert job.sizes == [1, 2, 2, 1]
    job.fails("memory", task="x")
    with pytest.raises(InvocationFailed, match=r"failed 5 times: memory: died; it goes to .* 2,048 MB; ") as failed:
        job.fails("memory", task="x")
    assert "(largest) function" in failed.value.hint
    lost = job.watch.failures[1]
    assert lost.what == "memory: died; it goes to a function of 4,096 MB"
    assert (lost.invocation, lost.attempt, lost.task) == ("0", 1, "x") and "make its chunks smaller" in lost.hint
    assert lost.at > 1e9


class TestBills:
    """Each run of an invocation is billed once: by the account, or among the runs before those that were made again."""

    def job(self, limit_s=None, **how):
        job = Job(**how)
        job.watch.before._limit_s = lambda: limit_s
        return job

    def told(self, job):
        """Return for how long runs are billed, by the account and among those before."""
        total = account(job.watch.seen, job.watch.tree, Moment(job.now, 0.0))
        return [round(total.report.billed_s), round(job.watch.before.billed_s)]

    def ran(self, job, wall_s, attempt=0, **how):
        """Have it give a sign of life, with a clock that is wrong, after so many seconds, and be looked at."""
        job.now += wall_s
        job.beats(at=job.now - 5_000, attempt=attempt, report=Report(wall_s=wall_s, billed_s=3 * wall_s), **how)
        job.watch.tend([])

    def test_a_killed_run_and_its_successor_are_billed_once_each(self):
        job = self.job(sizes=(100, 300))
        self.ran(job, 50.0)
        assert self.told(job) == [150, 0]
        job.now += 5.0
        assert self.told(job) == [165, 0]
        job.fails()
        assert self.told(job) == [0, 165]
        job.now += 20.0
        assert self.told(job) == [20, 165]
        self.ran(job, 10.0, attempt=1)
        assert self.told(job) == [30, 165]

    def test_an_end_that_did_not_count_is_billed_once(self):
        job = self.job()
        job.ends(report={"billed_s": 7.0})
        job.watch.revive(list(job.watch.tree.states()))
        assert self.told(job) == [0, 7]

    def test_a_run_is_billed_up_to_its_death_by_the_client_s_clock_and_no_longer_than_its_limit(self):
        job = self.job(sizes=(100, 300))
        self.ran(job, 5.0, left_s=2.0)
        job.now += 3_600.0
        job.fails()
        assert self.told(job) == [0, 21]

    def test_one_that_gave_no_sign_of_life_is_billed_since_it_was_made_and_no_longer_than_its_limit(self):
        job = self.job(60.0)
        job.now += 50.0
        job.fails()
        assert self.told(job) == [0, 50]
        job.now += 1_000.0  # queued for most of that
        job.fails()
        assert self.told(job) == [0, 110]
        job.now += 1_000.0
        job.fails("start")
        assert self.told(job) == [0, 110]

    def test_one_that_fell_silent_is_billed_up_to_its_last_heartbeat(self):
        job = self.job(known=lambda labels: [])
        self.ran(job, 5.0)
        job.pass_time(9 * BEAT_S)
        assert job.made[0] == "0" and job.watch.before.billed_s == 15

    def test_one_that_is_over_its_limit_is_billed_for_that_though_its_heartbeat_is_gone(self):
        job = self.job()
        self.ran(job, 5.0, left_s=2.0)
        del job.store[NAMES.heartbeat("0")]
        job.watch._again("0", 0, "at its limit")
        assert job.watch.before.billed_s == pytest.approx(21)

    def backed_up(self):
        job = self.job()
        self.ran(job, 100.0)
        job.watch._again("0", 0, "now")
        assert self.told(job) == [0, 300]
        return job

    def test_if_a_run_ends_that_was_backed_up_its_backup_is_billed_besides(self):
        job = self.backed_up()
        job.now += 1.0
        job.ends(attempt=0, report={"billed_s": 303.0}, track=Track(0, False, b"", 0.0, 1.0, 0.0))
        job.pass_time(BEAT_S)
        assert self.told(job) == [303, 2]
        job.ends(attempt=1, report={"billed_s": 4.0}, track=Track(1, False, b"", 0.0, 2.0, 0.0))
        job.watch.seen = list(job.watch.tree.states())
        job.watch.before.look(job.watch.seen)  # as when the job settles
        assert self.told(job) == [4, 303]

    def test_a_run_that_goes_on_beside_its_backup_is_billed_as_far_as_it_tells(self):
        job = self.backed_up()
        self.ran(job, 110.0, attempt=0)
        assert self.told(job) == [110, 330]

    def test_one_whose_record_is_lost_is_billed_and_then_no_more(self):
        job = with_a_child(sent=1)
        job.beats("0.0", report=Report(wall_s=5.0, billed_s=15.0))
        job.pass_time(BEAT_S)
        del job.store[NAMES.invocation("0.0")]
        job.fails(invocation="0.0")
        job.now += 100.0
        assert job.made == ["0"] and job.watch.before.billed_s == 15
        assert self.told(job)[0] == 100, "its maker's, which was made again"


def test_what_was_made_for_a_larger_function_goes_to_the_next_larger_one():
    job = with_a_child(sent=1, sizes=(1 << 30, 2 << 30, 4 << 30))
    envelope = job.codec.decode(job.store[NAMES.invocation("0.0")], PAYLOAD)
    larger = replace(envelope, order=replace(envelope.order, size=1))
    job.store[NAMES.invocation("0.0")] = job.codec.encode(larger, PAYLOAD)
    job.fails("memory", invocation="0.0")
    assert (job.made, job.sizes) == (["0.0"], [2])
    lost = with_a_child(sent=1, sizes=(1 << 30, 2 << 30, 4 << 30))
    del lost.store[NAMES.invocation("0.0")]  # nobody knows
    lost.fails("memory", invocation="0.0")
    assert lost.made == ["0"] and lost.watch.failures[0].what.endswith("it goes to a function of 2,048 MB")


def test_a_small_function_that_the_platform_has_run_again_says_nothing_of_the_larger_one():
    job = Job(sizes=(1 << 30, 2 << 30, 4 << 30))
    job.beats(task="x", memory=(1 << 30, 1 << 30))
    while not job.made:
        job.pass_time(BEAT_S)
    for at in (1.0, 2.0):  # attempt 0 once more, while attempt 1 has not begun
        job.beats(at=at, began=at, task="x", memory=(1 << 30, 1 << 30))
        job.pass_time(12 * BEAT_S)
    assert set(job.sizes) == {1}


def test_what_fell_silent_is_told_with_its_task_and_what_to_do():
    job = Job(known=lambda labels: [])
    for at in range(4):
        job.beats(at=float(at), task="x", attempt=at)
        job.pass_time(8 * BEAT_S)
        assert len(job.made) == at + 1
    job.beats(at=9.0, task="x", attempt=4)
    with pytest.raises(InvocationFailed, match="failed 5 times: fell silent in x; then") as failed:
        job.pass_time(8 * BEAT_S)
    assert failed.value.task == "x"
    assert "silence_s" in failed.value.hint
    assert {lost.hint for lost in job.watch.failures} == {failed.value.hint}


def test_what_a_platform_has_run_again_by_itself_is_no_failure_if_it_can_tell():
    job = Job(known=lambda labels: [*labels])
    job.beats(task="x", began=1.0)
    job.pass_time(8 * BEAT_S)
    job.beats(at=9.0, began=2.0)
    assert job.pass_time(BEAT_S) == [] and job.watch.failures == []


def test_what_begins_late_has_not_failed():
    job = Job()
    job.pass_time(8 * BEAT_S)
    job.beats()
    assert job.pass_time(BEAT_S) == [] and job.watch.failures == []


@pytest.mark.parametrize(("begun", "until_s"), [(True, 7.0), (False, SILENCE_S + 2.0)])
def test_what_the_platform_does_not_have_may_wait_in_a_proxy_if_it_has_not_begun(begun, until_s):
    job = Job(known=lambda labels: [])
    job.proxy = ("127.0.0.1", 1)
    if begun:
        job.beats()
    while not job.made:
        job.pass_time(BEAT_S)
    assert abs(job.now - 1_000.0 - until_s) <= 1.0


def test_what_never_began_is_given_up_after_six_times():
    job = Job(known=lambda labels: [])
    with pytest.raises(InvocationFailed, match="failed 6 times: never started; then never started") as failed:
        job.pass_time(60 * BEAT_S)
    assert failed.value.task is None


def test_a_task_of_several_futures_is_convicted_and_the_others_go_on():
    job = Job(alone={"x": 7}.get)
    for _ in range(4):
        job.fails(task="x")
    order = job.codec.decode(job.store[NAMES.invocation("0")], PAYLOAD).order
    assert [*order.convicted] == [7]
    assert isinstance(order.convicted[7].error(), InvocationFailed)
    for _ in range(3):
        job.fails(task="y")  # it is counted anew
    assert len(job.made) == 7
    with pytest.raises(InvocationFailed):
        job.fails(task="z")  # not the same task at the last two times


def test_what_is_made_again_is_said_once_for_all_of_one_reason(caplog):
    job = Job(5)
    with caplog.at_level(logging.WARNING, "wukong"):
        job.watch.tend([Reported(NAMES.label(str(i)), "crash", "died") for i in range(5)])
        job.watch.tend([Reported(NAMES.label("3"), "crash", "died", "x")])
    assert [record.getMessage() for record in caplog.records] == [
        "job job: 5 invocations (0, 1, 2, ...) are made again: crash: died",
        "job job: invocation 3 is made again: crash: died (task x)",
    ]


def test_if_all_have_ended_without_a_result_all_fan_ins_begin_anew_and_all_are_made_again(caplog):
    caplog.set_level(logging.WARNING, "wukong")
    job = Job(2)
    job.ends("0")
    job.beats("1")
    assert job.pass_time(3 * BEAT_S) == []
    job.ends("1")
    assert job.pass_time(BEAT_S) == []  # a result may become visible just after
    assert job.pass_time(BEAT_S) == ["0", "1"]
    assert [record.getMessage() for record in caplog.records] == [
        "job job: all 2 invocations have ended without a result that is still there, and are made again"
    ]
    records = [key for keys in job.store.deletes for key in keys if key.startswith(NAMES.record(0)[:-1])]
    assert records == [NAMES.record(child) for child in range(5_001)]
    assert max(map(len, job.store.deletes)) <= 2_000
    for n in range(2, 6):
        job.ends("0")
        job.ends("1")
        assert len(job.pass_time(BEAT_S)) == 2 * n - 2
        assert len(job.pass_time(BEAT_S)) == 2 * n
    job.ends("0")
    job.ends("1")
    with pytest.raises(JobStalled, match="all 2 invocations have ended without a result, 5 times over") as stalled:
        job.pass_time(2 * BEAT_S)
    assert stalled.value.job == "job" and job.watch.rounds == 6
    assert stalled.value.hint == "the store loses what it is given: check its memory and its time to live"


def test_a_late_end_of_a_run_from_before_everything_began_anew_ends_nothing():
    job = Job(known=lambda labels: set(labels))
    job.ends()
    assert job.pass_time(2 * BEAT_S) == ["0"]
    job.ends(attempt=0)
    assert job.pass_time(10 * BEAT_S) == ["0"]
    job.ends(attempt=1)
    assert job.pass_time(2 * BEAT_S) == ["0", "0"]


def test_a_run_ends_its_invocation_though_it_was_backed_up_and_the_backup_is_gone():
    job = Job(2, known=lambda labels: {NAMES.label("1")})
    job.beats("1")
    job.fails()
    job.ends(attempt=0)
    assert job.pass_time(20 * BEAT_S) == ["0"]


def test_a_client_that_has_taken_over_gives_no_attempt_its_number_twice():
    job = Job(reship=lambda: True)
    job.store[NAMES.attempts("0")] = 3
    job.ends(attempt=3, missing=b"job/p/0")
    job.pass_time(BEAT_S)
    assert job.store[NAMES.attempts("0")] == 4


def test_what_the_client_has_shipped_is_shipped_again_and_a_future_s_value_is_lost():
    shipped = []
    job = Job(reship=lambda: not shipped.append(1))
    job.ends(missing=NAMES.page(0))
    assert job.pass_time(BEAT_S) == ["0"]
    assert shipped == [1]
    assert [lost.what for lost in job.watch.failures] == [f"{NAMES.page(0).decode()} was not in the store"]
    job.ends(missing=b"wukong/client/k/7")
    with pytest.raises(ValueLost, match=re.escape("a future is not in the store any more (wukong/client/k/7)")) as lost:
        job.pass_time(BEAT_S)
    assert lost.value.job == "job" and "keep the future" in lost.value.hint


def test_what_nobody_can_ship_again_is_lost():
    job = Job()
    job.ends(missing=NAMES.page(0))
    with pytest.raises(ValueLost, match="is not in the store any more") as lost:
        job.pass_time(BEAT_S)
    assert lost.value.job == "job" and lost.value.hint == "the client that shipped it is gone: submit the job again"


def test_a_first_invocation_whose_record_is_lost_ends_the_job():
    job = Job()
    del job.store[NAMES.invocation("0")]
    with pytest.raises(JobStalled, match=r"^the record of a first invocation is not in the store any more") as stalled:
        job.fails()
    assert stalled.value.job == "job"


@pytest.mark.parametrize(("backup", "made"), [(True, ["20"]), (False, [])])
def test_one_that_is_far_slower_than_its_peers_is_made_once_more_if_that_is_wanted(backup, made, caplog):
    caplog.set_level(logging.INFO, "wukong")
    job = Job(21, backup=backup)
    for i in range(20):
        job.ends(str(i), report={"wall_s": float(i)})  # half of them took 10 s and more: 40 s are slow
    for at in range(60):
        job.beats("20", at=float(at))
        assert job.pass_time(BEAT_S) == (made if at >= 40 else [])
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"job job: invocation {each} is slow, and backed up" for each in made]


def test_where_use_is_billed_backups_cost_a_share_of_the_job_at_most():
    job = Job(61, backup=True, backup_share=0.1)
    for i in range(57):
        job.ends(str(i), report={"wall_s": 10.0})
    for at in range(41):
        for i in range(57, 61):
            job.beats(str(i), at=float(at))
        job.pass_time(BEAT_S)
    assert sorted(job.made) == ["57", "58", "59", "60"]  # of some 730 s by then, 10 s each
    few = Job(21, backup=True, backup_share=0.02)
    for i in range(20):
        few.ends(str(i), report={"wall_s": 10.0})
    for at in range(330):
        few.beats("20", at=float(at))
        few.pass_time(BEAT_S)
        assert few.made == (["20"] if 200 + at + 1 >= 500 else []), at  # of 500 s a fiftieth is what a peer took


def test_which_of_two_runs_has_ended_first_is_known():
    for attempt in (0, 1):
        job = Job(21, backup=True)
        for i in range(20):
            job.ends(str(i), report={"wall_s": 1.0})
        for at in range(10):
            job.beats("20", at=float(at))
            job.pass_time(BEAT_S)
        assert job.made == ["20"] and job.watch.backups.made["20"].first is None
        job.ends("20", track=Track(attempt, False, b"", 0.0, 0.0, 0.0))
        job.pass_time(BEAT_S)
        assert job.watch.backups.made["20"].first is bool(attempt)


def test_while_many_run_none_is_slow():
    job = Job(20, backup=True)
    for i in range(17):
        job.ends(str(i))
    for at in range(60):
        for i in range(17, 20):
            job.beats(str(i), at=float(at))
        job.pass_time(BEAT_S)
    assert job.made == []


def test_how_far_the_executors_are_is_known_after_each_look():
    job = Job(3)
    job.ends("0", report={"tasks": 5})
    job.store[NAMES.heartbeat("1")] = Heartbeat(0.0, 3, None)
    job.pass_time(BEAT_S)
    assert job.watch.tasks_run == 8
    assert [state.invocation for state in job.watch.seen] == ["0", "1", "2"]


def test_a_failure_that_is_reported_after_the_end_is_none():
    job = Job()
    job.ends()
    job.fails()
    assert job.made == [] and job.watch.failures == []


def with_a_child(sizes=(), **beat):
    """A job whose first invocation lives and has put another one on record, of which the platform knows nothing."""
    job = Job(known=lambda labels: [label for label in labels if label == "job/0"], sizes=sizes)
    job.beats(**beat)
    job.store[NAMES.n_offloads("0")] = 1
    order = replace(job.codec.decode(job.store[NAMES.invocation("0")], PAYLOAD).order, invocation="0.0")
    job.store[NAMES.invocation("0.0")] = job.codec.encode(job.envelope(order), PAYLOAD)
    return job


def test_one_that_is_on_record_and_was_not_handed_over_yet_is_not_lost():
    assert with_a_child(sent=0).pass_time(20 * BEAT_S) == []
    assert with_a_child(sent=1).pass_time(8 * BEAT_S) == ["0.0"]


def test_one_that_an_earlier_run_has_put_on_record_is_not_waited_for():
    job = with_a_child(sent=0, attempt=1)
    job.store[NAMES.attempts("0")] = 1
    assert job.pass_time(8 * BEAT_S) == ["0.0"]


def test_one_whose_record_is_lost_is_handed_over_anew_by_its_maker():
    job = with_a_child(sent=1)
    del job.store[NAMES.invocation("0.0")]
    job.store[NAMES.attempts("0")] = 2
    assert job.pass_time(8 * BEAT_S) == ["0"]
    order = job.codec.decode(job.store[NAMES.invocation("0")], PAYLOAD).order
    assert order.attempt == 3 and order.sent_at > 1e9


def test_before_the_first_look_no_task_is_known_to_have_run():
    assert Job(1).watch.tasks_run == 0


def test_it_is_known_when_each_was_first_seen():
    job = with_a_child(sent=0)
    job.pass_time(3 * BEAT_S)
    assert job.watch.tree.first_seen == {"0": 1_000.0, "0.0": 1_001.0}


def test_what_a_platform_has_run_again_by_itself_counts_as_a_failure_of_the_run_before():
    job = Job()
    job.beats(task="x", began=1.0)
    job.pass_time(8 * BEAT_S)
    job.beats(at=9.0, began=2.0)
    assert job.pass_time(BEAT_S) == []
    assert [(lost.invocation, lost.what, lost.task) for lost in job.watch.failures] == [("0", "fell silent in x", "x")]


def test_what_fell_silent_between_its_tasks_is_told_without_one():
    job = Job()
    job.beats()
    job.pass_time(110 * BEAT_S)
    assert [lost.what for lost in job.watch.failures] == ["fell silent"]


class TestParked:
    """Invocations that wait on record for a seat of a limit."""

    LIMITS = (("a", 2),)

    def job(self, n, free, **policy):
        job = Job(free=lambda limits: free[0], known=lambda labels: [], **policy)
        job.ends()
        job.store[NAMES.n_offloads("0")] = n
        for k in range(n):
            job.record(f"0.{k}", parked=self.LIMITS)
        return job

    def test_they_are_made_as_seats_come_free_a_few_ahead_and_never_taken_for_lost(self):
        free = [0]
        job = self.job(40, free)
        assert len(job.pass_time(BEAT_S)) == 2  # ahead: as many as there are seats
        for k in range(2):
            job.beats(f"0.{k}", at=1.0)  # they wait
        assert len(job.pass_time(BEAT_S)) == 2
        for k in range(2):
            job.beats(f"0.{k}", at=2.0, task="runs")
        assert len(job.pass_time(BEAT_S)) == 4
        made = 4
        free[0] = 2  # short tasks: all have ended, and at the next look a seat is free
        for _ in range(3):
            for k in range(made):
                job.ends(f"0.{k}")
            before, made = made, len(job.pass_time(BEAT_S))
            assert made - before > 2
        assert not job.watch.failures and not job.watch.repeated

    def test_whoever_was_made_for_a_seat_and_found_none_is_followed_by_fewer(self):
        job = self.job(40, [0])
        for _ in range(20):
            made = job.pass_time(BEAT_S)
            for invocation in made:
                if NAMES.end(invocation) not in job.store:
                    job.ends(invocation)
                    job.store[NAMES.n_offloads(invocation)] = 1
                    job.record(f"{invocation}.0", parked=self.LIMITS)
        assert len(made) == 3

    def test_one_that_was_made_and_never_began_was_lost(self):
        job = self.job(1, [1])
        assert job.pass_time(BEAT_S) == ["0.0"]
        assert job.pass_time(10 * BEAT_S)[:2] == ["0.0", "0.0"] and job.watch.repeated

    def test_one_whose_record_is_lost_is_made_by_its_maker_again(self):
        free = [-2]
        job = self.job(1, free)
        job.pass_time(BEAT_S)
        del job.store[NAMES.invocation("0.0")]
        free[0] = 2
        assert job.pass_time(BEAT_S) == ["0"]

    def test_another_client_makes_none_again_that_was_made(self):
        job = self.job(1, [1])
        job.pass_time(BEAT_S)
        assert job.codec.decode(job.store[NAMES.invocation("0.0")], PAYLOAD).order.parked == ()

    def test_the_end_of_a_job_does_not_wait_for_them(self):
        job = self.job(1, [-2])
        job.pass_time(BEAT_S)
        assert [state.parked for state in job.watch.tree.states()] == [False, True]

    def test_their_time_begins_when_they_are_made_and_before_they_count_for_nothing(self):
        free = [-2]
        job = self.job(2, free)
        job.pass_time(50 * BEAT_S)
        tree = job.watch.tree

        def counted():
            return account(job.watch.seen, tree, Moment(job.now))

        assert (counted().executors, counted().report.billed_s) == (1, 0.0)
        free[0] = -1
        assert job.pass_time(BEAT_S) == ["0.0"]
        job.now += 3.0
        assert (counted().executors, counted().report.billed_s) == (2, 3.0)
        free[0] = -3
        job.ends("0.0")
        job.pass_time(30 * BEAT_S)
        assert (counted().executors, counted().running, counted().report.billed_s) == (2, 0, 0.0)

    def test_a_healthy_one_that_has_waited_for_long_is_not_slow(self):
        free = [-2]
        job = self.job(20, free, backup=True)
        job.pass_time(100 * BEAT_S)
        free[0] = 16
        made = job.pass_time(BEAT_S)
        for invocation in made[1:]:
            job.ends(invocation)
        job.beats(made[0], task="runs")
        free[0] = -2
        assert len(made) > 10 and job.pass_time(3 * BEAT_S) == made and not job.watch.backups.made

    def test_all_of_a_look_are_made_at_once_by_size(self):
        free, calls = [-2], []
        job = self.job(100, free)
        job.pass_time(BEAT_S)
        for k in range(3):
            job.record(f"0.{k}", parked=self.LIMITS, size=1)
        store, send = job.store, job.send
        store.get = lambda keys: calls.append("get") or Store.get(store, keys)
        job.watch._send = lambda some, size=0: calls.append((len(some), size)) or send(some, size)
        job.watch._wake([f"0.{k}" for k in range(100)])
        assert calls == ["get", (3, 1), (97, 0)]

    def test_if_records_are_lost_their_maker_is_made_again_once_and_what_it_parks_is_made_later(self):
        n, free = 40, [-2]
        job = self.job(n, free)
        job.pass_time(BEAT_S)
        for k in range(1, n):
            del job.store[NAMES.invocation(f"0.{k}")]
        free[0] = 4
        assert sorted(job.pass_time(BEAT_S)) == ["0", "0.0"]
        assert job.pass_time(BEAT_S).count("0") == 1
        job.ends()
        job.ends("0.0")
        job.store[NAMES.n_offloads("0~1")] = n
        for k in range(n):
            job.record(f"0~1.{k}", parked=self.LIMITS)
        assert len([each for each in job.pass_time(BEAT_S) if "~" in each]) >= 4

    def test_one_that_was_made_and_then_lost_with_its_record_takes_the_place_of_no_other(self):
        free = [2]
        job = self.job(2, free)
        job.pass_time(BEAT_S)
        for k in range(2):
            del job.store[NAMES.invocation(f"0.{k}")]
        while "0" not in job.made:
            job.pass_time(BEAT_S)
        job.ends()
        job.store[NAMES.n_offloads("0~1")] = 2
        for k in range(2):
            job.record(f"0~1.{k}", parked=self.LIMITS)
        assert job.pass_time(BEAT_S)[-2:] == ["0~1.0", "0~1.1"]

    @pytest.mark.parametrize("free", range(3))
    def test_at_the_first_look_no_more_are_made_than_there_are_seats(self, free):
        assert len(self.job(40, [free]).pass_time(BEAT_S)) == 2
