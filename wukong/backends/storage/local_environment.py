"""One process's door to the LMDB files of an embedded store.

What LMDB asks of its users, and how it is kept here:

- *Files are opened once per process*, however many stores lead to them (its locks belong to the process). So
  environments are counted, and shared by path.
- *An environment never crosses a fork*: closing it in the child would release the parent's reader slots. So a fork
  waits until no transaction is under way, closes every environment, and parent and child open theirs again when
  they next need it.
- *A write transaction is not entered twice by one thread*, which would wait for itself for ever. A finalizer that
  the garbage collector runs in the middle of one gets an error instead.
- *Pages that cannot be backed raise SIGBUS*, because the map is written to directly (a small put takes 1.2 us, and
  5 us without). So pages are reserved from the file system before LMDB grows into them, and a full file system is
  an ordinary `OSError`.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

import lmdb

from wukong.backends.storage.local_directory import BACKEND
from wukong.errors import StoreError, StoreUnavailable

T = TypeVar("T")

MAX_READERS = 4096
FULL = {errno.ENOSPC, errno.EDQUOT}
_STEP_BYTES = 1 << 20
_HEADROOM_BYTES = 2 << 20  # what writes leave to deletes, which copy the pages they change
_CHECK_EVERY = 4096
_CAN_RESERVE = hasattr(os, "posix_fallocate")  # not on macOS: there the map is not written to directly


class Environment:
    """The LMDB environment of one directory in this process. Get one with `share`, give it back with `release`.

    Attributes:
        limit_bytes: most bytes that the pages in use may take.
        lock: held during every transaction; a fork waits for it.
        handle: the open environment, or None where it is to be opened before the next transaction.
    """

    def __init__(self, path: str, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        # Beyond the limit there are pages that are copied while they change, and the list of the free ones.
        self.map_size_bytes = limit_bytes + limit_bytes // 4 + 4 * _HEADROOM_BYTES
        self.lock = threading.RLock()
        self.handle: lmdb.Environment | None = None
        self._users = 0
        self._writing = False
        self._writes = 0
        self._page_bytes = 4096
        self._data_fd = -1
        self._reserved_bytes = 0

    def open(self, *, create: bool = False) -> lmdb.Environment:
        """Open the files where that is still to be done, holding `lock`. Raises StoreUnavailable: they are gone."""
        if self.handle is not None:
            return self.handle
        if not self._users:
            raise StoreError("The store has been closed.", backend=BACKEND)
        try:
            # A descriptor of the data file only: LMDB's own locks are on the other file, and closing this one is safe.
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
            self._data_fd = os.open(os.path.join(self.path, "data.mdb"), flags, 0o600)
        except OSError as error:
            raise self._gone(error) from error
        try:
            handle = lmdb.open(
                self.path,
                map_size=self.map_size_bytes,
                create=create,
                mode=0o600,
                sync=False,
                metasync=False,
                writemap=_CAN_RESERVE,
                max_readers=MAX_READERS,
                max_spare_txns=4,
            )
            handle.reader_check()
        except lmdb.Error as error:
            os.close(self._data_fd)
            raise self._gone(error) from error
        self._page_bytes = handle.stat()["psize"]
        self.handle = handle
        return handle

    def _gone(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"The store at {self.path} cannot be opened: {error}.",
            backend=BACKEND,
            hint="its owner has closed it or has ended; an embedded store lives no longer than its owner",
        )

    def write(self, work: Callable[[lmdb.Transaction[bytes]], T], grows_bytes: int, *, frees: bool = False) -> T:
        """Run `work` in one write transaction, atomic for every process; return what it returns.

        `grows_bytes` is at most how far the data file may grow by it. Raises OSError (ENOSPC) where the limit or the
        file system has no room for that. `frees`: it makes room, and may use what other writes leave it.
        """
        with self.lock:
            handle = self.handle or self.open()
            if self._writing:
                raise StoreError(
                    "The store was called from within its own write transaction.",
                    backend=BACKEND,
                    hint="a finalizer (__del__, weakref callback) must hand its deletions to a thread",
                )
            try:
                self._writing = True
                with handle.begin(write=True) as txn:
                    self._reserve(handle, grows_bytes, frees)
                    result = work(txn)
            finally:
                self._writing = False
            self._writes += 1
            if self._writes % _CHECK_EVERY == 0:
                handle.reader_check()  # readers killed by a signal would keep old pages from being used again
            return result

    def used_bytes(self) -> int:
        """Return how many bytes the pages in use take."""
        with self.lock:
            return self._used_bytes(self.handle or self.open())

    def _used_bytes(self, handle: lmdb.Environment) -> int:
        pages = handle.stat()
        return self._page_bytes * (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"])

    def check_readers(self) -> None:
        """Free the reader slots of dead processes."""
        with self.lock:
            (self.handle or self.open()).reader_check()

    def _reserve(self, handle: lmdb.Environment, grows_bytes: int, frees: bool) -> None:
        """See to it that `grows_bytes` more may be written, at the end of the file or into its free pages."""
        file_bytes = (handle.info()["last_pgno"] + 1) * self._page_bytes
        end = file_bytes + grows_bytes
        if end > self.limit_bytes and not frees and self._used_bytes(handle) + grows_bytes > self.limit_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        wanted = end if frees else end + _HEADROOM_BYTES
        if wanted <= self._reserved_bytes or not _CAN_RESERVE:
            return
        wanted = min(-(-wanted // _STEP_BYTES) * _STEP_BYTES, self.map_size_bytes)
        if wanted <= max(self._reserved_bytes, file_bytes):
            return
        start = max(self._reserved_bytes, file_bytes)  # who made the file longer has reserved what lies before its end
        try:
            os.posix_fallocate(self._data_fd, start, wanted - start)
        except OSError as error:
            # Free pages inside the file do as well for what is left to deletes.
            inside_bytes = file_bytes - self._used_bytes(handle)
            if error.errno not in FULL or end > self._reserved_bytes or inside_bytes < _HEADROOM_BYTES:
                raise
        else:
            self._reserved_bytes = wanted

    def close(self) -> None:
        """Close the files; the next transaction opens them again."""
        with self.lock:
            handle, self.handle = self.handle, None
            if handle is not None:
                handle.close()
                os.close(self._data_fd)


_shared: dict[str, Environment] = {}
_all: weakref.WeakSet[Environment] = weakref.WeakSet()
_forking: list[Environment] = []
_registry = threading.RLock()
_lost: list[lmdb.Environment] = []


def share(path: str, limit_bytes: int, *, new: bool = False) -> Environment:
    """Return this process's environment for the directory `path`; `new`: the directory has just been made."""
    path = os.path.realpath(path)
    with _registry:
        for idle in [known for known, env in _shared.items() if not env._users and env.handle is None]:
            del _shared[idle]
        if new or path not in _shared:
            _shared[path] = Environment(path, limit_bytes)
            _all.add(_shared[path])
        environment = _shared[path]
        environment._users += 1
        return environment


def release(environment: Environment) -> None:
    """Give back what `share` returned; the last one to do so closes it."""
    with _registry:
        environment._users -= 1
    # Not under the registry's lock: the garbage collector may call this within a transaction of another environment.
    with environment.lock:
        if not environment._users:
            environment.close()


def _before_fork() -> None:
    _registry.acquire()
    _forking[:] = _all
    for environment in _forking:
        environment.lock.acquire()
        if not environment._writing:
            environment.close()


def _after_fork_in_parent() -> None:
    for environment in _forking:
        environment.lock.release()
    _forking.clear()
    _registry.release()


def _after_fork_in_child() -> None:
    global _registry
    _registry = threading.RLock()
    _forking.clear()
    for environment in _all:
        environment.lock = threading.RLock()
        environment._writing = False
        if environment.handle is not None:  # forked without the hook above: never to be touched here, not even closed
            _lost.append(environment.handle)
            environment.handle = None


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
