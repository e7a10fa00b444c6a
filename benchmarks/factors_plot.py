"""Bars with their range, as an SVG that is readable on light and dark pages. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

_LABEL_PX, _PANEL_PX, _GAP_PX, _VALUE_PX = 190, 250, 24, 44
_ROW_PX, _BAR_PX, _SPACE_PX, _TOP_PX = 20, 12, 12, 28
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}.range{stroke:#24292f;stroke-width:1}"
    ".step{fill:#2f81c7}.other{fill:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.range{stroke:#e6edf3}.step{fill:#4493d8}.other{fill:#6e7681}}"
)

Panel = tuple[str, Sequence[Sequence[float]]]
"""A title, and for each row what was measured, sorted; empty if nothing was."""


def drawn(names: Sequence[str], panels: Sequence[Panel], gap_after: int) -> str:
    """Return the picture: a row for each name, a panel beside the other, some space after `gap_after` rows.

    A bar is as long as the median, its thin line reaches from the least to the most. Every panel has its own scale.
    """
    tops = [_TOP_PX + n * _ROW_PX + (_SPACE_PX if n >= gap_after else 0) for n in range(len(names))]
    height = tops[-1] + _ROW_PX + 4
    width = _LABEL_PX + len(panels) * (_PANEL_PX + _GAP_PX)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
    ]
    for name, top in zip(names, tops, strict=True):
        parts.append(f'<text x="{_LABEL_PX - 8}" y="{top + 12}" text-anchor="end">{escape(name)}</text>')
    for n, (title, rows) in enumerate(panels):
        left = _LABEL_PX + n * (_PANEL_PX + _GAP_PX)
        parts.append(f'<text class="title" x="{left}" y="16">{escape(title)}</text>')
        most = max((row[-1] for row in rows if row), default=1.0)
        scale = (_PANEL_PX - _VALUE_PX) / most
        for row, (top, measured) in enumerate(zip(tops, rows, strict=True)):
            if measured:
                parts += _bar(left, top, measured, scale, "step" if row < gap_after else "other")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(left: float, top: float, measured: Sequence[float], scale: float, kind: str) -> list[str]:
    middle = statistics.median(measured)
    low, high = left + measured[0] * scale, left + measured[-1] * scale
    y = top + 2 + _BAR_PX / 2
    return [
        f'<rect class="{kind}" x="{left}" y="{top + 2}" width="{middle * scale:.1f}" height="{_BAR_PX}" rx="1.5"/>',
        f'<path class="range" d="M{low:.1f} {y}H{high:.1f}"/>',
        f'<text x="{high + 5:.1f}" y="{top + 12}">{middle:.2f}</text>',
    ]
