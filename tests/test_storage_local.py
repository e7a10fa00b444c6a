"""The embedded store: the conformance suite, and what is its own: dead owners and holders, full memory, maps."""

import errno
import math
import mmap
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import storage_local_tools

from wukong.backends import machine
from wukong.backends.storage import Arrival, Outcome, Store
from wukong.backends.storage.local import LocalStore, clock, founding, rows
from wukong.backends.storage.local import environment as local_environment
from wukong.backends.storage.local import segments as local_segments
from wukong.errors import ConfigError, StoreError, StoreFull, StoreUnavailable
from wukong.testing.remote_process import RemoteProcess
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


@pytest.fixture
def remote():
    other = RemoteProcess()
    yield other
    other.close()


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


class TestLargeValues:
    def test_arrays_are_backed_by_the_store_and_written_to_by_their_reader_alone(self, places):
        store = LocalStore()
        store.put({b"a": np.arange(100_000.0).data})
        value = store.get([b"a"])[0]
        array = np.frombuffer(value)
        assert isinstance(value.obj, mmap.mmap)
        assert array.sum() == 100_000 * 99_999 / 2
        array[:50_000] = 0
        assert np.frombuffer(store.get([b"a"])[0]).sum() == 100_000 * 99_999 / 2
        assert array.sum() == 50_000 * 149_999 / 2
        store.close()

    def test_go_to_disk_if_shared_memory_has_no_room(self, places, monkeypatch, remote):
        real = local_segments.file_system_bytes

        def shared_is_full(path):
            return (1 << 20, 1 << 30) if path.endswith("/large") else real(path)

        monkeypatch.setattr(local_segments, "file_system_bytes", shared_is_full)
        store = LocalStore()
        store.put({b"a": LARGE})
        assert os.listdir(os.path.join(store.path, "large")) == []
        assert [len(files) for _, _, files in os.walk(places[1])] == [0, 1]
        assert bytes(store.get([b"a"])[0]) == LARGE
        assert remote.get(store.spec(), [b"a"]) == [LARGE]
        store.delete([b"a"])
        assert [len(files) for _, _, files in os.walk(places[1])] == [0, 0]
        remote.call(store.spec(), "close")
        store.close()

    def test_go_to_disk_if_shared_memory_fills_up_while_they_are_written(self, places, monkeypatch):
        real, targets = os.writev, []

        def full_after_the_first_write(fd, buffers):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
            if targets[-1].startswith(str(places[0])):
                if len(targets) > 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real(fd, [memoryview(buffers[0])[:1000]])
            return real(fd, buffers)

        monkeypatch.setattr(os, "writev", full_after_the_first_write)
        store = LocalStore()
        store.put({b"a": LARGE})
        assert len(targets) == 3
        assert os.listdir(os.path.join(store.path, "large")) == []
        assert store.get([b"a"]) == [LARGE]
        store.close()

    def test_written_a_little_at_a_time_are_whole(self, places, monkeypatch):
        real = os.writev

        def a_little(fd, buffers):
            return real(fd, [memoryview(buffers[0])[:100_003]])

        monkeypatch.setattr(os, "writev", a_little)
        store = LocalStore()
        store.put({b"a": (LARGE[:7], LARGE[7:500_000], b"", LARGE[500_000:])})
        assert store.get([b"a"]) == [LARGE]
        store.close()

    def test_leave_no_file_behind_when_they_cannot_be_recorded(self, places, monkeypatch):
        store = LocalStore()

        def fail(*args, **kwargs):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(store._env, "write", fail)
        with pytest.raises(StoreError, match="Input/output"):
            store.put({b"a": LARGE, b"b": LARGE})
        assert os.listdir(os.path.join(store.path, "large")) == []
        store.close()

    def test_replaced_and_deleted_leave_no_file_behind(self, places):
        store = LocalStore()
        store.put({b"a": LARGE, b"b": LARGE, b"c": LARGE})
        store.put({b"a": b"small", b"b": LARGE[::-1]})
        store.delete([b"c"])
        assert len(os.listdir(os.path.join(store.path, "large"))) == 1
        assert store.get([b"a", b"b", b"c"]) == [b"small", LARGE[::-1], None]
        store.close()

    def test_are_copied_if_too_many_are_mapped(self, places, monkeypatch):
        monkeypatch.setattr(local_segments, "_max_maps", lambda: len(local_segments._maps) and 0)
        store = LocalStore()
        store.put({b"a": LARGE})
        value = store.get([b"a"])[0]
        assert value == LARGE
        assert not value.readonly
        assert not isinstance(value.obj, mmap.mmap)
        store.close()

    def test_replaced_between_the_look_and_the_map_are_looked_up_again(self, places, monkeypatch):
        store = LocalStore()
        store.put({b"a": LARGE})
        real = store._segments.open
        replacements = [{b"a": LARGE[::-1]}, {b"a": b"small"}]

        def replaced_first(name, size_bytes):
            if replacements:
                store.put(replacements.pop(0))
            return real(name, size_bytes)

        monkeypatch.setattr(store._segments, "open", replaced_first)
        assert store.get([b"a"]) == [b"small"]
        assert replacements == []
        store.put({b"a": LARGE})
        replacements.append({b"a": LARGE[::-1]})
        assert store.get([b"a"]) == [LARGE[::-1]]
        store.close()

    def test_deleted_between_the_look_and_the_map_are_missing(self, places, monkeypatch):
        store = LocalStore()
        store.put({b"a": LARGE})
        real = store._segments.open

        def deleted_first(name, size_bytes):
            store.delete([b"a"])
            return real(name, size_bytes)

        monkeypatch.setattr(store._segments, "open", deleted_first)
        assert store.get([b"a"]) == [None]
        store.close()


