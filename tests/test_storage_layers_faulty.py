"""Faults on demand: each happens, about as often as asked for, and the same ones for the same seed."""

import threading
from dataclasses import asdict
from itertools import pairwise

import pytest
from storage_layers_openers import Clock, Memory

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Arrival, Outcome
from wukong.backends.storage.layers import Chunked, faulty, patient, stacked
from wukong.backends.storage.layers.faulty import Faulty, StoreFaults
from wukong.backends.storage.local import LocalStore
from wukong.errors import ConfigError, PluginError, StoreFull, StoreUnavailable
from wukong.testing.store_machine import bytes_of, pattern

N = 2_000


@pytest.fixture
def inner() -> Memory:
    return Memory()


@pytest.fixture
def local():
    store = LocalStore()
    yield store
    store.close()


def outcome(do) -> str:
    """What became of a call."""
    try:
        do()
    except StoreUnavailable as error:
        return "before" if "before" in error.message else "after"
    except StoreFull:
        return "full"
    return "done"


def story(store, n: int = 200) -> list[str]:
    """What became of a series of calls of all verbs."""
    found = []
    for turn in range(n):
        found.append(outcome(lambda turn=turn: store.put({b"%d" % turn: b"1"})))
        found.append(outcome(lambda turn=turn: store.get([b"%d" % turn])))
        found.append(outcome(lambda turn=turn: store.incr([Arrival(b"f%d" % turn, (0,), 2, b"me")])))
        found.append(outcome(lambda turn=turn: store.wait(b"%d" % turn, 0.0)))
        found.append(outcome(lambda turn=turn: store.delete([b"%d" % turn])))
    return found


class TestScript:
    def test_the_same_seed_has_the_same_faults(self):
        asked = {"error_before": 0.1, "error_after": 0.1, "full": 0.1}
        first, again, other = (story(Faulty(Memory(), seed=seed, **asked)) for seed in (7, 7, 8))
        assert first == again != other
        assert set(first) == {"done", "before", "after", "full"}

    def test_turning_a_kind_on_leaves_the_others_where_they_were(self):
        some = story(Faulty(Memory(), seed=1, error_before=0.1))
        more = story(Faulty(Memory(), seed=1, error_before=0.1, full=0.2, latency_jitter_s=1e-9, lost=0.1, stale=0.1))
        assert [each == "before" for each in some] == [each == "before" for each in more]

    def test_verbs_have_faults_of_their_own(self):
        script = StoreFaults(seed=1, error_before=0.5)
        of_verb = [[script.fault(verb, n).error for n in range(100)] for verb in ("get", "put", "incr")]
        assert of_verb[0] != of_verb[1] != of_verb[2]

    def test_threads_share_one_count(self):
        def faults_of(n_threads):
            store = Faulty(Memory(), seed=3, error_before=0.2)
            found = []
            threads = [
                threading.Thread(target=lambda: found.extend(outcome(lambda: store.get([b"a"])) for _ in range(60)))
                for _ in range(n_threads)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return found.count("before")

        store = Faulty(Memory(), seed=3, error_before=0.2)
        alone = [outcome(lambda: store.get([b"a"])) for _ in range(180)]
        assert faults_of(3) == alone.count("before")

    def test_processes_have_faults_of_their_own_if_asked_for(self):
        script = StoreFaults(seed=1, error_before=0.5)
        of_process = [[script.fault("get", n, process).error for n in range(100)] for process in (0, 1, 2)]
        assert of_process[0] != of_process[1] != of_process[2]
        stories = [story(Faulty(Memory(), error_before=0.5, by_process=by_process)) for by_process in (False, True)]
        assert stories[0] != stories[1]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"lost": 1.5}, "lost is 1.5; it is a probability"),
            ({"stale": -0.1}, "stale is -0.1"),
            ({"full": float("nan")}, "full is nan"),
            ({"error_before": 0.6, "error_after": 0.6}, "add up to more than 1"),
            ({"latency_s": -1.0}, "latency_s is -1.0"),
            ({"latency_jitter_s": -1.0}, "latency_jitter_s is -1.0"),
            ({"bandwidth_bytes_per_s": 0.0}, "bandwidth_bytes_per_s is 0.0; it is a rate"),
            ({"only": ["got"]}, "verbs from get, put, delete, wait, incr"),
            ({"only": "get"}, "only is 'get'; it is a list"),
            ({"matching": "("}, "regular expression"),
        ],
    )
    def test_refuses_what_cannot_be(self, inner, options, says):
        with pytest.raises(ConfigError, match=says.replace("(", r"\(")):
            Faulty(inner, **options)

    def test_refuses_options_that_there_are_not(self):
        with pytest.raises(PluginError, match="has no option 'latency'") as error:
            load_storage({"name": "faulty", "store": "local", "latency": 1.0})
        assert "latency_s" in error.value.hint


