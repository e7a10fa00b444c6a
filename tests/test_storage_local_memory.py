"""The embedded store if shared memory is small or becomes so: what has no room goes on on disk, and says so once."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import storage_local_tools

from wukong.backends.storage import Arrival, Outcome
from wukong.backends.storage.local import LocalStore
from wukong.errors import StoreFull
from wukong.testing.remote_process import RemoteProcess

SMALL = bytes(60_000)
LARGE = os.urandom(1 << 20)
places = storage_local_tools.places


@pytest.fixture
def elsewhere():
    other = RemoteProcess()
    yield other
    other.close()


def fill(monkeypatch, *places: Path) -> None:
    """From now on there is no room left in these."""
    real = os.posix_fallocate

    def allocate(fd: int, start: int, length: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(tuple(map(str, places))):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, start, length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)


def put_many(store: LocalStore) -> dict[bytes, bytes]:
    items = {b"many %d" % n: SMALL for n in range(100)}
    for key, value in items.items():
        store.put({key: value})
    return items


def in_all(place: Path) -> list[str]:
    return os.listdir(place)


class TestRecords:
    def test_go_on_on_disk_for_all_processes_and_the_owner_says_so_once(self, places, monkeypatch, caplog, elsewhere):
        store = LocalStore()
        store.put({b"before": b"1", b"large": LARGE})
        assert elsewhere.get(store.spec(), [b"before"]) == [b"1"]
        fill(monkeypatch, places[0])
        items = put_many(store)

        assert elsewhere.get(store.spec(), [b"before", b"large", *items]) == [b"1", LARGE, *items.values()]
        elsewhere.put(store.spec(), {b"theirs": b"2", b"before": b"3"})
        assert store.get([b"theirs", b"before"]) == [b"2", b"3"]
        elsewhere.call(store.spec(), "delete", [b"theirs"])
        assert store.get([b"theirs"]) == [None]
        assert not (Path(store.path) / "data.mdb").exists()
        (warning,) = [record.getMessage() for record in caplog.records]
        assert warning.startswith(f"{places[0]} has no room left") and str(places[1]) in warning
        elsewhere.call(store.spec(), "close")
        store.close()
        assert [os.listdir(place) for place in places] == [[], []]

    def test_are_said_to_go_on_on_disk_by_their_owner_alone(self, places):
        process = storage_local_tools.own_a_store(
            """
sys.stderr = sys.stdout
if os.fork() == 0:
    assert store._env.move(0) and store.get([b"a"]) == [b"1"]
    assert store.spec().open().get([b"a"]) == [b"1"]
else:
    assert os.wait()[1] == 0
    assert store.get([b"a", b"a"]) == [b"1", b"1"]
