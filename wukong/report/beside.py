"""Rows for requests to the store that were under way beside tasks: in the row of those they would cover them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate

from wukong.core.record import JobRecord
from wukong.core.track import KINDS

_REQUESTS = frozenset(map(KINDS.index, ("get", "put", "arrive")))


def rows(record: JobRecord) -> list[Sequence[int]]:
    """Return for each executor in which of its rows each span is: the first, 0, or one below those of its lanes."""
    n_spans = [len(row.spans.kinds) for row in record.invocations]
    if not record.summary.get("overlapped"):
        return [bytes(n) for n in n_spans]
    runs = record.runs
    tasks: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    n_lanes = [1] * len(n_spans)
    for index, lane, begun, took in zip(runs.executors, runs.lanes, runs.begun, runs.took, strict=True):
        n_lanes[index] = max(n_lanes[index], lane + 1)
        if not lane:
            tasks[index].append((begun, begun + took))
    found: list[Sequence[int]] = []
    for index, row in enumerate(record.invocations):
        columns = zip(row.spans.kinds, row.spans.begun, row.spans.took, strict=True)
        spans = [(begun, begun + took, kind) for kind, begun, took in columns]
        fixed = sorted([*tasks[index], *((begun, ended) for begun, ended, kind in spans if kind not in _REQUESTS)])
        begins, ends = [begun for begun, _ in fixed], list(accumulate((ended for _, ended in fixed), max))
        placed, free_at = [0] * len(spans), [0.0]
        for at in sorted(range(len(spans)), key=spans.__getitem__):
            begun, ended, kind = spans[at]
            if kind in _REQUESTS:
                place = 0 if free_at[0] <= begun and not _meets(begins, ends, begun, ended) else 1
                while place and place < len(free_at) and free_at[place] > begun:
                    place += 1
                free_at[place : place + 1] = [ended]
                placed[at] = place and n_lanes[index] + place - 1
        found.append(placed)
    return found


def _meets(begins: Sequence[float], ends: Sequence[float], begun: float, ended: float) -> bool:
    """Whether something lasts in between. `ends`: of all that began no later, the last end."""
    at = bisect_left(begins, ended)
    return at > 0 and ends[at - 1] > begun
