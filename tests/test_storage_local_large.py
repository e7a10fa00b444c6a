"""The embedded store: large values in files, and what happens when there is no room."""

import errno
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import storage_local_tools

from wukong.backends import machine
from wukong.backends.storage import Arrival, Store
from wukong.backends.storage.local import LocalStore, clock, founding
from wukong.backends.storage.local import segments as local_segments
from wukong.errors import StoreError, StoreFull
from wukong.testing.remote_process import RemoteProcess

LARGE = os.urandom(1 << 20)
places = storage_local_tools.places


@pytest.fixture
def remote():
    other = RemoteProcess()
    yield other
    other.close()


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


@pytest.mark.parametrize("where", ["function", "founding"])
def test_without_room_anywhere_the_folders_and_what_they_have_are_named(where, places, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "posix_fallocate") if where == "function" else (founding, "make")), full)
    with pytest.raises(StoreFull) as refused:
        LocalStore()
    for base in founding.bases():
        assert re.search(rf"{re.escape(base)}: [\d,]+ bytes free", str(refused.value))
