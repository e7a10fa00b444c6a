"""What executors that still run have said of their tasks: their heartbeats, one after the other.

A heartbeat tells how many tasks an executor has run, and since when it runs which ones, in which lanes. Two of them,
one after the other, tell how many ran in between; a task has a begin, and an end between the last one that has it and
the next. An executor's end report says all of it, and better: then its signs are forgotten. Pure.
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
    """Tasks that one executor ran, in seconds since the job began: how many, and the key of the only one if known.

    `lane`: where that one ran; of several, one in which no other is drawn.
    """

    began_s: float
    ended_s: float
    n: int
    key: str | None = None
    lane: int = 0


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
        running: dict[int, tuple[str, float]] = {}  # by lane, the task that ran at `at_s`, and since when
        for sign in run.signs:
            now_s, ran = sign.at - shift, sign.tasks - told
            now = {each.lane: (each.key, max(at_s, now_s - each.for_s)) for each in sign.running}
            over = {lane: each for lane, each in running.items() if now.get(lane, ("",))[0] != each[0]}
            for lane, (key, since_s) in over.items():
                # Others that ran in between, if any, came after it.
                ended_s = now[lane][1] if lane in now and ran == len(over) else at_s
                yield Stretch(since_s, max(since_s, ended_s), 1, key, lane)
                del running[lane]
            if ran > len(over):
                lane = next(lane for lane in range(len(running) + 1) if lane not in running)
                until_s = now[lane][1] if lane in now else now_s
                yield Stretch(at_s, until_s, ran - len(over), None, lane)
            running = now | running
            at_s, told = now_s, sign.tasks + max(0, len(over) - ran)
        for lane, (key, since_s) in running.items():
            yield Stretch(since_s, at_s, 1, key, lane)
