"""How many cores invocations may use at once: as many as there are, and more while some of them only wait.

An invocation uses one, and besides that those which its executor's lanes compute on, as it says on the board.

A platform in the cloud gives each function its own core. Here the cores are few, but a function that sleeps or waits
for I/O needs none, so its slot may be used again. `SlotCount.judge` looks at the workers that run something:

    computing: has used a tenth of the time since the last look, or is ready to run but has no core
    waiting:   not computing, and its executor waits for the store or for others, as it says on the board
    blocked:   not computing, and it runs a task
    unknown:   has just begun

While fewer workers compute than there are cores, blocked workers add twice their number of slots (so a job of sleeping
tasks doubles at every look). Once the cores are full, they add only their own number. Waiting workers add at most as
many slots as there are cores: more workers would only slow the store down, and hold values meanwhile. Memory and the
limit of processes bound all of this. A look costs a microsecond or two per worker (the kernel's per-process CPU clock),
and looks are spaced so that they never take more than a few per cent of one core.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

_PERIOD_S = 0.002
_CALM_PERIOD_S = 0.010
_COST_SHARE = 0.03
_COMPUTING_SHARE = 0.1
_ROOM_PERIOD_S = 0.05
SETTLED_S = 0.1


class SlotHolder(Protocol):
    """What a worker carries for `SlotCount`: set by `SlotCount.begin`, read by `SlotCount.judge`.

    Attributes:
        pid, index: its process, and its record on the board.
        looked_at_s: when it was looked at last (monotonic, seconds). cpu_ns: the CPU time that it had used by then.
        blocked: its task sleeps; None: not known yet. settled: it has been judged once.
    """

    pid: int
    index: int
    looked_at_s: float
    cpu_ns: int
    blocked: bool | None
    settled: bool


def cpu_ns(pid: int) -> int | None:
    """Return the CPU time which a process has used in all its threads, nanoseconds; None if that is not known."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return time.clock_gettime_ns(~pid << 3 | 2)  # how Linux names the CPU clock of another process
    except OSError:
        return None


def runnable(pid: int) -> bool:
    """Return whether the main thread of a process runs or waits for a core."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return False
    try:
        text = os.read(descriptor, 512)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return text[text.rfind(b")") + 2 :][:1] == b"R"


class SlotCount:
    """The number of slots, moved by what running workers do.

    Attributes:
        base: slots when all invocations compute.
        most: the upper bound of `count`.
        count: slots now.

    Args:
        waits: whether the executor on this worker, by its record on the board, waits for the store or for others.
        uses: how many cores that executor uses besides its own, as said there.
        room: for how many more workers there are memory and processes, given the ids of those that run; None if that
            is not known.
    """

    def __init__(
        self,
        base: int,
        most: int,
        waits: Callable[[int], bool] = lambda index: False,
        uses: Callable[[int], int] = lambda index: 0,
        room: Callable[[Iterable[int]], int | None] = lambda pids: None,
    ) -> None:
        self._waits, self._uses, self._room = waits, uses, room
        self._room_due_s = 0.0
        self._most_now: int | None = None
        self.base = base
        self.most = max(base, most)
        self.count = base
        self.due_s = 0.0
        self._period_s = _PERIOD_S
        self._resting_since_s: float | None = None

    def begin(self, worker: SlotHolder, now_s: float) -> None:
        """An invocation starts on this worker."""
        worker.looked_at_s = now_s
        worker.cpu_ns = cpu_ns(worker.pid) or 0
        worker.blocked = None
        worker.settled = False

    def resume(self, now_s: float) -> None:
        """The first invocation after a time without any starts."""
        self._resting_since_s = None
        self.due_s = now_s + _PERIOD_S

    def rest(self, now_s: float) -> float:
        """The last running invocation has ended; return when to `settle`."""
        self._resting_since_s = now_s
        return now_s + SETTLED_S

    def settle(self, now_s: float) -> None:
        """If nothing has run for a while, forget what ran before: it says nothing about the next job."""
        if self._resting_since_s is not None and now_s - self._resting_since_s >= SETTLED_S:
            self.count = self.base

    def wants_look(self, busy: int, queued: int) -> bool:
        """Return whether looking at the workers could change anything."""
        if not busy or self.most == self.base:
            return False
        return self.count > self.base or busy + queued >= self.count

    def judge(self, workers: Collection[SlotHolder], now_s: float) -> bool:
        """Look at the workers that run something; return whether the number of slots has changed."""
        computing = blocked = waiting = unknown = 0
        for worker in workers:
            elapsed_s = now_s - worker.looked_at_s
            if elapsed_s >= 0.75 * _PERIOD_S:
                used_ns = cpu_ns(worker.pid)
                if used_ns is None:
                    continue
                share = (used_ns - worker.cpu_ns) / (1e9 * elapsed_s)
                blocks = share < _COMPUTING_SHARE and not runnable(worker.pid)
                # What a worker uses in its first moments is the cost of its start, and says nothing of its task.
                worker.blocked = True if blocks else False if worker.settled else None
                worker.settled = True
                worker.looked_at_s, worker.cpu_ns = now_s, used_ns
            if worker.blocked and self._waits(worker.index):
                waiting += 1
            elif worker.blocked:
                blocked += 1
            elif worker.blocked is None:
                unknown += 1
            else:
                computing += 1 + self._uses(worker.index)
        before = self.count
        self.count = self.moved(computing, blocked, unknown, waiting)
        cost_s = time.monotonic() - now_s
        if self.count > self.base:
            self.count = max(self.base, min(self.count, self._affordable(workers, now_s)))
        calm = computing >= self.base or self.count == self.most
        self._period_s = min(_CALM_PERIOD_S, 1.5 * self._period_s) if calm else _PERIOD_S
        self.due_s = now_s + max(self._period_s, cost_s / _COST_SHARE)
        return self.count != before

    def _affordable(self, workers: Collection[SlotHolder], now_s: float) -> int:
        """Return how many workers memory and the limit of processes allow; looked up only now and then."""
        if now_s >= self._room_due_s:
            began_s = time.monotonic()
            room = self._room([worker.pid for worker in workers])
            self._room_due_s = now_s + max(_ROOM_PERIOD_S, (time.monotonic() - began_s) / _COST_SHARE)
            self._most_now = None if room is None else len(workers) + room
        return self.most if self._most_now is None else self._most_now

    def moved(self, computing: int, blocked: int, unknown: int = 0, waiting: int = 0) -> int:
        """Return the number of slots, given what each busy worker does. Pure.

        It falls slowly (a level of a tree of sleeping tasks ends, the next begins), but at once if the cores are full.
        """
        waiting = min(waiting, self.base)
        if computing >= self.base:
            return min(self.most, self.base + blocked + waiting)
        wanted = min(self.most, self.base + 2 * blocked + waiting)
        return max(wanted, self.base, self.count if unknown else 3 * self.count // 4)
