"""The page: one HTML file with everything in it. It needs no network, and a browser opens it from disk.

All that comes from a job is data in a script element that nothing in it can end, and the page's program writes it as
text only; the page's policy (Content-Security-Policy) allows no request to anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from wukong.core.record import JobRecord
from wukong.planning.outline import PLANNED
from wukong.report.view import view

_ESCAPED = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def to_html(record: JobRecord) -> str:
    """Return the page of a record."""
    title = f"plan of {record.n_tasks:,} tasks" if record.status == PLANNED else f"job {record.job}: {record.status}"
    return filled(view(record), title=title)


def of_several(pages: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """Return one page of several jobs, of which one can be chosen: line in the list, and data as `view` returns it."""
    rows = [dict(row) for row, _ in pages]
    title = f"job {rows[0]['id']}: {rows[0]['status']}" if len(rows) == 1 else f"{len(rows)} jobs"
    return filled({"jobs": rows, "pages": [page for _, page in pages]}, title=title)


def live_page(client: str) -> str:
    """Return the page that asks whoever serves it for its data, and for newer data again and again."""
    return filled({"live": True, "client": client}, title=f"client {client}", connect="'self'")


def filled(data: dict[str, Any], *, title: str, connect: str = "'none'") -> str:
    """Return the page with this data; `connect`: where it may ask for newer data."""
    text = json.dumps(data, separators=(",", ":"), default=str, allow_nan=False).translate(_ESCAPED)
    page = _part("page.html")
    parts = {
        "CONNECT": connect,
        "TITLE": escape(title),
        "STYLE": _part("page.css"),
        "PROGRAM": _part("page.js"),
        "DATA": text,
    }
    head, *rest = page.split("{{")
    told = [head]
    for piece in rest:
        name, _, after = piece.partition("}}")
        told += [parts[name], after]
    return "".join(told)


def _part(name: str) -> str:
    return files("wukong.report").joinpath(name).read_text("utf-8")