def put_one_by_one(store: Store, keys: list[bytes], value: bytes) -> None:
    for key in keys:
        store.put({key: value})


class TestFull:
    @pytest.mark.parametrize("size_bytes", [0, 60, 900, 5_000, 100_000])
    def test_says_so_and_takes_deletes_and_then_values_again(self, places, size_bytes):
        store = LocalStore(size_bytes=1 << 20)
        keys = [b"key %d" % (n * 7919 % 100_003) for n in range(20_000)]
        with pytest.raises(StoreFull, match=r"no room .* of 1,048,576 bytes are taken") as caught:
            put_one_by_one(store, keys, bytes(size_bytes))
        assert "size_bytes" in caught.value.hint
        with pytest.raises(StoreFull):
            store.incr([Arrival(b"f%d" % n, (0,), 2, b"c", bytes(200)) for n in range(3_000)])
        assert store.get(keys[:1]) == [bytes(size_bytes)]
        store.delete(keys)
        store.put({b"again": bytes(size_bytes)})
        assert store.get([b"again", keys[0]]) == [bytes(size_bytes), None]
        store.close()

    def test_counts_large_values_of_all_processes(self, places, remote):
        store = LocalStore(size_bytes=4 << 20)
        for n in range(2):
            store.put({b"a%d" % n: LARGE})
        remote.put(store.spec(), {b"b": LARGE})
        for put in (store.put, lambda items: remote.put(store.spec(), items)):
            with pytest.raises(StoreFull, match=r"3,\d+,\d+ of size_bytes = 4,194,304 are taken"):
                put({b"c": LARGE})
        store.delete([b"a0", b"b"])
        store.put({b"c": LARGE, b"d": LARGE})
        with pytest.raises(StoreFull):
            store.put({b"e": LARGE})
        remote.call(store.spec(), "close")
        store.close()

    def test_file_systems_make_an_error_that_says_how_full_each_is(self, places, monkeypatch):
        monkeypatch.setattr(local_segments, "file_system_bytes", lambda path: (1 << 20, 1 << 30))
        monkeypatch.setattr(founding, "bases", lambda: tuple(map(str, places)))
        store = LocalStore()
        with pytest.raises(StoreFull, match=r"large has 1,048,576 of .*overflow has 1,048,576 of"):
            store.put({b"a": LARGE})
        store.put({b"a": b"small"})
        assert store.get([b"a"]) == [b"small"]
        store.close()

    def test_file_system_is_an_error_and_no_bus_error(self, places, monkeypatch):
        store = LocalStore()
        store.put({b"a": b"1"})

        def no_space(fd, start, length):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", no_space)
        keys = [b"k%d" % n for n in range(1_000)]
        with pytest.raises(StoreFull):
            put_one_by_one(store, keys, bytes(60_000))
        store.delete(keys)
        assert store.get([b"a", b"k0"]) == [b"1", None]
        store.close()

    def test_memory_is_left_to_others(self, monkeypatch):
        monkeypatch.setattr(local_segments, "memory_bytes_free_and_total", lambda: (2 << 30, 16 << 30))
        monkeypatch.setattr(local_segments, "file_system_bytes", lambda path: (16 << 30, 16 << 30))
        monkeypatch.setattr(local_segments.os.path, "realpath", lambda path: path)
        assert local_segments._Place("/dev/shm/wukong-test/large").free_bytes() == 0
        assert local_segments._Place("/var/tmp/wukong-test/large").free_bytes() == 15 << 30

    def test_makes_room_from_what_has_expired(self, places, monkeypatch):
        now_s = [1000.0]
        monkeypatch.setattr(clock, "monotonic_s", lambda: now_s[0])
        store = LocalStore(size_bytes=4 << 20)
        store.put({b"a": LARGE, b"b": LARGE, b"c": LARGE, b"s": b"1"}, ttl_s=10.0)
        store.put({b"stays": b"1"})
        store.incr([Arrival(b"f", (0,), 2, b"c", bytes(5_000))], ttl_s=10.0)
        with pytest.raises(StoreFull):
            store.put({b"d": LARGE})
        now_s[0] += 11.0
        store.put({b"d": LARGE, b"e": LARGE})
        assert store.get([b"d", b"a", b"s", b"stays"]) == [LARGE, None, None, b"1"]
        assert len(os.listdir(os.path.join(store.path, "large"))) == 2
        with store._env.handle.begin() as txn:
            assert sorted(key for key, _ in txn.cursor()) == [b"c", b"m", b"vd", b"ve", b"vstays"]
        store.close()

    def test_makes_room_from_what_the_dead_wrote_and_never_recorded(self, places, remote):
        store = LocalStore(size_bytes=2 << 20)
        store.put({b"a": LARGE[:300_000]})
        remote.put(store.spec(), {b"b": LARGE[:300_000]})
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        large = Path(store.path) / "large"
        boot = machine.boot()[:8].decode()
        (large / f"{int(dead.stdout)}-{boot}-token-0").write_bytes(LARGE)
        (large / f"{remote.pid}-{boot}-token-0").write_bytes(LARGE)
        remote.close()
        (large / f"{os.getpid()}-{boot}-token-0").write_bytes(LARGE)
        (large / f"{os.getpid()}-anotherboot-token-0").write_bytes(LARGE)
        with pytest.raises(StoreFull):
            store.put({b"c": bytes(3 << 20)})
        assert f"{os.getpid()}-{boot}-token-0" in os.listdir(large)
        assert len(os.listdir(large)) == 3
        assert store.get([b"a", b"b"]) == [LARGE[:300_000]] * 2
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


@pytest.mark.parametrize("where", ["function", "founding"])
def test_without_room_anywhere_the_folders_and_what_they_have_are_named(where, places, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "posix_fallocate") if where == "function" else (founding, "make")), full)
    with pytest.raises(StoreFull) as refused:
        LocalStore()
    for base in founding.bases():
        assert re.search(rf"{re.escape(base)}: [\d,]+ bytes free", str(refused.value))
