"""A worker as the host sees it, and what the operating system tells about processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable

from wukong.backends import machine
from wukong.backends.faas.emulator.wire import Channel

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36
_WORKER_BYTES = 32 * 1_048_576
_RESERVE_BYTES = 512 * 1_048_576
_WORKER_PROCESSES = 3
"""A worker, its executor's watcher, and one that its task may start."""
_RESERVE_PROCESSES = 16


class Child:
    """A worker as the host sees it.

    Attributes:
        running: id of the invocation that it runs; None when idle.
        limit_bytes: most memory of that invocation; None: no limit.
        turn: counts its invocations, so that a timer knows whether it is still the same one.
        generation: which set of prepared modules it was forked with.
        configured: which state of the configured environment it has.
        doomed: why the host has killed it: reason and detail; reason ``cancel`` is not reported.
        retired: it was idle and is not needed any more.
        last_words: the last line that it wrote to stderr in this invocation.
        idle_since_s: since when it has been idle (monotonic, seconds).
        hung_up: its channel is closed. writing: the channel could not take all yet.
    """

    def __init__(self, pid: int, channel: Channel, index: int, generation: int) -> None:
        self.pid = pid
        self.channel = channel
        self.index = index
        self.generation = generation
        self.running: str | None = None
        self.limit_bytes: int | None = None
        self.turn = 0
        self.idle_since_s = 0.0
        self.doomed: tuple[str, str] | None = None
        self.last_words = ""
        self.configured = 0
        self.hung_up = False
        self.retired = False
        self.writing = False
        self.looked_at_s = 0.0
        self.cpu_ns = 0
        self.blocked: bool | None = None
        self.settled = False


def adopt_orphans() -> None:
    """Adopt the processes that dead children leave, so that this process notices their end. Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_group(pid: int) -> None:
    """Ask a child and what it has started to end. A resource tracker does not listen: it cleans up, and then ends."""
    _signal(pid, signal.SIGTERM)


def kill_group(pid: int) -> None:
    """Kill a child and what it has started. One that is gone already is no error."""
    _signal(pid, signal.SIGKILL)


def group_lives(pid: int) -> bool:
    """Return whether anything is left of the process group of a child that has been waited for."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal(pid: int, number: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, number)
        except OSError:
            continue


def ended(status: int) -> str:
    """Return how a process has ended, for a person."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"the process exited with status {code}"
    try:
        return f"the process was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was killed by signal {-code}"


def room(pids: Iterable[int]) -> int | None:
    """Return for how many more workers like these there are memory and processes, besides what the machine needs.

    None if that is not known.
    """
    found = []
    memory = machine.memory()
    if memory is not None:
        each_bytes = max([_WORKER_BYTES, *map(memory_bytes, pids)])
        found.append((memory.free_bytes - min(_RESERVE_BYTES, memory.total_bytes // 8)) // each_bytes)
    processes = machine.processes_left()
    if processes is not None:
        found.append((processes - _RESERVE_PROCESSES) // _WORKER_PROCESSES)
    return max(0, min(found)) if found else None


def memory_bytes(pid: int) -> int:
    """Return the anonymous resident memory of a process in bytes; 0 if that is not known."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = file.read().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES
