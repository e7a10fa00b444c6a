"""An intermediate store in one SQLite file: as little as a store can be, and still a real one."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Store, joined
from wukong.errors import StoreError, StoreUnavailable

_TABLES = """
create table if not exists entry (key blob primary key, value blob not null) without rowid;
create table if not exists member (record blob, member integer, primary key (record, member)) without rowid;
create table if not exists ridden (record blob, value blob);
create index if not exists riding on ridden (record);
create table if not exists hold (place integer primary key, record blob, claimant blob, members text);
create unique index if not exists holding on hold (record, claimant);
create table if not exists fanin (record blob primary key, arrived integer, claimant blob) without rowid;
"""


class SqliteStore(Store):
    """A store in the file `path`, which stays when the store is closed."""

    capabilities = Capabilities(max_value_bytes=500_000_000, wait_blocks=False, round_trip_s=0.0002)

    def __init__(self, path: str, poll_s: float = 0.005) -> None:
        self._path = path
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = off")  # intermediate values need not outlive the machine
        with self._transaction():
            for statement in _TABLES.split(";"):
                self._connection.execute(statement)

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        with self._transaction("deferred") as run:
            rows = [run("select value from entry where key = ?", (key,)).fetchone() for key in keys]
        return [row and row[0] for row in rows]

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        with self._transaction() as run:
            for key, blob in items.items():
                run("insert or replace into entry values (?, ?)", (key, bytes(joined(blob))))

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._transaction() as run:
            for key in keys:
                run("delete from entry where key = ?", (key,))
                for table in ("member", "ridden", "hold", "fanin"):
                    run(f"delete from {table} where record = ?", (key,))

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        end_s = time.monotonic() + timeout_s
        while (value := self.get([key])[0]) is None and time.monotonic() < end_s:
            time.sleep(self._poll_s)
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        outcomes = []
        for arrival in arrivals:
            with self._transaction() as run:
                outcomes.append(self._arrive(run, arrival))
        return outcomes

    def spec(self) -> PluginSpec:
        return PluginSpec("wukong_sqlite:SqliteStore", {"path": self._path, "poll_s": self._poll_s})

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _arrive(self, run, arrival: Arrival) -> Outcome:
        record, me = arrival.record, arrival.claimant
        known = "select 1 from member where record = ? and member = ?"
        arrived, claimant = run("select arrived, claimant from fanin where record = ?", (record,)).fetchone() or (
            0,
            None,
        )
        new = [(record, member) for member in arrival.members if not run(known, (record, member)).fetchone()]
        arrived += len(new)
        if arrival.only_if_last and arrived < arrival.of:
            return Outcome(complete=False, claimed=False, give_way=self._hold(run, arrival))
        if new:
            claimant = me if arrived == arrival.of else None
            for row in new:
                run("insert into member values (?, ?)", row)
            if arrival.value is not None:
                run("insert into ridden values (?, ?)", (record, arrival.value))
            run("insert or replace into fanin values (?, ?, ?)", (record, arrived, claimant))
        if claimant != me:
            return Outcome(complete=claimant is not None, claimed=False)
        values = tuple(row[0] for row in run("select value from ridden where record = ?", (record,)))
        return Outcome(complete=True, claimed=True, values=values)

    def _hold(self, run, arrival: Arrival) -> bool:
        note = (arrival.record, arrival.claimant, json.dumps(sorted(arrival.members)))
        if not run("select 1 from hold where record = ? and claimant = ? and members = ?", note).fetchone():
            run(
                "insert into hold (record, claimant, members) values (?, ?, ?) "
                "on conflict (record, claimant) do update set members = excluded.members",  # and keep the place
                note,
            )
        arrived = {row[0] for row in run("select member from member where record = ?", (arrival.record,))}
        holds = run("select claimant, members from hold where record = ? order by place", (arrival.record,)).fetchall()
        notes = {claimant: set(json.loads(members)) for claimant, members in holds}
        if len(arrived.union(*notes.values())) < arrival.of:
            return False
        first = next((claimant for claimant in notes if notes[claimant] - arrived), arrival.claimant)
        return list(notes).index(first) < list(notes).index(arrival.claimant)

    @contextmanager
    def _transaction(self, kind: str = "immediate") -> Iterator:
        try:
            with self._lock:
                self._connection.execute(f"begin {kind}")
                try:
                    yield self._connection.execute
                except BaseException:
                    self._connection.execute("rollback")
                    raise
                self._connection.execute("commit")
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(str(error), backend="storage: sqlite") from error
        except sqlite3.Error as error:
            raise StoreError(str(error), backend="storage: sqlite") from error
