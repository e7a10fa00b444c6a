"""What is shown while a job runs: a progress bar, and Dask's own callbacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from wukong.client.rows import Detail, Row, Setting, opened, place

if TYPE_CHECKING:
    from wukong.backends.storage import Tell

_LONG_S = 1.5
_EVERY_S = 0.3
_LAST_WORDS_S = 1.0

Counts: TypeAlias = Callable[[], tuple[int, int]]
"""Returns how many are done, and of how many. Called often while somebody waits."""

Details: TypeAlias = Callable[[bool], Sequence[Detail]]
"""Returns what else there is to say; its argument: all is over."""


class Bar:
    """How far tasks are, shown if the work turns out to be long.

    Args:
        setting: True; ``"auto"``: after 1.5 s; False: never. `wukong.client.rows` says where and how.
        counts: see `Counts`.
        details: returns what else there is to say; see `Details`.
    """

    def __init__(self, setting: Setting, counts: Counts, details: Details = lambda over: ()) -> None:
        self._setting, self._counts, self._details = setting, counts, details
        self._wanted = place(setting) is not None
        self._since_s = time.monotonic()
        self._next_s = self._since_s + (_LONG_S if setting == "auto" else 0.0)
        self._row: Row | None = None

    @property
    def pause_s(self) -> float | None:
        """How long the caller may wait until the next `tick`; None: for ever."""
        return max(0.0, self._next_s - time.monotonic()) if self._wanted else None

    def tick(self) -> None:
        """Bring it up to date, if it is time."""
        now_s = time.monotonic()
        if self._wanted and now_s >= self._next_s:
            self._next_s = now_s + _EVERY_S
            self._show(*self._counts())

    def release(self) -> None:
        """Let go of the terminal until the next `tick`."""
        if self._row is not None:
            self._row.release()

    def close(self, *, done: bool, drain: Callable[[float], None] = lambda timeout_s: None) -> None:
        """Let go of the terminal for good.

        Args:
            done: all is done, and shown so.
            drain: see `wukong.backends.faas.FaaS.drain`. What tasks have said is above the bar's end.
        """
        try:
            if done and self._wanted and (self._row is not None or self._setting is True):
                drain(_LAST_WORDS_S)
                of = self._counts()[1]
                self._show(of, of, over=True)
        finally:
            if self._row is not None:
                self._row.close(keep=True)
                self._row = None

    def _show(self, done: int, of: int, *, over: bool = False) -> None:
        if self._row is None:
            self._row = opened(self._setting, "tasks", self._since_s)
        self._row.update("wukong", min(done, of), of, self._details(over))


@contextmanager
def steps(setting: Setting) -> Iterator[Tell]:
    """Yield a function ``tell(what, done, of)``, which shows how far slow work is.

    Args:
        setting: True or ``"auto"``: show what is told; False: show nothing.
    """
    if place(setting) is None:
        yield lambda what, done, of: None
        return
    row = opened(setting)
    try:
        yield lambda what, done, of: row.update(f"wukong {what}", done, of)
    finally:
        row.close(keep=True)
