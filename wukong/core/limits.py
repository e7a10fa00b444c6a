"""What an executor tells of the platform's limits before it is ended for one, and what its client makes of that.

A platform that reports no failures (AWS Lambda) ends a function that runs too long or takes too much memory without a
word. The executor knows both limits. So every heartbeat says how much time is left, and whether memory is nearly full
and still growing; shortly before the end there is one more, out of turn. If no other comes, the client concludes:

    time     what is left has passed since that heartbeat was read: whoever wrote it has been ended
    memory   it was nearly full and growing, and nothing has come for some heartbeats: most likely so
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from wukong.core.events import Heartbeat
from wukong.core.names import listed

_MIB = 1 << 20
_MARGIN, _MARGIN_BYTES, _MARGIN_MOST = 0.1, 64 * _MIB, 0.25
_STEP = 0.25


class MemoryGauge:
    """How full the memory of this process is.

    Args:
        used_bytes: returns what is in use now, as the platform counts it.
        most_bytes: the platform's limit.
    """

    def __init__(self, used_bytes: Callable[[], int], most_bytes: int) -> None:
        self._used_bytes, self.most_bytes = used_bytes, most_bytes
        self._margin_bytes = max(_MARGIN * most_bytes, min(_MARGIN_BYTES, _MARGIN_MOST * most_bytes))
        self._told_bytes = 0
        self.half = False
        """Whether more than half is taken: a task may fill the rest in no time."""

    def free_bytes(self) -> float:
        """Return how many bytes are left before it is nearly full."""
        return self.most_bytes - self._margin_bytes - self._used_bytes()

    def urgent(self) -> bool:
        """Look; return whether it is nearly full, and fuller than it was when it was last told."""
        used_bytes = self._used_bytes()
        self.half = 2 * used_bytes > self.most_bytes
        return self._nearly(used_bytes) and used_bytes - self._told_bytes > _STEP * self._margin_bytes

    def tell(self) -> tuple[int, int] | None:
        """Return what is in use, and the limit, if it is nearly full and has grown since it was last told."""
        used_bytes, told_bytes = self._used_bytes(), self._told_bytes
        self._told_bytes = used_bytes
        return (used_bytes, self.most_bytes) if self._nearly(used_bytes) and used_bytes - told_bytes > _MIB else None

    def _nearly(self, used_bytes: int) -> bool:
        return used_bytes > self.most_bytes - self._margin_bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A failure that no platform reports; the fields are those of `wukong.backends.faas.Failure`."""

    invocation: str
    reason: Literal["timeout", "memory"]
    detail: str
    task: str | None


def ended(label: str, beat: Heartbeat, unchanged_s: float, patience_s: float) -> Ended | None:
    """Return for which limit the platform has ended the run whose last heartbeat this is; None: it may live.

    Args:
        label: of the invocation.
        unchanged_s: how long there has been no other heartbeat, and no end report.
        patience_s: how long a silence, with memory nearly full or no time left, is taken for an end.
    """
    running = [f"{each.key} running for {each.for_s:.3g} s" for each in beat.running]
    at_work = ", ".join(filter(None, (f"{beat.tasks:,} tasks done", listed(running))))
    # Some platforms are a little late: a run may live on past the limit for a moment.
    if beat.left_s is not None and unchanged_s > (beat.left_s if beat.left_s > 0 else patience_s):
        limit = "" if beat.report is None else f" of {beat.report.wall_s + beat.left_s:.3g} s"
        detail = f"over the time limit{limit}: with {max(0.0, beat.left_s):.2g} s left, {at_work}"
        return Ended(label, "timeout", detail, beat.named)
    if beat.memory is not None and unchanged_s > patience_s:
        used_bytes, most_bytes = beat.memory
        detail = f"fell silent with {used_bytes // _MIB:,} of {most_bytes // _MIB:,} MiB in use, and growing: {at_work}"
        return Ended(label, "memory", detail, beat.named)
    return None
