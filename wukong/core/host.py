"""What the process in which an executor runs (a function on a platform, or a test) gives to it.

In a function, `wukong.backends.entry` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from wukong.core.codec import Codec
from wukong.core.dag import Page
from wukong.core.limits import MemoryGauge
from wukong.core.payload import Send
from wukong.core.storage import StorePort

Usage: TypeAlias = tuple[int, int, int, float, float]
"""What an invocation has asked of the store: operations, bytes written, bytes read, seconds, US dollars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorHost:
    """Where an executor runs, and what it has there.

    Attributes:
        store, codec: where values go, and how they become bytes.
        send: starts the invocations that the executor makes.
        free_slots: returns how many of those would start at once; None: no bound is known.
        pages: pages of this job that this process has decoded before; the executor adds to them.
        usage: returns what this invocation has asked of the store so far; None: nobody counts.
        time_limit_s: how long after its begin the platform ends this invocation, seconds; None: it never does.
        gauge: tells how full this process's memory is; None: the platform does not end it for that.
        cores: how many cores the function has.
        arrived_s: when the function was called, by `time.perf_counter`; None: not known.
        cold: this is the first invocation in its process.
        machine: the same bytes in all processes that share a system clock.
        memory_bytes: returns how many bytes the process had in use at most since the last call; 0: not known.
        functions: memory of each of the platform's sizes of function, bytes, the smallest first; (): there is one.
        function: which of them this is, counted from 0.
        scale: how many times as large as the platform's smallest function this one is; billed time is multiplied by it.
    """

    store: StorePort
    codec: Codec
    send: Send
    free_slots: Callable[[], int | None] = lambda: None
    pages: dict[int, Page] = field(default_factory=dict)
    usage: Callable[[], Usage] | None = None
    time_limit_s: float | None = None
    gauge: MemoryGauge | None = None
    cores: int = 1
    arrived_s: float | None = None
    cold: bool = False
    machine: bytes = b""
    memory_bytes: Callable[[], int] = lambda: 0
    scale: float = 1.0
    functions: Sequence[int] = ()
    function: int = 0
