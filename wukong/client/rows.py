"""How far something is, as one row: of bars on a terminal, in a notebook, or as a line now and then.

    terminal   bars on stderr, drawn by rich, all rows together. What a task, a logger or another thread writes
               meanwhile to stdout or stderr appears above them
    notebook   a display that is updated; nothing has to be installed for it
    elsewhere  a line when work turns out to be long, then ever more rarely: to the logger ``wukong`` if logging is set
               up, else to stderr

Whoever opens a row closes it: no state of the terminal is left changed, even after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from wukong.core.interrupts import held

logger = logging.getLogger("wukong")

Setting: TypeAlias = bool | Literal["auto"]
Place: TypeAlias = Literal["terminal", "notebook", "elsewhere"]

FIRST_LINE_S = 10.0
_MOST_RARELY_S = 120.0
_AT_LEAST_S = 2.0
_LEAST_BAR, _MOST_BAR, _BESIDE_BAR = 8, 30, 75
_GAPS = 6
_SEPARATOR = ", "


class Detail(NamedTuple):
    """Something else to say in a row. If there is no room for all, those of the lowest ranks are left out."""

    rank: int
    text: str


class Row(Protocol):
    """One row of progress."""

    def update(self, what: str, done: int, of: int, details: Sequence[Detail] = ()) -> None:
        """Show that `done` of `of` are done, and what else there is to say."""

    def release(self) -> None:
        """Let go of a terminal until the next `update`: the caller does something else meanwhile."""

    def close(self, *, keep: bool) -> None:
        """End the row. `keep`: what it has shown last stays on the screen."""


def place(setting: Setting) -> Place | None:
    """Return where progress is to be shown; None: nowhere."""
    if setting is False:
        return None
    if in_notebook():
        return "notebook"
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "elsewhere"


def opened(setting: Setting, unit: str = "", since_s: float | None = None) -> Row:
    """Return a row where `place` says; call it only if there is a place.

    Args:
        setting: ``"auto"``: lines elsewhere only on long work.
        unit: what is counted.
        since_s: when the work began, by `time.monotonic`; None: now.
    """
    since_s = time.monotonic() if since_s is None else since_s
    match place(setting):
        case "notebook":
            return _NotebookRow(unit, since_s)
        case "terminal":
            return _TerminalRow(unit, since_s)
    return Lines(unit, since_s, patient=setting == "auto")


def in_notebook() -> bool:
    """Whether this runs in a notebook's kernel."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


# --- a terminal


class _Terminal:
    """The bars of this process: one drawing for all rows, for as long as there are rows."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._progress: Any = None
        self._rows = 0
        self._diverted = contextlib.ExitStack()
        self._instead = _InTurn(self._lock), _InTurn(self._lock)
        self._streams: tuple[Any, Any] | None = None
        self._handlers: list[tuple[Any, Any]] = []

    def open(self, what: str, of: int, unit: str, since_s: float) -> Any:
        with self._lock:
            try:
                if self._progress is None:
                    self._start()
                row = self._progress.add_task(what, total=of, unit=unit, details=())
                self._progress.tasks[-1].start_time = since_s
            except BaseException:  # before anybody has a row to close
                if self._rows == 0:
                    self._stop()
                raise
            self._rows += 1
            return row

    def update(self, row: Any, what: str, done: int, of: int, details: Sequence[Detail]) -> None:
        with self._lock:
            self._progress.update(row, description=what, completed=done, total=of, details=details)

    def close(self, row: Any, keep: bool) -> None:
        with self._lock:
            if not keep:
                self._progress.remove_task(row)
            self._rows -= 1
            if self._rows == 0:
                self._stop()

    def _stop(self) -> None:
        progress, self._progress = self._progress, None
        if progress is None:
            return
        progress.live.transient = not progress.tasks
        try:
            progress.stop()
        finally:
            progress.console.show_cursor(True)
            self._diverted.close()

    def _start(self) -> None:
        from rich.console import Console
        from rich.file_proxy import FileProxy
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True, markup=False)
        bar_width = max(_LEAST_BAR, min(_MOST_BAR, console.width - _BESIDE_BAR))
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            _details_column(console, bar_width),
        ]
        real = self._own(sys.stdout), self._own(sys.stderr)
        seen = sys.stdout is not None and sys.stdout.isatty()  # into a pipe goes only what the program writes
        out, error = self._instead
        out.stream, error.stream = FileProxy(console, real[0]), FileProxy(console, real[1])
        instead = out if seen else real[0], error
        self._progress = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)
        self._streams = real
        self._diverted.callback(_restore, real, instead)
        sys.stdout, sys.stderr = instead
        self._progress.start()
        console.show_cursor(True)  # whoever is killed leaves it as it was
        self._handlers = self._diverted.enter_context(_loggers_diverted(*zip(real, instead, strict=True)))

    def _own(self, stream: Any) -> Any:
        """Return what a stream writes to: somebody may have kept one of ours and put it back, after its drawing."""
        return stream.stream if stream in self._instead else stream

    def leave(self) -> None:
        """Forget the drawing, in a forked child: it is the parent's, and so is the thread that draws."""
        if self._progress is not None and self._streams is not None:
            sys.stdout, sys.stderr = self._streams
            for handler, real in self._handlers:
                handler.stream = real


