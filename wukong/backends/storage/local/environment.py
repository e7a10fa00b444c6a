"""One process's access to the LMDB files of an embedded store.

What LMDB demands of its users, and how this module meets it:

- *Files are opened once per process*, however many stores lead to them (its locks belong to the process). So
  environments are counted, and shared by path.
- *An environment never crosses a fork*: closing it in the child would release the parent's reader slots. So a fork
  waits until no transaction is under way, closes every environment, and parent and child open theirs again when
  they next need it.
- *A thread must not enter a write transaction twice*: it would wait for itself for ever. A finalizer that the garbage
  collector runs in the middle of one gets an error instead.
- *Pages without backing raise SIGBUS*, because LMDB writes to the map directly (a small put takes 1.2 us, and 5 us
  without that). So pages are reserved from the file system before LMDB grows into them, and a full file system raises
  an ordinary `OSError`; the table of readers is reserved as a whole when it is made.
- *LMDB never gives room back, nor grows into another file system.* So if shared memory has no room left, one process
  copies everything to disk in one write transaction (`move`), and the store's page tells all others. Readers use the
  new files from their next transaction on; writers look again when they have the lock.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import lmdb

from wukong.backends.storage.local.directory import BACKEND, DISK
from wukong.backends.storage.local.page import SharedPage
from wukong.errors import StoreError, StoreUnavailable

logger = logging.getLogger(__name__)
T = TypeVar("T")

DATA, TABLE = "data.mdb", "lock.mdb"

MAX_READERS = 4096
FULL = {errno.ENOSPC, errno.EDQUOT}
_STEP_BYTES = 1 << 20
_HEADROOM_BYTES = 2 << 20  # what writes leave to deletes, which copy the pages they change
_CHECK_EVERY = 4096
_CAN_RESERVE = hasattr(os, "posix_fallocate")  # not on macOS: there the map is not written to directly
_TABLE_BYTES = (MAX_READERS + 64) * 64  # a line of the processor's cache for each, and some for the head
_RECORDS = "records"


def make(path: str, first_bytes: int, disk_bytes: int) -> None:
    """Make the files of a new store that may have no holes, as `SharedPage.make` does."""
    SharedPage.make(path, first_bytes, disk_bytes)
    _make_table(path)


def _make_table(folder: str) -> None:
    fd = os.open(os.path.join(folder, TABLE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not os.fstat(fd).st_size and os.write(fd, bytes(_TABLE_BYTES)) < _TABLE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def map_size_bytes(limit_bytes: int) -> int:
    """Return the size of a map: the limit, plus room for the list of free pages and for pages that change."""
    return limit_bytes + limit_bytes // 4 + 4 * _HEADROOM_BYTES


class LmdbEnvironment:
    """The LMDB environment of one store in this process. Get it with `share`, give it back with `release`.

    Attributes:
        path: the store's directory; `folder`: the directory of the files, which is on disk once they have moved.
        limit_bytes: most bytes that the pages in use may take.
        first: the number of the first arrival in a transaction, see `holds.number`.
        page: what all processes share; `owner`: this process logs when the store moves to disk.
        lock: held during every transaction; a fork waits for it.
        handle: the open environment, or None if it has to be opened before the next transaction.
    """

    def __init__(self, path: str, page: SharedPage, owner: bool) -> None:
        self.path = self.folder = path
        self.page = page
        self.limit_bytes = page.limits_bytes[0]
        self.lock = threading.RLock()
        self.handle: lmdb.Environment | None = None
        self._changes = page.changes
        self._seen = 0
        self._told = not owner
        self._users = 0
        self._writing = False
        self._writes = 0
        self._page_bytes = 4096
        self._data_fd = -1
        self._reserved_bytes = 0
        self.first = 0

    def current(self) -> lmdb.Environment:
        """Return the open environment of the records' present place. Needs `lock` held. Raises as `open` does."""
        if self._changes[0] != self._seen:
            self._follow()
        return self.handle or self.open()

    def begin(self) -> lmdb.Transaction[bytes]:
        """Begin a read transaction. Needs `lock` held."""
        if self._changes[0] != self._seen:
            self._follow()
        return (self.handle or self.open()).begin()

    def open(self, *, create: bool = False) -> lmdb.Environment:
        """Open the files if they are not open. Needs `lock` held. Raises StoreUnavailable if they are gone."""
        while True:
            if self._changes[0] != self._seen:
                self._follow()
            if self.handle is not None:
                return self.handle
            if not self._users:
                raise StoreError("The store has been closed.", backend=BACKEND)
            folder = self.folder
            try:
                self.handle = self._open(create)
            except (OSError, lmdb.Error) as error:
                self._follow()
                if self.folder == folder:
                    raise self._failed(error) from error
                # They moved after we had looked where they are.

    def _open(self, create: bool) -> lmdb.Environment:
        # A descriptor of the data file only: LMDB's own locks are on the other file, and closing this one is safe.
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._data_fd = os.open(os.path.join(self.folder, DATA), flags, 0o600)
        try:
            handle = lmdb.open(
                self.folder,
                map_size=map_size_bytes(self.limit_bytes),
                create=create,
                mode=0o600,
                sync=False,
                metasync=False,
                writemap=_CAN_RESERVE,
                max_readers=MAX_READERS,
                max_spare_txns=4,
            )
            handle.reader_check()
        except BaseException:
            os.close(self._data_fd)
            raise
        self._page_bytes = handle.stat()["psize"]
        return handle

    def _failed(self, error: Exception) -> StoreError:
        if isinstance(error, lmdb.MemoryError):
            limit_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
            limit = "" if limit_bytes == resource.RLIM_INFINITY else f", of {limit_bytes:,} in all (ulimit -v)"
            needed_bytes = map_size_bytes(self.limit_bytes)
            return StoreError(
                f"The store at {self.path} cannot be mapped: this process has no {needed_bytes:,} bytes of addresses "
                f"left{limit}.",
                backend=BACKEND,
                hint="set the store's option size_bytes lower, or raise that limit",
            )
        return StoreUnavailable(
            f"The store at {self.path} cannot be opened: {error}.",
            backend=BACKEND,
            hint="its owner has closed it or has ended; an embedded store lives no longer than its owner",
        )

    def _follow(self) -> None:
        """Go on with the records' present place; the owner logs it."""
        self._seen = self._changes[0]
        if self.page.records_moved and self.folder == self.path:
            if self.handle is not None:
                self.handle = None  # not closed: what the garbage collector has interrupted may be reading there
                os.close(self._data_fd)
            self.folder = os.path.join(self.path, DISK, _RECORDS)
            self.limit_bytes = self.page.limits_bytes[1]
            self._reserved_bytes = 0
            self.first = self.page.last_transaction << 32
        if self._seen and not self._told:
            self._told = True
            logger.warning(
                "%s has no room left: the embedded store goes on on disk, in %s. In a container, --shm-size helps",
                os.path.dirname(self.path),
                os.path.realpath(os.path.join(self.path, DISK)),
            )

    def write(self, work: Callable[[lmdb.Transaction[bytes]], T], grows_bytes: int, *, frees: bool = False) -> T:
        """Run `work` in one write transaction, atomic for every process; return what it returns.

        `grows_bytes`: the most bytes by which `work` makes the data file grow. Raises OSError (ENOSPC) if the limit or
        the file system leaves no room for that. `frees`: `work` makes room, and may use the reserve that other writes
        must leave.
        """
        with self.lock:
            if self._writing:
                raise StoreError(
                    "The store was called from within its own write transaction.",
                    backend=BACKEND,
                    hint="a finalizer (__del__, weakref callback) must hand its deletions to a thread",
                )
            try:
                self._writing = True
                while True:
                    if self._changes[0] != self._seen:
                        self._follow()
                    handle = self.handle or self.open()
                    with handle.begin(write=True) as txn:
                        if self._changes[0] == self._seen:  # they have not moved while we waited for the lock
                            self._reserve(handle, grows_bytes, frees)
                            result = work(txn)
                            break
            finally:
                self._writing = False
            self._writes += 1
            if self._writes % _CHECK_EVERY == 0:
                handle.reader_check()  # readers killed by a signal would keep old pages from being used again
            return result

    def move(self, grows_bytes: int) -> bool:
        """Move the records to disk, for all processes; return False if there is no disk or it has no room either."""
        with self.lock:
            handle = self.current()
            disk = os.path.join(self.path, DISK)
            if self.folder != self.path or not os.path.isdir(disk):
                return False
            folder = os.path.join(disk, _RECORDS)
            try:
                with handle.begin(write=True) as txn:
                    if not self.page.records_moved:
                        if self._used_bytes(handle) + grows_bytes > self.page.limits_bytes[1]:
                            return False
                        self._copy(txn, folder, grows_bytes)
                        self.page.move_records(txn.id())
            except (OSError, lmdb.Error) as error:
                logger.info("the records of the store at %s cannot move to %s: %s", self.path, folder, error)
                shutil.rmtree(folder, ignore_errors=True)
                return False
            for name in (DATA, TABLE):
                with suppress(OSError):
                    os.unlink(os.path.join(self.path, name))
            return True

    def _copy(self, txn: lmdb.Transaction[bytes], folder: str, grows_bytes: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that died during a move
        os.mkdir(folder, 0o700)
        _make_table(folder)
        # Row by row: LMDB's own copy refuses a file that has lost a page.
        map_bytes = map_size_bytes(self.page.limits_bytes[1])
        with (
            lmdb.open(folder, map_size=map_bytes, mode=0o600, sync=False, metasync=False) as copy,
            copy.begin(write=True) as into,
        ):
            into.cursor().putmulti(txn.cursor(), append=True)
        fd = os.open(os.path.join(folder, DATA), os.O_RDWR | os.O_CLOEXEC)
        try:
            if _CAN_RESERVE:
                os.posix_fallocate(fd, os.fstat(fd).st_size, grows_bytes + 2 * _HEADROOM_BYTES)
        finally:
            os.close(fd)

    def used_bytes(self) -> int:
        """Return how many bytes the pages in use take."""
        with self.lock:
            return self._used_bytes(self.current())

    def _used_bytes(self, handle: lmdb.Environment) -> int:
        pages = handle.stat()
        return self._page_bytes * (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"])

    def check_readers(self) -> None:
        """Free the reader slots of dead processes."""
        with self.lock:
            self.current().reader_check()

    def _reserve(self, handle: lmdb.Environment, grows_bytes: int, frees: bool) -> None:
        """Reserve room for `grows_bytes` more, at the end of the file or in its free pages."""
        file_bytes = (handle.info()["last_pgno"] + 1) * self._page_bytes
        end = file_bytes + grows_bytes
        if end > self.limit_bytes and not frees and self._used_bytes(handle) + grows_bytes > self.limit_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wanted = end if frees else end + _HEADROOM_BYTES
        if wanted <= self._reserved_bytes or not _CAN_RESERVE:
            return
        wanted = min(-(-wanted // _STEP_BYTES) * _STEP_BYTES, map_size_bytes(self.limit_bytes))
        if wanted <= max(self._reserved_bytes, file_bytes):
            return
        start = max(self._reserved_bytes, file_bytes)  # whoever grew the file has reserved all of it
        try:
            os.posix_fallocate(self._data_fd, start, wanted - start)
            self._reserved_bytes = wanted
        except OSError as error:
            if error.errno not in FULL:
                raise
            if end > start:
                os.posix_fallocate(self._data_fd, start, end - start)  # another process may have reserved it
                self._reserved_bytes = end
            # Free pages inside the file can serve as the reserve for deletes, too.
            left_bytes = self._reserved_bytes - end + file_bytes - self._used_bytes(handle)
            if not frees and left_bytes < _HEADROOM_BYTES:
                raise

    def close(self) -> None:
        """Close the files; the next transaction opens them again."""
        with self.lock:
            handle, self.handle = self.handle, None
            if handle is not None:
                handle.close()
                os.close(self._data_fd)


_shared: dict[str, LmdbEnvironment] = {}
_all: weakref.WeakSet[LmdbEnvironment] = weakref.WeakSet()
_forking: list[LmdbEnvironment] = []
_registry = threading.RLock()
_fork = threading.RLock()
_lost: list[lmdb.Environment] = []


def share(path: str, *, new: bool = False) -> LmdbEnvironment:
    """Return this process's environment for the directory `path`; `new`: this process has just made the store.

    Raises OSError if there is no store.
    """
    path = os.path.realpath(path)
    with _registry:
        for idle in [known for known, env in _shared.items() if not env._users and env.handle is None]:
            del _shared[idle]
        if new or path not in _shared:
            _shared[path] = LmdbEnvironment(path, SharedPage(path), owner=new)
            _all.add(_shared[path])
        environment = _shared[path]
        environment._users += 1
        return environment


def release(environment: LmdbEnvironment) -> None:
    """Give back what `share` returned; the last user closes it."""
    with _registry:
        environment._users -= 1
    # Not under the registry's lock: the garbage collector may call this within a transaction of another environment.
    with environment.lock:
        if not environment._users:
            environment.close()


def _before_fork() -> None:
    _fork.acquire()
    with _registry:  # not for longer: a finalizer that runs inside a transaction may want it
        _forking[:] = _all
    for environment in _forking:
        environment.lock.acquire()
        if not environment._writing:
            environment.close()


def _after_fork_in_parent() -> None:
    for environment in _forking:
        environment.lock.release()
    _forking.clear()
    _fork.release()


def _after_fork_in_child() -> None:
    global _registry, _fork
    _registry, _fork = threading.RLock(), threading.RLock()
    _forking.clear()
    for environment in _all:
        environment.lock = threading.RLock()
        environment._writing = False
        environment._told = True  # by the parent
        if environment.handle is not None:  # forked without the hook above: must not be used here, not even closed
            _lost.append(environment.handle)
            environment.handle = None


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
