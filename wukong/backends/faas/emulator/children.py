"""What a process does for the children that it forks. Imports nothing but the standard library.

`wukong.emulators.aws_lambda.template` loads this file by its path, for it must not import Wukong: its children are
other people's functions.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None  # once: children call it right after the fork


def own_group(pid: int) -> None:
    """Make a child (0: this process) lead its own process group, so that what it starts ends with it."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        return  # the child was quicker, or is gone


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent dies; end it if the parent is gone already. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def first_dead() -> tuple[int, int | None] | None:
    """Return the id of a child that has ended, and its status if it has been waited for; None: all live.

    A child that has not been waited for still owns its process group: kill what is left in the group first.
    """
    try:
        if hasattr(os, "waitid"):
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            return None if found is None else (found.si_pid, None)
        pid, status = os.waitpid(-1, os.WNOHANG)
        return (pid, status) if pid else None
    except ChildProcessError:
        return None
