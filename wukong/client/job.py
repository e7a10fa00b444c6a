"""A client's job, with what shows it to a person."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from wukong.core.job import Job


class ClientJob(Job):
    """See `wukong.core.job.Job`."""

    def trace(self, path: str | PathLike[str]) -> Path:
        """Write what ran when as a trace in Chrome's format, which https://ui.perfetto.dev opens; return its path."""
        from wukong.report.trace import to_text

        Path(path).write_text(to_text(self.record), "utf-8")
        return Path(path)
