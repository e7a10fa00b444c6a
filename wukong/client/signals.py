"""SIGTERM and SIGHUP end a program at once, and what its clients have in the store would stay there.

So while a client is open, and if the program has no handlers of its own, the signal closes all clients first. Then it
does what it would have done, so that the exit status shows it. A program that reaches its end meanwhile, or closes a
client itself, waits for that. A second signal meanwhile ends the program at once.

Ctrl-C needs none of that: it is an exception, and whoever opened a client closes it. See `wukong.core.interrupts`.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_CLOSE_S = 15.0
_STUCK_S = 2.0
_STEP_S = 0.002

_pid = os.getpid()
_open: list[weakref.finalize[Any, Any]] = []
_held = threading.local()


class _Closing(NamedTuple):
    number: int
    under_way: _thread.LockType
    until_s: float


_closing: _Closing | None = None
_closer: int | None = None
"""The thread that closes all clients for a signal."""
_closes: list[tuple[int, _thread.LockType]] = []
"""The threads that close a client; the locks are free once they have."""
_going_on = False
"""The next signal is the one with which this thread, which was let go on for a moment, is stopped again."""


def close_on_signals(closing: weakref.finalize[Any, Any]) -> None:
    """Have SIGTERM and SIGHUP close this client first. Python lets only the main thread arrange that."""
    global _pid
    if threading.current_thread() is not threading.main_thread():
        return
    _open[:] = [each for each in _open if each.alive and _pid == os.getpid()]
    _pid = os.getpid()
    _open.append(closing)
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


@contextlib.contextmanager
def closing() -> Iterator[None]:
    """Close a client in this block. A signal lets it finish."""
    me = _thread.get_ident(), _thread.allocate_lock()
    me[1].acquire()
    _closes.append(me)
    try:
        yield
    finally:
        _closes.remove(me)
        me[1].release()
        if threading.current_thread() is threading.main_thread():
            _see_out()


def closed() -> None:
    """Note that a client has closed. With the last one the signals are the program's own again."""
    _see_out()
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and _pid == os.getpid() and not any(each.alive for each in _open):
        _restore()


def _restore() -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


def _hold() -> None:
    """Hold the signals back while this thread forks: Python would drop one that finds its handler in a new child."""
    if any(signal.getsignal(number) is _end for number in _SIGNALS):
        _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release() -> None:
    mask = _held.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    global _closing, _closer
    _closing = _closer = None
    _closes.clear()
    if "mask" in _held.__dict__:
        _restore()  # a forked child has no clients
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_in_child)


def _end(number: int, _: FrameType | None) -> None:
    global _closing, _going_on
    if _pid != os.getpid() or (_closing is not None and not _going_on):  # a second one
        _end_now(number)
        return
    _going_on = False
    if _closing is None:
        # In a thread, with a bound: the code that was interrupted here may hold any lock, one of `threading` too.
        _closing = _Closing(number, _thread.allocate_lock(), time.monotonic() + _CLOSE_S)
        _closing.under_way.acquire()
        try:
            _thread.start_new_thread(_close_all, ())
        except RuntimeError:  # the interpreter ends
            _close_all()
            if _is_closing():
                return
    if time.monotonic() >= _closing.until_s or (not _is_closing() and _wait(_closing, _STUCK_S)):
        _end_now(number)
        return
    with contextlib.suppress(RuntimeError):  # the interpreter ends
        _thread.start_new_thread(_stop_again, ())  # meanwhile, this thread may give a lock back


def _is_closing() -> bool:
    return any(thread == _thread.get_ident() for thread, _ in _closes)


def _wait(closing: _Closing, longest_s: float = _CLOSE_S) -> bool:
    """Wait until all clients are closed; return whether they are, or the time for that is over."""
    left_s = max(0.0, closing.until_s - time.monotonic())
    if closing.under_way.acquire(timeout=min(left_s, longest_s)):
        closing.under_way.release()
        return True
    return left_s <= longest_s


def _see_out() -> None:
    """If a signal closes all clients, wait for that, and in the main thread end by it."""
    if _closing is None or _pid != os.getpid() or _closer == _thread.get_ident() or _is_closing():
        return
    _wait(_closing)
    if threading.current_thread() is threading.main_thread():
        _end_now(_closing.number)


atexit.register(_see_out)


def _end_now(number: int) -> None:
    _restore()
    signal.raise_signal(number)


def _stop_again() -> None:
    global _going_on
    assert _closing is not None
    main = threading.main_thread().ident or 0
    if any(thread == main for thread, _ in _closes):
        _wait(_closing)
    else:
        time.sleep(_STEP_S)
    _going_on = True
    signal.pthread_kill(main, _closing.number)


def _close_all() -> None:
    global _closer
    assert _closing is not None
    _closer = _thread.get_ident()
    try:
        for each in _open:
            try:
                each()
            except Exception:  # the others are closed all the same
                logger.exception("a client could not be closed")
        for thread, lock in _closes[:]:  # those that the program itself closes
            if thread != _closer:
                lock.acquire(timeout=max(0.0, _closing.until_s - time.monotonic()))
    finally:
        _closer = None
        _closing.under_way.release()
