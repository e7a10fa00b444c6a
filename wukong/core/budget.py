"""What a job may cost, and who looks at the bill while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from wukong.core.summary import Summary
from wukong.errors import BudgetReached

_PAUSE_S = 0.1
_SHARE = 20


class SpendingLimit:
    """An amount in US dollars; None: there is no limit."""

    def __init__(self, usd: float | None) -> None:
        self._usd = usd
        self._look_at_s = 0.0

    def check(self, summary: Callable[[], Summary]) -> None:
        """Raise BudgetReached if the job has cost that much. Summing up takes a twentieth of the time at most."""
        began_s = time.monotonic()
        if self._usd is None or began_s < self._look_at_s:
            return
        seen = summary()
        now_s = time.monotonic()
        self._look_at_s = now_s + max(_PAUSE_S, _SHARE * (now_s - began_s))
        if seen.usd < self._usd:
            return
        error = BudgetReached(
            f"the job was stopped at its budget of ${self._usd:.6g}: it has cost about ${seen.usd:.6g}, in "
            f"{seen.wall_s:.1f} s and {seen.executors:,} executor{'s' * (seen.executors != 1)}, and has run "
            f"{seen.tasks_run:,} of {seen.tasks:,} tasks",
            job=seen.job,
            hint="a larger budget_usd lets it go on for longer; client.plan(x) tells beforehand what x would cost",
        )
        error.usd = seen.usd
        raise error
