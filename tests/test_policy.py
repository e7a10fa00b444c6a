"""The rules that trade work here against work elsewhere, as tables."""

import math

import dask
import numpy as np
import pytest

import wukong
from wukong.backends.storage import Capabilities
from wukong.client.plans import store_of
from wukong.config import Settings
from wukong.core.policy import PINNED, START_S, SWITCH_S, Costs, Policy, parts
from wukong.errors import ConfigError

HANDOVER_S = 20e-6


@pytest.mark.parametrize(
    ("n_ready", "task_s", "patience_s", "free", "busy", "expected"),
    [
        # nothing to hand over
        (0, 1.0, 0.05, 100, False, 0),
        (1, 1.0, 0.05, 100, False, 0),
        (0, 1.0, 0.05, 100, True, 0),
        # long tasks go one to a part; one stays, unless we are busy already
        (1, 1.0, 0.05, 100, True, 1),
        (10, 1.0, 0.05, 100, False, 9),
        (10, 1.0, 0.05, 100, True, 10),
        (1_000, 1.0, 0.05, 1_000, False, 999),
        (2, 1.0, 0.05, 100, False, 1),
        # never more than there are free slots
        (10, 1.0, 0.05, 1, False, 1),
        (10, 1.0, 0.05, 3, False, 3),
        (10, 1.0, 0.05, 0, False, 0),
        (10, 1.0, 0.05, -1, True, 0),
        # each part holds at least patience worth of work
        (10, 0.01, 0.05, 100, False, 0),
        (12, 0.01, 0.05, 100, False, 1),
        (100, 0.01, 0.05, 100, False, 15),
        (100, 0.01, 0.05, 100, True, 16),
        # microsecond tasks are dearer to hand over than to run
        (1_000_000, 1e-6, 0.05, 100, False, 0),
        (1_000_000, HANDOVER_S, 0.0, 100, False, 0),
        # no patience: as many as there are tasks
        (10, 1.0, 0.0, 100, False, 9),
        # endless patience: never
        (10, 1.0, math.inf, 100, False, 0),
        (10, 1.0, math.inf, 100, True, 0),
        (10, 0.0, 0.0, 100, False, 0),
    ],
)
def test_how_many_parts(n_ready, task_s, patience_s, free, busy, expected):
    assert parts(n_ready, task_s, patience_s, HANDOVER_S, free, busy=busy) == expected


@pytest.mark.parametrize(
    ("n_ready", "task_s", "lanes", "expected"),
    [
        (10, 1.0, 4, 3),  # long tasks: one to each lane
        (11, 0.03, 2, 5),  # two of these are worth an invocation: no part has fewer
        (3, 0.01, 8, 0),  # all together are worth none
    ],
)
def test_how_many_parts_with_lanes(n_ready, task_s, lanes, expected):
    assert parts(n_ready, task_s, 0.05, HANDOVER_S, 100, busy=True, lanes=lanes) == expected
    assert parts(n_ready, task_s, 0.05, HANDOVER_S, 100, busy=False, lanes=lanes) == max(0, expected - 1)


def test_what_is_just_worth_an_invocation_goes():
    assert parts(10, 1.0, 10.0, 0.0, 100, busy=True) == 1


@pytest.mark.parametrize("busy", [False, True])
def test_parts_never_starve_each_other(busy):
    for n_ready in (2, 7, 50, 999):
        for task_s in (1e-4, 1e-3, 0.02, 3.0):
            for patience_s in (0.0, 0.001, 0.05, 1.0):
                n = parts(n_ready, task_s, patience_s, HANDOVER_S, 10_000, busy=busy)
                shares = n if busy else n + 1
                if n:
                    assert n_ready // shares * (task_s - HANDOVER_S) >= patience_s
                    assert shares <= n_ready


def test_patience_is_what_an_invocation_costs_unless_set():
    costs = Costs(0.05, 0.001, 1e8)
    assert costs.patience(Policy()) == 0.05 + START_S
    assert costs.patience(Policy(patience_s=0.0)) == 0.0
    assert costs.patience(Policy(patience_s=3.0)) == 3.0
    assert costs.patience(Policy(fan_out="eager", patience_s=3.0)) == 0.0


def test_patience_follows_what_is_measured():
    costs = Costs(0.05, 0.001, 1e8)
    costs.invoke_s = 0.2
    assert costs.patience(Policy()) == 0.2 + START_S