""",
            places,
        )
        assert process.communicate()[0].count("no room left") == 1

    def test_move_with_all_that_fan_ins_know(self, places):
        store = LocalStore()
        riders = [bytes([n]) * 5_000 for n in range(20)]
        told = []
        for half in (0, 1):
            store.incr([Arrival(b"won %d" % half, (0,), 1, b"winner")])
            for n in range(10 * half, 10 * half + 10):
                store.incr([Arrival(b"f%d" % n, (0,), 2, b"c", riders[n])])
            holder = b"first" if half == 0 else b"second"
            told += store.incr([Arrival(b"held", (half,), 2, holder, only_if_last=True)])
            if half == 0:
                assert store._env.move(0)
        told += store.incr([Arrival(b"held", (0,), 2, b"first", only_if_last=True)])
        assert [outcome.give_way for outcome in told] == [False, True, False]
        for n, rider in enumerate(riders):
            assert store.incr([Arrival(b"f%d" % n, (1,), 2, b"c")]) == [Outcome(True, True, (rider,))]
        for half in (0, 1):
            assert [
                store.incr([Arrival(b"won %d" % half, (0,), 1, who)])[0].claimed for who in (b"winner", b"other")
            ] == [True, False]
        store.close()

    def test_that_moved_while_another_waited_to_write_get_what_it_writes(self, places, elsewhere):
        store = LocalStore()
        real = store._env.handle
        move = (
            "from wukong.backends.storage import local\n"
            f"store = local.LocalStore({store.path!r}, owner=False)\n"
            "assert store._env.move(0)"
        )

        class MovedMeanwhile:
            def begin(self, **options):
                subprocess.run([sys.executable, "-c", move], check=True)
                return real.begin(**options)

        store._env.handle = MovedMeanwhile()
        store.put({b"a": b"1"})
        assert store.get([b"a"]) == elsewhere.get(store.spec(), [b"a"]) == [b"1"]
        elsewhere.call(store.spec(), "close")
        store.close()

    def test_move_though_another_died_while_it_moved_them(self, places):
        store = LocalStore()
        store.put({b"a": b"1"})
        half_done = Path(store.path) / "overflow" / "records"
        half_done.mkdir()
        (half_done / "data.mdb").write_bytes(b"half")
        assert store._env.move(0)
        assert store.get([b"a"]) == [b"1"]
        store.close()

    def test_stay_if_the_disk_is_full_too_and_can_be_deleted(self, places, monkeypatch, caplog):
        store = LocalStore()
        store.put({b"before": b"1"})
        fill(monkeypatch, *places)
        with pytest.raises(StoreFull, match="no room for records"):
            put_many(store)
        assert store.get([b"before"]) == [b"1"]
        store.delete([b"many %d" % n for n in range(100)])
        store.put({b"after": SMALL})
        assert store.get([b"after", b"before", b"many 0"]) == [SMALL, b"1", None]
        assert not [record for record in caplog.records if record.levelname == "WARNING"]
        assert os.listdir(Path(store.path) / "overflow") == []
        store.close()

    def test_stay_within_the_size_that_was_asked_for(self, places):
        store = LocalStore(size_bytes=1 << 20)
        with pytest.raises(StoreFull, match="1,048,576 bytes are taken"):
            put_many(store)
        assert (Path(store.path) / "data.mdb").exists()
        store.close()

    def test_that_a_dead_owner_moved_can_be_adopted(self, places, elsewhere):
        path = elsewhere_moved(places)
        adopted = LocalStore(path, adopt=True)
        assert not LocalStore.sweep(0.0, dry_run=True)
        assert adopted.get([b"a", b"b"]) == [b"1", bytes(1 << 20)]
        assert elsewhere.get(adopted.spec(), [b"a"]) == [b"1"]
        elsewhere.call(adopted.spec(), "close")
        adopted.close()
        assert [os.listdir(place) for place in places] == [[], []]


def elsewhere_moved(places: tuple[Path, Path]) -> str:
    """Return the path of a store whose records were moved, and whose owner was killed then."""
    process = storage_local_tools.own_a_store(
        "assert store._env.move(0)\nprint(store.path, flush=True)\nsignal.pause()", places
    )
    path = process.stdout.readline().strip()
    storage_local_tools.kill(process)
    return path


class TestMappedFiles:
    def test_have_no_holes_that_a_full_file_system_could_not_back(self, places):
        store = LocalStore()
        folder = Path(store.path)
        for moved in (False, True):
            if moved:
                assert store._env.move(0)
                folder = folder / "overflow" / "records"
            table = (folder / "lock.mdb").stat()
            assert table.st_blocks * 512 >= table.st_size > 4096 * 64
        assert (Path(store.path) / "page").stat().st_blocks * 512 >= 4096
        store.close()

    @pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_FSIZE"])
    def test_are_as_large_as_the_limits_of_the_process_allow(self, limit):
        program = f"""
import resource
from wukong.backends.storage.local import LocalStore
resource.setrlimit(resource.{limit}, (3 << 30, 3 << 30))
store = LocalStore()
store.put({{b"a": b"1", b"b": bytes(1 << 20)}})
assert store._env.move(0)
store.put({{b"c": b"1"}})
assert store.get([b"a", b"b"]) == [b"1", bytes(1 << 20)]
store.close()
"""
        subprocess.run([sys.executable, "-c", program], check=True)

    def test_that_a_limit_of_addresses_forbids_are_an_error_that_names_it_and_the_option(self):
        program = """
import resource
from wukong.backends.storage.local import LocalStore
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
LocalStore(size_bytes=64 << 30)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "StoreError" in done.stderr and "ulimit -v" in done.stderr and "size_bytes" in done.stderr


NAMESPACE = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
JOBS = """
import logging, os, sys, threading
logging.basicConfig()
import numpy as np
import dask.array as da
import wukong

def small(i):
    return bytes([i % 256]) * 30_000

def sized(value):
    return len(value), value[0]

def hog():
    with open("/dev/shm/hog", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65_536))
        except OSError:
            pass

with wukong.Client(progress=False) as client:
    first = client.map(small, range(300), pure=False)
    client.gather(first)
    if "hog" in sys.argv:
        hog()
    many = first + client.map(small, range(1_000), pure=False)
    got = client.gather(client.map(sized, many, pure=False))
    assert got == [(30_000, i % 256) for i in [*range(300), *range(1_000)]]
    a = da.random.default_rng(1).random((1_500, 1_500), chunks=500).persist()
    assert np.allclose((a @ a).compute(), np.matmul(a.compute(), a.compute()))
    print("right")
"""


def can_mount() -> bool:
    try:
        done = subprocess.run([*NAMESPACE, "mount -t tmpfs -o size=1m tmpfs /dev/shm"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs root, who may mount a small /dev/shm in a namespace")
@pytest.mark.parametrize(("size", "hog"), [("36m", ""), pytest.param("100m", "hog", marks=pytest.mark.long)])
def test_jobs_larger_than_shared_memory_end_well_and_leave_nothing(tmp_path, size, hog):
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && "$0" -c "$1" {hog}; echo $? $(ls -A /dev/shm)'
    done = subprocess.run(
        [*NAMESPACE, script, sys.executable, JOBS],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["right", "0", *([hog] if hog else [])], done.stderr
    assert done.stderr.count("has no room left") == 1
    assert os.listdir(tmp_path) == []
