"""What a prediction tells of a job, and the prices that it counts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wukong.core.dag import Dag


@dataclass(frozen=True, slots=True)
class Rates:
    """What a provider charges, in one currency. The defaults are free.

    Attributes:
        per_invocation: for each invocation.
        per_gb_s: for a second of a function with 1 GB of memory. memory_gb: the function's memory.
        per_operation, per_gb: for each store operation, and each GB put or got.
    """

    per_invocation: float = 0.0
    per_gb_s: float = 0.0
    memory_gb: float = 1.0
    per_operation: float = 0.0
    per_gb: float = 0.0

    def cost(self, seen: Prediction) -> float:
        """Return what a job costs."""
        return (
            seen.executors * self.per_invocation
            + seen.function_s * self.memory_gb * self.per_gb_s
            + seen.operations * self.per_operation
            + (seen.put_bytes + seen.got_bytes) / 1e9 * self.per_gb
        )


@dataclass(slots=True)
class Prediction:
    """What a job is expected to do.

    Attributes:
        makespan_s: from shipping to the last requested value at the client.
        critical_path_s: the longest path of task durations, which no schedule can beat.
        busy_s: seconds inside tasks. function_s: seconds of executors, waiting included.
        executors: invocations made. peak_executors: most that ran at once. peak_lanes: most tasks at once in one.
        operations: store operations of executors, their start and end included.
        put_bytes, got_bytes: moved by executors. peak_held_bytes: the most that one executor's cache held.
        cost: in the currency of the rates.
        store_usd: what the store costs, US dollars; None: not known.
    """

    makespan_s: float = 0.0
    critical_path_s: float = 0.0
    busy_s: float = 0.0
    function_s: float = 0.0
    executors: int = 0
    peak_executors: int = 0
    peak_lanes: int = 0
    operations: int = 0
    put_bytes: int = 0
    got_bytes: int = 0
    peak_held_bytes: int = 0
    cost: float = 0.0
    store_usd: float | None = None


def critical_path_s(dag: Dag, durations_s: Sequence[float]) -> float:
    """Return the longest path of task durations, seconds."""
    ends: list[float] = []
    for task, duration_s in enumerate(durations_s):
        ends.append(duration_s + max((ends[parent] for parent in dag.parents_of(task)), default=0.0))
    return max(ends, default=0.0)
