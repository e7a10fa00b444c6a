"""What functions write, and the platform's own lines around it: START, END, REPORT."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from wukong.emulators.aws_lambda.functions import Version

logger = logging.getLogger(__name__)

TAIL_BYTES = 4_096
_LONGEST_LINE_BYTES = 262_144


class LogLine(NamedTuple):
    """One line. `time_ms`: since 1970; `stream`: of the environment that wrote it; `number`: grows with every line."""

    time_ms: int
    stream: str
    text: str
    number: int


class LogBook:
    """The last lines of every function, by log group."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._lines: dict[str, deque[LogLine]] = {}
        self._numbers = itertools.count()

    def add(self, group: str, stream: str, text: str) -> None:
        """Keep a line; also log it with this module's logger."""
        lines = self._lines.get(group)
        if lines is None:
            lines = self._lines[group] = deque(maxlen=self._kept)
        lines.append(LogLine(int(time.time() * 1000), stream, text, next(self._numbers)))
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s: %s", group, text.rstrip("\n"))

    def lines(self, group: str) -> Sequence[LogLine]:
        """Return the kept lines of a function's log, oldest first."""
        return tuple(self._lines.get(group, ()))


class Stream:
    """One environment's log."""

    def __init__(self, book: LogBook, version: Version, name: str) -> None:
        self.name = name
        self._book = book
        self._group = version.function.log_group
        self._version = version
        self._partial = b""
        self._tail = bytearray()

    def write(self, data: bytes) -> None:
        """Take what the environment wrote to stdout or stderr, in whole lines or not."""
        self._keep(data)
        data = self._partial + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) > _LONGEST_LINE_BYTES:
            end = len(data)
        for line in data[:end].splitlines(keepends=True) if end else ():
            self._book.add(self._group, self.name, line.decode("utf-8", "replace"))
        self._partial = data[end:]

    def finish(self) -> None:
        """Write an unfinished line as a line."""
        if self._partial:
            self.write(b"\n")

    def say(self, text: str) -> None:
        """Write a line of the platform's own."""
        self.finish()
        self._keep(text.encode())
        self._book.add(self._group, self.name, text)

    def start(self, request_id: str) -> None:
        """An invocation begins."""
        self.say(f"START RequestId: {request_id} Version: {self._version.number}\n")

    def end(
        self,
        request_id: str,
        duration_ms: float,
        used_bytes: int,
        init_ms: float | None,
        status: str,
    ) -> tuple[bytes, int]:
        """Log the end of an invocation; return the tail of its log, and its billed milliseconds.

        `init_ms`: of a cold start, which is billed as well. `status`: text to add if it failed.
        """
        billed_ms = max(1, math.ceil(duration_ms + (init_ms or 0.0)))
        memory_mb = self._version.memory_mb
        self.say(f"END RequestId: {request_id}\n")
        init = "" if init_ms is None else f"Init Duration: {init_ms:.2f} ms\t"
        self.say(
            f"REPORT RequestId: {request_id}\tDuration: {duration_ms:.2f} ms\tBilled Duration: {billed_ms} ms\t"
            f"Memory Size: {memory_mb} MB\tMax Memory Used: {math.ceil(used_bytes / 1_048_576)} MB\t{init}{status}\n"
        )
        tail = bytes(self._tail)
        self._tail.clear()
        return tail, billed_ms

    def _keep(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) > TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
