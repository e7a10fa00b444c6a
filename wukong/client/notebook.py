"""How a client, a job and a future show themselves in a notebook: a small table of text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def card(title: str, rows: Iterable[tuple[str, object]], link: str | None = None) -> str:
    """Return a table as HTML; everything in it is escaped. `link`: of the dashboard; None: there is none."""
    cells = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in rows
    )
    seen = "" if link is None else f"<p>{anchor(link)}</p>"
    return f"<div><b>{escape(title)}</b><table>{cells}</table>{seen}</div>"


def anchor(link: str) -> str:
    """Return a link to a dashboard as HTML. It is opened in a new tab, which is not told where it was found."""
    return f'<a href="{escape(link)}" target="_blank" rel="noreferrer">{escape(link)}</a>'
