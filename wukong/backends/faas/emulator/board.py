"""The shared memory which client, host and workers all map: free slots, and what each worker is running.

    0     free slots now            (written by the host, read by everyone: `free_slots` is a memory read)
    8     slots                     (written by the host)
    16    invocation attempts       (counted under a file lock; only if throttling is scripted)
    4096  one record per worker:    length of id, length of task, process id, id (host writes), task (worker writes),
                                    and whether its executor waits for the store or for others (worker writes)
    then  one byte per worker:      cores that its executor uses besides its own (worker writes)

A record outlives its worker and the host, so that the others can still tell what was running.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from threading import Lock

_NUMBER = struct.Struct("<q")
_LENGTH = struct.Struct("<H")
_PROCESS = struct.Struct("<i")
_FREE, _SLOTS, _ATTEMPTS, _RECORDS = 0, 8, 16, 4096
_RECORD_BYTES = 1024
_TEXT_BYTES = 504
_TASK_LENGTH, _PID, _ID, _TASK, _WAITING = 2, 4, 8, 8 + _TEXT_BYTES, _RECORD_BYTES - 1


def create(records: int) -> int:
    """Make the shared memory for this many workers; return its descriptor."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("wukong-board", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile(prefix="wukong-board-") as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _RECORDS + records * (_RECORD_BYTES + 1))
    return descriptor


class Board:
    """The shared memory behind a descriptor, which it owns from now on.

    Attributes:
        records: for how many workers it has room.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, 0)
        self.records = (len(self._map) - _RECORDS) // (_RECORD_BYTES + 1)
        self._more = _RECORDS + self.records * _RECORD_BYTES
        self._lock = Lock()

    def free(self) -> int:
        """Return how many more invocations would start at once."""
        return max(0, self.idle())

    def idle(self) -> int:
        """Return how many cores nobody uses; less than 0 if invocations wait for one."""
        return int(_NUMBER.unpack_from(self._map, _FREE)[0]) - self.more()

    def more(self) -> int:
        """Return how many cores executors use besides their own."""
        return sum(self._map[self._more : self._more + self.records])

    def use(self, index: int, cores: int) -> None:
        """Record how many cores the executor of worker `index` uses besides its own, 255 at most."""
        self._map[self._more + index] = cores

    def uses(self, index: int) -> int:
        """Return what worker `index` has recorded so last."""
        return self._map[self._more + index]

    def slots(self) -> int:
        """Return how many invocations may run at once, for now."""
        return int(_NUMBER.unpack_from(self._map, _SLOTS)[0])

    def publish(self, free: int, slots: int) -> None:
        """Publish both numbers. Only the host calls this. Cores that executors use besides their own count as free."""
        _NUMBER.pack_into(self._map, _FREE, free)
        _NUMBER.pack_into(self._map, _SLOTS, slots)

    def next_attempt(self) -> int:
        """Return the number of this attempt to invoke, counted over all processes, each number once."""
        with self._lock:
            # A record lock, not flock: forked workers share one open file, and a flock would belong to all of them.
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                attempt = int(_NUMBER.unpack_from(self._map, _ATTEMPTS)[0])
                _NUMBER.pack_into(self._map, _ATTEMPTS, attempt + 1)
                return attempt
            finally:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def start(self, index: int, invocation: str) -> None:
        """Record that worker `index` starts an invocation; an empty text: that it is idle."""
        offset = _RECORDS + index * _RECORD_BYTES
        text = invocation.encode("utf-8", "replace")[:_TEXT_BYTES]
        _LENGTH.pack_into(self._map, offset + _TASK_LENGTH, 0)
        self._map[offset + _WAITING] = self._map[self._more + index] = 0
        self._map[offset + _ID : offset + _ID + len(text)] = text
        _LENGTH.pack_into(self._map, offset, len(text))

    def announce(self, index: int, task: str | None) -> None:
        """Record which task worker `index` is running."""
        offset = _RECORDS + index * _RECORD_BYTES
        text = (task or "").encode("utf-8", "replace")[:_TEXT_BYTES]
        _LENGTH.pack_into(self._map, offset + _TASK_LENGTH, 0)
        self._map[offset + _TASK : offset + _TASK + len(text)] = text
        _LENGTH.pack_into(self._map, offset + _TASK_LENGTH, len(text))

    def task(self, index: int) -> str | None:
        """Return the task that worker `index` announced last in its invocation; None if it announced none."""
        offset = _RECORDS + index * _RECORD_BYTES
        (length,) = _LENGTH.unpack_from(self._map, offset + _TASK_LENGTH)
        return self._map[offset + _TASK : offset + _TASK + length].decode("utf-8", "replace") or None

    def wait(self, index: int, waiting: bool) -> None:
        """Record whether the executor of worker `index` waits for the store, or for others, outside of tasks."""
        self._map[_RECORDS + index * _RECORD_BYTES + _WAITING] = waiting

    def waits(self, index: int) -> bool:
        """Return what worker `index` has recorded so last."""
        return bool(self._map[_RECORDS + index * _RECORD_BYTES + _WAITING])

    def live(self, index: int, pid: int) -> None:
        """Record the process id of worker `index`; 0: there is no such worker any more."""
        _PROCESS.pack_into(self._map, _RECORDS + index * _RECORD_BYTES + _PID, pid)

    def take_workers(self) -> list[int]:
        """Return the process ids of all workers of a host that is dead, and forget them."""
        found = []
        for index in range(self.records):
            (pid,) = _PROCESS.unpack_from(self._map, _RECORDS + index * _RECORD_BYTES + _PID)
            if pid:
                found.append(pid)
                self.live(index, 0)
        return found

    def clear(self) -> None:
        """Forget what workers were running."""
        for index in range(self.records):
            self.start(index, "")

    def running(self) -> list[tuple[str, str | None]]:
        """Return invocation and announced task of every worker that is running one."""
        found = []
        for index in range(self.records):
            offset = _RECORDS + index * _RECORD_BYTES
            (length,) = _LENGTH.unpack_from(self._map, offset)
            if length:
                invocation = self._map[offset + _ID : offset + _ID + length].decode("utf-8", "replace")
                found.append((invocation, self.task(index)))
        return found

    def close(self) -> None:
        """Unmap and close the descriptor. Closing twice is no error."""
        if not self._map.closed:
            self._map.close()
            os.close(self.descriptor)
