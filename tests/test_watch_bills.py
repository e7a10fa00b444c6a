"""Each run of an invocation is billed once, however it ended."""

import pytest
from watch_tools import BEAT_S, NAMES, Job, with_a_child

from wukong.core.account import Moment, account
from wukong.core.events import Report
from wukong.core.track import Track


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
