"""An intermediate store for Wukong in one SQLite file, for all processes of one machine.

    entry    a value: its bytes, and when it may be forgotten
    fanin    a fan-in's record: how many members it has, how many have arrived, who claimed it
    member   which members have arrived
    riding   the values that rode in with arrivals
    hold     who holds which members, in the order of their first notes

Every method is one transaction, so it takes effect as a whole, for every process. SQLite's write-ahead log lets readers
go on while somebody writes; one process writes at a time, in tens of microseconds.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Store, blob_size, joined
from wukong.errors import ConfigError, StoreError, StoreFull, StoreUnavailable

__all__ = ["SqliteStore"]

_BACKEND = "storage: sqlite"
_SCHEMA = """
create table if not exists entry (key blob primary key, value blob not null, expires_s real not null);
create index if not exists entry_expires on entry (expires_s);
create table if not exists fanin (
    id integer primary key, key blob unique, of integer, arrived integer, claimant blob, expires_s real not null);
create index if not exists fanin_expires on fanin (expires_s);
create table if not exists member (fanin integer, member integer, primary key (fanin, member)) without rowid;
create table if not exists riding (fanin integer, value blob);
create index if not exists riding_fanin on riding (fanin);
create table if not exists hold (
    place integer primary key, fanin integer, claimant blob, members text, unique (fanin, claimant));
