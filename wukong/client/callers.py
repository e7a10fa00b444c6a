"""Threads for users' callbacks, which may wait for other futures, use the client, close it, or never return.

So they do not run in the thread that watches the jobs, and none waits for another: there are as many threads as calls
that have not returned. A thread ends if there has been nothing to do for a while.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable

from wukong.core.interrupts import start_thread

logger = logging.getLogger("wukong")

_IDLE_S = 1.0
_LEAVE_S = 2.0


class Callers:
    """Calls functions in daemon threads, each function as soon as it is given."""

    def __init__(self) -> None:
        # A future that is collected, at any line, may settle others: reentrant.
        self._changed = threading.Condition(threading.RLock())
        self._calls: deque[Callable[[], object]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._pid = os.getpid()

    def call(self, function: Callable[[], object]) -> None:
        """Call `function` soon. What it raises is logged."""
        with self._changed:
            self._calls.append(function)
            if self._idle >= len(self._calls):
                self._changed.notify()
                return
            thread = threading.Thread(target=self._work, name="wukong-callback", daemon=True)
            if not self._threads:
                atexit.register(self.drain)
            self._threads.add(thread)
        try:
            start_thread(thread)
        except RuntimeError:  # the interpreter ends; what threads there are take what is left
            self._threads.discard(thread)

    def drain(self, timeout_s: float = _LEAVE_S) -> None:
        """Wait until all calls but this one have returned, for at most `timeout_s` seconds."""
        if os.getpid() != self._pid:  # a forked child has none of the threads
            return
        me = threading.current_thread()
        with self._changed:
            self._changed.wait_for(lambda: not self._calls and len(self._threads - {me}) <= self._idle, timeout_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.notify_all()
                found = self._changed.wait_for(lambda: self._calls, _IDLE_S)
                self._idle -= 1
                if not found:
                    self._threads.discard(threading.current_thread())
                    self._changed.notify_all()
                    if not self._threads:
                        atexit.unregister(self.drain)
                    return
                function = self._calls.popleft()
            try:
                function()
            except BaseException:  # also SystemExit: it is this thread's, not the program's
                logger.exception("a callback failed")
            del function  # with the futures in it
