"""Python's cyclic garbage collector, paused while very many small objects are made that all stay.

Reading a graph or a page makes tens of thousands of tuples, none of them garbage; the collector would walk through all
of them again and again (a page of 10,000 tasks was read in 6 ms without it, in 25 ms with).
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wukong.core.forks import free_in_children

_lock = threading.Lock()
_users = 0
_enabled = False
free_in_children(_lock)


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the collector in this process while the block runs. May be nested, and used from several threads."""
    global _users, _enabled
    with _lock:
        if _users == 0:
            _enabled = gc.isenabled()
            gc.disable()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _enabled:
                gc.enable()


def _in_child() -> None:
    """Resume in a forked child: the parent's threads that paused the collector do not exist here."""
    global _users
    if _users and _enabled:
        gc.enable()
    _users = 0


os.register_at_fork(after_in_child=_in_child)