"""
_LOCK_S = 30.0
_SWEEP_S = 60.0
_NEVER = 9e99  # SQLite has no infinity to compare with in SQL text

Run: TypeAlias = Callable[..., sqlite3.Cursor]


class SqliteStore(Store):
    """A store in the file `path`. It makes the file if there is none; the file stays when the store is closed.

    Args:
        path: the file, on a disk of this machine (the write-ahead log does not work over a network).
        poll_s: how often `wait` looks, seconds.
        max_value_bytes: the largest value that goes into one row. Wukong cuts larger ones into several.

    Raises `ConfigError` for a path that no other process could open, `StoreError` for one that cannot be opened here.
    """

    CONTRACT = 1

    def __init__(self, path: str, *, poll_s: float = 0.002, max_value_bytes: int = 64 << 20) -> None:
        if path == ":memory:" or not path:
            raise ConfigError(f"{path!r} is a database of one process", backend=_BACKEND, hint="name a file")
        self._path = os.path.abspath(path)
        self._poll_s = poll_s
        self.capabilities = Capabilities(
            max_value_bytes=max_value_bytes,
            wait_blocks=False,
            round_trip_s=5e-5,
            bandwidth_bytes_per_s=5e8,
            scans=True,
            renews=True,
            takes=True,
        )
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._pid = os.getpid()
        self._closed = False
        self._swept_s = time.monotonic()
        with self._transaction() as run:
            for statement in _SCHEMA.split(";"):
                run(statement)

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        with self._transaction("deferred") as run:
            return [_value(run, key, time.time()) for key in keys]

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        for key, blob in items.items():
            if blob_size(blob) > (self.capabilities.max_value_bytes or 0):
                raise StoreError(
                    f"{key!r} has {blob_size(blob):,} bytes, and a row {self.capabilities.max_value_bytes:,} at most",
                    backend=_BACKEND,
                )
        with self._transaction() as run:
            self._sweep(run)
            for key, blob in items.items():
                run("insert or replace into entry values (?, ?, ?)", (key, _bytes(joined(blob)), _expiry(ttl_s)))

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._transaction() as run:
            _delete(run, keys)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        end_s = time.monotonic() + timeout_s
        while (value := self.get([key])[0]) is None and (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(self._poll_s, left_s))
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        with self._transaction() as run:
            self._sweep(run)
            return [_arrive(run, arrival, _expiry(ttl_s)) for arrival in arrivals]

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        begins = "substr(key, 1, ?) = ? and expires_s > ?", (len(prefix), prefix, time.time())
        with self._transaction("deferred") as run:
            found = dict(run(f"select key, 0 from fanin where {begins[0]}", begins[1]).fetchall())
            found.update(run(f"select key, length(value) from entry where {begins[0]}", begins[1]).fetchall())
        return found

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        which = time.time(), len(prefix), prefix
        with self._transaction() as run:
            for table in ("entry", "fanin"):
                change = f"update {table} set expires_s = ? where expires_s > ? and substr(key, 1, ?) = ?"
                run(change, (_expiry(ttl_s), *which))

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        with self._transaction() as run:
            found = [_value(run, key, time.time(), most_bytes) for key in keys]
            _delete(run, keys)
        return [None if value is None or not value.startswith(begin) else value for value in found]

    def spec(self) -> PluginSpec:
        options = {
            "path": self._path,
            "poll_s": self._poll_s,
            "max_value_bytes": self.capabilities.max_value_bytes,
        }
        return PluginSpec("wukong_sqlite:SqliteStore", options)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _transaction(self, kind: str = "immediate") -> Iterator[Run]:
        """Run statements as a whole, or not at all. ``immediate``: nobody else writes meanwhile."""
        try:
            connection = self._take()
            try:
                connection.execute(f"begin {kind}")
                try:
                    yield connection.execute
                except BaseException:
                    if connection.in_transaction:  # a full disk, for one, has rolled it back already
                        connection.execute("rollback")
                    raise
                connection.execute("commit")
            finally:
                self._give_back(connection)
        except sqlite3.Error as error:
            raise _mapped(error, self._path) from error

    def _take(self) -> sqlite3.Connection:
        """Return a connection that no other thread uses, and that was not opened before a fork."""
        with self._lock:
            if self._closed:
                raise StoreError("the store has been closed", backend=_BACKEND)
            if self._pid != os.getpid():
                self._pid = os.getpid()
                _inherited.extend(self._idle)
                self._idle = []
            if self._idle:
                return self._idle.pop()
        _make_private(self._path)
        connection = sqlite3.connect(self._path, timeout=_LOCK_S, isolation_level=None, check_same_thread=False)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = off")  # intermediate values need not outlive a crash of the machine
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _sweep(self, run: Run) -> None:
        """Now and then, forget what has outlived its time."""
        if time.monotonic() - self._swept_s > _SWEEP_S:
            self._swept_s = time.monotonic()
            run("delete from entry where expires_s <= ?", (time.time(),))
            _delete_records(run, "expires_s <= ?", time.time())


_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process. SQLite forbids using or closing them after a fork."""


