"""A job by the layers of its graph: how many tasks, how long, how large, and what task clustering has saved.

A *leaf* is a task without inputs: one static schedule begins at each, and an executor follows it. An input *stayed* if
the task that needs it ran in the executor that computed it: that value did not have to pass the store.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from wukong.core.layers import edges_of
from wukong.core.record import UNKNOWN, JobRecord
from wukong.planning.drawing import Box, draw
from wukong.planning.plan import seconds

MOST_LAYERS_DRAWN = 60


@dataclass(frozen=True, slots=True)
class GraphLayers:
    """A graph by layers, which stays the same while its job runs.

    Attributes:
        layers: see `JobRecord.layers`. edges: see `wukong.core.layers.edges_of`.
    """

    layers: tuple[list[str], array[int]]
    edges: Sequence[tuple[int, int, int]]

    @classmethod
    def of(cls, record: JobRecord) -> GraphLayers:
        """Return the layers of a record's graph."""
        return cls(record.layers, [] if record.parents is None else edges_of(record.parents, record.layers[1]))


def rows_of(record: JobRecord, *, whole: bool) -> list[dict[str, Any]]:
    """Return a row for each layer. `whole`: nothing more will come, so that it is worth looking which inputs stayed."""
    names, layer_of = record.layers
    runs = record.runs
    took: defaultdict[int, array[float]] = defaultdict(lambda: array("f"))
    sums: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, UNKNOWN, UNKNOWN])
    for task, duration, got, put, size, memory in zip(
        runs.tasks, runs.took, runs.in_bytes, runs.out_bytes, runs.value_bytes, runs.memory_bytes, strict=True
    ):
        layer = layer_of[task]
        took[layer].append(duration)
        total = sums[layer]
        total[0] += got
        total[1] += put
        total[2] = max(total[2], size)
        total[3] = max(total[3], memory)
    tasks = Counter(layer_of)
    stayed = _stayed(record) if whole else {}
    leaves, told = _leaves(record), told_of(record)
    return [
        {
            "layer": name,
            "tasks": tasks[layer],
            "leaves": leaves[layer],
            "runs": len(took[layer]),
            "told": told[layer],
            "total_s": sum(took[layer]),
            "median_s": median(took[layer]) if took[layer] else None,
            "max_s": max(took[layer], default=None),
            "stayed": stayed.get(layer),
            "got_bytes": sums[layer][0],
            "put_bytes": sums[layer][1],
            "value_bytes": None if sums[layer][2] == UNKNOWN else sums[layer][2],
            "memory_bytes": None if sums[layer][3] == UNKNOWN else sums[layer][3],
        }
        for layer, name in enumerate(names)
    ]


def told_of(record: JobRecord) -> Counter[int]:
    """Return by layer how many tasks executors without an end report have told of: executors that run, or have died."""
    layer_of, told = record.layers[1], Counter[int]()
    for row in record.invocations:
        for task, n in row.counted:
            told[layer_of[task]] += n
    return told


def _leaves(record: JobRecord) -> Counter[int]:
    """Return by layer how many tasks have no inputs."""
    if record.parents is None:
        return Counter()
    pointers, layer_of = record.parents[0], record.layers[1]
    return Counter(layer_of[task] for task in range(record.n_tasks) if pointers[task] == pointers[task + 1])


def _stayed(record: JobRecord) -> Mapping[int, float]:
    """Return by layer which part of the inputs stayed, as far as both runs are known."""
    if record.parents is None:
        return {}
    pointers, flat = record.parents
    layer_of, executors = record.layers[1], record.runs.executors
    where = [executors[row] if row >= 0 else -1 for row in record.last_runs]
    inputs, same = Counter[int](), Counter[int]()
    for task, executor in enumerate(where):
        first, last = pointers[task], pointers[task + 1]
        if executor < 0 or first == last:
            continue
        known = [where[each] for each in flat[first:last]]
        inputs[layer_of[task]] += len(known) - known.count(-1)
        same[layer_of[task]] += known.count(executor)
    return {layer: same[layer] / n for layer, n in inputs.items() if n}


def picture(rows: Sequence[Mapping[str, Any]], edges: Sequence[tuple[int, int, int]]) -> str | None:
    """Return the graph by layers as SVG; None if it is not known, or has too many layers for a picture."""
    if not edges or len(rows) > MOST_LAYERS_DRAWN:
        return None
    boxes = []
    for row in rows:
        n = row["tasks"]
        lines = [f"{n:,} task{'s' * (n != 1)}" + ("" if row["median_s"] is None else f" of {seconds(row['median_s'])}")]
        if (ran := row["runs"] + row["told"]) < n:
            lines.append(f"{ran:,} run")
        if row["leaves"]:
            lines.append(f"{row['leaves']:,} schedule{'s begin' if row['leaves'] != 1 else ' begins'}")
        if row["stayed"] is not None:
            lines.append(f"{100 * row['stayed']:.0f} % of inputs stayed")
        boxes.append(Box(row["layer"], lines))
    return draw(boxes, edges).svg
