"""Waiting for futures, with a row that shows how far they are if it takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from wukong.client.display import Bar, Counts, Details
from wukong.client.job import ClientJob
from wukong.client.pace import Pace
from wukong.client.rows import Setting, in_notebook
from wukong.core.interrupts import start_thread, waiting
from wukong.errors import JobTimeout

if TYPE_CHECKING:
    from wukong.client.futures import FutureState

T = TypeVar("T")


@waiting()
def first(step: Callable[[float | None], T], bar: Bar, until_s: float | None) -> T | None:
    """Call `step`, with how long it may wait, until its answer is true; return that. None: there was none in time.

    `until_s`: by `time.monotonic`; None: for ever.
    """
    while True:
        left_s = None if until_s is None else max(0.0, until_s - time.monotonic())
        answer = step(min((each for each in (left_s, bar.pause_s) if each is not None), default=None))
        if answer:
            return answer
        if until_s is not None and time.monotonic() >= until_s:
            return None
        bar.tick()


def settled(states: Sequence[FutureState], timeout_s: float | None = None, setting: Setting | None = None) -> None:
    """Return when none of these is pending. Raises JobTimeout.

    `setting`: whether progress is shown; None: as their client has it.
    """
    pending = [state for state in states if state.status == "pending"]
    if not pending and setting is not True:
        return
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    bar = Bar(states[0].registry.progress if setting is None else setting, counts_of(states), details_of(states))
    try:
        for state in pending:
            if not first(state.settled_within, bar, until_s):
                raise JobTimeout(f"the future {state.key!r} is not done within the time given")
    finally:
        bar.close(done=all(state.status != "pending" for state in states), drain=states[0].registry.drain)


def counts_of(states: Sequence[FutureState]) -> Counts:
    """Return what counts the tasks of the jobs that make these futures; a future of no job counts as one task."""

    def counts() -> tuple[int, int]:
        done = of = 0
        by_job: dict[Any, int] = {}
        for state in states:
            over = int(state.status != "pending")
            if state.job is None or not state.job.n_tasks:
                done, of = done + over, of + 1
            else:
                by_job[state.job] = by_job.get(state.job, 0) + over
        for job, over in by_job.items():
            done += job.n_tasks if job.ended else min(job.n_tasks, max(over, job.progress()))
            of += job.n_tasks
        return done, of

    return counts


def details_of(states: Sequence[FutureState]) -> Details:
    """Return what tells how the jobs that make these futures go."""
    return Pace(lambda: {state.job for state in states if isinstance(state.job, ClientJob)}).details


def progress(*futures: Any, notebook: bool | None = None, multi: bool = True, complete: bool = True) -> None:
    """Show how far futures are, also those in lists, dicts and persisted collections, until all have ended.

    In a notebook it returns at once, and the display goes on; elsewhere it waits. What failed is not raised. The
    parameters are those of `distributed.progress`; the last two have no meaning here.
    """
    from wukong.client.nested import find_futures

    states = [future._state for future in find_futures(list(futures))]
    if not states:
        return
    if in_notebook() if notebook is None else notebook:
        start_thread(threading.Thread(target=settled, args=(states, None, True), name="wukong-progress", daemon=True))
    else:
        settled(states, None, True)