class TestErrors:
    @pytest.mark.parametrize("kind", ["error_before", "error_after"])
    @pytest.mark.parametrize("verb", ["get", "put", "delete", "wait", "incr"])
    def test_happen_at_about_their_rate(self, inner, kind, verb):
        store = Faulty(inner, seed=5, **{kind: 0.1})
        calls = {
            "get": lambda: store.get([b"a"]),
            "put": lambda: store.put({b"a": b"1"}),
            "delete": lambda: store.delete([b"a"]),
            "wait": lambda: store.wait(b"a", 0.0),
            "incr": lambda: store.incr([Arrival(b"f", (0,), 2, b"me")]),
        }
        found = [outcome(calls[verb]) for _ in range(N)]
        assert 0.08 * N < found.count(kind.removeprefix("error_")) < 0.12 * N
        assert found.count("done") + found.count(kind.removeprefix("error_")) == N

    @pytest.mark.parametrize(("kind", "there"), [("error_before", False), ("error_after", True)])
    def test_before_leave_nothing_done_and_after_everything(self, inner, kind, there):
        store = Faulty(inner, **{kind: 1.0})
        inner.values[b"old"] = b"0"
        calls = [
            lambda: store.put({b"a": b"1"}),
            lambda: store.incr([Arrival(b"f", (0,), 2, b"me")]),
            lambda: store.delete([b"old"]),
            lambda: store.get([b"a"]),
            lambda: store.wait(b"a", 0.0),
        ]
        assert [outcome(call) for call in calls] == [kind.removeprefix("error_")] * 5
        assert (list(inner.values), list(inner.records)) == (([b"a"], [b"f"]) if there else ([b"old"], []))

    def test_full_strikes_what_needs_room_and_changes_nothing(self, inner):
        store = Faulty(inner, seed=2, full=0.1)
        found = story(store, N // 2)
        assert 0.08 * N < found.count("full") < 0.12 * N
        always = Faulty(inner, full=1.0)
        inner.values, inner.records = {}, {}
        assert set(story(always, 3)) == {"full", "done"}
        assert (inner.values, inner.records) == ({}, {})

    def test_strike_only_the_verbs_and_keys_that_are_asked_for(self, inner):
        store = Faulty(inner, error_before=1.0, only=["put"], matching="^job/v/")
        assert outcome(lambda: store.get([b"job/v/1"])) == "done"
        assert outcome(lambda: store.put({b"job/w/1": b"1"})) == "done"
        assert outcome(lambda: store.put({b"job/w/1": b"1", b"job/v/1": b"1"})) == "before"
        store = Faulty(inner, lost=1.0, matching="^job/v/")
        store.put({b"job/v/1": b"1", b"job/w/1": b"2"})
        assert store.get([b"job/v/1", b"job/w/1"]) == [None, b"2"]


class TestLosses:
    def test_a_lost_value_is_missing_for_everyone_until_it_is_written_again(self, local):
        store = Faulty(local, seed=4, lost=0.2)
        for turn in range(N // 10):
            store.put({b"%d/%d" % (turn, n): b"1" for n in range(10)})
        keys = [b"%d/%d" % (turn, n) for turn in range(N // 10) for n in range(10)]
        found = store.get(keys)
        assert 0.17 * N < found.count(None) < 0.23 * N
        assert store.get(keys) == store.spec().open().get(keys) == found
        lost = keys[found.index(None)]
        assert store.wait(lost, 0.0) is None
        sound = Faulty(local)
        sound.put({lost: b"again"})
        assert store.get([lost]) == [b"again"]
        assert store.wait(lost, 0.0) == b"again"

    def test_a_value_lost_takes_the_one_before_with_it_and_no_record(self, inner):
        inner.put({b"a": b"old"})
        inner.incr([Arrival(b"a", (0,), 2, b"me")])
        store = Faulty(inner, lost=1.0)
        store.put({b"a": b"new"})
        assert store.get([b"a"]) == [None]
        assert store.incr([Arrival(b"a", (1,), 2, b"me")])[0].complete

    def test_a_lost_value_is_waited_for(self, inner, monkeypatch):
        clock = Clock(monkeypatch, faulty)
        store = Faulty(inner, lost=1.0)
        store.put({b"a": b"1"})
        assert store.wait(b"a", 2.0) is None
        assert clock.now_s == pytest.approx(1_002.0)

    def test_a_lost_record_begins_anew_and_no_value_is_lost(self, local):
        store = Faulty(local, seed=6, lost_record=0.2)
        store.put({b"both": b"value"})
        for n in range(N):
            store.incr([Arrival(b"%d" % n, (0,), 2, b"me")])
            store.incr([Arrival(b"both", (n,), 2 * N, b"me")])
        again = Faulty(local).incr([Arrival(b"%d" % n, (1,), 2, b"me") for n in range(N)])
        assert 0.17 * N < again.count(Outcome(False, False)) < 0.23 * N
        assert bytes_of(store.get([b"both"])) == [b"value"]

    def test_a_stale_read_shows_what_was_there_before_and_the_next_one_does_not(self, local):
        store = Faulty(local, seed=9, stale=0.1)
        store.put({b"a": b"old", b"new": b"1"})
        Faulty(local, stale=1e-9).put({b"a": b"newer"})
        reads = [tuple(bytes_of(store.get([b"a", b"new", b"never"]))) for _ in range(N)]
        assert {read[0] for read in reads} == {b"old", b"newer"}
        assert {read[1] for read in reads} == {None, b"1"}
        assert {read[2] for read in reads} == {None}
        for n in range(2):
            assert 0.08 * N < sum(read[n] in (b"old", None) for read in reads) < 0.12 * N
        assert any(x[0] == b"old" and y[0] == b"newer" for x, y in pairwise(reads))

    def test_nothing_of_it_all_is_left_after_delete(self, inner):
        store = Faulty(inner, seed=1, stale=0.5, lost=0.5, lost_record=0.5)
        for n in range(50):
            store.put({b"%d" % n: b"1"})
            store.put({b"%d" % n: b"2"})
            store.incr([Arrival(b"%d" % n, (0,), 2, b"me")])
        store.delete([b"%d" % n for n in range(50)])
        assert (inner.values, inner.records) == ({}, {})

    def test_large_values_that_lose_chunks_are_whole_or_missing(self, inner):
        store = Chunked(Faulty(inner, seed=1, lost=0.05, stale=0.05), chunk_bytes=100)
        values = {b"%d" % n: pattern(n * 7) for n in range(100)}
        for key, value in values.items():
            store.put({key: value})
        found = bytes_of(store.get(list(values)))
        assert all(value in (None, values[key]) for key, value in zip(values, found, strict=True))
        assert 20 < found.count(None) < 90

    def test_patience_mends_what_can_be_mended(self, inner, monkeypatch):
        Clock(monkeypatch, patient)
        store = stacked(Faulty(inner, seed=3, error_before=0.02, error_after=0.02), patience_s=30.0)
        values = {b"%d" % n: b"%d" % n for n in range(100)}
        for key, value in values.items():
            store.put({key: value})
        assert [store.get([key])[0] for key in values] == list(values.values())


class TestDistance:
    def test_every_call_takes_its_latency(self, inner, monkeypatch):
        clock = Clock(monkeypatch, faulty)
        story(Faulty(inner, latency_s=0.5), 2)
        assert clock.sleeps == [0.5] * 10
        clock.sleeps.clear()
        story(Faulty(inner, latency_s=0.5, latency_jitter_s=1.0, only=["get"]), 50)
        assert all(0.5 <= slept <= 1.5 for slept in clock.sleeps)
        assert min(clock.sleeps) < 0.7 and max(clock.sleeps) > 1.3

    def test_latency_counts_as_time_waited(self, inner, monkeypatch):
        clock = Clock(monkeypatch, faulty)
        given = []
        inner.wait = lambda key, timeout_s: given.append(timeout_s)
        store = Faulty(inner, latency_s=0.5)
        store.wait(b"a", 2.0)
        store.wait(b"a", 0.1)
        assert given == [1.5, 0.0]
        assert clock.now_s == 1_001.0

    def test_values_travel_one_after_the_other(self, inner, monkeypatch):
        clock = Clock(monkeypatch, faulty)
        store = Faulty(inner, bandwidth_bytes_per_s=100.0)
        store.put({b"a": bytes(150), b"b": bytes(50)})
        assert clock.sleeps == [2.0]
        store.get([b"a", b"never"])
        store.incr([Arrival(b"f", (0,), 1, b"me", bytes(10))])
        assert clock.sleeps == pytest.approx([2.0, 1.5, 0.1, 0.1])
        monkeypatch.setattr(faulty, "_sleep", clock.sleeps.append)  # at once: time stands still
        store.get([b"b"])
        store.get([b"b"])
        assert clock.sleeps[4:] == pytest.approx([0.5, 1.0])

    def test_shows_in_what_the_store_says_of_itself(self):
        inner = Memory(round_trip_s=0.1, bandwidth_bytes_per_s=5e6)
        capabilities = Faulty(inner, latency_s=0.2, latency_jitter_s=0.2, bandwidth_bytes_per_s=1e6).capabilities
        assert capabilities.round_trip_s == pytest.approx(0.4)
        assert capabilities.bandwidth_bytes_per_s == 1e6
        assert Faulty(inner, bandwidth_bytes_per_s=1e9).capabilities.bandwidth_bytes_per_s == 5e6


class TestPlugin:
    def test_wraps_a_store_by_name_and_takes_all_faults_along(self):
        options = {
            "seed": 3,
            "latency_s": 1e-6,
            "latency_jitter_s": 1e-6,
            "bandwidth_bytes_per_s": 1e12,
            "error_before": 0.01,
            "error_after": 0.02,
            "full": 0.03,
            "lost": 0.04,
            "lost_record": 0.05,
            "stale": 0.06,
            "only": ["get", "put"],
            "matching": "v",
            "by_process": True,
        }
        store = load_storage({"name": "faulty", "store": {"name": "local", "large_bytes": 10}, **options})
        assert isinstance(store.inner, LocalStore)
        again = store.spec().open()
        assert asdict(again.faults) == asdict(store.faults) == options
        assert again.spec() == store.spec()
        assert again.inner.path == store.inner.path
        again.close()
        store.close()

    def test_is_a_store_for_split_and_the_other_way_round(self):
        store = load_storage(
            {"name": "faulty", "lost": 1.0, "store": {"name": "split", "records": "local", "values": "local"}}
        )
        store.put({b"a": bytes(100_000)})
        assert store.spec().open().get([b"a"]) == [None]
        store.close()
