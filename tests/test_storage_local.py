"""The embedded store: the conformance suite, and what is its own: dead owners and holders, full memory, maps."""

import math
import multiprocessing
import os
import shutil
import signal

import pytest
import storage_local_tools

from wukong.backends import machine
from wukong.backends.storage import Arrival, Outcome, Store
from wukong.backends.storage.local import LocalStore, clock, rows
from wukong.backends.storage.local import environment as local_environment
from wukong.errors import ConfigError, StoreError, StoreUnavailable
from wukong.testing.storage import StoreTests

LARGE = os.urandom(1 << 20)
places = storage_local_tools.places
SPAWN = multiprocessing.get_context("spawn")


class TestLocalStore(StoreTests):
    def make_store(self) -> Store:
        return LocalStore()


@pytest.mark.long
class TestLocalStoreWithFilesOnly(StoreTests):
    def make_store(self) -> Store:
        return LocalStore(large_bytes=1)


class TestLifetime:
    def test_a_closed_store_refuses(self, places):
        store = LocalStore()
        store.close()
        for call in (
            lambda: store.get([b"a"]),
            lambda: store.put({b"a": b"1"}),
            lambda: store.delete([b"a"]),
            lambda: store.wait(b"a", 1.0),
            lambda: store.incr([Arrival(b"f", (0,), 1, b"c")]),
        ):
            with pytest.raises(StoreError, match="closed"):
                call()

    def test_a_store_whose_owner_is_gone_cannot_be_opened(self, places):
        store = LocalStore()
        spec = store.spec()
        store.close()
        with pytest.raises(StoreUnavailable, match="no store at"):
            spec.open()

    def test_a_mapped_value_outlives_the_store(self, places):
        store = LocalStore()
        store.put({b"a": LARGE})
        value = store.get([b"a"])[0]
        store.close()
        assert value == LARGE

    def test_a_write_within_a_write_is_an_error_not_a_deadlock(self, places):
        store = LocalStore()
        with pytest.raises(StoreError, match="from within"):
            store._env.write(lambda txn: store.put({b"a": b"1"}), 0)
        store.put({b"a": b"2"})
        assert store.get([b"a"]) == [b"2"]
        store.close()

    @pytest.mark.parametrize("options", [{"size_bytes": 1}, {"large_bytes": 0}, {"owner": False}])
    def test_options_that_cannot_be_are_refused(self, options):
        with pytest.raises(ConfigError):
            LocalStore(**options)

    def test_long_keys_are_keys(self, places):
        store = LocalStore()
        keys = [b"x" * length for length in (499, 500, 501, 511, 5_000)]
        store.put({key: b"%d" % len(key) for key in keys})
        for key in keys:
            assert store.incr([Arrival(key, (0,), 2, b"a")]) == [Outcome(False, False)]
        assert store.get(keys) == [b"%d" % len(key) for key in keys]
        store.delete(keys)
        assert store.get(keys) == [None] * 5
        assert [o.complete for o in store.incr([Arrival(key, (1,), 2, b"a") for key in keys])] == [False] * 5
        store.close()

    @pytest.mark.parametrize(
        "arrival",
        [
            Arrival(b"f", (), 2, b"c"),
            Arrival(b"f", (2,), 2, b"c"),
            Arrival(b"f", (-1,), 2, b"c"),
            Arrival(b"f", (5_000,), 5_000, b"c"),
            Arrival(b"g", (0,), 3, b"c"),
        ],
    )
    def test_an_arrival_that_contradicts_itself_or_the_record_is_refused(self, places, arrival):
        store = LocalStore()
        store.incr([Arrival(b"g", (0,), 2, b"c")])
        with pytest.raises(ValueError, match=r"[Mm]ember"):
            store.incr([arrival])
        assert store.incr([Arrival(b"g", (1,), 2, b"c")])[0].claimed
        store.close()


