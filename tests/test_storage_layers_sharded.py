"""Many stores as one: where keys go, what runs at the same time, and what one that fails does to the others."""

import os
import subprocess
import sys
import threading
from collections import Counter
from functools import partial

import pytest
from storage_layers_openers import Limited, Memory

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Capabilities
from wukong.backends.storage.layers import sharded as module
from wukong.backends.storage.layers.sharded import Sharded
from wukong.backends.storage.local import LocalStore
from wukong.errors import ConfigError, StoreError, StoreFull, StoreUnavailable

KEYS = [b"job-7f3a/v/%d" % n for n in range(12_000)]
PATIENCE_S = 30.0


def names(n: int) -> list[str]:
    return [f"redis://host-{i}:6379/0" for i in range(n)]


def places(names: list[str], keys=KEYS) -> list[str]:
    """The name of the shard that each key is on."""
    by_store = dict(zip(map(id, stores := [Memory() for _ in names]), names, strict=True))
    store = Sharded(stores, names)
    return [by_store[id(store.shard_of(key))] for key in keys]


class Shards:
    """Three shards in memory under names that are easy to tell; `keys[n]` is a key of the n-th."""

    def __init__(self) -> None:
        self.stores = [Memory() for _ in range(3)]
        self.store = Sharded(self.stores, ["a", "b", "c"])
        self.keys = [next(k for k in KEYS if self.store.shard_of(k) is one) for one in self.stores]


@pytest.fixture
def shards():
    made = Shards()
    yield made
    made.store.close()


class TestPlaces:
    @pytest.mark.parametrize("n", [2, 3, 10, 40])
    def test_keys_spread_evenly(self, n):
        found = Counter(places(names(n)))
        even = len(KEYS) / n
        assert len(found) == n
        assert all(abs(count - even) < 5 * even**0.5 for count in found.values())

    def test_short_and_similar_names_and_keys_spread_too(self):
        found = Counter(places(list("abcdefgh"), [b"%d" % n for n in range(8_000)]))
        assert all(850 < found[name] < 1_150 for name in "abcdefgh")

    def test_the_order_of_names_does_not_matter(self):
        assert places(names(7)) == places(names(7)[::-1])

    def test_a_name_that_joins_takes_its_share_and_moves_nothing_else(self):
        before, after = places(names(9)), places(names(10))
        moved = [new for old, new in zip(before, after, strict=True) if old != new]
        assert set(moved) == {names(10)[-1]}
        assert 0.08 < len(moved) / len(KEYS) < 0.12
        left = Counter(old for old, new in zip(before, after, strict=True) if old != new)
        assert all(count > 80 for count in left.values()) and len(left) == 9

    def test_places_are_the_same_in_every_version(self):
        found = places(["h1:6379", "h2:6379", "h3:6379"], [b"n%d" % n for n in range(12)])
        assert [name[1] for name in found] == list("111233132312")

    def test_a_record_is_where_the_value_of_its_name_is(self, shards):
        for key, shard in zip(shards.keys, shards.stores, strict=True):
            shards.store.incr([Arrival(key, (0,), 2, b"me")])
            shards.store.put({key: b"1"})
            assert (list(shard.records), list(shard.values)) == ([key], [key])


class TestCalls:
    def test_what_concerns_one_shard_is_done_in_the_callers_thread(self, shards):
        threads = set()
        for shard in shards.stores:
            shard.before = lambda *_: threads.add(threading.get_ident())
        same = [key for key in KEYS[:40] if shards.store.shard_of(key) is shards.stores[0]]
        shards.store.put(dict.fromkeys(same, b"1"))
        assert shards.store.get(same) == [b"1"] * len(same)
        shards.store.incr([Arrival(key, (0,), 2, b"me") for key in same])
        shards.store.wait(same[0], 0.0)
        shards.store.delete(same)
        assert threads == {threading.get_ident()}
        assert [len(shard.calls) for shard in shards.stores] == [5, 0, 0]

    def test_what_concerns_several_is_done_at_the_same_time(self, shards):
        meeting = threading.Barrier(3, timeout=PATIENCE_S)
        for shard in shards.stores:
            shard.before = lambda *_: meeting.wait()
        shards.store.put(dict.fromkeys(shards.keys, b"1"))
        assert shards.store.get(shards.keys) == [b"1"] * 3
        shards.store.incr([Arrival(key, (0,), 2, b"me") for key in shards.keys])
        shards.store.delete(shards.keys)
        assert [len(shard.calls) for shard in shards.stores] == [4, 4, 4]

    def test_threads_do_not_wait_for_each_others_shards(self, shards):
        """One shard hangs in one thread's call; others' calls to the rest go through, however many."""
        release = threading.Event()
        shards.stores[0].before = lambda *_: release.wait(PATIENCE_S)
        stuck = [threading.Thread(target=shards.store.get, args=(shards.keys,)) for _ in range(8)]
        for thread in stuck:
            thread.start()
        assert shards.store.get(shards.keys[1:]) == [None, None]
        release.set()
        for thread in stuck:
            thread.join()

    def test_threads_are_kept_for_the_next_time_and_end_with_the_store(self, shards):
        for _ in range(50):
            shards.store.get(shards.keys)
        threads = [thread for thread in threading.enumerate() if thread.name == "wukong-shard"]
        assert 1 <= len(threads) <= 2
        shards.store.close()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        assert [shard.n_closed for shard in shards.stores] == [1, 1, 1]

    def test_threads_end_with_a_store_that_is_forgotten(self):
        made = Shards()
        made.store.get(made.keys)
        threads = [thread for thread in threading.enumerate() if thread.name == "wukong-shard"]
        assert threads
        del made
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def test_manifests_are_taken_if_every_shard_can(self):
        stores = [Memory() for _ in range(3)]
        store = Sharded([Limited(each) for each in stores], ["a", "b", "c"])
        store.put({key: b"magic%d" % n for n, key in enumerate(KEYS[:20])} | {KEYS[20]: b"other"})
        asked = [*KEYS[:21], b"never"]
        assert store.take(asked, b"magic", 6) == [
            *(b"magic%d" % n for n in range(10)),
            *[None] * 12,
        ]
        assert [each.values for each in stores] == [{}, {}, {}]
        assert Sharded([Limited(Memory()), Memory()], ["a", "b"]).capabilities.takes is False


