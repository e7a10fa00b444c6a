"""How an embedded store begins: its directories, their limits, and the links that lead to what is on disk."""

from __future__ import annotations

import os
import resource

from wukong.backends.storage.local.directory import (
    BACKEND,
    DISK,
    OwnedDirectory,
    bases,
    commons,
    linked,
    signposts,
    sweep,
)
from wukong.backends.storage.local.environment import DATA, FULL, TABLE, make
from wukong.backends.storage.local.page import PAGE
from wukong.backends.storage.local.segments import SHARED, file_system_bytes
from wukong.errors import StoreError, StoreFull

SMALLEST_BYTES = 1 << 20
_FILES = (PAGE, DATA, TABLE, SHARED, DISK)
_MAP_BYTES = 64 << 30
_ROOM_BYTES = 32 << 20  # with less shared memory than that, all is on disk from the start


def new_directories(path: str | None, adopt: bool, size_bytes: int | None) -> list[OwnedDirectory]:
    """Make a new store's directories: its own, the one on disk for its overflow, and links that lead there.

    `adopt`: keep what a dead owner left at `path`. Raises StoreError.
    """
    where = bases()
    owned: list[OwnedDirectory] = []
    try:
        if path is not None:
            owned.append(OwnedDirectory.claim(path, _FILES, adopt=adopt))
            owned += [OwnedDirectory.take(disk) for disk in linked(path)]
        sweep(everywhere())
        if path is None:
            roomy = [base for base in where if file_system_bytes(base)[0] >= _ROOM_BYTES]
            owned += [OwnedDirectory.create(base) for base in roomy or where[-1:]]
            for disk in owned[1:]:
                owned[0].link(disk.path)
        store = owned[0].path
        os.makedirs(os.path.join(store, SHARED), 0o700, exist_ok=adopt)
        make(store, *(_limit_bytes(size_bytes, each.path) for each in (owned[0], owned[-1])))
        if path is None and len(owned) == 1:
            owned += signposts(store)
    except BaseException as error:
        for directory in owned:
            directory.remove()
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_room(path, error) from error
        if isinstance(error, OSError):
            raise StoreError(f"No store can be made in {path or where[0]}: {error}.", backend=BACKEND) from error
        raise
    return owned


def no_room(path: str | None, error: OSError) -> StoreFull:
    """Return the error of a store for which there is no room, at `path` or in any of the folders that it may be in."""
    tried = bases() if path is None else [path]
    free = "; ".join(f"{each}: {file_system_bytes(each)[0]:,} bytes free" for each in tried if os.path.isdir(each))
    return StoreFull(
        f"No store can be made: {error.strerror} ({free})",
        backend=BACKEND,
        hint="make room, or name as the option `path`, or as TMPDIR, a directory on a file system that has some",
    )


def everywhere() -> list[str]:
    """Return all folders in which stores of this machine may be."""
    return list(dict.fromkeys((*bases(), *commons())))


def _limit_bytes(size_bytes: int | None, path: str) -> int:
    """Return how many bytes the records at `path` may take: `size_bytes`, bounded by free room and address space."""
    if size_bytes is not None:
        return size_bytes
    most_bytes = min(file_system_bytes(path)[1], _MAP_BYTES)
    for what, part in ((resource.RLIMIT_AS, 4), (resource.RLIMIT_FSIZE, 2)):
        limit_bytes = resource.getrlimit(what)[0]
        if limit_bytes != resource.RLIM_INFINITY:
            most_bytes = min(most_bytes, limit_bytes // part)
    return max(SMALLEST_BYTES, most_bytes)
