"""The directories of embedded stores: private, owned by one process, removed when it ends.

    <shared memory or temporary directory>/wukong-<uid>-<random>/        0700
    <shared memory>/wukong-<uid>-<random>/overflow                       -> the one on disk that goes with it

The owner holds an exclusive ``flock`` on the directory itself while it lives. The kernel releases the lock when the
process ends, however it ends. So a directory whose lock is free belongs to nobody, and may be swept. Process ids decide
nothing here, because the system reuses them.

A directory exists for a moment before it is locked, and a sweeper may lock it first. So after taking a lock, a process
checks whether the path still leads to the locked directory. A creator that finds it gone starts again under another
name; the second of two sweepers finds nothing left to do.

A store on disk is in this process's own folder for temporary files, which another process may not know. So a link leads
to it from a place that all processes of the machine have in common (`commons`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress

from wukong.errors import ConfigError, StoreError

logger = logging.getLogger(__name__)

_TRIES = 100

BACKEND = "storage: local"
SHARED_MEMORY = "/dev/shm"
"""Where Linux mounts its shared memory file system."""
_TEMPORARY = ("/tmp", "/var/tmp")
DISK = "overflow"


def bases() -> tuple[str, ...]:
    """Return where stores are made, in order of preference: shared memory (if the system has it), then disk.

    Raises StoreError if neither is there.
    """
    shared = [SHARED_MEMORY] if _usable(SHARED_MEMORY) else []
    try:
        disk = tempfile.gettempdir()
    except FileNotFoundError as error:
        if shared:
            return (SHARED_MEMORY,)
        raise StoreError(
            "the embedded store finds no directory that it may write to",
            backend=BACKEND,
            hint="name one by TMPDIR, or by the option 'path'",
        ) from error
    if disk == "/tmp" and _usable("/var/tmp"):  # /tmp may be memory, and functions may have one of their own
        disk = "/var/tmp"
    return tuple(dict.fromkeys((*shared, disk)))


def commons() -> list[str]:
    """Return the directories that all processes of the machine have in common."""
    return [base for base in (SHARED_MEMORY, *_TEMPORARY) if _usable(base)]


def _usable(base: str) -> bool:
    return os.path.isdir(base) and os.access(base, os.W_OK | os.X_OK)


def _prefix() -> str:
    return f"wukong-{os.getuid()}-"


class OwnedDirectory:
    """A directory that exists as long as this process owns it. Make one with `create` or `claim`.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: str, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd
        _owned.add(self)

    @classmethod
    def create(cls, base: str) -> OwnedDirectory:
        """Make a new directory with a name of its own under `base`. Raises StoreError if that cannot be done."""
        path = base
        try:
            for _ in range(_TRIES):
                path = os.path.join(base, _prefix() + secrets.token_hex(8))
                os.mkdir(path, 0o700)
                try:
                    lock_fd = _lock(path, wait=True)
                except FileNotFoundError:
                    continue  # swept before it was locked
                if lock_fd is not None:
                    return cls(path, lock_fd)
        except OSError as error:
            raise _unusable(base, error) from error
        raise StoreError(f"Something keeps removing what is made in {base}.", backend=BACKEND)

    @classmethod
    def claim(cls, path: str, ours: Iterable[str], *, adopt: bool = False) -> OwnedDirectory:
        """Take `path` as it was named by the user: new, empty, or left there by a dead owner.

        What a dead owner left is removed, unless it is to be adopted.

        Raises ConfigError if another owner lives there, or if it contains files which are not in `ours`.
        """
        path = os.path.abspath(path)
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            lock_fd = _lock(path, wait=False)
        except OSError as error:
            raise _unusable(path, error) from error
        if lock_fd is None:
            raise _in_use(path)
        foreign = sorted(set(os.listdir(path)) - set(ours))
        if foreign:
            os.close(lock_fd)
            raise ConfigError(
                f"The directory {path} holds files that are no store's: {', '.join(foreign[:3])}.",
                backend=BACKEND,
                hint="name a `path` that is empty or does not exist yet: the store removes it when it closes",
            )
        os.chmod(path, 0o700)
        if not adopt:
            _empty(path)
        return cls(path, lock_fd)

    @classmethod
    def take(cls, path: str) -> OwnedDirectory:
        """Take what a dead owner left at `path` as it is. Raises ConfigError if another owner lives there."""
        lock_fd = _lock(path, wait=False)
        if lock_fd is None:
            raise _in_use(path)
        return cls(path, lock_fd)

    def link(self, disk: str) -> None:
        """Make a link from the directory to `disk`, which is removed with it."""
        os.symlink(disk, os.path.join(self.path, DISK))

    def remove(self) -> None:
        """Remove the directory with its contents, and release its lock. Does nothing in a forked child."""
        if self._lock_fd < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self._forget()

    def _forget(self) -> None:
        lock_fd, self._lock_fd = self._lock_fd, -1
        if lock_fd >= 0:
            os.close(lock_fd)