def test_large_is_what_costs_more_to_move_than_an_invocation_unless_set():
    costs = Costs(0.05, 0.001, 1e8)
    assert costs.large(Policy()) == pytest.approx((0.05 + START_S) * 1e8)
    assert costs.large(Policy(large_object_bytes=7)) == 7
    assert costs.large(Policy(large_object_bytes=0)) == 0
    assert Costs(0.0, 0.0, 1e3).large(Policy()) == 65_536, "a value of a few kB is never worth an invocation"


def test_a_request_is_for_another_thread_if_it_takes_longer_than_that_thread_costs():
    quick, slow = Costs(0.0, 5e-6, 2e9), Costs(0.0, 0.0005, 25e6)
    assert not quick.overlaps(1_000_000) and quick.overlaps(2_000_000)
    assert not slow.overlaps(12_000) and slow.overlaps(13_000) and Costs(0.0, SWITCH_S, 25e6).overlaps(0)


def test_what_is_fetched_is_supposed_to_be_as_large_as_of_late_and_before_the_first_larger_than_what_rides():
    quick, slow = Costs(0.0, 5e-6, 2e9), Costs(0.0, 0.0005, 25e6)
    assert slow.fetches_ahead(Policy()) and not slow.fetches_ahead(Policy(ride_bytes=0))
    assert not quick.fetches_ahead(Policy())
    quick.fetched([16, 2_000_000])
    assert quick.fetches_ahead(Policy())
    quick.fetched([])
    assert quick.fetches_ahead(Policy())
    quick.fetched([16])
    assert not quick.fetches_ahead(Policy())


def test_the_delay_budget_is_what_moving_the_value_costs_unless_set():
    costs = Costs(0.05, 0.001, 1e8)
    assert costs.move_s(1e8) == pytest.approx(2 * (0.001 + 1.0))
    assert costs.delay_budget(Policy(), 1e8) == costs.move_s(1e8)
    assert costs.delay_budget(Policy(delay_budget_s=0.0), 1e8) == 0.0
    assert costs.delay_budget(Policy(delay_budget_s=9.0), 1e8) == 9.0
    assert costs.delay_budget(Policy(delay_budget_s=9.0), PINNED) > 9.0


@pytest.mark.parametrize("size_bytes", [8_000_000, 32_000_000])
def test_a_first_guess_at_the_rate_that_is_ten_times_off_is_mended_within_a_few_transfers(size_bytes):
    costs = Costs(0.05, 0.001, 250e6)
    for _ in range(4):
        costs.moved(size_bytes, 0.001 + size_bytes / 25e6)
    assert costs.measured == pytest.approx((4 * size_bytes, 4 * size_bytes / 25e6))
    assert 25e6 < costs.bandwidth_bytes_per_s < 32e6


def test_a_small_transfer_tells_nothing_and_a_read_is_as_fast_as_declared_at_most():
    costs = Costs(0.05, 0.001, 250e6)
    costs.moved(999_999, 1.0)
    assert costs.measured == (0.0, 0.0)
    costs.moved(100_000_000, 0.0, read=True)
    assert costs.bandwidth_bytes_per_s == pytest.approx(250e6)
    costs.moved(100_000_000, 0.0)
    assert costs.bandwidth_bytes_per_s > 450e6


def test_slow_transfers_of_many_bytes_outweigh_a_few_quick_ones():
    costs, alone = Costs(0.05, 0.0, 250e6), Costs(0.05, 0.0, 250e6)
    costs.learn([(500e6, 20.0), (500e6, 30.0), (0.0, 0.0)])
    found = costs.bandwidth_bytes_per_s
    assert found == pytest.approx(20e6, rel=0.01), "all bytes by all seconds"
    costs.learn([(50e6, 0.2)])
    assert found < costs.bandwidth_bytes_per_s < 1.15 * found
    child = Costs(*costs.told)
    assert child.told == costs.told
    for each in (child, alone):
        each.moved(10_000_000, 0.04)
    assert child.bandwidth_bytes_per_s == pytest.approx(costs.bandwidth_bytes_per_s, rel=0.03)
    assert child.measured == alone.measured == (10_000_000, 0.04), "what it was told it has not measured"


def test_what_a_job_finds_slow_counts_at_once_and_what_it_finds_quick_by_and_by():
    """Few that move at once find the link quick. If all then rely on that, all are slow."""
    costs = Costs(0.05, 0.0, 250e6)
    costs.learn([(2e9, 40.0)])
    assert costs.bandwidth_bytes_per_s == pytest.approx(50e6, rel=0.02)
    rates = []
    for _ in range(30):
        costs.learn([(600e6, 1.5)])
        rates.append(costs.bandwidth_bytes_per_s)
    assert 50e6 < rates[0] < 80e6 and rates[2] < 100e6 and rates[-1] > 350e6 and rates == sorted(rates)
    costs.learn([(2e9, 40.0)])
    assert costs.bandwidth_bytes_per_s < 100e6


