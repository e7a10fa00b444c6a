"""Locks in a forked child: a thread that only the parent has may hold one, and would never release it in the child."""

from __future__ import annotations

import os
from typing import Any


def free_in_children(lock: Any) -> None:
    """Have `lock`, of any kind in `threading`, be free in every child that is forked from now on.

    Taking the lock before each fork would do so too, but could keep the parent from forking. The price: in the child,
    what the lock guards may be half done.
    """
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # as Python's own modules do
