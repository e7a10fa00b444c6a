"""Invocations that wait on record for a seat of a limit: when the client's watch makes them."""

import pytest
from watch_tools import BEAT_S, NAMES, Job, Store

from wukong.core.account import Moment, account
from wukong.core.payload import PAYLOAD


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
