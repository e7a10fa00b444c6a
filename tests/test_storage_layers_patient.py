"""Stores that are given time to come back, and what they are asked for, counted."""

import pickle
import threading

import pytest
from storage_layers_openers import Clock, Limited, Memory

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival
from wukong.backends.storage.layers import Chunked, Metered, Patient, Usage, VerbUsage, patient, stacked, within
from wukong.backends.storage.layers import metered as metered_module
from wukong.core.time_left import limited, time_left_s
from wukong.errors import ConfigError, StoreFull, StoreUnavailable
from wukong.testing.store_machine import bytes_of, pattern


@pytest.fixture
def inner() -> Memory:
    return Memory()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Pauses are not cut short at random, and take no time."""
    monkeypatch.setattr(patient.random, "uniform", lambda low, high: high)
    return Clock(monkeypatch, patient)


@pytest.fixture
def store(inner, clock) -> Patient:
    return Patient(inner, 10.0)


def fails(inner: Memory, times: float = float("inf"), takes_s: float = 0.0, clock: Clock | None = None) -> list[int]:
    """Have the store fail `times` times; return a list whose only item counts the attempts."""
    attempts = [0]

    def fail(*_):
        attempts[0] += 1
        if clock is not None:
            clock.now_s += takes_s
        if attempts[0] <= times:
            raise StoreUnavailable(f"away, {attempts[0]}")

    inner.before = fail
    return attempts


VERBS = {
    "get": lambda store: store.get([b"a"]),
    "put": lambda store: store.put({b"b": b"2"}),
    "delete": lambda store: store.delete([b"b"]),
    "wait": lambda store: store.wait(b"a", 60.0),
    "incr": lambda store: store.incr([Arrival(b"f", (0,), 2, b"me")]),
}


class TestPatient:
    @pytest.mark.parametrize("verb", VERBS)
    def test_an_outage_that_ends_in_time_is_survived(self, inner, store, clock, verb):
        inner.values[b"a"] = b"1"
        expected = VERBS[verb](store)
        fails(inner, 4)
        assert VERBS[verb](store) == expected
        assert clock.sleeps == [0.05, 0.1, 0.2, 0.4]

    @pytest.mark.parametrize("verb", VERBS)
    def test_the_last_error_is_raised_when_patience_is_at_its_end(self, inner, store, clock, verb):
        attempts = fails(inner)
        with pytest.raises(StoreUnavailable) as failure:
            VERBS[verb](store)
        assert failure.value.message == f"away, {attempts[0]}"
        assert clock.now_s == 1_010.0
        assert clock.sleeps == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0, 0.85])
        copy = pickle.loads(pickle.dumps(failure.value))
        assert str(copy) == str(failure.value)
        assert copy.__notes__ == ["The store was tried 11 times in 10 s."]

    def test_a_long_outage_is_told_once_by_whoever_is_to_tell(self, inner, store, clock, caplog):
        aloud = Patient(inner, 10.0, aloud=True)
        for patient_one, failures in ((aloud, 4), (store, 6)):
            fails(inner, failures)
            patient_one.get([b"a"])
        assert [record for record in caplog.records if record.levelname == "WARNING"] == []
        for key in (b"a", b"b"):
            fails(inner, 6)
            aloud.get([key])
        [record] = [record for record in caplog.records if record.levelname == "WARNING"]
        assert record.getMessage() == "the store has been away for 2 s, and is waited for 8 s more: away, 6"
        clock.now_s += 10.0
        fails(inner, 6)
        aloud.get([b"a"])
        assert [record.levelname for record in caplog.records].count("WARNING") == 2

    @pytest.mark.parametrize("verb", VERBS)
    def test_patience_counts_from_the_first_try_not_from_its_failure(self, inner, store, clock, verb):
        fails(inner, takes_s=6.0, clock=clock)
        with pytest.raises(StoreUnavailable) as failure:
            VERBS[verb](store)
        assert clock.now_s == pytest.approx(1_000.0 + 6.0 + 0.05 + 6.0)
        assert failure.value.__notes__ == ["The store was tried 2 times in 12 s."]

    def test_while_a_large_value_moves_patience_counts_from_the_last_of_it(self, inner, store, clock):
        def breaks_off(*_):
            clock.now_s += 100.0
            error = StoreUnavailable("it broke off")
            error.silent_s = 3.0
            raise error

        inner.before = breaks_off
        with pytest.raises(StoreUnavailable):
            store.put({b"a": bytes(100)})
        assert clock.now_s == pytest.approx(1_000.0 + 100.0 + 0.05 + 100.0)

    @pytest.mark.parametrize("verb", VERBS)
    def test_the_store_is_told_how_long_it_is_waited_for(self, inner, verb):
        left = []
        inner.before = lambda *_: left.append(time_left_s())
        VERBS[verb](Patient(inner, 7.0))
        assert 0.0 < left[0] <= 7.0
        VERBS[verb](Patient(inner, 0.0))
        with limited(3.0):
            VERBS[verb](Patient(inner, 7.0))
        assert left[1] == float("inf")
        assert 0.0 < left[2] <= 3.0
        assert time_left_s() == float("inf")

    @pytest.mark.parametrize("verb", VERBS)
    def test_patience_ends_when_the_caller_s_time_is_over(self, inner, store, clock, verb):
        attempts = fails(inner)
        with limited(0.0), pytest.raises(StoreUnavailable):
            VERBS[verb](store)
        assert attempts == [1]

    @pytest.mark.parametrize("verb", VERBS)
    def test_an_error_that_repeating_does_not_mend_is_raised_at_once(self, inner, store, clock, verb):
        def full(*_):
            raise StoreFull("full")

        inner.before = full
        with pytest.raises(StoreFull):
            VERBS[verb](store)
        assert clock.sleeps == []

    @pytest.mark.parametrize("verb", VERBS)
    def test_without_patience_every_error_is_raised_at_once(self, inner, clock, verb):
        attempts = fails(inner)
        with pytest.raises(StoreUnavailable):
            VERBS[verb](Patient(inner, 0.0))
        assert (attempts, clock.sleeps) == ([1], [])

    @pytest.mark.parametrize("patience_s", [-1.0, float("nan")])
    def test_refuses_a_patience_that_cannot_be(self, inner, patience_s):
        with pytest.raises(ConfigError, match="patience_s"):
            Patient(inner, patience_s)

    def test_pauses_are_cut_short_at_random(self, inner, monkeypatch):
        clock = Clock(monkeypatch, patient)
        fails(inner, 5)
        Patient(inner, 60.0).get([b"a"])
        whole = [0.05, 0.1, 0.2, 0.4, 0.8]
        assert all(pause / 2 <= slept <= pause for pause, slept in zip(whole, clock.sleeps, strict=True))
        assert clock.sleeps != whole

    def test_does_not_take_values_which_cannot_be_repeated(self, inner):
        assert not Patient(Limited(inner), 1.0).capabilities.takes


class TestWait:
    def test_is_over_at_its_time_and_not_before_though_the_store_is_away(self, inner, store, clock):
        fails(inner)
        assert store.wait(b"a", 3.0) is None
        assert clock.now_s == pytest.approx(1_003.0)
        assert store.wait(b"a", 0.0) is None

    def test_sees_what_is_there_when_the_store_comes_back(self, inner, store, clock):
        inner.values[b"a"] = b"1"
        fails(inner, 5)
        assert store.wait(b"a", 3.0) == b"1"
        assert clock.now_s < 1_003.0

    def test_is_given_the_time_that_is_left(self, inner, store, clock):
        given = []
        inner.wait = lambda key, timeout_s: given.append(timeout_s) or Memory.wait(inner, key, timeout_s)
        fails(inner, 2)
        store.wait(b"a", 3.0)
        assert given == pytest.approx([3.0, 2.95, 2.85])

    def test_in_slices_hears_of_an_outage_when_patience_is_at_its_end(self, inner, store, clock):
        fails(inner)
        assert [store.wait(b"a", 1.0) for _ in range(9)] == [None] * 9
        with pytest.raises(StoreUnavailable):
            store.wait(b"a", 1.0)
        assert clock.now_s == pytest.approx(1_010.0)
        assert store.wait(b"a", 1.0) is None  # who goes on all the same is patient anew

    def test_in_slices_begins_anew_after_every_answer(self, inner, store, clock):
        for _ in range(5):
            fails(inner)
            for _ in range(9):
                assert store.wait(b"a", 1.0) is None
            inner.before = lambda *_: None
            assert store.wait(b"a", 1.0) is None

    def test_in_slices_is_not_kept_going_by_answers_to_others(self, inner, store, clock):
        inner.before = lambda verb, keys: fail_for(b"dead", keys)
        for _ in range(9):
            assert store.wait(b"dead", 1.0) is None
            store.put({b"alive": b"1"})
            assert store.wait(b"alive", 1.0) == b"1"
        with pytest.raises(StoreUnavailable):
            store.wait(b"dead", 1.0)

    def test_long_after_an_outage_the_next_one_is_another(self, inner, store, clock):
        fails(inner)
        assert store.wait(b"a", 9.0) is None
        clock.now_s += 1_000.0
        assert store.wait(b"a", 9.0) is None

    def test_keys_that_nobody_waits_for_any_more_are_forgotten(self, inner, store, clock):
        fails(inner)
        for n in range(3_000):
            store.wait(b"%d" % n, 0.0)
        assert len(store._waits) <= patient._MOST_WAITS


class TestMetered:
    def test_counts_calls_keys_and_bytes_of_each_verb(self, inner):
        store = Metered(inner)
        store.put({b"a": b"123", b"b": (memoryview(b"4567"), b"8")})
        store.get([b"a", b"b", b"never"])
        store.get([b"a"])
        store.wait(b"b", 0.0)
        store.wait(b"never", 0.0)
        store.incr([Arrival(b"f", (0,), 2, b"me", b"12"), Arrival(b"f", (1,), 2, b"me", b"345")])
        store.incr([Arrival(b"g", (0,), 2, b"me")])
        store.delete([b"a", b"b"])
        usage = store.usage()
        assert without_time(usage.put) == VerbUsage(calls=1, keys=2, written_bytes=8)
        assert without_time(usage.get) == VerbUsage(calls=2, keys=4, read_bytes=11)
        assert without_time(usage.wait) == VerbUsage(calls=2, keys=2, read_bytes=5)
        assert without_time(usage.incr) == VerbUsage(calls=2, keys=3, written_bytes=5, read_bytes=3)
        assert without_time(usage.delete) == VerbUsage(calls=1, keys=2)
        assert without_time(usage.total) == VerbUsage(calls=8, keys=13, written_bytes=13, read_bytes=19)

    def test_counts_the_time_spent_inside(self, inner, monkeypatch):
        clock = Clock(monkeypatch)
        monkeypatch.setattr(metered_module, "_now_s", lambda: clock.now_s)
        store = Metered(inner)
        inner.before = lambda verb, _: clock.sleep({"get": 2.0, "put": 3.0}[verb])
        store.get([b"a"])
        store.get([b"a"])
        store.put({b"a": b"1"})
        clock.sleep(100.0)
        usage = store.usage()
        assert (usage.get.busy_s, usage.put.busy_s, usage.total.busy_s) == (4.0, 3.0, 7.0)

    def test_counts_failures_and_what_they_were_about(self, inner):
        store = Metered(inner)
        fails(inner, 2)
        for _ in range(3):
            try:
                store.put({b"a": b"123"})
            except StoreUnavailable:
                continue
        assert without_time(store.usage().put) == VerbUsage(calls=3, keys=3, written_bytes=9, errors=2)

    def test_what_happened_in_between_is_a_difference(self, inner):
        store = Metered(inner)
        store.put({b"a": b"1"})
        before = store.usage()
        store.put({b"a": b"22", b"b": b""})
        assert without_time((store.usage() - before).put) == VerbUsage(calls=1, keys=2, written_bytes=2)
        assert without_time((before + before).put) == VerbUsage(calls=2, keys=2, written_bytes=2)
        assert without_time((before - before).total) == VerbUsage()
        assert Usage().total == VerbUsage()

    def test_loses_no_count_of_any_thread(self, inner):
        store = Metered(inner)
        inner.calls = NoList()

        def work():
            for _ in range(2_000):
                store.get([b"a", b"b"])

        for _ in range(3):
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (store.usage().get.calls, store.usage().get.keys) == (24_000, 48_000)
        assert len(store._tallies) <= 12

    def test_threads_do_not_share_what_they_count_on(self, inner):
        store = Metered(inner)
        meeting = threading.Barrier(4, timeout=30.0)
        inner.before = lambda *_: meeting.wait()
        threads = [threading.Thread(target=store.get, args=([b"a"],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store._tallies) == 4
        assert store.usage().get.calls == 4

    def test_counts_manifests_taken_as_deleted(self, inner):
        limited = Limited(inner)
        store = Metered(limited)
        store.put({b"a": b"magic"})
        assert store.take([b"a", b"b"], b"magic", 10) == [b"magic", None]
        assert without_time(store.usage().delete) == VerbUsage(calls=1, keys=2, read_bytes=5)
        assert not Metered(inner).capabilities.takes


class TestStacked:
    def test_cuts_values_only_if_the_store_has_a_limit(self, inner):
        assert within(stacked(inner, patience_s=1.0), Chunked) is None
        limited = Limited(inner)
        store = stacked(limited, patience_s=1.0)
        assert store.capabilities.max_value_bytes is None
        value = pattern(200_000)
        store.put({b"a": value})
        assert bytes_of(store.get([b"a"])) == [value]
        assert max(map(len, inner.values.values())) <= limited.capabilities.max_value_bytes

    def test_layers_are_found_from_outside(self, inner):
        store = stacked(inner, patience_s=1.0)
        store.put({b"a": b"1"})
        assert within(store, Metered).usage().put.calls == 1
        assert within(store, Patient) is store
        assert within(store, Memory) is inner
        assert within(inner, Metered) is None

    def test_every_attempt_is_counted_but_no_pause(self, inner, clock, monkeypatch):
        monkeypatch.setattr(metered_module, "_now_s", lambda: clock.now_s)
        fails(inner, 3, takes_s=0.5, clock=clock)
        store = stacked(inner, patience_s=60.0)
        store.get([b"a"])
        assert within(store, Metered).usage().get == VerbUsage(calls=4, keys=4, errors=3, busy_s=2.0)

    def test_is_closed_and_opened_elsewhere_as_the_store_inside(self, inner):
        spec = PluginSpec("somewhere:Store", {})
        inner.spec = lambda: spec
        inner.environment = lambda: {"A": "1"}
        store = stacked(Limited(inner), patience_s=1.0)
        assert (store.spec(), store.environment()) == (spec, {"A": "1"})
        store.close()
        assert inner.n_closed == 1


def fail_for(key, keys):
    if key in keys:
        raise StoreUnavailable("away")


def without_time(usage: VerbUsage) -> VerbUsage:
    assert usage.busy_s >= 0.0
    return usage - VerbUsage(busy_s=usage.busy_s)


class NoList:
    def append(self, _):
        """Forget it."""