_owned: weakref.WeakSet[OwnedDirectory] = weakref.WeakSet()


def _forget_in_child() -> None:
    # A forked child shares its parent's lock: it would keep a dead owner's directory alive.
    for directory in list(_owned):
        directory._forget()


os.register_at_fork(after_in_child=_forget_in_child)


def sweep(where: Iterable[str], older_than_s: float = 0.0, *, dry_run: bool = False) -> dict[str, int]:
    """Remove what dead owners of this user left in the directories `where`, at least `older_than_s` seconds ago.

    Removes what each links to as well. Returns the paths, and the size of each in bytes. `dry_run`: remove nothing.
    """
    swept: dict[str, int] = {}
    for path in _ours(where):
        paths = [path, *linked(path)]
        locks: list[int] = []
        try:
            for each in paths:
                lock_fd = _lock(each, wait=False)
                if lock_fd is None:
                    break
                locks.append(lock_fd)
            else:
                taken = [_taken(each) for each in paths]
                if time.time() - max(changed_at for _, changed_at in taken) >= older_than_s:
                    for each, (size_bytes, _) in zip(reversed(paths), reversed(taken), strict=True):
                        if not dry_run:
                            shutil.rmtree(each, ignore_errors=True)
                        swept[each] = size_bytes
        except OSError:  # not a directory, gone meanwhile, or not ours
            pass
        finally:
            for lock_fd in locks:
                os.close(lock_fd)
    if swept and not dry_run:
        logger.info("swept %d store(s) of dead owners: %s", len(swept), ", ".join(swept))
    return swept


def lived_in(where: Iterable[str]) -> list[str]:
    """Return the directories of this user in `where` whose owners live, and those that they link to."""
    found: dict[str, None] = {}
    for path in _ours(where):
        try:
            lock_fd = _lock(path, wait=False)
        except OSError:
            continue
        if lock_fd is None:
            found.update(dict.fromkeys([path, *linked(path)]))
        else:
            os.close(lock_fd)
    return list(found)


def signposts(disk: str) -> list[OwnedDirectory]:
    """Make a directory with a link to `disk` in a place that all processes share, unless `disk` is in one already."""
    places = commons()
    if os.path.realpath(os.path.dirname(disk)) in map(os.path.realpath, places):
        return []
    for place in places:
        with suppress(StoreError, OSError):
            signpost = OwnedDirectory.create(place)
            signpost.link(disk)
            return [signpost]
    return []


def linked(path: str) -> list[str]:
    """Return the directory on disk that a store's directory links to, if it exists: a list of 0 or 1."""
    try:
        disk = os.readlink(os.path.join(path, DISK))
        return [disk] if _is_ours(disk) else []
    except OSError:
        return []


def _ours(where: Iterable[str]) -> Iterator[str]:
    for base in where:
        try:
            paths = [entry.path for entry in os.scandir(base) if entry.name.startswith(_prefix())]
        except OSError:
            continue
        for path in paths:
            with suppress(OSError):  # gone meanwhile
                if _is_ours(path):
                    yield path


def _is_ours(path: str) -> bool:
    return os.path.basename(path).startswith(_prefix()) and os.lstat(path).st_uid == os.getuid()


def _taken(path: str) -> tuple[int, float]:
    """Return how many bytes a directory takes, and when something in it was changed last."""
    size_bytes, changed_at = 0, 0.0
    for folder, _, names in os.walk(path):
        for each in (folder, *(os.path.join(folder, name) for name in names)):
            with suppress(OSError):
                found = os.lstat(each)
                size_bytes += found.st_blocks * 512
                changed_at = max(changed_at, found.st_mtime)
    return size_bytes, changed_at


def _lock(path: str, *, wait: bool) -> int | None:
    """Return a descriptor that holds the directory's lock; None if another has it or the path leads elsewhere."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        locked, there = os.fstat(fd), os.lstat(path)
        if (locked.st_dev, locked.st_ino) == (there.st_dev, there.st_ino) and stat.S_ISDIR(there.st_mode):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _empty(path: str) -> None:
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _in_use(path: str) -> ConfigError:
    return ConfigError(f"The directory {path} is in use by another store.", backend=BACKEND, hint="name another `path`")


def _unusable(path: str, error: OSError) -> StoreError:
    return StoreError(
        f"No store can be made in {path}: {error.strerror}.",
        backend=BACKEND,
        hint="name a directory you may write to as the option `path`, or in the environment variable TMPDIR",
    )
