"""The conformance suite, and what is this store's own: one file, its rights, its locks, what is forgotten."""

import sqlite3
import stat

import pytest
from wukong.backends.storage import Arrival, Outcome
from wukong.errors import ConfigError, StoreError, StoreFull, StoreUnavailable
from wukong.testing.storage import StoreTests

import wukong_sqlite
from wukong_sqlite import SqliteStore


class TestSqliteStore(StoreTests):
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path):
        self.path = tmp_path / "store.sqlite"

    def make_store(self):
        return SqliteStore(str(self.path))

    def make_unreachable_store(self):
        return SqliteStore(str(self.path / "no" / "folder"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path):
    store = SqliteStore(str(path))
    yield store
    store.close()


def test_values_stay_when_the_store_is_closed(path, store):
    store.put({b"a": b"1"})
    store.close()
    again = SqliteStore(str(path))
    assert again.get([b"a"]) == [b"1"]
    again.close()


def test_the_file_is_its_owners_alone(path, store):
    store.put({b"a": b"1"})
    for file in path.parent.iterdir():  # the write-ahead log as well
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_has_outlived_its_time_is_missing_and_later_forgotten(path, store, monkeypatch):
    now_s = 1_000.0
    monkeypatch.setattr(wukong_sqlite.time, "time", lambda: now_s)
    store.put({b"a": b"1", b"b": b"2"}, ttl_s=10.0)
    store.put({b"b": b"2"})
    store.incr([Arrival(b"f", (0,), 2, b"a", b"riding")], ttl_s=10.0)
    now_s = 1_011.0
    assert store.get([b"a", b"b"]) == [None, b"2"]
    assert store.incr([Arrival(b"f", (1,), 2, b"b")]) == [Outcome(False, False)]
    store.incr([Arrival(b"g", (0,), 2, b"a", b"riding")], ttl_s=10.0)
    now_s = 1_022.0
    monkeypatch.setattr(wukong_sqlite, "_SWEEP_S", 0.0)
    store.put({b"c": b"3"})
    with sqlite3.connect(path) as raw:
        assert raw.execute("select key from entry order by key").fetchall() == [(b"b",), (b"c",)]
        assert raw.execute("select key from fanin").fetchall() == [(b"f",)]
        assert raw.execute("select count(*) from riding").fetchone() == (0,)


def test_a_file_that_somebody_else_keeps_locked_may_be_tried_again(path, monkeypatch):
    monkeypatch.setattr(wukong_sqlite, "_LOCK_S", 0.01)
    store = SqliteStore(str(path))
    store.put({b"a": b"1"})
    somebody = sqlite3.connect(path, isolation_level=None)
    somebody.execute("begin immediate")
    with pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
        store.put({b"a": b"2"})
    assert store.get([b"a"]) == [b"1"]
    somebody.execute("rollback")
    store.put({b"a": b"2"})
    store.close()


def test_a_full_disk_is_said_so_and_leaves_what_was_there(store):
    store.put({b"a": b"1"})
    with store._transaction() as run:
        run("pragma max_page_count = 30")
    with pytest.raises(StoreFull, match="SQLITE_FULL"):
        store.put({b"a": b"2", b"b": bytes(1_000_000)})
    assert store.get([b"a", b"b"]) == [b"1", None]


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("a letter, not a database, and longer than a header of SQLite's")
    with pytest.raises(StoreError, match="SQLITE_NOTADB"):
        SqliteStore(str(path))


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_database_that_no_other_process_could_open_is_refused(path):
    with pytest.raises(ConfigError, match="of one process"):
        SqliteStore(path)
