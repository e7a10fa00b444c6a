"""Folders for temporary files that do not outlive whoever made them: what a killed process leaves, the next one sweeps.

    scratch("wukong-code-")   a new folder, locked for as long as this process, or one forked from it, lives
                              older ones of this user that nobody holds any more are removed

The lock is on the folder itself, and the system lets go of it, however its holder ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress

__all__ = ["discard", "scratch"]

_YOUNG_S = 60.0
"""A folder that is younger may be about to be locked."""

_held: dict[str, int] = {}
_swept: set[tuple[str, str]] = set()


def scratch(prefix: str) -> str:
    """Return a new folder for temporary files, whose name begins with `prefix`; sweep once in this process."""
    folder = tempfile.mkdtemp(prefix=prefix)
    with suppress(OSError):  # a file system without locks: nobody sweeps there
        _held[folder] = _locked(folder)
    parent = os.path.dirname(folder)
    if (parent, prefix) not in _swept:
        _swept.add((parent, prefix))
        _sweep(parent, prefix)
    return folder


def discard(folder: str) -> None:
    """Remove a folder that `scratch` returned. Another process that has it after a fork may have done so before."""
    shutil.rmtree(folder, ignore_errors=True)
    lock = _held.pop(folder, None)
    if lock is not None:
        os.close(lock)


def _sweep(parent: str, prefix: str) -> None:
    with os.scandir(parent) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for folder in names:
        if folder in _held:
            continue
        try:
            there = os.lstat(folder)
            if there.st_uid != os.getuid() or time.time() - there.st_mtime < _YOUNG_S:
                continue
            lock = _locked(folder)
        except OSError:  # it is held, or gone
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: str) -> int:
    """Open a folder and lock it. Raises OSError if another process holds it."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock
