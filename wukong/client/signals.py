"""SIGTERM and SIGHUP end a program at once, and what its clients have in the store would stay there.

So while a client is open, and if the program has no handlers of its own, the signal closes all clients first. Then it
does what it would have done, so that the exit status shows it. A second signal meanwhile ends the program at once.

Ctrl-C needs none of that: it is an exception, and whoever opened a client closes it. See `wukong.core.interrupts`.
"""

from __future__ import annotations

import os
import signal
import threading
import weakref
from types import FrameType
from typing import Any

from wukong.core.interrupts import interrupt

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_CLOSE_S = 15.0

_pid = os.getpid()
_open: list[weakref.finalize[Any, Any]] = []
_held = threading.local()


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
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def closed() -> None:
    """Note that a client has closed. With the last one the signals are the program's own again."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and _pid == os.getpid() and not any(each.alive for each in _open):
        _restore()


def _restore() -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _hold() -> None:
    """Hold the signals back while this thread forks: Python would drop one that finds its handler in a new child."""
    if any(signal.getsignal(number) is _end for number in _SIGNALS):
        _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release() -> None:
    mask = _held.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    if "mask" in _held.__dict__:
        _restore()  # a forked child has no clients
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_in_child)


def _end(number: int, _: FrameType | None) -> None:
    _restore()
    if _pid == os.getpid():
        # In a thread, with a bound: the code that was interrupted in this one may hold any lock.
        closer = threading.Thread(target=_close_all, name="wukong-closer", daemon=True)
        closer.start()
        closer.join(_CLOSE_S)
    signal.raise_signal(number)


def _close_all() -> None:
    for closing in _open:
        closing()
