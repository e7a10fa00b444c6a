"""Where the embedded store keeps its files: directories of its own, and what becomes of those of owners that died."""

import gc
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
import storage_local_tools

from wukong.backends.storage.local import LocalStore, founding
from wukong.backends.storage.local import directory as local_directory
from wukong.backends.storage.local.directory import OwnedDirectory, sweep
from wukong.errors import ConfigError, StoreError

LARGE = os.urandom(1 << 20)
places = storage_local_tools.places
own_a_store, kill = storage_local_tools.own_a_store, storage_local_tools.kill


FORK_AND_STAY = 'if os.fork() == 0: os.write(1, b"%d\\n" % os.getpid())\nsignal.pause()'
SAY_AND_STAY = 'print("there", flush=True)\nsignal.pause()'
NO_ROOM = "from wukong.backends.storage.local import founding; founding._ROOM_BYTES = 1 << 60"


class TestDirectory:
    def test_is_private_to_the_user_whatever_the_umask(self, places):
        before = os.umask(0)
        try:
            store = LocalStore()
            store.put({b"large": LARGE})
        finally:
            os.umask(before)
        for path in [Path(store.path), *Path(store.path).rglob("*"), *places[1].glob("*")]:
            if not path.is_symlink():
                assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        store.close()

    def test_is_removed_by_close_with_its_overflow(self, places):
        store = LocalStore()
        assert [len(os.listdir(place)) for place in places] == [1, 1]
        store.close()
        assert [len(os.listdir(place)) for place in places] == [0, 0]

    def test_is_removed_when_the_store_is_forgotten(self, places):
        store = LocalStore()
        del store
        gc.collect()
        assert [len(os.listdir(place)) for place in places] == [0, 0]

    def test_is_removed_when_the_process_ends_without_closing(self, places):
        process = own_a_store("", places)
        process.communicate(timeout=60)
        assert process.returncode == 0
        assert [len(os.listdir(place)) for place in places] == [0, 0]

    def test_is_not_removed_by_one_who_only_attached(self, places):
        with_owner = LocalStore()
        attached = with_owner.spec().open()
        attached.close()
        with_owner.put({b"a": b"1", b"b": LARGE})
        assert with_owner.get([b"a"]) == [b"1"]
        with_owner.close()

    def test_of_an_owner_killed_is_swept_by_the_next(self, places):
        process = own_a_store(SAY_AND_STAY, places)
        assert process.stdout.readline() == "there\n"
        assert [len(os.listdir(place)) for place in places] == [1, 1]
        kill(process)
        assert [len(os.listdir(place)) for place in places] == [1, 1]
        LocalStore().close()
        assert [len(os.listdir(place)) for place in places] == [0, 0]

    @pytest.mark.parametrize(
        "before", ["", "from wukong.backends.storage.local import founding; founding._ROOM_BYTES = 1 << 60"]
    )
    def test_of_an_owner_killed_is_swept_by_the_next_though_its_temporary_files_are_elsewhere(
        self, places, tmp_path, monkeypatch, before
    ):
        process = own_a_store(SAY_AND_STAY, places, before)
        assert process.stdout.readline() == "there\n"
        assert [len(os.listdir(place)) for place in places] == [1, 1]
        monkeypatch.setattr(local_directory.tempfile, "tempdir", str(tmp_path))
        (found,) = LocalStore.visited()
        assert found.get([b"a"]) == [b"1"]
        found.close()
        kill(process)
        assert len(LocalStore.sweep(0.0, dry_run=True)) >= 2
        LocalStore().close()
        assert [len(os.listdir(place)) for place in places] == [0, 0]

    def test_of_an_owner_killed_is_swept_though_its_forked_child_lives(self, places):
        process = own_a_store(FORK_AND_STAY, places)
        child = int(process.stdout.readline())
        try:
            kill(process)
            assert len(sweep(map(str, places))) == 2
        finally:
            os.kill(child, signal.SIGKILL)

    def test_of_an_owner_who_died_just_now_stays_if_only_older_ones_are_asked_for(self, places):
        process = own_a_store(SAY_AND_STAY, places)
        assert process.stdout.readline() == "there\n"
        kill(process)
        assert not sweep(map(str, places), 3_600.0)
        assert len(sweep(map(str, places), dry_run=True)) == 2
        assert [len(os.listdir(place)) for place in places] == [1, 1]
        assert all(size_bytes > 0 for size_bytes in sweep(map(str, places)).values())
        assert [len(os.listdir(place)) for place in places] == [0, 0]

    def test_of_a_living_owner_is_not_swept(self, places):
        store = LocalStore()
        LocalStore().close()
        assert not sweep(map(str, places))
        assert os.path.isdir(store.path)
        store.close()

    def test_survives_the_end_of_a_forked_child(self, places):
        store = LocalStore()
        store.put({b"a": b"1"})
        pid = os.fork()
        if pid == 0:
            store.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert store.get([b"a"]) == [b"1"]
        assert not sweep(map(str, places))
        store.close()

    def test_swept_before_it_is_locked_is_made_again(self, places, monkeypatch):
        real = local_directory._lock

        def sweep_first(path, *, wait):
            monkeypatch.setattr(local_directory, "_lock", real)
            assert list(sweep([str(places[0])])) == [path]
            return real(path, wait=wait)

        monkeypatch.setattr(local_directory, "_lock", sweep_first)
        directory = OwnedDirectory.create(str(places[0]))
        assert os.listdir(places[0]) == [os.path.basename(directory.path)]
        assert not sweep([str(places[0])])
        directory.remove()

    def test_is_not_taken_for_another_that_has_come_to_its_path(self, places, monkeypatch):
        path = places[0] / f"wukong-{os.getuid()}-1"
        path.mkdir()
        real = local_directory.fcntl.flock

        def replaced_meanwhile(fd, operation):
            real(fd, operation)
            path.rename(places[1] / "elsewhere")
            path.mkdir()

        monkeypatch.setattr(local_directory.fcntl, "flock", replaced_meanwhile)
        assert not sweep([str(places[0])])
        assert path.exists()

    def test_swept_while_its_creator_waits_for_the_lock_is_made_again(self, places, monkeypatch):
        real = local_directory.fcntl.flock

        def lock_after_the_sweeper(fd, operation):
            monkeypatch.setattr(local_directory.fcntl, "flock", real)
            os.rmdir(places[0] / os.listdir(places[0])[0])  # what a sweeper does who got the lock first
            real(fd, operation)

        monkeypatch.setattr(local_directory.fcntl, "flock", lock_after_the_sweeper)
        directory = OwnedDirectory.create(str(places[0]))
        assert os.path.isdir(directory.path)
        assert not sweep([str(places[0])])
        directory.remove()

    def test_left_by_the_dead_is_swept_once_by_many_sweepers(self, places):
        for n in range(30):
            (places[0] / f"wukong-{os.getuid()}-{n}").mkdir()
            (places[0] / f"wukong-{os.getuid()}-{n}" / "data.mdb").write_bytes(b"1")
        swept = []
        threads = [threading.Thread(target=lambda: swept.extend(sweep([str(places[0])]))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.listdir(places[0]) == []
        assert len(swept) == len(set(swept)) == 30

    def test_is_all_that_is_swept(self, places):
        victim = places[1] / "victim"
        victim.mkdir()
        (victim / "file").touch()
        (places[0] / f"wukong-{os.getuid()}-link").symlink_to(victim)
        (places[0] / f"wukong-{os.getuid()}-file").touch()
        (places[0] / "wukong-of-another").mkdir()
        (places[0] / "something").mkdir()
        assert not sweep([str(places[0])])
        assert len(os.listdir(places[0])) == 4
        assert (victim / "file").exists()

    def test_of_ones_own_choice_is_made_and_removed(self, places, tmp_path):
        path = tmp_path / "mine" / "store"
        store = LocalStore(str(path))
        store.put({b"a": LARGE})
        assert store.path == str(path)
        with pytest.raises(ConfigError, match="in use"):
            LocalStore(str(path))
        store.close()
        assert not path.exists()

    def test_of_ones_own_choice_must_hold_nothing_else(self, places, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(ConfigError, match=r"thesis\.tex|disk|shared"):
            LocalStore(str(tmp_path))
        assert (tmp_path / "thesis.tex").exists()

    def test_of_ones_own_choice_left_by_a_dead_owner_is_taken_over(self, places, tmp_path):
        path = tmp_path / "store"
        (path / "large").mkdir(parents=True)
        (path / "large" / "1-x-0").touch()
        (path / "data.mdb").write_bytes(b"no database")
        store = LocalStore(str(path))
        assert store.get([b"a"]) == [None]
        store.close()

    def test_is_on_disk_if_there_is_no_shared_memory(self, places, tmp_path, monkeypatch):
        monkeypatch.setattr(local_directory, "SHARED_MEMORY", str(tmp_path / "none"))
        store = LocalStore()
        store.put({b"a": b"1", b"b": LARGE})
        assert os.path.dirname(store.path) == str(places[1])
        assert store.get([b"a", b"b"]) == [b"1", LARGE]
        store.close()

    def test_made_again_at_its_path_is_a_new_store_though_the_old_one_is_open(self, places, tmp_path):
        path = str(tmp_path / "store")
        store = LocalStore(path)
        attached = store.spec().open()
        store.put({b"a": b"1"})
        store.close()
        again = LocalStore(path)
        assert again.get([b"a"]) == [None]
        again.put({b"b": b"2"})
        assert again.spec().open().get([b"b"]) == [b"2"]
        attached.close()
        again.close()

    def test_that_cannot_be_made_is_an_error_that_names_it(self, places, monkeypatch):
        monkeypatch.setattr(founding, "bases", lambda: ("/proc",))
        with pytest.raises(StoreError, match="/proc"):
            LocalStore()


def test_what_is_on_disk_is_not_in_tmp_unless_that_is_all_there_is(monkeypatch):
    monkeypatch.setattr(local_directory.tempfile, "tempdir", "/tmp")
    assert local_directory.bases()[-1] == "/var/tmp"
    monkeypatch.setattr(local_directory, "_usable", lambda base: False)
    assert local_directory.bases() == ("/tmp",)


def test_if_nothing_can_be_written_a_store_says_what_to_name(monkeypatch, tmp_path):
    def none():
        raise FileNotFoundError

    monkeypatch.setattr(local_directory.tempfile, "gettempdir", none)
    monkeypatch.setattr(local_directory, "SHARED_MEMORY", str(tmp_path))
    assert local_directory.bases() == (str(tmp_path),)
    monkeypatch.setattr(local_directory, "SHARED_MEMORY", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="TMPDIR"):
        local_directory.bases()
