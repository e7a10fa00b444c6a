"""Large values of an embedded store: one file each, written once, mapped by readers without copying.

A reader may write into its map: the pages that it writes to become its own, and nobody else sees that.

A file's name is never used again, so a reader that opens a name gets that value or, after a delete, nothing. A value
becomes visible when LMDB records its name, after the file is complete. The kernel keeps a file that is deleted while it
is mapped until its last map is gone.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import resource
import secrets
import weakref
from collections.abc import Callable, Iterable, Sequence

from wukong.backends import machine
from wukong.backends.storage.local.directory import DISK
from wukong.backends.storage.local.environment import FULL
from wukong.core.storage import Buffer

_PRIVATE = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000)  # unwritten pages need no memory of their own
_POPULATE_READ = 22  # one call instead of a page fault per 16 pages: a first sum is 3x faster. From Linux 5.14
_PARTS_AT_ONCE = 512
_LOOK_AGAIN_BYTES = 64 << 20
SHARED = "large"
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # each keeps a descriptor open


class NoRoom(Exception):
    """No directory has room for a value; the argument says how full each is."""


class Segments:
    """The large values in the directories ``large`` and, if there is one, ``overflow`` of a store.

    Args:
        path: the store's directory.
        spill: called when a value goes to disk because shared memory has no room.
    """

    def __init__(self, path: str, spill: Callable[[], None]) -> None:
        self._path = path
        self._spill = spill
        self._pid = 0
        self._prefix = ""
        self._numbers = itertools.count()
        self._places: list[_Place] = []

    def write(self, parts: Sequence[Buffer], size_bytes: int) -> str:
        """Write a value into a new file; return its name. Raises `NoRoom`; leaves nothing behind on any error."""
        if self._pid != os.getpid():
            there = (os.path.join(self._path, name) for name in (SHARED, DISK))
            self._places = [_Place(place) for place in there if os.path.isdir(place)]
            # The process id and the boot come first, for `orphans`; the token is for ids that are given out again.
            self._prefix = f"{os.getpid()}-{_boot_name()}-{secrets.token_hex(6)}-"
            self._pid = os.getpid()
        for place in self._places:
            if not place.has_room(size_bytes):
                continue
            name = f"{os.path.basename(place.path)}/{self._prefix}{next(self._numbers)}"
            try:
                _write_file(os.path.join(self._path, name), parts)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                place.look_again()
            else:
                if place is not self._places[0]:
                    self._spill()
                return name
        raise NoRoom("; ".join(str(place) for place in self._places) or f"{self._path} is gone")

    def open(self, name: str, size_bytes: int) -> memoryview:
        """Return a view of a value, which the caller may write to.

        Raises FileNotFoundError if it has been deleted, ValueError if no value has this name and size.

        It is a view of the file itself; of a copy if this process has very many files open.
        """
        fd = os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size != size_bytes:  # a directory, or a damaged size
                raise ValueError(f"there is no file {name} of {size_bytes:,} bytes")
            if len(_maps) < _max_maps():
                try:
                    mapped = mmap.mmap(fd, size_bytes, flags=_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
                    _maps.add(mapped)
                    with contextlib.suppress(OSError):  # an older kernel
                        mapped.madvise(_POPULATE_READ)
                    return memoryview(mapped)
                except OSError as error:
                    if error.errno not in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                        raise
            return _read(fd, size_bytes)
        finally:
            os.close(fd)

    def remove(self, names: Iterable[str]) -> None:
        """Delete values. Missing ones are no error, and a damaged name is no file's."""
        for name in names:
            place, _, file = name.partition("/")
            if place in (SHARED, DISK) and file and "/" not in file:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, ValueError):
                    os.unlink(os.path.join(self._path, name))

    def orphans(self) -> list[str]:
        """Return the names of the files whose writers are dead. Those that no record names can be deleted."""
        found = []
        for directory in (SHARED, DISK):
            try:
                names = os.listdir(os.path.join(self._path, directory))
            except FileNotFoundError:
                continue
            found += [f"{directory}/{name}" for name in names if "-" in name and not _alive(name)]
        return found


class _Place:
    """One directory, and how much may be written there before its file system is looked at again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._in_memory = os.path.realpath(path).startswith("/dev/shm/")
        self._budget_bytes = 0

    def has_room(self, size_bytes: int) -> bool:
        if size_bytes > self._budget_bytes:
            free_bytes = self.free_bytes()
            if size_bytes > free_bytes:
                return False
            self._budget_bytes = size_bytes + min(_LOOK_AGAIN_BYTES, (free_bytes - size_bytes) // 8)
        self._budget_bytes -= size_bytes
        return True

    def look_again(self) -> None:
        self._budget_bytes = 0

    def free_bytes(self) -> int:
        """Bytes that values may still take. An eighth (1 GiB at most) is left to records and to other programs."""
        free_bytes, total_bytes = file_system_bytes(self.path)
        free_bytes -= min(total_bytes, 8 << 30) // 8
        if self._in_memory:
            memory_free_bytes, memory_bytes = memory_bytes_free_and_total()
            free_bytes = min(free_bytes, memory_free_bytes - memory_bytes // 8)
        return max(0, free_bytes)

    def __str__(self) -> str:
        free_bytes, total_bytes = file_system_bytes(self.path)
        return f"{self.path} has {free_bytes:,} of {total_bytes:,} bytes free"


def file_system_bytes(path: str) -> tuple[int, int]:
    """Return the free and the total bytes of the file system at `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


def memory_bytes_free_and_total() -> tuple[int, int]:
    """Return the available and the total memory in bytes; 2**62 for both if not known."""
    return machine.memory() or (1 << 62, 1 << 62)


def _max_maps() -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 30_000 if soft == resource.RLIM_INFINITY else min(30_000, soft // 2)  # Linux allows 65,530 maps


def _write_file(path: str, parts: Sequence[Buffer]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = [memoryview(part).cast("B") for part in parts if memoryview(part).nbytes]
        while left:
            written = os.writev(fd, left[:_PARTS_AT_ONCE])
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _read(fd: int, size_bytes: int) -> memoryview:
    data = bytearray(size_bytes)
    view, at = memoryview(data), 0
    while at < size_bytes:
        read = os.preadv(fd, [view[at:]], at)
        if read == 0:
            raise FileNotFoundError(errno.ENOENT, "the file is shorter than its value")
        at += read
    return view


def _boot_name() -> str:
    return machine.boot()[:8].decode()


def _alive(name: str) -> bool:
    """Return whether the process that wrote the file `name` may still live: its id exists, and is of this boot."""
    pid, booted, *_ = name.split("-")
    if booted != _boot_name():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