class _InTurn:
    """A stream that nobody writes to while bars begin or end.

    Rich decides where the cursor goes before it writes: a line decided on above a bar and written below it would draw
    the bar once more, and leave the cursor at its end. It lives as long as the process: `print` does not hold the
    stream that it writes to.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self.stream: Any = None

    def write(self, text: str) -> int:
        with self._lock:
            return int(self.stream.write(text))

    def flush(self) -> None:
        with self._lock:
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _restore(real: tuple[Any, Any], instead: tuple[Any, Any]) -> None:
    for name, stream, diverted in zip(("stdout", "stderr"), real, instead, strict=True):
        if getattr(sys, name) is diverted:
            setattr(sys, name, stream)
        if isinstance(diverted, _InTurn):
            try:
                diverted.flush()  # a line that has begun
            finally:
                diverted.stream = stream


def _details_column(console: Any, bar_width: int) -> Any:
    """Return the column of a bar that says what there is room for."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Details(ProgressColumn):
        max_refresh = 0.2

        def render(self, task: Any) -> Text:
            counted = 2 * len(str(int(task.total or 0))) + len("/0:00:00")  # and the time
            taken = len(task.description) + bar_width + counted + len(task.fields["unit"]) + _GAPS
            return Text(fitting(task.fields["details"], console.width - taken), no_wrap=True)

    return Details()


def fitting(details: Sequence[Detail], width: int) -> str:
    """Return what there is to say, as far as it fits into `width` letters: what matters most, in its order."""
    kept: list[Detail] = []
    for each in sorted(details, reverse=True):
        if len(_SEPARATOR.join(each.text for each in [*kept, each])) <= width:
            kept.append(each)
    return _SEPARATOR.join(each.text for each in details if each in kept)


@contextlib.contextmanager
def _loggers_diverted(*pairs: tuple[Any, Any]) -> Iterator[list[tuple[Any, Any]]]:
    """While the block runs, handlers of log records that wrote to the first stream of a pair write to the second.

    Yields these handlers, each with its first stream.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}
    diverted = []
    for handler in handlers:
        for real, instead in pairs:
            if isinstance(handler, logging.StreamHandler) and handler.stream is real and real is not instead:
                handler.stream = instead  # not by `setStream`: who holds the handler's lock may wait to write here
                diverted.append((handler, real, instead))
    try:
        yield [(handler, real) for handler, real, _ in diverted]
    finally:
        for handler, real, instead in diverted:
            if handler.stream is instead:
                handler.stream = real


_terminal = _Terminal()


def _in_child() -> None:
    global _terminal
    _terminal.leave()
    _terminal = _Terminal()


os.register_at_fork(after_in_child=_in_child)


class _TerminalRow:
    def __init__(self, unit: str, since_s: float) -> None:
        self._unit, self._since_s = unit, since_s
        self._row: Any = None

    def update(self, what: str, done: int, of: int, details: Sequence[Detail] = ()) -> None:
        with held():
            if self._row is None:
                self._row = _terminal.open(what, of, self._unit, self._since_s)
            _terminal.update(self._row, what, done, of, details)

    def release(self) -> None:
        self.close(keep=False)

    def close(self, *, keep: bool) -> None:
        with held():
            if self._row is not None:
                row, self._row = self._row, None
                _terminal.close(row, keep)


# --- a notebook


class _NotebookRow:
    def __init__(self, unit: str, since_s: float) -> None:
        self._unit, self._since_s = unit, since_s
        self._handle: Any = None

    def update(self, what: str, done: int, of: int, details: Sequence[Detail] = ()) -> None:
        import IPython.display

        text = _sentence(what, done, of, self._unit, time.monotonic() - self._since_s, details)
        shown = {
            "text/plain": text,
            "text/html": f'<progress value="{done}" max="{max(of, 1)}"></progress> {html.escape(text)}',
        }
        if self._handle is None:
            show: Any = IPython.display.display  # not annotated
            self._handle = show(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def release(self) -> None:
        return

    def close(self, *, keep: bool) -> None:
        if self._handle is not None and not keep:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)


# --- elsewhere


class Lines:
    """A line now and then. `patient`: only once work turns out to be long; else for each step and at the end."""

    def __init__(
        self, unit: str, since_s: float, *, patient: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._unit, self._patient, self._clock, self._since_s = unit, patient, clock, since_s
        self._pause_s = FIRST_LINE_S if patient else _AT_LEAST_S
        self._next_s = since_s + (self._pause_s if patient else 0.0)
        self._last: tuple[str, int, int] | None = None
        self._told: tuple[str, int, int] | None = None
        self._details: Sequence[Detail] = ()

    def update(self, what: str, done: int, of: int, details: Sequence[Detail] = ()) -> None:
        step = self._last is None or what != self._last[0]
        self._last, self._details = (what, done, of), details
        if self._clock() >= self._next_s or (step and not self._patient):
            self._tell()

    def release(self) -> None:
        return

    def close(self, *, keep: bool) -> None:
        if keep and self._last not in (None, self._told) and (self._told is not None or not self._patient):
            self._tell()

    def _tell(self) -> None:
        assert self._last is not None
        self._told = self._last
        self._next_s = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MOST_RARELY_S)
        text = _sentence(*self._last, self._unit, self._clock() - self._since_s, self._details)
        if not logger.hasHandlers() and sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()
        else:
            logger.info("%s", text)


def _sentence(what: str, done: int, of: int, unit: str, since_s: float, details: Sequence[Detail]) -> str:
    said = f"{what}: {done:,} of {of:,}{unit and f' {unit}'}, {since_s:.0f} s"
    return f"{said}; {', '.join(each.text for each in details)}" if details else said
