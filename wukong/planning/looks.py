"""When a watcher looks at a task that runs (`wukong.core.watcher`), on a virtual clock."""

from __future__ import annotations

import math

from wukong.planning.model_executor import ModelExecutor

_WATCH_S, _WATCH_LAST_S = 0.001, 0.05
_LOOKS = 20
"""While a task takes as long again as up to now, as many looks are enough to follow: else an hour has 72,000."""


def next_look(executor: ModelExecutor, began: float, heartbeat_s: float, now: float) -> float:
    """Return when that is, for there may be work for other executors. `began`: when the executor did."""
    patience_s: float = executor.walk.patience_s
    period = min(max(patience_s, _WATCH_S), heartbeat_s)
    if executor.looks:  # it has looked at this task: ever more seldom
        ran_s: float = now - executor.since
        return now + min(max(period, ran_s), max(_WATCH_LAST_S, ran_s / _LOOKS))
    if math.isinf(patience_s):
        return math.inf
    return began + math.ceil((executor.since + patience_s - began) / period) * period
