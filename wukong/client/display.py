"""What is shown while a job runs: a progress bar, and Dask's own callbacks."""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from dask.callbacks import local_callbacks, unpack_callbacks

if TYPE_CHECKING:
    from wukong.backends.storage import Tell
    from wukong.core.job import Job

_LONG_S = 1.5
_EVERY_S = 0.3


class Bar:
    """A progress bar that appears when the work turns out to be long.

    Args:
        setting: True, False, or ``"auto"``: on a terminal or in a notebook only, after 1.5 s.
        total: number of tasks.
    """

    def __init__(self, setting: bool | Literal["auto"], total: int) -> None:
        self._wanted = _wanted(setting)
        self._show_at = time.monotonic() + (0.0 if setting is True else _LONG_S)
        self._total = total
        self._bar: Any = None
        self._task: Any = None
        self._next = 0.0

    def tick(self, job: Job) -> None:
        """Bring the bar up to date, if it is time."""
        now = time.monotonic()
        if not self._wanted or now < self._show_at or now < self._next:
            return
        self._next = now + _EVERY_S
        if self._bar is None:
            self._open()
        self._bar.update(self._task, completed=min(job.progress(), self._total))

    def _open(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

        columns = TextColumn("wukong"), BarColumn(), MofNCompleteColumn(), TextColumn("tasks"), TimeElapsedColumn()
        self._bar = _progress(*columns)
        self._task = self._bar.add_task("wukong", total=self._total)
        self._bar.start()

    def close(self, *, done: bool) -> None:
        """Show the last state and let go of the terminal."""
        if self._bar is not None:
            if done:
                self._bar.update(self._task, completed=self._total)
            self._bar.stop()


@contextmanager
def steps(setting: bool | Literal["auto"]) -> Iterator[Tell]:
    """Give a function ``tell(what, done, of)``, which shows how far something is that takes its time.

    Args:
        setting: True, False, or ``"auto"``: on a terminal or in a notebook only.
    """
    if not _wanted(setting):
        yield lambda what, done, of: None
        return
    with ExitStack() as shown:
        bar: Any = None
        task: Any = None

        def tell(what: str, done: int, of: int) -> None:
            nonlocal bar, task
            if bar is None:
                from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

                text = TextColumn("wukong {task.description}")
                columns = text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
                bar = shown.enter_context(_progress(*columns))
                task = bar.add_task(what, total=of)
            bar.update(task, description=what, completed=done, total=of)

        yield tell


def _wanted(setting: bool | Literal["auto"]) -> bool:
    return setting is True or (setting == "auto" and (_in_notebook() or sys.stderr.isatty()))


def _progress(*columns: Any) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None


class Callbacks:
    """Dask's callbacks (`dask.callbacks`) around one job.

    ``start``, ``start_state`` and ``finish`` are called as by Dask's own schedulers. While the job runs, the counts in
    ``state`` follow the executors' heartbeats, which is what `dask.diagnostics.ProgressBar` looks at. ``pretask`` and
    ``posttask`` are called for every task, in the order in which the executors ran them, when the job has ended: the
    client does not schedule, so it hears of tasks afterwards. The result passed on is None except for requested keys.
    """

    def __init__(self) -> None:
        with local_callbacks() as active:
            self._active = list(active or ())
        self._started: list[Any] = []
        self._state: dict[str, Any] = {}
        self._dsk: Mapping[Hashable, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._active)

    def start(self, dsk: Mapping[Hashable, Any], keys: Sequence[Hashable]) -> None:
        """The graph is known; `keys` are its tasks, in the order in which they will about run."""
        self._dsk = dsk
        self._state = {
            "ready": [],
            "waiting": dict.fromkeys(keys),
            "running": set(),
            "finished": set(),
            "cache": {},
            "released": set(),
            "dependencies": {},
            "dependents": {},
            "waiting_data": {},
        }
        for callback in self._active:
            if callback[0]:
                callback[0](dsk)
            self._started.append(callback)
        for callback in self._active:
            if callback[1]:
                callback[1](dsk, self._state)

    def tick(self, job: Job) -> None:
        """Let the counts in the state follow the job."""
        waiting, finished = self._state["waiting"], self._state["finished"]
        for _ in range(job.progress() - len(finished)):
            with suppress(KeyError):
                key = next(iter(waiting), None)
                waiting.pop(key)
                finished.add(key)

    def replay(self, job: Job, values: Mapping[Hashable, Any]) -> None:
        """The job has ended: tell what ran."""
        _, _, before, after, _ = unpack_callbacks(self._active)
        state = self._state
        state["finished"].clear()
        for ran in sorted(job.ran, key=lambda ran: ran.end):
            key: Any = ran.key
            state["waiting"].pop(key, None)
            for function in before:
                function(key, self._dsk, state)
            state["finished"].add(key)
            for function in after:
                function(key, values.get(key), self._dsk, state, ran.invocation)

    def finish(self, *, errored: bool) -> None:
        """The job has ended, one way or the other."""
        for callback in self._started:
            if callback[4]:
                callback[4](self._dsk, self._state, errored)
