"""Locks in a forked child: whoever holds one there may be a thread that only its parent has, and would for ever."""

from __future__ import annotations

import os
from typing import Any


def free_in_children(lock: Any) -> None:
    """Have a lock, of whatever kind of `threading`'s, be free in every child that is forked from now on.

    Unlike one that is taken before the fork, it cannot keep the parent from forking. What it guards may be half done
    in the child.
    """
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # as Python's own modules do
