r"""What tasks print and log goes into the function's log, every line with its invocation and its task.

    [stdout]\t<job>/<invocation>\t<task>\t<line>
    [WARNING]\t<time>\t<request id>\t<job>/<invocation>\t<task>\t<logger>\t<message>

The platform's own logging handlers stay: they say how a record looks (text or JSON), which levels are kept and which
way records go. In text, invocation and task are put before the message; in JSON they are fields of their own.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TextIO

from wukong.backends.faas.emulator.output import Streams
from wukong.core import task_context

_BETWEEN_TASKS = "-"
_ONE_LINE = str.maketrans("\t\r\n", "   ")


class Log:
    """Takes the place of stdout, stderr and the root logger's handlers from `begin` to `end`."""

    def __init__(self) -> None:
        self._label = ""
        self._real: tuple[TextIO, TextIO] | None = None
        self._streams: Streams | None = None
        self._handlers: list[logging.Handler] = []
        self._level = logging.NOTSET
        self._thread = threading.local()

    def begin(self, label: str) -> None:
        """Take over the streams and handlers: the invocation called `label` begins."""
        root = logging.getLogger()
        self._label = label.translate(_ONE_LINE)
        self._real = sys.stdout, sys.stderr
        self._handlers, self._level = list(root.handlers), root.level
        self._streams = Streams(self._write)  # new ones each time: a task may have closed those it saw
        self._streams.install()
        root.handlers[:] = [_Marking(self, handler) for handler in self._handlers]

    def end(self) -> None:
        """Hand on unfinished lines, and put everything back that was there before: the invocation has ended."""
        assert self._real is not None and self._streams is not None
        self._streams.finish()
        sys.stdout, sys.stderr = self._real
        root = logging.getLogger()
        root.handlers[:] = self._handlers
        root.setLevel(self._level)

    def where(self) -> tuple[str, str]:
        """Return the names of the invocation and of the task that is running, without tabs and line ends."""
        task = task_context.task()
        return self._label, _BETWEEN_TASKS if task is None else str(task).translate(_ONE_LINE)

    def pass_on(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        """Have a handler of the platform write a marked record; if it writes to stdout, that is not marked again."""
        assert self._streams is not None
        self._streams.finish()  # an unfinished line comes before, and not on the same one
        self._thread.passing = True
        try:
            handler.handle(record)
        finally:
            self._thread.passing = False

    def _write(self, stream: str, text: str, logger: str, level: int) -> None:
        assert self._real is not None
        if not getattr(self._thread, "passing", False):
            label, task = self.where()
            text = "".join(f"[{stream}]\t{label}\t{task}\t{line}\n" for line in text.splitlines())
        real = self._real[stream == "stderr"]
        real.write(text)
        real.flush()


class _Marking(logging.Handler):
    """Marks records with the invocation and the task, and hands them to a handler of the platform's."""

    def __init__(self, log: Log, inner: logging.Handler) -> None:
        super().__init__(inner.level)
        self._log, self._inner = log, inner
        formatter = inner.formatter
        self._text = formatter is None or type(formatter).format is logging.Formatter.format

    def emit(self, record: logging.LogRecord) -> None:
        said, arguments = record.msg, record.args
        try:
            label, task = self._log.where()
            if self._text:
                record.msg, record.args = f"{label}\t{task}\t{record.name}\t{record.getMessage()}", None
            else:
                record.wukong_invocation, record.wukong_task = label, task
            self._log.pass_on(self._inner, record)
        except Exception:
            self.handleError(record)
        finally:
            record.msg, record.args = said, arguments
