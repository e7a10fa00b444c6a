"""For how long runs are billed that were made again: one that is killed leaves no report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from wukong.core.account import billed_before_s
from wukong.core.events import Heartbeat
from wukong.core.invocation_tree import InvocationTree
from wukong.core.limits import Ended
from wukong.core.names import Names
from wukong.core.payload import Order


class PriorRuns:
    """Those of one job.

    Args:
        names, tree: the job's.
        sizes: returns the memory of each size of function, bytes, the smallest first; (): there is one.

    Attributes:
        billed_s: for how long they are billed together, as far as is known; see `wukong.core.account.billed_before_s`.
    """

    def __init__(self, names: Names, tree: InvocationTree, sizes: Callable[[], Sequence[int]]) -> None:
        self._names, self._tree, self._sizes = names, tree, sizes
        self._ran_on: dict[str, int] = {}
        self.billed_s = 0.0

    def replaced(self, invocation: str, order: Order, size: int, died_s: float | None) -> None:
        """Count the last run of an invocation, of which the store is about to know nothing.

        Args:
            order: what that run was told. size: of the function on which the next one runs, counted from 0.
            died_s: when that run died, or is over as far as is counted; see `billed_before_s`.
        """
        end, beat = self._tree.decoded([self._names.end(invocation), self._names.heartbeat(invocation)])
        sizes, ran_on = self._sizes(), self._ran_on.get(invocation, order.size)
        scale = sizes[min(ran_on, len(sizes) - 1)] / sizes[0] if sizes else 1.0
        self.billed_s += billed_before_s(end, beat, order.sent_at, died_s, scale)
        self._ran_on[invocation] = size

    def rerun(self, beat: Heartbeat | None, over: Ended | None) -> None:
        """Count a run after which the platform has run the same payload again. `beat`: its last heartbeat."""
        self.billed_s += billed_before_s(None, beat, 0.0, at_its_limit(over))


def at_its_limit(over: Ended | None) -> float | None:
    """When a run died that the platform has ended for its time limit, in time; None: nobody knows."""
    return math.inf if over is not None and over.reason == "timeout" else None
