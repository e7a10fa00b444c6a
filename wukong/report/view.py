"""What the page shows, worked out from a record and small enough for a file: at most some tens of thousands of boxes.

Runs of tasks that would be too narrow to be seen one by one are put together: a box then stands for several, and has
the colour of the layer that has most of its time. Times are integers, microseconds; begins are told as differences.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

from wukong.core.layers import edges_of
from wukong.core.names import text_of
from wukong.core.record import UNKNOWN, ExecutorRow, JobRecord
from wukong.core.track import KINDS
from wukong.planning.drawing import Box, draw
from wukong.report.critical import advice, critical_path

MOST_BOXES = 30_000
MOST_KEYS = 12_000
MOST_STEPS = 400
MOST_STORIES = 500
MOST_EXECUTORS = 5_000
MOST_LAYERS_DRAWN = 60
_KEY_LETTERS = 200
_TEXT_LETTERS = 20_000


def view(record: JobRecord) -> dict[str, Any]:
    """Return the page's data, ready for JSON."""
    path = critical_path(record)
    names, layer_of = record.layers
    edges = [] if record.parents is None else edges_of(record.parents, layer_of)
    shown = record.invocations[:MOST_EXECUTORS]
    return {
        "job": record.job,
        "status": record.status,
        "began_at": record.began_at,
        "wall_s": record.wall_s,
        "n_tasks": record.n_tasks,
        "unknown": len(record.unknown()),
        "left_out": record.left_out,
        "kinds": KINDS,
        "layers": names,
        "figures": _figures(record),
        "money": _money(record),
        "executors": [_executor(row) for row in shown],
        "executors_left_out": len(record.invocations) - len(shown),
        "boxes": _boxes(record, len(shown)),
        "rows": _layers(record),
        "edges": edges,
        "picture": _picture(record, names, layer_of, edges),
        "path": {
            "sums": path.sums,
            "bound_s": path.bound_s,
            "advice": advice(record, path),
            "left_out": max(0, len(path.steps) - MOST_STEPS),
            "steps": [
                {
                    "key": text_of(record.key(step.task))[:_KEY_LETTERS],
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
        "about": record.about,
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
        ("invoked again", told.get("repeated"), ""),
        ("values computed again", told.get("restored"), ""),
        ("wall time", record.wall_s, "s"),
        ("until the first invocation", record.ingest_s, "s"),
        ("inside tasks, all executors together", told.get("busy_s"), "s"),
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


def _executor(row: ExecutorRow) -> dict[str, Any]:
    names = [each.name for each in fields(ExecutorRow) if each.name not in ("sums", "spans", "latency_s")]
    return {name: _rounded(getattr(row, name)) for name in names}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def _layers(record: JobRecord) -> list[dict[str, Any]]:
    names, layer_of = record.layers
    runs = record.runs
    took: defaultdict[int, array[float]] = defaultdict(lambda: array("f"))
    sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0, UNKNOWN, UNKNOWN])
    for task, duration, got, put, size, memory in zip(
        runs.tasks, runs.took, runs.in_bytes, runs.out_bytes, runs.value_bytes, runs.memory_bytes, strict=True
    ):
        layer = layer_of[task]
        took[layer].append(duration)
        total = sums[layer]
        total[1] += got
        total[2] += put
        total[3] = max(total[3], size)
        total[4] = max(total[4], memory)
    tasks = Counter(layer_of)
    return [
        {
            "layer": name,
            "tasks": tasks[layer],
            "runs": len(took[layer]),
            "total_s": sum(took[layer]),
            "median_s": median(took[layer]) if took[layer] else None,
            "max_s": max(took[layer], default=None),
            "got_bytes": sums[layer][1],
            "put_bytes": sums[layer][2],
            "value_bytes": None if sums[layer][3] == UNKNOWN else sums[layer][3],
            "memory_bytes": None if sums[layer][4] == UNKNOWN else sums[layer][4],
        }
        for layer, name in enumerate(names)
    ]


def _picture(
    record: JobRecord, names: Sequence[str], layer_of: Sequence[int], edges: Sequence[tuple[int, int, int]]
) -> str | None:
    """Return the graph by layers as SVG; None if it is not known, or has too many layers for a picture."""
    if not edges or len(names) > MOST_LAYERS_DRAWN:
        return None
    counts = Counter(layer_of)
    boxes = [Box(name, [f"{counts[at]:,} task{'s' * (counts[at] != 1)}"]) for at, name in enumerate(names)]
    return draw(boxes, edges).svg


def _boxes(record: JobRecord, n_executors: int) -> dict[str, Any]:
    """Return the boxes of the timeline: executor, begin, duration, what (layer, or -1 - kind), how many, key."""
    runs, (_, layer_of) = record.runs, record.layers
    rows = sorted(
        (row for row in range(len(runs)) if runs.executors[row] < n_executors),
        key=lambda row: (runs.executors[row], runs.begun[row]),
    )
    spans = [
        (index, begun, took, -1 - kind, size)
        for index, row in enumerate(record.invocations[:n_executors])
        for kind, begun, took, size in zip(
            row.spans.kinds, row.spans.begun, row.spans.took, row.spans.size_bytes, strict=True
        )
    ]
    plain = [(runs.executors[row], runs.begun[row], runs.took[row], layer_of[runs.tasks[row]], row) for row in rows]
    resolution_s = 0.0
    tasks = [(*box[:4], 1, box[4]) for box in plain]
    if len(plain) > MOST_KEYS:
        resolution_s = max(record.wall_s, 1e-3) / 4_000
        while len(tasks := _merged(plain, resolution_s)) > MOST_BOXES:
            resolution_s *= 2
    least_s = resolution_s
    while len(kept := [span for span in spans if span[2] >= least_s]) > MOST_BOXES:
        least_s = max(2 * least_s, 1e-6)
    boxes = sorted([*tasks, *((*span[:4], 1, -1) for span in kept)], key=lambda box: (box[0], box[1], -box[2]))
    keys: list[str] = []
    table: dict[str, list[int]] = {"e": [], "t": [], "d": [], "w": [], "n": [], "k": []}
    last_us = 0
    for executor, begun, took, what, n, row in boxes:
        at_us = round(begun * 1e6)
        table["e"].append(executor)
        table["t"].append(at_us - last_us)
        table["d"].append(max(0, round(took * 1e6)))
        table["w"].append(what)
        table["n"].append(n)
        last_us = at_us
        if n == 1 and row >= 0 and len(keys) < MOST_KEYS:
            table["k"].append(len(keys))
            keys.append(text_of(record.key(runs.tasks[row]))[:_KEY_LETTERS])
        else:
            table["k"].append(-1)
    return {**_packed(table), "keys": keys, "resolution_s": resolution_s, "spans_from_s": least_s}


def _packed(table: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return columns in which a value that stands in a row again and again is written once: ``[value, times, ...]``."""
    packed: dict[str, Any] = {}
    for name, column in table.items():
        if name in ("t", "d", "k"):
            packed[name] = column
            continue
        pairs: list[int] = []
        for value in column:
            if pairs and pairs[-2] == value:
                pairs[-1] += 1
            else:
                pairs += [value, 1]
        packed[name] = pairs
    return packed


def _merged(plain: Sequence[tuple[int, float, float, int, int]], resolution_s: float) -> list[Any]:
    """Put runs together that are shorter than the resolution and follow each other within it on one executor."""
    boxes: list[Any] = []
    open_box: list[Any] | None = None
    weight: defaultdict[int, float] = defaultdict(float)

    def close() -> None:
        if open_box is not None:
            executor, begun, end, n, row = open_box
            boxes.append((executor, begun, end - begun, max(weight, key=weight.__getitem__), n, row))

    for executor, begun, took, layer, row in plain:
        fits = open_box is not None and open_box[0] == executor and begun - open_box[2] < resolution_s
        if open_box is not None and fits and took < resolution_s and open_box[2] - open_box[1] < resolution_s:
            open_box[2] = max(open_box[2], begun + took)
            open_box[3] += 1
        else:
            close()
            weight.clear()
            open_box = [executor, begun, begun + took, 1, row]
        weight[layer] += took or 1e-9
    close()
    return boxes
