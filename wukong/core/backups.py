"""Stragglers: invocations that are far slower than their peers, made once more while they still run.

Whichever run ends first, the job goes on: both do the same work under the same names. A backup costs what a peer has
cost. So if use is billed, all backups may cost a share of what the job has cost so far, and no more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wukong.core.invocation_tree import InvocationState

_PEERS = 5
_FEW = 0.1
_SLOWER = 4.0
_SLOW_S = 5.0


@dataclass(slots=True)
class BackedUp:
    """An invocation that was made once more.

    Attributes:
        at: when, in Unix time.
        ran_s: how long it had run then. peers_s: how long half of its peers had taken.
        first: whether the backup ended first; None: neither has ended, as far as is known.
    """

    at: float
    ran_s: float
    peers_s: float
    first: bool | None = None

    def __str__(self) -> str:
        told = {None: "", True: "; the backup ended first", False: "; it ended before its backup"}[self.first]
        return f"it ran for {self.ran_s:.1f} s, and half of its peers took {self.peers_s:.1f} s at most{told}"


class Backups:
    """The backups of one job.

    Args:
        wanted: whether there are to be any.
        share: what they may cost, as a share of what all executors have cost so far; None: no bound. All
            executors cost the same by the second.

    Attributes:
        made: the invocations that were made once more.
    """

    def __init__(self, *, wanted: bool, share: float | None) -> None:
        self._wanted, self._share = wanted, share
        self.made: dict[str, BackedUp] = {}

    def due(
        self,
        states: Sequence[InvocationState],
        running: Sequence[InvocationState],
        first_seen: Mapping[str, float],
        now: float,
    ) -> list[InvocationState]:
        """Return which of `running` are to be made once more, the slowest first; they count as made."""
        self.look(states)
        if not self._wanted or len(running) > _FEW * len(states):
            return []
        ended = sorted(state.end.report.wall_s for state in states if state.end is not None)
        if len(ended) < _PEERS:
            return []
        peers_s = ended[len(ended) // 2]
        slow_s = max(_SLOW_S, _SLOWER * peers_s)
        runs = {state.invocation: now - first_seen[state.invocation] for state in running}
        room = len(running)
        if self._share is not None and peers_s > 0:
            spent_s = sum(each.peers_s for each in self.made.values())
            room = int((self._share * (sum(ended) + sum(runs.values())) - spent_s) // peers_s)
        begun = [  # others may be queued; and two runs of a task would share its lock
            state for state in running if state.attempts == 0 and state.beat is not None and not state.beat.locks
        ]
        slow = [state for state in begun if runs[state.invocation] > slow_s]
        slow.sort(key=lambda state: -runs[state.invocation])
        found = slow[: max(0, room)]
        for state in found:
            self.made[state.invocation] = BackedUp(time.time(), runs[state.invocation], peers_s)
        return found

    def look(self, states: Sequence[InvocationState]) -> None:
        """Note which run of each has ended first, as far as end reports tell."""
        for state in states if self.made else ():
            backed = self.made.get(state.invocation)
            if backed is not None and backed.first is None and state.end is not None and state.end.track is not None:
                backed.first = state.end.track.attempt > 0
