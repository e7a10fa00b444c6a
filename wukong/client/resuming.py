"""Going on with a job that has not succeeded: `wukong.Client.resume`.

job fails  ->  its `Asked` stays with it, and what it has stored with the client's `Holdings` (`core/remains`)
resume     ->  the same is asked for again; tasks whose values are still there are not run
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wukong.client.attached import Attached
from wukong.client.futures import Future, FutureState
from wukong.core.failed import resume_hint
from wukong.core.job import Job
from wukong.core.remains import JobRemains
from wukong.errors import JobError, WukongError

if TYPE_CHECKING:
    from wukong.client.job import ClientJob
    from wukong.client.launch import Work

_SETTLED_S = 30.0


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """How a job was asked for, in the calling thread: see `wukong.client.session.Session`.

    Attributes:
        described, keys: the graph and what is wanted of it. options: of the call.
    """

    described: Any
    keys: Any
    options: Mapping[str, Any]

    @classmethod
    def of(cls, described: Any, keys: Any, options: Mapping[str, Any]) -> Asked:
        """Return what is asked for now: a mapping of the user's may be changed afterwards."""
        return cls(dict(described) if isinstance(described, dict) else described, keys, dict(options))


@dataclass(frozen=True, eq=False, slots=True)
class AskedFutures:
    """How a job was asked for in the background: its work, and the futures' states by the graph's keys."""

    work: Work
    states: Mapping[Hashable, FutureState]


@dataclass(eq=False, slots=True)
class Resumed:
    """What a job goes on with.

    Attributes:
        job: the one that has failed. values: what there is of it, by Dask key. remains: where that is, if anywhere.
        begun: a job has begun that goes on with it; when it has ended, the remains go, or stay with its own.
    """

    job: ClientJob
    values: Mapping[Hashable, Any] = field(default_factory=dict)
    remains: JobRemains | None = None
    begun: bool = False

    def begins(self, job: ClientJob) -> None:
        """Note which job goes on with it."""
        self.job.resumed_by, job.before, self.begun = job, self.remains, True
        job.also = (*self.job.also, self.job.id)


def found(job: object, jobs: Iterable[Job], last: ClientJob | None) -> ClientJob:
    """Return the job to be resumed, settled, or that which has gone on with it. Raises JobError if there is none.

    Args:
        job: a job, its id, or a future; None: the `last` one.
        jobs: the client's.
    """
    from wukong.client.job import ClientJob

    job = last if job is None else job
    if isinstance(job, Future):
        job = job._state.job
    elif isinstance(job, Attached):
        job = job._job
    if job is None:
        raise JobError("there is no job yet that could be resumed", hint="give a job, its id, or a future of one")
    name = job if isinstance(job, str) else getattr(job, "id", str(job))
    alike = [each for each in jobs if isinstance(each, ClientJob) and name in (each.id, *each.also)]
    if not alike:
        raise _not_here(name)
    mine = max(alike, key=lambda each: each.began_at)
    states = mine.asked.states.values() if isinstance(mine.asked, AskedFutures) else ()
    told = states and all(state.status != "pending" for state in states)  # all values are there, and it is about to end
    if mine.status == "running" and not told:
        raise JobError("this job still runs", job=mine.id)
    mine.held.wait(_SETTLED_S)
    if mine.status == "succeeded":
        raise JobError("this job has succeeded: there is nothing to be resumed", job=mine.id)
    if mine.asked is None:
        raise _not_here(name)
    return mine


def _not_here(name: str) -> JobError:
    return JobError(
        "this client does not have this job's graph, so it cannot resume it",
        job=name,
        hint="only the client that started a job can, until it closes, and of the last `resume_jobs` failed ones; "
        "compute it again: what was computed with keep='name', or under dask.annotate(keep='name'), is taken from "
        "any client's jobs",
    )


def hinted(error: BaseException, job: Job) -> None:
    """Say in an error that its job can be resumed, if so."""
    if not job.resumable or not job.progress():  # nothing that has taken long enough for heartbeats to tell of it
        return
    text = resume_hint(job.id)
    if isinstance(error, WukongError):
        error.hint = "; ".join(filter(None, [error.hint, text]))
    elif isinstance(error, Exception):
        with suppress(Exception):  # whatever its class does with attributes
            error.add_note(text)


def shaped(keys: Any, values: Callable[[Hashable], Any]) -> Any:
    """Return values as their keys are nested; the one of a single key as it is."""

    def nested(wanted: Any) -> Any:
        return tuple(map(nested, wanted)) if isinstance(wanted, list) else values(wanted)

    while isinstance(keys, list) and len(keys) == 1:
        keys = keys[0]
    return nested(keys)
