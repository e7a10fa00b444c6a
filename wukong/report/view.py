"""What the page shows, worked out from a record and small enough for a file: at most some tens of thousands of boxes.

Of a job that runs it shows what is known so far: of executors that have not ended, what their heartbeats say (`signs`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, fields
from typing import Any

from wukong.core.names import text_of
from wukong.core.record import ExecutorRow, JobRecord
from wukong.report.boxes import BOX_KINDS, KEY_LETTERS, boxes
from wukong.report.by_layer import GraphLayers, picture, rows_of
from wukong.report.compared import PLAN, compared
from wukong.report.critical import Path, advice, critical_path
from wukong.report.signs import Signs

MOST_STEPS = 400
MOST_STORIES = 500
MOST_EXECUTORS = 5_000
_TEXT_LETTERS = 20_000


def view(record: JobRecord, shape: GraphLayers | None = None, signs: Signs | None = None) -> dict[str, Any]:
    """Return the page's data, ready for JSON.

    Args:
        record: of the job.
        shape: of its graph; None: it is worked out.
        signs: what executors that run have said; None: nobody has listened.
    """
    shape = GraphLayers.of(record) if shape is None else shape
    running = record.status == "running"
    path = Path() if running else critical_path(record)
    names, layer_of = record.layers
    rows = rows_of(record, whole=not running)
    shown = record.invocations[:MOST_EXECUTORS]
    return {
        "job": record.job,
        "status": record.status,
        "running": running,
        "tasks_run": record.summary.get("tasks_run"),
        "began_at": record.began_at,
        "wall_s": record.wall_s,
        "n_tasks": record.n_tasks,
        "unknown": len(record.unknown()),
        "left_out": record.left_out,
        "kinds": BOX_KINDS,
        "layers": names,
        "figures": _figures(record),
        "money": _money(record),
        "executors": [_executor(row, running=running) for row in shown],
        "executors_left_out": len(record.invocations) - len(shown),
        "boxes": boxes(record, len(shown), signs),
        "rows": rows,
        "edges": shape.edges,
        "picture": picture(rows, shape.edges),
        "plan": compared(record, path.bound_s),
        "path": {
            "sums": path.sums,
            "bound_s": path.bound_s,
            "advice": advice(record, path),
            "left_out": max(0, len(path.steps) - MOST_STEPS),
            "steps": [
                {
                    "key": text_of(record.key(step.task))[:KEY_LETTERS],
                    "layer": names[layer_of[step.task]],
                    "executor": record.invocations[record.runs.executors[step.row]].invocation,
                    "began_s": record.runs.begun[step.row],
                    "run_s": record.runs.took[step.row],
                    "waited": step.waited,
                }
                for step in path.steps[-MOST_STEPS:]
            ],
        },
        "stories": [{k: _short(v) for k, v in asdict(story).items()} for story in record.stories[:MOST_STORIES]],
        "stories_left_out": max(0, len(record.stories) - MOST_STORIES),
        "about": {name: told for name, told in record.about.items() if name != PLAN},
    }


def _short(value: Any) -> Any:
    return value[:_TEXT_LETTERS] if isinstance(value, str) else value


def _figures(record: JobRecord) -> list[tuple[str, Any, str]]:
    """Name, value and unit of what the job did and cost."""
    told, bill, rent = record.summary, record.summary.get("bill") or {}, record.summary.get("rent") or {}
    figures: list[tuple[str, Any, str]] = [
        ("tasks", record.n_tasks, ""),
        ("tasks run", told.get("tasks_run"), ""),
        ("executors", told.get("executors"), ""),
        ("static schedules (leaves of the graph)", told.get("schedules"), ""),
        ("invoked again", told.get("repeated"), ""),
        ("begin on larger functions", "; ".join(told.get("sizes", ())) or None, ""),
        ("values computed again", told.get("restored"), ""),
        ("wall time", record.wall_s, "s"),
        ("until the first invocation", record.ingest_s, "s"),
        ("inside tasks, all executors together", told.get("busy_s"), "s"),
        ("most tasks at once in an executor", told.get("lanes"), ""),
        ("store requests overlapped with work", told.get("overlapped"), ""),
        ("store requests not overlapped for want of room", told.get("refused"), ""),
        ("waited for limits, all executors together", told.get("seat_wait_s") or None, "s"),
        ("of the functions' price, for that", told.get("seat_wait_usd") or None, "$"),
        ("cores of a function", told.get("cores"), ""),
        ("CPU time of all functions", told.get("cpu_s"), "s"),
        ("time that their cores were there", told.get("core_s"), "s"),
        ("store operations", told.get("operations"), ""),
        ("time on the store", told.get("store_s"), "s"),
        ("put into the store", told.get("put_bytes"), "B"),
        ("got from the store", told.get("got_bytes"), "B"),
        ("held at most by one executor", told.get("peak_held_bytes"), "B"),
        ("stored at most", told.get("peak_store_bytes"), "B"),
    ]
    if bill:
        figures += [
            ("invocations", bill.get("invocations"), ""),
            ("requests", bill.get("requests"), ""),
            ("GB-seconds", bill.get("gb_seconds"), "GB-s"),
            ("functions", bill.get("usd"), "$"),
            ("prices", bill.get("rates"), ""),
        ]
    if rent:
        figures.append(("store", rent.get("usd"), "$"))
    if requests := told.get("requests"):
        figures.append(("requests to the store", requests.get("usd"), "$"))
    return [figure for figure in figures if figure[1] is not None]


def _money(record: JobRecord) -> list[dict[str, Any]]:
    """Where executors' time went, and with it the money: by layer, and by what they did besides running tasks."""
    names, layer_of = record.layers
    seconds: defaultdict[str, float] = defaultdict(float)
    for task, took in zip(record.runs.tasks, record.runs.took, strict=True):
        seconds[f"run: {names[layer_of[task]]}"] += took
    run_s, all_s, unrecorded_s = sum(seconds.values()), 0.0, 0.0
    for row in record.invocations:
        for kind, (_, spent_s, _) in row.sums.items():
            seconds[kind] += spent_s
        if row.began_s is not None and row.heard_s is not None:
            all_s += row.heard_s - row.began_s + row.sums.get("open", (0, 0.0, 0))[1]
        unrecorded_s += row.busy_s
    seconds["run: not recorded"] = max(0.0, unrecorded_s - run_s)
    seconds["rest: walking the graph, waiting for a core"] = max(0.0, all_s - sum(seconds.values()))
    total = sum(seconds.values())
    usd = (record.summary.get("bill") or {}).get("usd")
    return [
        {"what": what, "s": spent, "share": spent / total, "usd": None if usd is None else usd * spent / total}
        for what, spent in sorted(seconds.items(), key=lambda item: -item[1])
        if spent > 0
    ]


_YET = {"no word": "running", "not begun": "starting"}


def _executor(row: ExecutorRow, *, running: bool) -> dict[str, Any]:
    names = [
        each.name
        for each in fields(ExecutorRow)
        if each.name not in ("sums", "spans", "latency_s", "counted", "on_core", "held")
    ]
    told = {name: _rounded(getattr(row, name)) for name in names}
    return {**told, "state": _YET.get(row.state, row.state)} if running else told


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
