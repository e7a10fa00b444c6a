"""The client's two threads: one watches the jobs of futures, one cleans up after all jobs.

The watcher asks for the outcomes of all its jobs in one round trip. The janitor takes in the executors' reports and
deletes keys, so that no caller waits for that, and renews the client's lease.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from wukong.backends.storage import Store
from wukong.client.lease import end_of
from wukong.core.interrupts import start_thread
from wukong.core.job import Job
from wukong.core.results import Result
from wukong.errors import Retryable

logger = logging.getLogger("wukong")

_FIRST_PAUSE_S = 0.0003
_LAST_PAUSE_S = 0.02
_JOIN_S = 5.0
_ENDING_S = 1.0
_LEAST_JOIN_S = 1.0


class Sink(Protocol):
    """What takes the values of a background job."""

    def one(self, result: Result) -> None:
        """Take a requested task's value, or the key under which it stays in the store."""

    def failed(self, error: BaseException) -> None:
        """Hear that the job has failed as a whole."""

    def ended(self) -> None:
        """Hear that the job has ended, one way or the other."""


def stop(job: Job, because: BaseException | None = None) -> None:
    """Cancel a job. If it cannot be cancelled, that is logged: other jobs are to end all the same."""
    try:
        job.cancel(because)
    except Exception as error:
        logger.warning("job %s: it cannot be stopped: %s", job.id, error)


@dataclass(slots=True, eq=False)
class _Watched:
    job: Job
    sink: Sink


class Background:
    """See the module's docstring. Threads start when first needed.

    Args:
        store: the client's.
        renew: called every `renew_s` seconds, once `begin` was.
    """

    def __init__(self, store: Store, renew: Callable[[], None] = lambda: None, renew_s: float = 2.0) -> None:
        self._store = store
        self._renew, self._renew_s = renew, renew_s
        self._watched: list[_Watched] = []
        self._new = threading.Event()
        # Reentrant: a future may be collected, and its value deleted, at any line, also inside a locked block.
        self._lock = threading.RLock()
        self._closing = False
        self._watcher: threading.Thread | None = None
        self._janitor: threading.Thread | None = None
        self._chores: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def begin(self) -> None:
        """Keep the lease from now on: there is something in the store."""
        if self._janitor is None:
            self._chore(lambda: None)

    def watch(self, job: Job, start: Callable[[], None], sink: Sink) -> None:
        """Start a job and tell `sink` how it goes."""
        each = _Watched(job, sink)
        try:
            start()
            with self._lock:
                self._watched.append(each)
                if self._watcher is None:
                    self._watcher = threading.Thread(target=self._watch, name="wukong-jobs", daemon=True)
                    start_thread(self._watcher)
            self._new.set()
        except BaseException as error:
            self._end(each, error)
            if isinstance(error, KeyboardInterrupt):  # it is the caller's, not only the job's
                raise

    def aside(self, chore: Callable[[], object]) -> None:
        """Do `chore` soon; the caller does not wait for it."""
        self._chore(chore)

    def settle(self, job: Job) -> None:
        """Clean up after a job that has ended."""
        self._chore(job.settle)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete these keys."""
        self._chore(partial(self._store.delete, keys))

    def close(self, last: Callable[[], object]) -> None:
        """Finish cleaning up, do `last` at the end, and end both threads. That takes some seconds at most."""
        with self._lock:
            self._closing = True
            watcher, janitor = self._watcher, self._janitor
        until_s = time.monotonic() + _JOIN_S
        self._new.set()
        me = threading.current_thread()
        if watcher is not None and watcher is not me:
            watcher.join(_JOIN_S)
        if janitor is None:  # there was never anything in the store
            return
        if janitor is me:
            last()
            return
        self._chores.put(last)
        self._chores.put(None)
        janitor.join(max(_LEAST_JOIN_S, until_s - time.monotonic()))
        if janitor.is_alive():
            logger.warning(
                "the client closes, and not all that it had in the store is deleted yet, after some seconds (%s)",
                end_of(self._store),
            )

    def _chore(self, chore: Callable[[], object]) -> None:
        with self._lock:
            if self._closing and self._janitor is None:
                return
            if self._janitor is None:
                self._janitor = threading.Thread(target=self._clean, name="wukong-janitor", daemon=True)
                start_thread(self._janitor)
        self._chores.put(chore)

    def _clean(self) -> None:
        renew_at = time.monotonic() + self._renew_s
        put_off: list[Callable[[], object]] = []
        while True:
            chore: Callable[[], object] | None = self._renew
            try:
                chore = self._chores.get(timeout=max(0.0, renew_at - time.monotonic()))
            except queue.Empty:
                renew_at = time.monotonic() + self._renew_s
            if chore is None or chore is self._renew:  # try again what failed while the store was away
                for late in put_off:
                    self._chores.put(late)
                put_off.clear()
            if chore is None:
                if self._chores.empty():
                    return
                self._chores.put(None)
                continue
            try:
                chore()
            except Exception as error:  # nobody waits for this; what is left has a time to live
                if not self._closing:
                    logger.warning("cleaning up failed: %s", error)
                    if isinstance(error, Retryable) and chore is not self._renew:
                        put_off.append(chore)

    def _watch(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._closing:
            with self._lock:
                watched = list(self._watched)
            if not watched:
                self._new.wait(1.0)
            elif self._new.wait(pause_s):
                pause_s = _FIRST_PAUSE_S
            self._new.clear()
            pause_s = min(pause_s * 1.2, _LAST_PAUSE_S)
            if watched:
                self._look(watched)
        self._see_out()
        for each in self._watched:
            stop(each.job)

    def _see_out(self) -> None:
        """Wait a moment for jobs that have told all their values: they are about to end, and what they did counts."""
        until_s = time.monotonic() + _ENDING_S
        while time.monotonic() < until_s:
            ending = [each for each in self._watched if each.job.results.complete]
            if not ending:
                return
            self._look(ending)
            time.sleep(_FIRST_PAUSE_S)

    def _look(self, watched: Sequence[_Watched]) -> None:
        try:
            outcomes = self._store.get([each.job.names.done for each in watched])
        except Exception as error:
            for each in watched:
                self._end(each, error)
            return
        for each, blob in zip(watched, outcomes, strict=True):
            try:
                if each.job.stream:
                    for result in each.job.results.early():
                        each.sink.one(result)
                if blob is None:
                    each.job.tend()
                    continue
                for result in each.job.last(blob):
                    each.sink.one(result)
                self._end(each)
            except BaseException as error:
                self._end(each, error)

    def _end(self, each: _Watched, error: BaseException | None = None) -> None:
        with self._lock:
            if each in self._watched:
                self._watched.remove(each)
        if error is not None:
            stop(each.job, error)
            each.sink.failed(error)
        each.job.inputs = []
        each.sink.ended()
        self.settle(each.job)
