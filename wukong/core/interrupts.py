"""Ctrl-C that is not lost, and does not come between two steps that belong together.

Python raises KeyboardInterrupt between any two steps of the main thread. It breaks whatever cannot be left half done: a
thread whose start is interrupted counts as one that never started. And if those steps are of a finalizer, Python drops
it, and a program that waits for minutes goes on.

    held()      it waits until the block has ended
    start_thread()  a thread is started, held
    waiting()   the program waits here; a Ctrl-C that comes in a finalizer meanwhile waits until that has ended
    heeded()    what was lost in the block nevertheless is raised when the block asks: the finalizers of `io` are no
                steps that a handler could see, and the answers of HTTP have them
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["heeded", "held", "start_thread", "waiting"]

_SOON_S = 0.002
_CALLBACKS = {
    ("<frozen importlib._bootstrap>", "cb"),
    ("weakref.py", "remove"),
    ("weakref.py", "__call__"),
    ("_weakrefset.py", "_remove"),
}
"""The callbacks of weak references. The one of `importlib` is called at the end of every import."""

_late = _coming = False


class _Hold:
    """The handler while Ctrl-C is held."""

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler, self.came = handler, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again, self.came = self.came, True
        if again:
            self.handler(number, frame)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended; a second one does not wait.

    For short blocks: code that cannot be left half done, and imports, which Python does not interrupt cleanly.
    """
    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not callable(handler) or isinstance(handler, _Hold):
        yield
        return
    hold = _Hold(handler)
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, handler)
        if hold.came:  # not by a signal: whoever listens to the file descriptor of signals has heard of this one
            handler(signal.SIGINT, sys._getframe())


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Raises RuntimeError if the system has none left."""
    with held():
        thread.start()


def _in_child() -> None:
    global _late, _coming
    _late = _coming = False
    hold = signal.getsignal(signal.SIGINT)
    if isinstance(hold, _Hold):  # the block may be another thread's, which the child does not have
        signal.signal(signal.SIGINT, hold.handler)
        hold.came = False


os.register_at_fork(after_in_child=_in_child)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Lose no Ctrl-C in this block of the main thread, unless the program has a handler of its own for it.

    For blocks in which the main thread waits. `asyncio.run` and notebooks look which handler there is.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    try:
        signal.signal(signal.SIGINT, _interrupt)
        yield
    finally:
        try:
            _put_back()
        finally:  # the first may have been interrupted
            _put_back()


def _put_back() -> None:
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; if Python would drop it here, shortly afterwards.

    A finalizer that still runs then waits for something, and is interrupted as well.
    """
    global _late, _coming
    late, _late = _late, _in_finalizer(frame)
    if _late:
        if not _coming:
            _coming = True
            _thread.start_new_thread(_again, ())  # of `threading`, this thread may be in the middle
        if not late:
            return
    signal.default_int_handler(number, frame)


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        name = frame.f_code.co_name
        if name == "__del__" or (frame.f_code.co_filename.rpartition("/")[2], name) in _CALLBACKS:
            return True
        frame = frame.f_back
    return False


def _again() -> None:
    global _coming
    time.sleep(_SOON_S)
    _coming = False
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextlib.contextmanager
def heeded() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if one came in this block, and was lost.

    Outside the main thread, and if the program has a handler of its own for SIGINT, it raises nothing.
    """
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or handler not in (signal.default_int_handler, _interrupt):
        yield check
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, handler)