def _make_private(path: str) -> None:
    """Create the file so that only its owner can read it: what executors unpickle is signed, but values are private."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        hint = "the folder must be there, and be yours to write to"
        raise StoreError(f"{path} cannot be opened: {error.strerror}", backend=_BACKEND, hint=hint) from error


def _value(run: Run, key: bytes, now_s: float, most_bytes: int = 1 << 62) -> bytes | None:
    which = "key = ? and expires_s > ? and length(value) <= ?"
    row = run(f"select value from entry where {which}", (key, now_s, most_bytes)).fetchone()
    return None if row is None else row[0]


def _bytes(buffer: Buffer) -> bytes:
    return buffer if isinstance(buffer, bytes) else bytes(buffer)


def _expiry(ttl_s: float | None) -> float:
    return _NEVER if ttl_s is None else time.time() + ttl_s


def _delete(run: Run, keys: Sequence[bytes]) -> None:
    for key in keys:
        run("delete from entry where key = ?", (key,))
        _delete_records(run, "key = ?", key)


def _delete_records(run: Run, which: str, *values: Any) -> None:
    for (fanin,) in run(f"select id from fanin where {which}", values).fetchall():
        for table in ("member", "riding", "hold"):
            run(f"delete from {table} where fanin = ?", (fanin,))
        run("delete from fanin where id = ?", (fanin,))


def _arrive(run: Run, arrival: Arrival, expires_s: float) -> Outcome:
    """Record one arrival, inside a transaction that nobody else writes in."""
    members = set(arrival.members)
    if not members or min(members) < 0 or max(members) >= arrival.of:
        raise ValueError(f"{sorted(members)} are no members of a fan-in of {arrival.of}")
    _delete_records(run, "key = ? and expires_s <= ?", arrival.record, time.time())
    row = run("select id, of, arrived, claimant from fanin where key = ?", (arrival.record,)).fetchone()
    if row is None:
        insert = "insert into fanin (key, of, arrived, expires_s) values (?, ?, 0, ?)"
        row = run(insert, (arrival.record, arrival.of, expires_s)).lastrowid, arrival.of, 0, None
    fanin, of, n_arrived, claimant = row
    if of != arrival.of:
        raise ValueError(f"the fan-in has {of} members, and an arrival says {arrival.of}")
    if n_arrived == of:  # a completed set is never changed
        return _outcome(run, fanin, claimant == arrival.claimant)

    known = "select 1 from member where fanin = ? and member = ?"
    new = [member for member in members if not run(known, (fanin, member)).fetchone()]
    completes = n_arrived + len(new) == of
    if arrival.only_if_last and not completes:
        return Outcome(complete=False, claimed=False, give_way=_hold(run, fanin, arrival, members, expires_s))
    if not new:
        return Outcome(complete=False, claimed=False)
    for member in new:
        run("insert into member values (?, ?)", (fanin, member))
    if arrival.value is not None:
        run("insert into riding values (?, ?)", (fanin, arrival.value))
    run(
        "update fanin set arrived = ?, claimant = ?, expires_s = ? where id = ?",
        (n_arrived + len(new), arrival.claimant if completes else None, expires_s, fanin),
    )
    return _outcome(run, fanin, claimed=True) if completes else Outcome(complete=False, claimed=False)


def _outcome(run: Run, fanin: int, claimed: bool) -> Outcome:
    """Return the outcome of a complete set. The claim is in the record, so its claimant is told so again."""
    rows = run("select value from riding where fanin = ?", (fanin,)) if claimed else ()
    return Outcome(complete=True, claimed=claimed, values=tuple(row[0] for row in rows))


def _hold(run: Run, fanin: int, arrival: Arrival, members: set[int], expires_s: float) -> bool:
    """Note what a claimant holds; return whether it is to give way."""
    note = (fanin, arrival.claimant, json.dumps(sorted(members)))
    if not run("select 1 from hold where fanin = ? and claimant = ? and members = ?", note).fetchone():
        run(
            "insert into hold (fanin, claimant, members) values (?, ?, ?) "
            "on conflict (fanin, claimant) do update set members = excluded.members",  # and keep the place
            note,
        )
        run("update fanin set expires_s = ? where id = ?", (expires_s, fanin))
    arrived = {row[0] for row in run("select member from member where fanin = ?", (fanin,))}
    rows = run("select claimant, members from hold where fanin = ? order by place", (fanin,)).fetchall()
    notes = {claimant: set(json.loads(held)) for claimant, held in rows}
    if len(arrived.union(*notes.values())) < arrival.of:
        return False  # somebody is still to come
    for claimant, held in notes.items():
        if claimant == arrival.claimant:
            return False
        if held - arrived:
            return True  # it held before, and waits for this one
    return False


def _mapped(error: sqlite3.Error, path: str) -> StoreError:
    """Return SQLite's error as one of Wukong's: the store is locked, it is full, or anything else."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    text = f"{path}: {error} ({name})"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreUnavailable(text, backend=_BACKEND, hint="another process has been writing for very long")
    if name.startswith("SQLITE_FULL"):
        return StoreFull(text, backend=_BACKEND, hint="make room on the disk")
    return StoreError(text, backend=_BACKEND)
