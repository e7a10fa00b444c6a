"""A plan that was made of a job, beside what happened: figure by figure, and layer by layer.

The plan is in the record, under `about`, as plain data (`wukong.planning.plan.Plan.to_json`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from wukong.core.record import ExecutorRow, JobRecord
from wukong.planning.outline import PLANNED
from wukong.planning.terms import without_waiting_s

PLAN = "plan"
"""The plan's name in a record's `about`."""


def compared(record: JobRecord, bound_s: float) -> dict[str, Any] | None:
    """Return the plan and what happened, ready for JSON; None: there is no plan.

    `bound_s`: the longest chain of task durations that happened.
    """
    plan = record.about.get(PLAN)
    if not isinstance(plan, Mapping):
        return None
    over = record.status not in (PLANNED, "running")
    told = record.summary
    happened: dict[str, Any] = {
        "time_s": record.wall_s,
        "critical_path_s": bound_s,
        "executors": told.get("executors"),
        "put_bytes": told.get("put_bytes"),
        "got_bytes": told.get("got_bytes"),
        "held_bytes": told.get("peak_held_bytes"),
        "usd": sum((told.get(each) or {}).get("usd") or 0.0 for each in ("bill", "rent")),
    }
    figures = [
        {"what": what, "unit": unit, **plan[name], "happened": happened[name] if over else None}
        for name, what, unit in _FIGURES
        if plan.get(name) is not None
    ]
    return {
        "figures": figures,
        "layers": _by_layer(record, plan.get("layers", ()), over=over),
        "guesses": list(plan.get("guesses", ())),
        "sizes": list(plan.get("sizes", ())),
        "stores": list(plan.get("stores", ())),
    }


_FIGURES = (
    ("time_s", "time", "s"),
    ("critical_path_s", "longest chain of tasks", "s"),
    ("executors", "executors", ""),
    ("put_bytes", "put into the store", "B"),
    ("got_bytes", "got from the store", "B"),
    ("held_bytes", "held at most by one executor", "B"),
    ("usd", "dollars", "$"),
)


def _own_part(row: ExecutorRow) -> float:
    """Return which part of its tasks' time an executor did not wait for a core: a plan tells that time of each task."""
    known = row.on_core.get("run")
    return 1.0 if known is None or row.busy_s <= 0 else without_waiting_s(row.busy_s, known) / row.busy_s


def _by_layer(record: JobRecord, layers: Any, *, over: bool) -> list[dict[str, Any]]:
    names, layer_of = record.layers
    took: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    sizes: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    own, runs = [_own_part(row) for row in record.invocations], record.runs
    for task, at, duration, size in zip(runs.tasks, runs.executors, runs.took, runs.value_bytes, strict=True):
        name = names[layer_of[task]]
        took[name][0] += 1
        took[name][1] += duration * own[at]
        if size >= 0:
            sizes[name][0] += 1
            sizes[name][1] += size
    return [
        {
            **layer,
            "happened_s": took[layer["name"]][1] / took[layer["name"]][0] if over and took[layer["name"]][0] else None,
            "happened_bytes": sizes[layer["name"]][1] / sizes[layer["name"]][0]
            if over and sizes[layer["name"]][0]
            else None,
        }
        for layer in layers
    ]
