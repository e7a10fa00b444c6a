"""Calls to several servers at the same time: the caller's thread makes one of them, pooled threads the others."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

from wukong.core.interrupts import start_thread
from wukong.core.time_left import LIMITS
from wukong.errors import Retryable

__all__ = ["Call", "CallsAtOnce"]

_IDLE_THREADS = 32

Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]


class CallsAtOnce:
    """Makes calls at the same time. Safe for threads and across forks."""

    def __init__(self) -> None:
        self._crews: dict[int, _Crew] = {}

    def make(self, calls: Sequence[Call]) -> list[Any]:
        """Make the calls; return their results in order, or raise when all have ended.

        An error that is not retryable is raised before one that is.
        """
        if len(calls) == 1:
            verb, arguments = calls[0]
            return [verb(*arguments)]
        if not calls:
            return []
        pid = os.getpid()  # threads do not survive a fork: the child has a crew of its own
        crew = self._crews.get(pid) or self._crews.setdefault(pid, _Crew())
        return crew.do(calls)

    def close(self) -> None:
        """Let the threads end, each when it is done. A later call starts new ones."""
        crew = self._crews.pop(os.getpid(), None)
        if crew is not None:
            crew.dismiss()


class _Crew:
    """Threads for calls that block. They are daemons: a shard that does not answer keeps no process from ending.

    There is a thread for each call under way, of all callers; idle threads are kept for later calls.
    """

    def __init__(self) -> None:
        self._idle: deque[SimpleQueue[_Job | None]] = deque()
        self._open = [True]

    def do(self, calls: Sequence[Call]) -> list[Any]:
        done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
        limits = LIMITS.end_s, LIMITS.sign_s
        for n in range(1, len(calls)):
            self._start((n, *calls[n], limits, done))
        answers: list[Any] = [None] * len(calls)
        errors: list[BaseException] = []
        try:
            verb, arguments = calls[0]
            answers[0] = verb(*arguments)
        except Exception as error:
            errors.append(error)
        for _ in range(1, len(calls)):
            n, answers[n], failure = done.get()
            if failure is not None:
                errors.append(failure)
        if errors:
            raise min(errors, key=lambda error: isinstance(error, Retryable))
        return answers

    def _start(self, job: _Job) -> None:
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            arguments = inbox, self._idle, self._open
            start_thread(threading.Thread(target=_serve, args=arguments, name="wukong-shard", daemon=True))
        inbox.put(job)

    def dismiss(self) -> None:
        """Let the threads end, each when it is done."""
        self._open.clear()
        _dismiss(self._idle)

    def __del__(self) -> None:
        self.dismiss()


_Job: TypeAlias = tuple[
    int,
    Callable[..., Any],
    tuple[Any, ...],
    tuple[float, float],
    "SimpleQueue[tuple[int, Any, BaseException | None]]",
]


def _serve(inbox: SimpleQueue[_Job | None], idle: deque[SimpleQueue[_Job | None]], is_open: list[bool]) -> None:
    while (job := inbox.get()) is not None:
        n, verb, arguments, (LIMITS.end_s, LIMITS.sign_s), done = job  # the call takes no longer than its caller waits
        answer, failure = None, None
        try:
            answer = verb(*arguments)
        except BaseException as error:  # whatever it is, the caller gets it
            failure = error
        idle.append(inbox)
        done.put((n, answer, failure))
        del job, verb, arguments, done, answer, failure  # an idle thread keeps nobody's values alive
        if not is_open or len(idle) > _IDLE_THREADS:
            _dismiss(idle, 0 if not is_open else _IDLE_THREADS)


def _dismiss(idle: deque[SimpleQueue[_Job | None]], but: int = 0) -> None:
    """End idle threads until only `but` are left."""
    while len(idle) > but:
        try:
            inbox = idle.popleft()
        except IndexError:
            return
        inbox.put(None)
