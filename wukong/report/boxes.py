"""The boxes of the timeline: small enough for a file, whatever the job's size.

Runs of tasks that would be too narrow to be seen one by one are put together. A box then stands for several, in the
colour of the layer that has most of its time. Times are integers, microseconds; begins are told as differences.
"""

from __future__ import annotations

from ast import literal_eval
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from wukong.core.layers import layers_of, unnumbered
from wukong.core.names import text_of
from wukong.core.record import JobRecord
from wukong.core.track import KINDS
from wukong.report import beside
from wukong.report.signs import Signs

MOST_BOXES = 30_000
MOST_KEYS = 12_000
KEY_LETTERS = 200
BOX_KINDS = (*KINDS, "tasks, not told which")
"""What a box may stand for besides tasks of a layer; the last: tasks of which only the number is known."""

_UNNAMED = len(KINDS)
_Place: TypeAlias = tuple[int, int]
"""An executor, and a lane of it."""


def boxes(record: JobRecord, n_executors: int, signs: Signs | None) -> dict[str, Any]:
    """Return the boxes of the timeline: executor, lane, begin, duration, what (layer, or -1 - kind), how many, key."""
    runs, (_, layer_of) = record.runs, record.layers
    rows = sorted(
        (row for row in range(len(runs)) if runs.executors[row] < n_executors),
        key=lambda row: (runs.executors[row], runs.lanes[row], runs.begun[row]),
    )
    spans = [
        ((index, place), begun, took, -1 - kind, size)
        for index, (row, places) in enumerate(zip(record.invocations[:n_executors], beside.rows(record), strict=False))
        for kind, begun, took, size, place in zip(
            row.spans.kinds, row.spans.begun, row.spans.took, row.spans.size_bytes, places, strict=True
        )
    ]
    plain = [
        ((runs.executors[row], runs.lanes[row]), runs.begun[row], runs.took[row], layer_of[runs.tasks[row]], row)
        for row in rows
    ]
    resolution_s = 0.0
    tasks = [(*box[:4], 1, box[4]) for box in plain]
    if len(plain) > MOST_KEYS:
        resolution_s = max(record.wall_s, 1e-3) / 4_000
        while len(tasks := _merged(plain, resolution_s)) > MOST_BOXES:
            resolution_s *= 2
    least_s = resolution_s
    while len(kept := [span for span in spans if span[2] >= least_s]) > MOST_BOXES:
        least_s = max(2 * least_s, 1e-6)
    told = [] if signs is None else _told(record, n_executors, signs)
    plain_spans = [(*span[:4], 1, -1) for span in kept]
    ordered = sorted([*tasks, *plain_spans, *told], key=lambda box: (box[0], box[1], -box[2]))
    keys: list[str] = []
    table: dict[str, list[int]] = {"e": [], "l": [], "t": [], "d": [], "w": [], "n": [], "k": []}
    last_us = 0
    for (executor, lane), begun, took, what, n, row in ordered:
        at_us = round(begun * 1e6)
        table["e"].append(executor)
        table["l"].append(lane)
        table["t"].append(at_us - last_us)
        table["d"].append(max(0, round(took * 1e6)))
        table["w"].append(what)
        table["n"].append(n)
        last_us = at_us
        if n == 1 and row != -1 and len(keys) < MOST_KEYS:
            table["k"].append(len(keys))
            keys.append((row if isinstance(row, str) else text_of(record.key(runs.tasks[row])))[:KEY_LETTERS])
        else:
            table["k"].append(-1)
    return {**_packed(table), "keys": keys, "resolution_s": resolution_s, "spans_from_s": least_s}


def _told(record: JobRecord, n_executors: int, signs: Signs) -> list[tuple[_Place, float, float, int, int, int | str]]:
    """Return the boxes of what executors that have not ended have said of their tasks."""
    index = {name: at for at, name in enumerate(record.layers[0])}
    boxes: list[tuple[_Place, float, float, int, int, int | str]] = []
    for at, row in enumerate(record.invocations[:n_executors]):
        if row.state == "ended":
            continue
        for each in signs.stretches(row, record.began_at):
            layer = None if each.key is None else index.get(_layer_of(each.key, index))
            what = -1 - _UNNAMED if layer is None else layer
            key = -1 if each.key is None else each.key
            boxes.append(((at, each.lane), each.began_s, each.ended_s - each.began_s, what, each.n, key))
    return boxes


def _layer_of(text: str, index: Mapping[str, int]) -> str:
    """Return the name of the layer of a key that is known as text only."""
    try:
        key = literal_eval(text) if text.startswith(("(", "'")) else text
        [name] = layers_of([key])[0]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return ""
    return name if name in index else unnumbered(name)


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


def _merged(plain: Sequence[tuple[_Place, float, float, int, int]], resolution_s: float) -> list[Any]:
    """Put runs together that are shorter than the resolution and follow each other within it in one lane."""
    boxes: list[Any] = []
    open_box: list[Any] | None = None
    weight: defaultdict[int, float] = defaultdict(float)

    def close() -> None:
        if open_box is not None:
            place, begun, end, n, row = open_box
            boxes.append((place, begun, end - begun, max(weight, key=weight.__getitem__), n, row))

    for place, begun, took, layer, row in plain:
        fits = open_box is not None and open_box[0] == place and begun - open_box[2] < resolution_s
        if open_box is not None and fits and took < resolution_s and open_box[2] - open_box[1] < resolution_s:
            open_box[2] = max(open_box[2], begun + took)
            open_box[3] += 1
        else:
            close()
            weight.clear()
            open_box = [place, begun, begun + took, 1, row]
        weight[layer] += took or 1e-9
    close()
    return boxes
