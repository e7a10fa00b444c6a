"""What executors that still run have said of their tasks: their heartbeats, one after the other.

A heartbeat tells how many tasks an executor has run, and since when it runs which one. Two of them, one after the
other, tell how many ran in between; a task that is in both has a begin, and an end between the second and the next. An
executor's end report says all of it, and better: then its signs are forgotten. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wukong.core.events import Heartbeat
from wukong.core.invocation_tree import InvocationState
from wukong.core.record import ExecutorRow

MOST_SIGNS = 240


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tasks that one executor ran, in seconds since the job began: how many, and the key of the only one if known."""

    began_s: float
    ended_s: float
    n: int
    key: str | None = None


@dataclass(slots=True)
class _Run:
    """The signs of one run of an invocation."""

    attempt: int
    began: float
    signs: list[Heartbeat] = field(default_factory=list)


class Signs:
    """The heartbeats of one job's executors, as far as somebody looked when they came."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def hear(self, states: Sequence[InvocationState]) -> None:
        """Take in what was heard last."""
        for state in states:
            beat = state.beat
            if state.ended or beat is None:
                self._runs.pop(state.invocation, None)
                continue
            run = self._runs.get(state.invocation)
            if run is None or (run.attempt, run.began) != (beat.attempt, beat.began):
                run = self._runs[state.invocation] = _Run(beat.attempt, beat.began)
            if not run.signs or run.signs[-1].at < beat.at:
                run.signs.append(beat)
            if len(run.signs) > MOST_SIGNS:  # the older ones become rarer
                half = MOST_SIGNS // 2
                run.signs[:half] = run.signs[:half:2]

    def stretches(self, row: ExecutorRow, began_at: float) -> Iterator[Stretch]:
        """Yield what is known of the tasks of an executor, in their order; `began_at`: the job's begin, Unix time."""
        run = self._runs.get(row.invocation)
        if run is None or row.began_s is None:
            return
        shift = began_at + (row.clock_ahead_s or 0.0)
        at_s, told = row.began_s, 0
        running: tuple[str, float] | None = None  # the task that ran at `at_s`, and since when
        for sign in run.signs:
            now_s, ran = sign.at - shift, sign.tasks - told
            since_s = now_s - sign.task_s if sign.task is not None else now_s
            if running is not None and ran > 0:
                ended_s = max(at_s, since_s) if ran == 1 and sign.task is not None else at_s
                yield Stretch(running[1], ended_s, 1, running[0])
                at_s, ran, running = ended_s, ran - 1, None
            if ran > 0:
                yield Stretch(at_s, max(at_s, since_s), ran)
            if sign.task is not None and running is None:
                running = sign.task, max(at_s, since_s)
            at_s, told = now_s, sign.tasks
        if running is not None:
            yield Stretch(running[1], at_s, 1, running[0])
