"""A client's plan, with what shows it to a person."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from wukong.planning.plan import Plan


@dataclass(frozen=True, slots=True, repr=False)
class ClientPlan(Plan):
    """See `wukong.planning.plan.Plan`."""

    def report(self, path: str | PathLike[str]) -> Path:
        """Write the page that a job's report is, with what is expected instead of what happened; return its path."""
        from wukong.core.record import JobRecord
        from wukong.planning.outline import PLANNED
        from wukong.report.page import to_html

        nothing = JobRecord("", PLANNED, 0.0, 0.0, 0.0, 0, about={"backends": self.backends, "plan": self.to_json()})
        Path(path).write_text(to_html(nothing if self.record is None else self.record), "utf-8")
        return Path(path)
