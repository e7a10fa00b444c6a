"""The embedded store: no server, nothing to start. The default.

    <directory>/data.mdb, lock.mdb     LMDB: records, small values, and which file holds which large value
    <directory>/large/                 large values in shared memory, one file each
    <directory>/page                   what all processes see at once: whether shared memory has become too small
    <directory>/overflow               -> a directory on disk, used when shared memory has no room: for large values,
                                       and for ``records/``, to which LMDB's files move

Every process that uses the store opens the same files. A transaction of LMDB is atomic for all of them, and a process
that dies in the middle of one changes nothing and blocks nobody.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import lmdb

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Store, blob_size
from wukong.backends.storage.local import clock, fanin
from wukong.backends.storage.local.directory import BACKEND, OwnedDirectory, lived_in, sweep
from wukong.backends.storage.local.environment import FULL, LmdbEnvironment, release, share
from wukong.backends.storage.local.failures import damaged, failure, full
from wukong.backends.storage.local.founding import SMALLEST_BYTES, everywhere, new_directories, no_room
from wukong.backends.storage.local.page import PAGE
from wukong.backends.storage.local.renewal import HEADS, renew
from wukong.backends.storage.local.rows import (
    DAMAGE,
    HEAD,
    LARGE,
    SMALL,
    Replaced,
    expired,
    file_of,
    large,
    large_row,
    large_total,
    record_key,
    value_key,
)
from wukong.backends.storage.local.segments import NoRoom, Segments, file_system_bytes
from wukong.backends.storage.local.tidying import tidy
from wukong.core.interrupts import held
from wukong.errors import ConfigError, StoreError, StoreUnavailable

__all__ = ["LocalStore"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

_BATCH = 512
_DELETE_BATCH = 128
_BATCH_BYTES = 8 << 20
_VIEW_BYTES = 4096
_POLL_S = (50e-6, 5e-3)


class LocalStore(Store):
    """The embedded store `local`: LMDB and memory-mapped files in a private directory.

    Args:
        path: the directory. None: a new one, in shared memory if there is some, else on disk.
        size_bytes: the most bytes for records and small values together, and also for all values together; None: what
            the file systems have, less a reserve.
        large_bytes: a value of this size or more gets a file of its own, which readers map without copying.
        adopt: with a `path`: keep what a dead owner left there, so that its jobs can be taken over.
        owner: this object makes the directory, and removes it when it is closed or its process ends; False: open
            one that exists.

    Raises `ConfigError` for invalid options, `StoreUnavailable` if there is no store at `path` any more.
    """

    capabilities = Capabilities(
        round_trip_s=5e-6, bandwidth_bytes_per_s=2e9, trusted=True, zero_copy=True, scans=True, renews=True
    )

    @held()
    def __init__(
        self,
        path: str | None = None,
        *,
        size_bytes: int | None = None,
        large_bytes: int = 262_144,
        adopt: bool = False,
        owner: bool = True,
    ) -> None:
        if size_bytes is not None and size_bytes < SMALLEST_BYTES:
            raise ConfigError(f"size_bytes is {size_bytes}; a store needs {SMALLEST_BYTES} at least.", backend=BACKEND)
        if large_bytes < 1:
            raise ConfigError(f"large_bytes is {large_bytes}; it is a size from 1 up.", backend=BACKEND)
        if path is None and not owner:
            raise ConfigError("A store that is not owned is opened by its `path`.", backend=BACKEND)
        if path is None and adopt:
            raise ConfigError("A store to adopt is named by its `path`.", backend=BACKEND)
        owned: list[OwnedDirectory] = []
        given = path
        try:
            if owner:
                owned = new_directories(path, adopt, size_bytes)
                path = owned[0].path
            assert path is not None
            self._path = os.path.realpath(path)
            self._size_bytes = size_bytes
            self._large_bytes = large_bytes
            try:
                self._env = share(self._path, new=owner)
            except OSError as error:
                raise StoreUnavailable(
                    f"There is no store at {self._path}.", backend=BACKEND, hint="its owner has closed it or has ended"
                ) from error
            self._segments = Segments(self._path, self._env.page.spill_values)
        except BaseException:
            for directory in owned:
                directory.remove()
            raise
        self._closing = weakref.finalize(self, _let_go, self._env, owned)
        self._offset_s = 0.0
        try:
            with self._env.lock:
                self._env.open(create=owner)
            if owner:
                self._offset_s = self._env.write(clock.start, 4096)
            else:
                with self._env.lock, self._env.begin() as txn:
                    self._offset_s = clock.offset_s(txn)
        except BaseException as error:
            self._closing()
            if owner and isinstance(error, OSError) and error.errno in FULL:
                raise no_room(given, error) from error
            raise

    @property
    def path(self) -> str:
        """The store's directory."""
        return self._path

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`. Large values are views of the store's own memory; pages that a reader writes are copied."""
        self._check_open()
        names = [value_key(key) for key in keys]
        try:
            env = self._env
            with env.lock, env.begin() as txn:
                rows = [txn.get(name) for name in names]
        except lmdb.Error as error:
            raise failure(error) from error
        values: list[Buffer | None] = []
        try:
            for name, row in zip(names, rows, strict=True):
                if row is None or HEAD.unpack_from(row)[1] <= self._now_s():
                    values.append(None)
                elif row[0] == SMALL:
                    values.append(row[9:] if len(row) < _VIEW_BYTES else memoryview(row)[9:])
                else:
                    values.append(self._map(name, row))
        except DAMAGE as error:
            raise damaged("value", keys[len(values)], error) from error
        return values

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`. Up to 512 small items, or a large one, become visible in one transaction."""
        self._check_open()
        expires_s = math.inf if ttl_s is None else self._now_s() + ttl_s
        small_head = HEAD.pack(SMALL, expires_s)
        rows: list[tuple[bytes, bytes]] = []
        files: list[str] = []
        waiting_bytes = 0
        try:
            for key, blob in items.items():
                parts = blob if isinstance(blob, tuple) else (blob,)
                size_bytes = blob_size(blob)
                if size_bytes < self._large_bytes:
                    rows.append((value_key(key), b"".join((small_head, *parts))))
                    waiting_bytes += size_bytes
                else:
                    name = self._write_large(parts, size_bytes)
                    files.append(name)
                    rows.append((value_key(key), large_row(expires_s, size_bytes, name)))
                if len(rows) >= _BATCH or waiting_bytes >= _BATCH_BYTES:
                    self._put_rows(rows, waiting_bytes)
                    rows, files, waiting_bytes = [], [], 0
            if rows:
                self._put_rows(rows, waiting_bytes)
        except BaseException:
            self._segments.remove(files)
            raise

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`. Memory of a large value that somebody still maps is freed when the last map goes."""
        self._check_open()
        for start in range(0, len(keys), _DELETE_BATCH):
            batch = keys[start : start + _DELETE_BATCH]

            def work(txn: lmdb.Transaction[bytes], batch: Sequence[bytes] = batch) -> list[str]:
                gone = Replaced(txn)
                for key in batch:
                    name = value_key(key)
                    row = txn.get(name)
                    if row is not None:
                        gone.add(row)
                        txn.delete(name)
                    fanin.delete(txn, record_key(key))
                gone.settle(0)
                return gone.files

            self._segments.remove(self._write(work, len(batch) * 4096, frees=True))

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`. Looks every 50 microseconds at first, then ever more rarely, at last every 5 ms."""
        start_s = time.perf_counter()
        while True:
            value = self.get((key,))[0]
            elapsed_s = time.perf_counter() - start_s
            if value is not None or elapsed_s >= timeout_s:
                return value
            time.sleep(min(max(elapsed_s / 20, _POLL_S[0]), _POLL_S[1], timeout_s - elapsed_s))

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`. Up to 512 arrivals share one transaction."""
        self._check_open()
        outcomes: list[Outcome] = []
        for start in range(0, len(arrivals), _BATCH):
            batch = arrivals[start : start + _BATCH]

            def work(txn: lmdb.Transaction[bytes], batch: Sequence[Arrival] = batch) -> list[Outcome]:
                now_s = self._now_s()
                expires_s = math.inf if ttl_s is None else now_s + ttl_s
                told = []
                for nth, arrival in enumerate(batch, self._env.first):
                    try:
                        told.append(fanin.arrive(txn, record_key(arrival.record), arrival, expires_s, now_s, nth))
                    except (struct.error, IndexError, OverflowError) as error:
                        raise damaged("record of the fan-in", arrival.record, error) from error
                return told

            grows_bytes = sum(16_384 + 2 * len(a.value or b"") + 8 * len(a.members) * a.only_if_last for a in batch)
            outcomes += self._write(work, grows_bytes)
        return outcomes

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`. Keys of more than 500 bytes are left out."""
        self._check_open()
        found: dict[bytes, int] = {}
        now_s = self._now_s()
        env = self._env
        try:
            with env.lock, env.current().begin(buffers=True) as txn:
                for kind in (b"r", b"v"):
                    cursor = txn.cursor()
                    there = cursor.set_range(kind + prefix)
                    while there and (name := bytes(cursor.key())).startswith(kind + prefix):
                        row = cursor.value()
                        if kind == b"r":
                            if not fanin.expired(row, now_s):
                                found[name[1:]] = len(row)
                        elif not expired(row, now_s):
                            large_value = file_of(row)
                            found[name[1:]] = len(row) - HEAD.size if large_value is None else large_value[0]
                        there = cursor.next()
        except lmdb.Error as error:
            raise failure(error) from error
        return found

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`. Keys of more than 500 bytes are left out."""
        self._check_open()
        now_s = self._now_s()
        try:
            for kind in HEADS:
                renew(self._env, self._write, kind + prefix, now_s + ttl_s, now_s)
        except lmdb.Error as error:
            raise failure(error) from error

    @classmethod
    def visited(cls, **options: Any) -> Sequence[Store]:
        """See `Store.visited`. With `path` the store there; without, the stores of this user's living processes."""
        path = options.get("path")
        paths = lived_in(everywhere()) if path is None else [path]
        return [cls(each, owner=False) for each in paths if os.path.exists(os.path.join(each, PAGE))]

    @classmethod
    def sweep(cls, older_than_s: float, *, dry_run: bool) -> Mapping[str, int]:
        """See `Store.sweep`."""
        return sweep(everywhere(), older_than_s, dry_run=dry_run)

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        options = {
            "path": self._path,
            "size_bytes": self._size_bytes,
            "large_bytes": self._large_bytes,
            "owner": False,
        }
        return PluginSpec(f"{__name__}:{type(self).__name__}", options)

    def close(self) -> None:
        """See `Store.close`. The owner removes the directory; values that are still mapped stay readable."""
        self._closing()

    def _now_s(self) -> float:
        """Return the time by which keys expire. It goes on after a reboot, and does not follow the system's clock."""
        return clock.monotonic_s() + self._offset_s

    def _check_open(self) -> None:
        if not self._closing.alive:
            raise StoreError("The store has been closed.", backend=BACKEND)

    def _map(self, name: bytes, row: bytes) -> Buffer | None:
        """Return the large value that `row` refers to; the row may have been replaced meanwhile."""
        while True:
            expires_s, size_bytes, file = large(row)
            if expires_s <= self._now_s():
                return None
            try:
                return self._segments.open(file, size_bytes)
            except FileNotFoundError:
                env = self._env
                with env.lock, env.begin() as txn:
                    again = txn.get(name)
            except OSError as error:
                raise StoreError(f"The large value {name[1:]!r} cannot be read: {error}.", backend=BACKEND) from error
            if again is None or again == row:
                return None
            if again[0] == SMALL:
                return again[9:]
            row = again

    def _write_large(self, parts: Sequence[Buffer], size_bytes: int) -> str:
        for last in (False, True):
            try:
                if self._size_bytes is not None:
                    taken_bytes = self._taken_bytes()
                    if taken_bytes + size_bytes > self._size_bytes:
                        raise NoRoom(f"{taken_bytes:,} of size_bytes = {self._size_bytes:,} are taken")
                return self._segments.write(parts, size_bytes)
            except NoRoom as error:
                if last:
                    raise full(f"has no room for a value of {size_bytes:,} bytes: {error}", self._path) from None
                self._tidy()
            except OSError as error:
                raise StoreError(f"A large value cannot be written: {error}.", backend=BACKEND) from error
        raise AssertionError

    def _taken_bytes(self) -> int:
        env = self._env
        with env.lock, env.begin() as txn:
            return env.used_bytes() + large_total(txn)

    def _put_rows(self, rows: Sequence[tuple[bytes, bytes]], size_bytes: int) -> None:
        def work(txn: lmdb.Transaction[bytes]) -> list[str]:
            gone = Replaced(txn)
            added_bytes = 0
            for name, row in rows:
                if not txn.put(name, row, overwrite=False):
                    gone.add(txn.get(name, b""))
                    txn.put(name, row)
                if row[0] == LARGE:
                    added_bytes += large(row)[1]
            gone.settle(added_bytes)
            return gone.files

        self._segments.remove(self._write(work, len(rows) * 8192 + 2 * size_bytes))

    def _write(self, work: Callable[[lmdb.Transaction[bytes]], T], grows_bytes: int, *, frees: bool = False) -> T:
        """Run `work` in a write transaction; if there is no room, tidy up and retry, then move to disk and retry."""
        grows_bytes += 65_536
        for tries in range(3):
            try:
                return self._env.write(work, grows_bytes, frees=frees)
            except (lmdb.MapFullError, OSError) as error:
                if isinstance(error, OSError) and error.errno not in FULL:
                    raise StoreError(
                        f"The store at {self._path} cannot be written: {error}", backend=BACKEND
                    ) from error
                if tries == 0:
                    self._tidy()
                elif tries == 2 or not self._env.move(grows_bytes):
                    raise full(f"has no room for records and small values: {self._how_full()}", self._path) from error
            except lmdb.Error as error:
                raise failure(error) from error
        raise AssertionError

    def _how_full(self) -> str:
        free_bytes, total_bytes = file_system_bytes(self._env.folder)
        used_bytes, limit_bytes = self._env.used_bytes(), self._env.limit_bytes
        return (
            f"{used_bytes:,} of {limit_bytes:,} bytes are taken, and the file system has {free_bytes:,} of "
            f"{total_bytes:,} bytes free"
        )

    def _tidy(self) -> None:
        tidy(self._env, self._segments, self._now_s())


def _let_go(env: LmdbEnvironment, owned: list[OwnedDirectory]) -> None:
    release(env)
    for directory in owned:
        directory.remove()
