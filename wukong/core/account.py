"""What a job has done so far, in figures: from its executors' end reports, else from what is known of them.

An executor that was stopped, has died or still runs leaves no end report. Its last heartbeat says what it had done;
since then it has gone on with the task that it named, if it named one. One that has given no heartbeat yet is young: it
counts as at work since the client first saw it, or made it. One that is parked is not made, and counts for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from wukong.core.events import End, Heartbeat, Report
from wukong.core.invocation_tree import InvocationState
from wukong.errors import BudgetReached, ClientClosed, JobCancelled, JobTimeout

Status: TypeAlias = Literal["running", "succeeded", "failed", "cancelled", "timed out", "over budget"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Now, by the client's clocks: `monotonic_s`, and `unix_s`, seconds since 1970."""

    monotonic_s: float = field(default_factory=time.monotonic)
    unix_s: float = field(default_factory=time.time)


@dataclass(slots=True)
class Account:
    """The sum over a job's executors.

    Attributes:
        reported: how many have left an end report. running: how many have begun, and left none.
        raised: runs of tasks that raised, as far as end reports tell; retried: of those, how many were run again.
    """

    report: Report = field(default_factory=Report)
    executors: int = 0
    reported: int = 0
    running: int = 0
    raised: int = 0
    retried: int = 0


def account(states: Sequence[InvocationState], first_seen: Mapping[str, float], until: Moment) -> Account:
    """Sum up what executors had done at a moment; `first_seen`: since when each is known, by the monotonic clock."""
    made = [state for state in states if not state.parked]
    total = Account(executors=len(made))
    for state in made:
        if state.end is not None:
            total.report.add(state.end.report)
            total.reported += 1
            if state.end.track is not None:
                total.raised += len(state.end.track.raised)
                total.retried += sum(each.again for each in state.end.track.raised)
            continue
        total.running += state.beat is not None
        total.report.add(_estimated(state, first_seen.get(state.invocation, until.monotonic_s), until))
    return total


def _estimated(state: InvocationState, first_seen: float, until: Moment) -> Report:
    beat = state.beat
    if beat is None or beat.report is None:
        age_s = max(0.0, until.monotonic_s - first_seen)
        return Report(wall_s=age_s, billed_s=age_s, busy_s=age_s)
    since_s = max(0.0, until.unix_s - beat.at)
    busy_s = beat.report.busy_s + (0.0 if beat.task is None else since_s)
    scale = beat.report.billed_s / beat.report.wall_s if beat.report.wall_s else 1.0
    wall_s, billed_s = beat.report.wall_s + since_s, beat.report.billed_s + since_s * scale
    return replace(beat.report, wall_s=wall_s, billed_s=billed_s, busy_s=busy_s)


def billed_before_s(
    end: End | None, beat: Heartbeat | None, sent_s: float, died_s: float | None, scale: float = 1.0
) -> float:
    """Return for how long a run is billed that is made again, as far as that is known; as `Report.billed_s`.

    Args:
        end, beat: its end report and its last heartbeat, if there are any.
        sent_s: when it was called, Unix time.
        died_s: when the platform said that it had died, Unix time; infinite: at its time limit; None: nobody knows.
        scale: how many times as large as the smallest one the function was, if no heartbeat tells.

    A run of which nobody says when it died is billed up to its last heartbeat, and no longer than its time limit.
    """
    if end is not None:
        return end.report.billed_s
    if beat is None or beat.report is None or not beat.report.wall_s:
        return 0.0 if died_s is None else scale * max(0.0, died_s - sent_s)
    since_s = 0.0 if died_s is None else max(0.0, died_s - beat.at)
    if beat.left_s is not None:
        since_s = min(since_s, beat.left_s)
    return beat.report.billed_s * (1 + since_s / beat.report.wall_s)


def status_after(error: BaseException | None) -> Status:
    """Return the status of a job that its client stops because of `error`; None: somebody asked for it."""
    if error is None or isinstance(error, JobCancelled | ClientClosed) or not isinstance(error, Exception):
        return "cancelled"
    if isinstance(error, BudgetReached):
        return "over budget"
    return "timed out" if isinstance(error, JobTimeout) else "failed"
