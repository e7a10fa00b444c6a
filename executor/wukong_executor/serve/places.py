"""The server's places: processes that each run one invocation at a time, and who runs or waits for one.

    accept -> held -> place (a process of the emulator's) -> ended | failed | cancelled -> not held any more

The processes are those of `faas: local`: forked from a warm parent, ended at their limits, replaced when they die. What
is here is what a server has to know besides: how full it is, what it has taken already, what has failed.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import count

from wukong.backends import machine
from wukong.backends.faas import Failure, TaskOutput
from wukong.backends.faas.http.wire import Posted
from wukong.backends.faas.local import LocalFaaS
from wukong.errors import BackendError

_REMEMBERED = 10_000
"""How many postings are known again, and how many failures are kept for those who ask."""
_ONE_LINE = str.maketrans("\t\r\n", "   ")

logger = logging.getLogger("wukong_executor")


@dataclass(eq=False, slots=True)
class Held:
    """An invocation that has been taken.

    Attributes:
        invocation: its id.
        ended: set when it does not run any more.
        failure: why it has failed; None: it has not.
        started: it is with the processes' parent.
    """

    invocation: str
    ended: threading.Event = field(default_factory=threading.Event)
    failure: Failure | None = None
    started: bool = False


class Places:
    """See the module's docstring. Safe in several threads.

    Args:
        function: what to run, ``"module:attribute"``.
        places: how many run at once, each in a process of its own, with an equal share of the cores.
        queue: how many more are taken, to wait for a place.
        time_s, memory_bytes: limits of one invocation; None: there is none.
        preload: modules that all processes are to have imported.

    Attributes:
        cores: of each.
        closing: no more are taken.
        broken: why no invocation can be run any more; None: all is well.
    """

    def __init__(
        self,
        function: str,
        places: int,
        queue: int,
        time_s: float | None,
        memory_bytes: int | None,
        preload: Sequence[str] = (),
    ) -> None:
        self.count, self.queue = places, queue
        self.time_s, self.memory_bytes = time_s, memory_bytes
        self.closing = False
        self.broken: str | None = None
        self._lock = threading.Condition()
        self._held: dict[str, list[Held]] = {}
        self._n_held = 0
        self._taken: OrderedDict[str, Held] = OrderedDict()
        self._failures: deque[tuple[int, Failure]] = deque(maxlen=_REMEMBERED)
        self._numbers, self._statements = count(1), count(1)
        self._last = 0
        self._closed = False
        self.cores = max(1, machine.cores() // places)
        self._local = LocalFaaS(
            function=function,
            slots=places,
            max_slots=places,
            cpus=self.cores if self.cores > 1 else None,  # if each has one, it may take those that no other one uses
            time_s=time_s,
            memory_bytes=memory_bytes,
        )
        self._local.subscribe(show)
        self._local.watch_ends(self._has_ended)
        if preload:
            self._local.prepare(preload)
        threading.Thread(target=self._hear_failures, name="wukong-failures", daemon=True).start()

    def free(self) -> tuple[int, int]:
        """Return how many more invocations would start at once, and this statement's number: newer ones are higher.

        Answers overtake each other on their way, so whoever gets two needs to know which one is newer.
        """
        with self._lock:
            return max(0, self.count - self._n_held), next(self._statements)

    @property
    def last_failure(self) -> int:
        """The number of the last failure."""
        return self._last

    def accept(self, posted: Posted) -> Held | None:
        """Take an invocation, or return what was taken under the same `call` already; None: there is no room.

        Raises `BackendError` if nothing can be run here any more.
        """
        invocation = posted.invocation
        with self._lock:
            if (known := self._taken.get(posted.call)) is not None:
                return known
            if self.closing or self._n_held >= self.count + self.queue:
                return None
            held = self._taken[posted.call] = Held(invocation.id)
            if len(self._taken) > _REMEMBERED:
                self._taken.popitem(last=False)
            self._held.setdefault(invocation.id, []).append(held)
            self._n_held += 1
        try:
            self._local.invoke([invocation])
        except BackendError as error:
            self._forget(held)
            self._taken.pop(posted.call, None)
            self.broken = error.message
            raise
        held.started = True
        return held

    def known(self, ids: Sequence[str]) -> list[str]:
        """Return which of these invocations run or wait for a place."""
        with self._lock:
            return [each for each in ids if each in self._held]

    def failures(self, jobs: Collection[str], after: int, last: int) -> list[Failure]:
        """Return the failures of these jobs whose numbers are above `after`, up to `last`."""
        with self._lock:
            found = [each for n, each in self._failures if after < n <= last]
        return [each for each in found if each.invocation.partition("/")[0] in jobs]

    def cancel(self, prefix: str) -> None:
        """End the invocations whose id begins with `prefix`; they have not failed."""
        with self._lock:
            doomed = [each for name, held in self._held.items() if name.startswith(prefix) for each in held]
        if doomed:
            self._local.cancel(prefix)
            for each in doomed:
                self._forget(each)

    def finish(self, timeout_s: float) -> bool:
        """Take no more, and wait until those that were taken have ended; return whether they have, in this time."""
        with self._lock:
            self.closing = True
            return self._lock.wait_for(lambda: not self._n_held, timeout_s)

    def close(self) -> None:
        """End all processes, and with them what still runs."""
        with self._lock:
            self.closing = self._closed = True
        self._local.close()
        self._local.failed.set()

    # --- what the processes' parent tells

    def _has_ended(self, invocation: str, failure: Failure | None = None) -> None:
        with self._lock:
            held = next(iter(self._held.get(invocation, ())), None)
        if held is not None:
            self._forget(held, failure)

    def _forget(self, held: Held, failure: Failure | None = None) -> None:
        with self._lock:
            alike = self._held.get(held.invocation, [])
            if held in alike:
                alike.remove(held)
                if not alike:
                    del self._held[held.invocation]
                self._n_held -= 1
                self._lock.notify_all()
        held.failure = failure
        held.ended.set()

    def _hear_failures(self) -> None:
        while True:
            self._local.failed.wait()
            if self._closed:
                return
            failures = self._local.failures()
            for failure in failures:
                logger.warning("%s has failed (%s): %s", failure.invocation, failure.reason, failure.detail)
                with self._lock:  # first on record, then not held any more
                    self._last = next(self._numbers)
                    self._failures.append((self._last, failure))
                self._has_ended(failure.invocation, failure)
            if any(failure.reason == "crash" for failure in failures):
                self._look_for_lost()

    def _look_for_lost(self) -> None:
        """If the processes' parent died, nobody may have told that an invocation had ended just before."""
        with self._lock:
            started = [each for held in self._held.values() for each in held if each.started]
        known = set(self._local.known([each.invocation for each in started])) if started else set()
        for each in started:
            if each.invocation not in known:
                self._forget(each)


def show(output: TaskOutput) -> None:
    """Write what a task has printed or logged to this process's own streams, each line with whose it is."""
    name, task = output.invocation.translate(_ONE_LINE), (output.task or "-").translate(_ONE_LINE)
    stream = sys.stdout if output.stream == "stdout" else sys.stderr
    mark = f"[{logging.getLevelName(output.level)}]" if output.stream == "log" else f"[{output.stream}]"
    logged = f"{output.logger}\t" if output.stream == "log" else ""
    with contextlib.suppress(OSError, ValueError):  # there is no such stream any more
        stream.write("".join(f"{mark}\t{name}\t{task}\t{logged}{line}\n" for line in output.text.splitlines()))
        stream.flush()
