"""A graph as a picture: one box for each layer, from top to bottom in the order of the work. SVG, by nothing but text.

rank of a box = length of the longest way to it; an edge that closes a cycle (a layer may come again after another)
counts for nothing and is drawn at the side. In a rank, boxes stand in the order of the middle of what they need,
or after a long way, so that edges cross little.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from os import PathLike
from pathlib import Path

_WIDTH, _LINE, _GAP, _BETWEEN, _MARGIN = 190, 15, 22, 46, 14
_NARROW = 8
_LETTERS = 22
_SWEEPS = 6
_NO_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = (
    ".wkg text{font:12px system-ui,sans-serif;fill:#1a1a1a}.wkg .n{font-weight:600}"
    ".wkg rect{fill:#eef3fb;stroke:#4878b0}.wkg path{fill:none;stroke:#77808c}"
    ".wkg .b{stroke-dasharray:4 3}.wkg .w{fill:#fff}"
    "@media(prefers-color-scheme:dark){.wkg text{fill:#e6e6e6}.wkg rect{fill:#22303f;stroke:#79a8dd}"
    ".wkg path{stroke:#98a2ae}.wkg .w{fill:#16191d}}"
)


@dataclass(frozen=True, slots=True)
class Box:
    """A layer: its name, and lines of text about it."""

    name: str
    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture. In a notebook it shows itself; `save` writes it to a file."""

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg

    def __str__(self) -> str:
        return self.svg

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the picture to a file, which any browser opens; return its path."""
        Path(path).write_text(self.svg, "utf-8")
        return Path(path)


def draw(boxes: Sequence[Box], edges: Sequence[tuple[int, int, int]]) -> Drawing:
    """Return the picture of layers.

    Args:
        boxes: the layers.
        edges: ``(from, to, how many)``: edges between tasks of two layers, or of one.
    """
    ahead, back = _forward(len(boxes), edges)
    rows, ways = _rows(len(boxes), ahead)
    height = max([_line_y(len(box.lines)) for box in boxes], default=0) + 8
    wides = [sum(_wide(each, len(boxes)) + _GAP for each in row) - _GAP for row in rows]
    width = 2 * _MARGIN + max(wides, default=0) + (60 if back else 0)
    at: dict[int, tuple[float, float]] = {}
    for y, (row, wide) in enumerate(zip(rows, wides, strict=True)):
        x = _MARGIN + (max(wides) - wide) / 2
        for each in row:
            at[each] = x, _MARGIN + y * (height + _BETWEEN)
            x += _wide(each, len(boxes)) + _GAP
    tall = 2 * _MARGIN + len(rows) * (height + _BETWEEN) - (_BETWEEN if rows else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wkg" viewBox="0 0 {width:.0f} {tall:.0f}" '
        f'width="{width:.0f}" height="{tall:.0f}" role="img"><title>{len(boxes)} layers</title>'
        f'<style>{_STYLE}</style><rect class="w" width="100%" height="100%" stroke="none" style="stroke:none"/>'
        '<defs><marker id="wkg-end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8"/></marker></defs>'
    ]
    parts += [_edge(boxes, at, edge, way, height) for edge, way in zip(ahead, ways, strict=True)]
    parts += [_back(boxes, at, edge, height) for edge in back]
    parts += [_box(box, *at[i], height) for i, box in enumerate(boxes)]
    return Drawing("\n".join([*parts, "</svg>"]))


def _forward(
    n: int, edges: Sequence[tuple[int, int, int]]
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Part the edges in those that go on, which close no cycle, and those that come back. Depth-first, iterative."""
    out: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for edge in edges:
        out[edge[0]].append(edge)
    ahead, back, state = [], [], [0] * n
    for root in range(n):
        stack = [(root, iter(out[root]))] if not state[root] else []
        state[root] = state[root] or 1
        while stack:
            box, left = stack[-1]
            for edge in left:
                if state[edge[1]] == 1:
                    back.append(edge)
                    continue
                ahead.append(edge)
                if not state[edge[1]]:
                    state[edge[1]] = 1
                    stack.append((edge[1], iter(out[edge[1]])))
                    break
            else:
                state[box] = 2
                stack.pop()
    return ahead, back