class TestHolds:
    def hold(self, store, claimant, *members, of=2, ttl_s=None):
        (outcome,) = store.incr([Arrival(b"f", members, of, claimant, only_if_last=True)], ttl_s)
        assert not outcome.complete
        return outcome.give_way

    def test_the_same_note_again_writes_nothing(self, places):
        store = LocalStore()
        for of in (3, 5_000):
            rest = tuple(range(2, of))
            notes = [(b"a", (0,)), (b"b", (1,)), (b"c", rest)]
            for claimant, members in notes:
                self.hold(store, claimant, *members, of=of)
            written = store._env.handle.info()["last_txnid"]
            assert [self.hold(store, claimant, *members, of=of) for claimant, members in notes] == [False, True, True]
            assert self.hold(store, b"c", *reversed(rest), of=of)
            assert store._env.handle.info()["last_txnid"] == written
            store.delete([b"f"])
        store.close()

    def test_deleting_a_record_leaves_nothing_of_its_notes(self, places):
        store = LocalStore()
        for n in range(3):
            self.hold(store, b"%d" % n, n, 4_096 + n, of=5_000)
        store.delete([b"f"])
        with store._env.handle.begin() as txn:
            assert [key for key, _ in txn.cursor()] == [b"c"]
        store.close()

    def test_notes_end_with_their_record_and_a_new_one_sets_its_time_anew(self, places, monkeypatch):
        now_s = [1000.0]
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
        store = LocalStore()
        self.hold(store, b"a", 0, ttl_s=10.0)
        now_s[0] += 9.0
        assert self.hold(store, b"b", 1, ttl_s=10.0)
        now_s[0] += 9.0
        assert self.hold(store, b"b", 1, ttl_s=10.0)
        now_s[0] += 2.0
        assert not self.hold(store, b"b", 1, ttl_s=10.0)
        assert self.hold(store, b"a", 0, ttl_s=10.0)
        store.close()

    def test_claimants_of_any_length_are_told_apart(self, places):
        store = LocalStore()
        claimants = [b"", b"\x00", b"x", *(bytes(length) for length in (255, 256, 257, 511)), b"x" * 256, b"x" * 5_000]
        of = len(claimants)
        for member, claimant in enumerate(claimants):
            assert self.hold(store, claimant, member, of=of) == (member == of - 1)
        for member, claimant in enumerate(claimants):
            assert self.hold(store, claimant, member, of=of) == (member > 0)
        store.close()

    def test_a_note_leaves_what_has_arrived_and_ridden_in_as_it_was(self, places):
        store = LocalStore()
        values = [b"small", bytes(5_000)]
        for member, value in enumerate(values):
            store.incr([Arrival(b"f", (member,), 4, b"c", value)])
            self.hold(store, b"a", 2, of=4)
        self.hold(store, b"b", 3, of=4)
        (outcome,) = store.incr([Arrival(b"f", (2, 3), 4, b"d")])
        assert sorted(outcome.values) == sorted(values)
        store.close()


