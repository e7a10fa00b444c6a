"""A job that another client started and left behind, in the hands of the client that finishes it."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wukong.client.background import Background
from wukong.client.job import ClientJob
from wukong.core.job import Job
from wukong.core.record import JobRecord
from wukong.core.summary import Summary
from wukong.errors import JobTimeout

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import TracerProvider


class Attached:
    """What `wukong.Client.attach` returns.

    Attributes:
        id: the job's id.
    """

    def __init__(self, job: ClientJob, client: Any, background: Background, forget: Callable[[Job], None]) -> None:
        self.id = job.id
        self._client = client  # for as long as anybody has this, the client stays open
        self._job, self._background, self._forget = job, background, forget

    def result(self, timeout: float | None = None) -> list[Any]:
        """Return the requested values, in the order of the request. Raises as `wukong.Client.get` does.

        After `timeout` seconds without them: JobTimeout, and the job goes on.
        """
        try:
            values = self._job.result(timeout)
        except JobTimeout:  # ours, not one that a task raised: the job goes on
            raise
        except BaseException as error:
            self._job.cancel(error)
            self._end()
            raise
        self._end()
        return list(values.values())

    def summary(self) -> Summary:
        """Return what the job has done; see `wukong.core.summary.Summary`."""
        return self._job.summary()

    @property
    def record(self) -> JobRecord:
        """What the job has done; keys are not known, for the client that had the graph is gone."""
        return self._job.record

    def report(self, path: str | PathLike[str]) -> Path:
        """See `wukong.client.job.ClientJob.report`."""
        return self._job.report(path)

    def trace(self, path: str | PathLike[str]) -> Path:
        """See `wukong.client.job.ClientJob.trace`."""
        return self._job.trace(path)

    def spans(
        self,
        tracer_provider: TracerProvider | None = None,
        context: Context | None = None,
        *,
        tasks: bool = True,
    ) -> str | None:
        """See `wukong.client.job.ClientJob.spans`. Tasks are named by their numbers, for keys are not known."""
        return self._job.spans(tracer_provider, context, tasks=tasks)

    def cancel(self) -> None:
        """Stop the job and delete what it left."""
        self._job.cancel()
        self._end()

    def __repr__(self) -> str:
        return repr(self._job)

    def _end(self) -> None:
        self._background.settle(self._job)
        self._forget(self._job)