class TestFailures:
    def test_the_others_finish_before_the_error_is_raised(self, shards):
        failed = threading.Event()

        def fail(verb, keys):
            failed.set()
            raise StoreUnavailable(f"{verb} failed")

        for nth in range(3):
            for n, shard in enumerate(shards.stores):
                shard.values.clear()
                shard.before = fail if n == nth else lambda *_: failed.wait(PATIENCE_S)
            failed.clear()
            with pytest.raises(StoreUnavailable, match="put failed"):
                shards.store.put(dict.fromkeys(shards.keys, b"1"))
            assert [len(shard.values) for shard in shards.stores] == [n != nth for n in range(3)]

    @pytest.mark.parametrize("nth", range(3))
    def test_an_error_that_repeating_does_not_mend_is_the_one_that_is_raised(self, shards, nth):
        def fail(n, *_):
            raise StoreFull("full") if n == nth else StoreUnavailable("away")

        for n, shard in enumerate(shards.stores):
            shard.before = partial(fail, n)
        with pytest.raises(StoreFull):
            shards.store.put(dict.fromkeys(shards.keys, b"1"))

    def test_a_shard_that_fails_does_not_keep_the_others_from_serving(self, shards):
        def fail(*_):
            raise StoreUnavailable("away")

        shards.stores[1].before = fail
        shards.store.put({shards.keys[0]: b"1", shards.keys[2]: b"2"})
        assert shards.store.get([shards.keys[2], shards.keys[0]]) == [b"2", b"1"]
        with pytest.raises(StoreUnavailable):
            shards.store.get(shards.keys)
        shards.stores[1].before = lambda *_: None
        assert shards.store.get(shards.keys) == [b"1", None, b"2"]

    def test_closing_closes_all_though_one_fails(self, shards):
        def stuck():
            raise StoreError("stuck")

        shards.stores[0].close = stuck
        with pytest.raises(StoreError, match="stuck"):
            shards.store.close()
        assert [shard.n_closed for shard in shards.stores[1:]] == [1, 1]
        del shards.stores[0].close

    def test_a_shard_that_hangs_keeps_no_process_from_ending(self):
        program = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from test_storage_layers_sharded import Shards
made = Shards()
made.store.get(made.keys)  # its threads are those of this one, which is no daemon
hanging = threading.Barrier(4)
def hang(*_):
    hanging.wait()
    threading.Event().wait()
for shard in made.stores:
    shard.before = hang
threading.Thread(target=made.store.get, args=(made.keys,), daemon=True).start()
hanging.wait()
print("ends")
"""
        command = [sys.executable, "-c", program, os.path.dirname(__file__)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert (ended.stdout, ended.returncode) == ("ends\n", 0), ended.stderr

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_has_threads_of_its_own(self):
        store = Sharded([LocalStore() for _ in range(3)], ["a", "b", "c"])
        store.put(dict.fromkeys(KEYS[:50], b"1"))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert store.get(KEYS[:50]) == [b"1"] * 50
                store.put(dict.fromkeys(KEYS[:50], b"2"))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert store.get(KEYS[:50]) == [b"2"] * 50
        store.close()


class TestSharded:
    @pytest.mark.parametrize("given", [[], ["a"], ["a", "a"], ["a", "b", "c"]])
    def test_needs_a_name_of_its_own_for_every_shard(self, given):
        with pytest.raises(ConfigError):
            Sharded([Memory() for _ in range(2 if given else 0)], given)

    def test_can_what_all_its_shards_can(self):
        shards = [
            Memory(max_value_bytes=9, wait_blocks=True, trusted=True, round_trip_s=0.1, bandwidth_bytes_per_s=3.0),
            Memory(wait_blocks=True, zero_copy=True, round_trip_s=0.3, bandwidth_bytes_per_s=2.0),
        ]
        assert Sharded(shards, "ab").capabilities == Capabilities(
            max_value_bytes=9, wait_blocks=True, round_trip_s=0.3, bandwidth_bytes_per_s=5.0
        )
        many = Sharded([Memory(bandwidth_bytes_per_s=3.0) for _ in range(9)], names(9))
        assert many.capabilities.bandwidth_bytes_per_s == 3.0 * module._SPEED_UP

    def test_is_opened_elsewhere_as_its_owner_says(self):
        spec = PluginSpec("somewhere:Something", {"a": 1})
        assert Sharded([Memory()], ["a"], spec=spec).spec() == spec
        with pytest.raises(StoreError, match="no spec"):
            Sharded([Memory()], ["a"]).spec()

    def test_one_shard_is_asked_as_it_is(self):
        shard = Memory()
        store = Sharded([shard], ["only"])
        store.put({b"a": b"1", b"b": b"2"})
        assert store.get([b"b", b"a", b"c"]) == [b"2", b"1", None]
        assert shard.calls == [("put", [b"a", b"b"]), ("get", [b"b", b"a", b"c"])]
