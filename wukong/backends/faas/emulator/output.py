"""What tasks print and log inside a function: cut into lines, marked, and sent on."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any, Literal, cast

Emit = Callable[[str, str, str, int], None]
"""Takes stream, text, logger, level; adds the invocation and the task."""

_LONGEST_LINE_BYTES = 65_536


class _Lines(io.RawIOBase):
    """The raw end of a text stream: hands on whole lines; lines that were written at once go together."""

    def __init__(self, stream: Literal["stdout", "stderr"], emit: Emit) -> None:
        self._stream = stream
        self._emit = emit
        self._partial = b""
        self._lock = Lock()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        with self._lock:
            text = self._partial + chunk
            end = len(text) if len(text) > _LONGEST_LINE_BYTES else text.rfind(b"\n") + 1
            self._partial = text[end:]
        if end:
            self._emit(self._stream, text[:end].decode("utf-8", "replace"), "", 0)
        return len(chunk)

    def finish(self) -> None:
        """Hand on an unfinished line."""
        with self._lock:
            text, self._partial = self._partial, b""
        if text:
            self._emit(self._stream, text.decode("utf-8", "replace"), "", 0)


class _Text(io.TextIOWrapper):
    """What several threads write at once, each by whole lines of its own: `print` writes a line and its end apart."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__(io.BufferedWriter(lines), encoding="utf-8", errors="replace", line_buffering=True)
        self._unfinished: dict[int, str] = {}
        self._writing = Lock()

    def write(self, text: str) -> int:
        thread = get_ident()
        whole = self._unfinished.pop(thread, "") + text
        end = len(whole) if len(whole) > _LONGEST_LINE_BYTES else whole.rfind("\n") + 1
        if end < len(whole):
            self._unfinished[thread] = whole[end:]
        if end:
            with self._writing:
                super().write(whole[:end])
        return len(text)

    def finish(self) -> None:
        """Write unfinished lines too."""
        for thread in list(self._unfinished):
            super().write(self._unfinished.pop(thread, ""))
        self.flush()


class _Forward(logging.Handler):
    """Sends records as text; the client's own logging decides where they go."""

    def __init__(self, emit: Emit) -> None:
        super().__init__()
        self._send = emit
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send("log", self.format(record), record.name, record.levelno)
        except Exception:
            self.handleError(record)


class Streams:
    """A stdout and a stderr which hand on what is written to them, by whole lines."""

    def __init__(self, emit: Emit) -> None:
        self._lines = (_Lines("stdout", emit), _Lines("stderr", emit))
        self._streams = tuple(map(_Text, self._lines))

    def install(self) -> None:
        """Put them in the place of this process's own."""
        sys.stdout, sys.stderr = self._streams

    def finish(self) -> None:
        """Hand on everything that was written, unfinished lines too."""
        for stream, lines in zip(self._streams, self._lines, strict=True):
            if not stream.closed:
                stream.finish()
                lines.finish()


class Output(Streams):
    """Replaces stdout, stderr and the root logger's handlers of this process."""

    def __init__(self, emit: Emit, level: int) -> None:
        super().__init__(emit)
        self.install()
        root = logging.getLogger()
        root.handlers[:] = [_Forward(emit)]
        root.setLevel(level)

    def set_level(self, level: int) -> None:
        """Take over the level of the client's root logger."""
        root = logging.getLogger()
        if root.level != level:
            root.setLevel(level)


def leave_alone() -> None:
    """Give stdout and stderr back to their descriptors: for a process that a task has forked from a worker."""
    sys.stdout = cast(Any, open(1, "w", closefd=False))  # noqa: SIM115 - lives as long as the process
    sys.stderr = cast(Any, open(2, "w", closefd=False))  # noqa: SIM115
    logging.getLogger().handlers[:] = [logging.StreamHandler()]
