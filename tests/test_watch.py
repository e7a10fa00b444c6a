"""What the client's watch makes again, when, and what it says."""

import logging
import re
from dataclasses import replace

import pytest
from watch_tools import BEAT_S, NAMES, SILENCE_S, Job, with_a_child

from wukong.core.events import Heartbeat
from wukong.core.payload import PAYLOAD
from wukong.core.track import Track
from wukong.errors import InvocationFailed, JobStalled, ValueLost
from wukong.testing.platform import Reported


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


def test_all_tasks_are_named_that_ran_in_what_was_killed_and_none_of_them_is_blamed_for_its_memory():
    job = Job(sizes=(1 << 30, 2 << 30), alone={"x": 7}.get)
    nearly_full = {"memory": (1 << 30, 1 << 30)}
    job.beats(task=("x", "y"), **nearly_full)
    job.pass_time(8 * BEAT_S)
    assert "0 tasks done, x running for 0 s, y running for 0 s" in job.watch.failures[0].what
    assert job.watch.outgrown == [("x, y", 1 << 30)]  # the key of no task: nothing is learned from it
    for attempt in (1, 2):  # the runs that follow have one lane
        job.beats(at=float(attempt), task="x", attempt=attempt, **nearly_full)
        job.pass_time(SILENCE_S)
    [convicted] = job.watch._convicted.values()
    assert "x running for 0 s, y running for 0 s; it goes to" in convicted.message and convicted.task == "x"
    killed = Job()
    killed.fails(task="x, y")
    for _ in range(2):
        killed.fails(task="x")
    with pytest.raises(InvocationFailed, match=r"crash: died \(task x, y\); then crash: died; then") as failed:
        killed.fails(task="x")
    assert failed.value.task == "x"


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


@pytest.mark.parametrize(("backup", "locks", "made"), [(True, False, ["20"]), (True, True, []), (False, False, [])])
def test_one_that_is_far_slower_than_its_peers_is_made_once_more_if_that_is_wanted(backup, locks, made, caplog):
    caplog.set_level(logging.INFO, "wukong")
    job = Job(21, backup=backup)
    for i in range(20):
        job.ends(str(i), report={"wall_s": float(i)})  # half of them took 10 s and more: 40 s are slow
    for at in range(60):
        job.beats("20", at=float(at), locks=locks)
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
    job.store[NAMES.heartbeat("1")] = Heartbeat(0.0, 3)
    job.pass_time(BEAT_S)
    assert job.watch.tasks_run == 8
    assert [state.invocation for state in job.watch.seen] == ["0", "1", "2"]


def test_a_failure_that_is_reported_after_the_end_is_none():
    job = Job()
    job.ends()
    job.fails()
    assert job.made == [] and job.watch.failures == []


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