def test_the_next_job_begins_with_what_the_last_one_found():
    storage = {"name": "faulty", "store": "local", "bandwidth_bytes_per_s": 20e6}
    options = {"fan_out": "eager", "delay_budget_s": 0.0, "large_object_bytes": 10**9}
    with wukong.Client(storage=storage, progress=False, **options) as client:
        costs = client._deployment.ground.costs
        costs.bandwidth_bytes_per_s = 1e12  # as far off as a guess can be
        blocks = {("x", i): (np.ones, 250_000) for i in range(4)}
        assert client.get({**blocks, "sum": (len, list(blocks))}, "sum") == 4
        client.last_job.summary()
        assert costs.bandwidth_bytes_per_s < 1e11


@pytest.mark.parametrize(
    ("found", "age_s", "begins"),
    [
        (2.5e6, 0.0, 2.5e6),
        (2.5e6, -1e9, 2.5e6),  # a clock was wrong
        (2.5e6, 7 * 86_400, 25e6),
        (2.5e6, 400 * 86_400, 250e6),
        (1e30, 0.0, 250e9),
        (0.5, 0.0, 250e3),
        (0.0, 0.0, 250e6),
        (math.nan, 0.0, 250e6),
        (math.inf, 0.0, 250e6),
        (-1.0, 0.0, 250e6),
    ],
)
def test_a_rate_that_an_earlier_client_has_found_counts_the_less_the_older_it_is(found, age_s, begins):
    costs = Costs(0.05, 0.001, 250e6)
    costs.begin(found, age_s)
    assert costs.bandwidth_bytes_per_s == pytest.approx(begins)
    for _ in range(60):
        costs.learn([(5e12, 1e6)])
    costs.begin(found, age_s)
    assert costs.bandwidth_bytes_per_s == pytest.approx(5e6, rel=1e-3)


def test_a_client_begins_with_what_an_earlier_one_has_found_at_the_same_store(recalls, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = {"name": "faulty", "store": "local", "bandwidth_bytes_per_s": 20e6}
    stored = {"fan_out": "eager", "delay_budget_s": 0.0, "large_object_bytes": 10**9}
    blocks = {("x", i): (np.ones, 250_000) for i in range(4)}
    with wukong.Client(storage=slow, progress=False, **stored) as client:
        client.get({**blocks, "sum": (len, list(blocks))}, "sum")
        client.last_job.summary()
        found = client._deployment.ground.costs.bandwidth_bytes_per_s
    begun = []
    for storage in (slow, "local"):
        with wukong.Client(storage=storage, progress=False) as client:
            costs = client._deployment.ground.costs
            assert costs.bandwidth_bytes_per_s == costs.declared_bytes_per_s != found
            client.plan(dask.delayed(abs)(-1))
            begun.append(costs.bandwidth_bytes_per_s)
    assert begun == [pytest.approx(found, rel=1e-3), costs.declared_bytes_per_s]


def test_a_store_is_told_from_others_by_nothing_secret():
    one, other, elsewhere, same = (
        store_of(Settings.load(storage=f"redis://:{word}@{host}:6379"))
        for word, host in (("sesame", "a"), ("open", "a"), ("sesame", "b"), ("sesame", "a"))
    )
    assert one == other == same != elsewhere
    assert store_of(Settings.load()) == store_of(Settings.load(storage="local")) != one


def test_one_bad_moment_of_a_store_is_forgotten_in_jobs_that_move_nothing():
    costs = Costs(0.05, 0.001, 250e6)
    costs.learn([(20e6, 10.0)])
    assert 2e6 < costs.bandwidth_bytes_per_s < 3e6
    costs.learn([])
    assert 2e6 < costs.bandwidth_bytes_per_s < 4e6
    for _ in range(100):
        costs.learn([])
    assert 200e6 < costs.bandwidth_bytes_per_s <= 250e6
    costs.learn([(1e6, 0.4)])
    assert 20e6 < costs.bandwidth_bytes_per_s < 100e6  # a single measurement may be that moment


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_store_declares_no_rate_that_is_none(rate):
    """One of infinity would become NaN as soon as something is learned."""
    with pytest.raises(ConfigError, match="bandwidth_bytes_per_s must be finite and more than 0"):
        Capabilities(bandwidth_bytes_per_s=rate)
    with pytest.raises(ConfigError, match="round_trip_s must be finite"):
        Capabilities(round_trip_s=rate or math.inf)
