"""What a job has done so far, in figures: from its executors' end reports, else from what is known of them.

An executor that was stopped, has died or still runs leaves no end report. Its last heartbeat says what it had done;
since then it has gone on with the tasks that it named, if any. One that has given no heartbeat yet is young: it counts
as at work since the client first saw it, or made it. One that is parked is not made, and counts for nothing.
Runs before one that was made again are counted by `wukong.core.prior_runs`, and not here. Since when there is no other
heartbeat is told by no clock but the client's, and nothing runs for longer than the platform lets it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal, TypeAlias

from wukong.core.events import Heartbeat, Report
from wukong.core.invocation_tree import InvocationState, InvocationTree
from wukong.errors import BudgetReached, ClientClosed, JobCancelled, JobTimeout

Status: TypeAlias = Literal["running", "succeeded", "failed", "cancelled", "timed out", "over budget"]
Died: TypeAlias = Literal["now", "at its limit"]


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


def account(
    states: Sequence[InvocationState], tree: InvocationTree, until: Moment, limit_s: float | None = None
) -> Account:
    """Sum up what executors had done at a moment.

    Args:
        tree: what the client knows of them besides.
        limit_s: after how long the platform ends a run, seconds; None: it never does.
    """
    made = [state for state in states if not state.parked]
    total = Account(executors=len(made))
    for state in made:
        if state.invocation in tree.gone and tree.silent(state.invocation):
            continue  # it is not made again, but its maker
        # It may have been made again since that look.
        again = state.attempts < tree.attempts[state.invocation]
        if state.end is not None and not again:
            total.report.add(state.end.report)
            total.reported += 1
            if state.end.track is not None:
                total.raised += len(state.end.track.raised)
                total.retried += sum(each.again for each in state.end.track.raised)
            continue
        total.running += state.beat is not None and not again
        beat = None if again or state.beat is None or state.beat.attempt < state.attempts else state.beat
        total.report.add(_estimated(state.invocation, beat, tree, until, limit_s))
    return total


def _estimated(
    invocation: str, beat: Heartbeat | None, tree: InvocationTree, until: Moment, limit_s: float | None
) -> Report:
    if beat is None or beat.report is None:
        age_s = min(tree.age_s(invocation, until.monotonic_s), inf if limit_s is None else limit_s)
        return Report(wall_s=age_s, billed_s=age_s, busy_s=age_s)
    since_s = min(tree.quiet_s(invocation, beat, until.monotonic_s), _left_s(beat.left_s, beat.report, limit_s))
    busy_s = beat.report.busy_s + len(beat.running) * since_s
    scale = beat.report.billed_s / beat.report.wall_s if beat.report.wall_s else 1.0
    wall_s, billed_s = beat.report.wall_s + since_s, beat.report.billed_s + since_s * scale
    return replace(beat.report, wall_s=wall_s, billed_s=billed_s, busy_s=busy_s)


def _left_s(left_s: float | None, report: Report, limit_s: float | None) -> float:
    if left_s is not None:
        return max(0.0, left_s)
    return inf if limit_s is None else max(0.0, limit_s - report.wall_s)


def billed_before_s(
    beat: Heartbeat | None,
    died: Died | None,
    age_s: float,
    quiet_s: float,
    limit_s: float | None = None,
    scale: float = 1.0,
) -> float:
    """Return for how long a run is billed that has left no end report, as far as that is known; as `Report.billed_s`.

    Args:
        beat: its last heartbeat, if there is one.
        died: when it did: just now, or at its time limit; None: nobody knows.
        age_s: how long ago it was made. quiet_s: how long this has been its last heartbeat; both by the client's clock.
        limit_s: after how long the platform ends a run, seconds; None: it never does.
        scale: how many times as large as the smallest one the function was, if no heartbeat tells.

    A run of which nobody says when it died is billed up to its last heartbeat, and no run for longer than its limit.
    """
    if beat is None or beat.report is None or not beat.report.wall_s:
        return 0.0 if died is None else scale * min(age_s, inf if limit_s is None else limit_s)
    left_s = _left_s(beat.left_s, beat.report, limit_s)
    since_s = 0.0 if died is None else left_s if died == "at its limit" and left_s < inf else min(quiet_s, left_s)
    return beat.report.billed_s * (1 + since_s / beat.report.wall_s)


def status_after(error: BaseException | None) -> Status:
    """Return the status of a job that its client stops because of `error`; None: somebody asked for it."""
    if error is None or isinstance(error, JobCancelled | ClientClosed) or not isinstance(error, Exception):
        return "cancelled"
    if isinstance(error, BudgetReached):
        return "over budget"
    return "timed out" if isinstance(error, JobTimeout) else "failed"
