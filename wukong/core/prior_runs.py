"""For how long runs are billed that were made again: one that is killed leaves no report.

Each run of an invocation is billed once. `wukong.core.account` counts the one whose end report is in the store, or else
the last one; all others of it are counted here. So if a run ends that was backed up, its backup is counted here from
then on, and the run itself no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from wukong.core.account import Died, billed_before_s
from wukong.core.events import End, Heartbeat
from wukong.core.invocation_tree import InvocationState, InvocationTree
from wukong.core.limits import Ended
from wukong.core.names import Names


class PriorRuns:
    """Those of one job.

    Args:
        names, tree: the job's.
        sizes: returns the memory of each size of function, bytes, the smallest first; (): there is one.
        limit_s: returns after how long the platform ends a run, seconds; None: it never does.

    Attributes:
        billed_s: for how long they are billed together, as far as is known; see `wukong.core.account.billed_before_s`.
    """

    def __init__(
        self,
        names: Names,
        tree: InvocationTree,
        sizes: Callable[[], Sequence[int]],
        limit_s: Callable[[], float | None],
    ) -> None:
        self._names, self._tree, self._sizes, self._limit_s = names, tree, sizes, limit_s
        self._ran_on: dict[str, int] = {}
        self._bills: dict[str, dict[int, float]] = {}
        self._shown: dict[str, tuple[int, float]] = {}
        self.billed_s = 0.0

    def replaced(self, invocation: str, attempt: int, ran_on: int, size: int, died: Died | None) -> None:
        """Count the last run of an invocation, of which the store is about to know nothing.

        Args:
            attempt: which run that was.
            ran_on: the size of the function that it was made for, counted from 0. size: that of the next run.
            died: see `billed_before_s`; a run that goes on beside its backup is billed as if it had died now.
        """
        end, found = self._tree.decoded([self._names.end(invocation), self._names.heartbeat(invocation)])
        beat = self._last(invocation, attempt, found)
        if end is not None:
            self._ended(invocation, end, shown=False)
        if end is None or end.attempt != attempt:
            quiet_s = 0.0 if beat is None else self._tree.quiet_s(invocation, beat)
            ran_on = self._ran_on.get(invocation, ran_on)
            scale = self._scale(ran_on)
            age_s = self._tree.age_s(invocation)
            billed_s = billed_before_s(beat, died if end is None else None, age_s, quiet_s, self._limit_s(), scale)
            self._at_least(invocation, attempt, billed_s)
        self._ran_on[invocation] = size
        self._tree.made_again(invocation)

    def rerun(self, beat: Heartbeat | None, over: Ended | None) -> None:
        """Count a run after which the platform has run the same payload again. `beat`: its last heartbeat."""
        self.billed_s += billed_before_s(beat, at_its_limit(over), 0.0, 0.0)

    def look(self, states: Iterable[InvocationState]) -> None:
        """Take in what the store says of invocations that were made again."""
        for state in states if self._bills else ():
            invocation, beat, end = state.invocation, state.beat, state.end
            if invocation not in self._bills:
                continue
            if end is not None:
                self._ended(invocation, end, shown=True)
            elif beat is not None and beat.attempt == state.attempts:
                self._count(invocation, beat.attempt, 0.0)  # its record was lost, and it lives
            if beat is not None and beat.report is not None and (end is None or end.attempt != beat.attempt):
                if beat.attempt < state.attempts or end is not None:
                    self._at_least(invocation, beat.attempt, beat.report.billed_s)
            elif end is not None and end.attempt < state.attempts:
                lasted_s = min(self._tree.lasted_s(invocation), self._limit_s() or float("inf"))
                self._at_least(invocation, state.attempts, self._scale(self._ran_on[invocation]) * lasted_s)

    def _last(self, invocation: str, attempt: int, found: Heartbeat | None) -> Heartbeat | None:
        """Return the last heartbeat of this run, `found` in the store, or else seen there before."""
        for beat in (found, self._tree.last_beat(invocation)):
            if beat is not None and beat.attempt == attempt:
                return beat
        return None

    def _scale(self, size: int) -> float:
        sizes = self._sizes()
        return sizes[min(size, len(sizes) - 1)] / sizes[0] if sizes else 1.0

    def _ended(self, invocation: str, end: End, *, shown: bool) -> None:
        """Count what is known exactly now, if it is not `shown` in the account."""
        before = self._shown.pop(invocation, None)
        if before is not None and before[0] != end.attempt:
            self._count(invocation, *before)
        if shown:
            self._shown[invocation] = end.attempt, end.report.billed_s
        self._count(invocation, end.attempt, 0.0 if shown else end.report.billed_s)

    def _at_least(self, invocation: str, attempt: int, billed_s: float) -> None:
        self._count(invocation, attempt, max(billed_s, self._bills.get(invocation, {}).get(attempt, 0.0)))

    def _count(self, invocation: str, attempt: int, billed_s: float) -> None:
        bills = self._bills.setdefault(invocation, {})
        self.billed_s += billed_s - bills.get(attempt, 0.0)
        bills[attempt] = billed_s


def at_its_limit(over: Ended | None) -> Died | None:
    """When a run died that the platform has ended for its time limit; None: nobody knows."""
    return "at its limit" if over is not None and over.reason == "timeout" else None