class TestExpiry:
    def test_values_and_records_vanish_at_the_end_of_their_time(self, places, monkeypatch):
        now_s = [1000.0]
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
        store = LocalStore()
        store.put({b"a": b"1", b"b": LARGE}, ttl_s=10.0)
        store.put({b"c": b"1", b"d": LARGE})
        members = tuple(range(5_000))
        store.incr([Arrival(b"f", members[:4_999], 5_000, b"c", bytes(3_000))], ttl_s=10.0)
        now_s[0] += 9.0
        assert None not in store.get([b"a", b"b"])
        now_s[0] += 2.0
        assert store.get([b"a", b"b", b"c", b"d"]) == [None, None, b"1", LARGE]
        assert store.wait(b"a", 0.0) is None
        assert store.incr([Arrival(b"f", (4_999,), 5_000, b"c", b"new")]) == [Outcome(False, False)]
        outcome = store.incr([Arrival(b"f", members, 5_000, b"c")])[0]
        assert outcome == Outcome(True, True, (b"new",))
        store.close()

    def test_what_is_adopted_after_a_boot_of_the_machine_keeps_its_time(self, tmp_path, monkeypatch):
        path, boot, now_s = str(tmp_path / "store"), [b"first"], [900_000.0]
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
        monkeypatch.setattr(machine, "boot", lambda: boot[0])
        store = LocalStore(path, size_bytes=1 << 20)  # a copy has no holes
        store.put({b"a": b"1"}, ttl_s=3_600.0)
        store.put({b"over": b"1"}, ttl_s=-1.0)
        shutil.copytree(path, tmp_path / "left")
        store.close()

        boot[0], now_s[0] = b"second", 5.0
        adopted = LocalStore(str(tmp_path / "left"), adopt=True)
        other = adopted.spec().open()
        assert adopted.get([b"a", b"over"]) == other.get([b"a", b"over"]) == [b"1", None]
        now_s[0] += 4_000.0
        assert adopted.get([b"a"]) == other.get([b"a"]) == [None]
        other.close()
        adopted.close()

    def test_an_arrival_sets_the_time_of_its_record_anew(self, places, monkeypatch):
        now_s = [1000.0]
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
        store = LocalStore()
        store.incr([Arrival(b"f", (0,), 3, b"c")], ttl_s=10.0)
        now_s[0] += 9.0
        store.incr([Arrival(b"f", (1,), 3, b"c")], ttl_s=10.0)
        now_s[0] += 9.0
        assert store.incr([Arrival(b"f", (2,), 3, b"c")], ttl_s=10.0)[0].claimed
        store.close()


def hold_a_write_transaction(spec, pipe) -> None:
    store = spec.open()

    def work(txn) -> None:
        txn.put(b"vhalf", rows.HEAD.pack(rows.SMALL, math.inf) + b"written")
        pipe.send("in the middle")
        signal.pause()

    store._env.write(work, 0)


def hold_a_read_transaction(spec, pipe) -> None:
    store = spec.open()
    with store._env.open().begin() as txn:
        assert txn.get(b"va") is not None
        pipe.send("in the middle")
        signal.pause()


class TestDeadProcesses:
    def die_in_the_middle(self, store, target) -> None:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=target, args=(store.spec(), theirs))
        process.start()
        assert ours.recv() == "in the middle"
        process.kill()
        process.join()

    def test_a_writer_killed_in_the_middle_blocks_nobody_and_changes_nothing(self, places):
        store = LocalStore()
        store.put({b"before": b"1"})
        for turn in range(3):
            self.die_in_the_middle(store, hold_a_write_transaction)
            store.put({b"after %d" % turn: b"1"})
        assert store.get([b"before", b"half", b"after 2"]) == [b"1", None, b"1"]
        store.close()

    def test_a_reader_killed_in_the_middle_pins_no_memory(self, places, monkeypatch):
        monkeypatch.setattr(local_environment, "_CHECK_EVERY", 100)
        store = LocalStore()
        store.put({b"a": b"1"})
        self.die_in_the_middle(store, hold_a_read_transaction)
        for _ in range(200):
            store.put({b"b": bytes(20_000)})
        settled = store._env.handle.info()["last_pgno"]
        for _ in range(1_000):
            store.put({b"b": bytes(20_000)})
        assert store._env.handle.info()["last_pgno"] == settled
        store.close()


class TestSuite:
    def test_a_test_of_the_suite_cannot_be_overridden(self):
        with pytest.raises(TypeError, match="test_keys_are_any_bytes"):

            class Cheat(StoreTests):
                def test_keys_are_any_bytes(self, store, key):
                    pass

        class Mixin:
            test_an_empty_batch_does_nothing = None

        with pytest.raises(TypeError, match="test_an_empty_batch_does_nothing"):
            type("Sly", (Mixin, StoreTests), {})

    def test_tests_of_ones_own_may_be_added(self):
        type("Own", (StoreTests,), {"test_of_my_own": lambda self: None})