def _rows(n: int, edges: Sequence[tuple[int, int, int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Return the ranks, and the way of each edge: boxes, and numbers from `n` up for the places between them."""
    needs: defaultdict[int, list[int]] = defaultdict(list)
    needed: defaultdict[int, list[int]] = defaultdict(list)
    left = [0] * n
    for start, end, _ in edges:
        needs[end].append(start)
        needed[start].append(end)
        left[end] += 1
    rank = [0] * n
    ready = [box for box in range(n) if not left[box]]
    for box in ready:  # it grows meanwhile
        for end in needed[box]:
            rank[end] = max(rank[end], rank[box] + 1)
            left[end] -= 1
            if not left[end]:
                ready.append(end)
    for box in reversed(ready):  # what only one far below needs stands next to it
        if needed[box] and not needs[box]:
            rank[box] = min(rank[end] for end in needed[box]) - 1
    ways = []
    above: defaultdict[int, list[int]] = defaultdict(list)
    below: defaultdict[int, list[int]] = defaultdict(list)
    for start, end, _ in edges:
        between = range(len(rank), len(rank) + rank[end] - rank[start] - 1)
        rank += range(rank[start] + 1, rank[end])
        ways.append([start, *between, end])
        for one, other in pairwise(ways[-1]):
            above[other].append(one)
            below[one].append(other)
    rows: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for each, row in enumerate(rank):
        rows[row].append(each)
    place = {each: (i + 0.5) / len(row) for row in rows for i, each in enumerate(row)}
    for sweep in range(_SWEEPS):
        beside = below if sweep % 2 else above
        for order in reversed(rows) if sweep % 2 else rows:
            order.sort(key=lambda each: _middle(beside[each], place, place[each]))
            place.update({each: (i + 0.5) / len(order) for i, each in enumerate(order)})
    return rows, ways


def _wide(each: int, n: int) -> int:
    return _WIDTH if each < n else _NARROW


def _middle(boxes: Sequence[int], place: dict[int, float], own: float) -> float:
    return sum(place[box] for box in boxes) / len(boxes) if boxes else own


def _line_y(line: int) -> int:
    return 19 + _LINE * line


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 10]}...{text[-7:]}"


def _box(box: Box, x: float, y: float, height: int) -> str:
    told = "\n".join([box.name, *box.lines])
    texts = [f'<text class="n" x="{x + 9:.0f}" y="{y + _line_y(0):.0f}">{_text(_short(box.name))}</text>']
    texts += [
        f'<text x="{x + 9:.0f}" y="{y + _line_y(i):.0f}">{_text(line)}</text>' for i, line in enumerate(box.lines, 1)
    ]
    frame = f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{height}" rx="5"/>'
    return f"<g><title>{_text(told)}</title>{frame}{''.join(texts)}</g>"


def _edge(
    boxes: Sequence[Box],
    at: dict[int, tuple[float, float]],
    edge: tuple[int, int, int],
    way: Sequence[int],
    height: int,
) -> str:
    x, y = at[way[0]][0] + _WIDTH / 2, at[way[0]][1] + height
    drawn = [f"M{x:.0f} {y:.0f}"]
    for each in way[1:]:
        to_x, to_y = at[each][0] + _wide(each, len(boxes)) / 2, at[each][1]
        drawn.append(f"C{x:.0f} {(y + to_y) / 2:.0f} {to_x:.0f} {(y + to_y) / 2:.0f} {to_x:.0f} {to_y:.0f}")
        x, y = to_x, to_y + height
        if each >= len(boxes):
            drawn.append(f"V{y:.0f}")
    return _path(boxes, edge, "".join(drawn), "f")


def _back(boxes: Sequence[Box], at: dict[int, tuple[float, float]], edge: tuple[int, int, int], height: int) -> str:
    (x0, y0), (x1, y1) = at[edge[0]], at[edge[1]]
    x0, y0, x1, y1 = x0 + _WIDTH, y0 + height * 0.7, x1 + _WIDTH, y1 + height * 0.3
    out = max(x0, x1) + 34
    return _path(boxes, edge, f"M{x0:.0f} {y0:.0f}C{out:.0f} {y0:.0f} {out:.0f} {y1:.0f} {x1:.0f} {y1:.0f}", "b")


def _path(boxes: Sequence[Box], edge: tuple[int, int, int], way: str, kind: str) -> str:
    start, end, n = edge
    told = f"{boxes[start].name} to {boxes[end].name}: {n:,} edge{'s' * (n != 1)}"
    wide = min(4.0, 1 + len(str(n)) / 2)
    return (
        f'<path class="{kind}" d="{way}" stroke-width="{wide:g}" marker-end="url(#wkg-end)">'
        f"<title>{_text(told)}</title></path>"
    )


def _text(text: str) -> str:
    """Return text as SVG takes it: escaped, and without the characters that XML has no place for."""
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))
