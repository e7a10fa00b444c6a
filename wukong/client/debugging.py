"""Running a failed task again, here, where a person can look: `wukong.Client.debug` and ``wukong debug``.

What cannot be run again is a `JobError` that says why:

    a task that has not failed, or is no task of the job (Dask fuses several into one, under one of their keys)
    a task whose function was killed: nobody was left to keep anything
    inputs that are too large, cannot be pickled, or are iterators that the task may have read already
    a job whose failed tasks are not kept: `keep_failed` is off, its client has closed, or `ttl_s` is over
    one that was signed with another deployment key
"""

from __future__ import annotations

import importlib
import logging
import pdb
import sys
import zipfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Any

from wukong.backends.storage import Store
from wukong.client.attached import Attached
from wukong.core import dag, failed
from wukong.core.codec import Codec
from wukong.core.failed import DebugCall, FailedCall, FailedTask
from wukong.core.job import Job
from wukong.core.names import Names, text_of
from wukong.core.scratch import scratch
from wukong.errors import AuthenticationError, CodecError, JobError
from wukong.options import nearest

logger = logging.getLogger("wukong")

_SHOWN = 5
_COMPARED = 1_000
_GONE = (
    "where keep_failed is on, failed tasks stay until their client closes, and for ttl_s at most; one that ends its "
    "process leaves nothing. 'wukong jobs' lists the jobs in a store"
)
_OURS = (failed.__file__, dag.__file__, __file__)


@dataclass(frozen=True, slots=True)
class ReadyCall:
    """A failed task with its inputs, in this process."""

    task: FailedTask
    call: FailedCall

    def plain(self) -> DebugCall:
        """Return its function and arguments."""
        return self.call.plain()

    def run(self, look: Callable[[TracebackType | None], object] | None = None) -> Any:
        """Run it; if it raises, `look` at where (None: under pdb) and return None; else return its value."""
        task = self.task
        try:
            value = self.call.run()
        except Exception as error:
            logger.warning("task %s has raised %s: %s", task.key, type(error).__name__, error)
            (pdb.post_mortem if look is None else look)(_own(error.__traceback__))
            return None
        logger.warning("task %s does not raise here; where it ran: %s: %s", task.key, task.kind, task.message)
        return value


class Debugger:
    """Finds the failed tasks of jobs in a store.

    Args:
        store, codec: where they are, and the key that they are signed with.
    """

    def __init__(self, store: Store, codec: Codec) -> None:
        self._store, self._codec = store, codec

    def failed(self, job: str) -> list[FailedTask]:
        """Return the tasks of a job that are kept, the first to fail first; none if the store cannot list its keys."""
        names = Names(job)
        if not self._store.capabilities.scans:
            return []
        return failed.failed_tasks(self._store, self._codec, names, list(self._store.scan(names.failures)))

    def call(self, job: Job | Attached | str | None, key: Hashable | None) -> ReadyCall:
        """Return a failed task, ready to be run; without a key the first that has failed. Raises JobError."""
        if job is None:
            raise JobError("this client has run no job yet", hint="name a job by its id: debug(job_id)")
        of = job._job if isinstance(job, Attached) else job if isinstance(job, Job) else None
        name = job if isinstance(job, str) else job.id
        task = None if key is None else failed.failed_task(self._store, self._codec, Names(name), key)
        if task is None:
            found = self.failed(name)
            if key is None and found:
                task = found[0]
            elif key is None and of is not None and not self._store.capabilities.scans:
                task = self._first(of, name)
            elif key is not None:
                alike = [each for each in found if each.key.startswith(text_of(key))]
                task = alike[0] if len(alike) == 1 else None
            if task is None:
                raise self._absent(of, name, key, found)
        place = list(task.modules.path)
        sys.path += [folder for folder in place if folder not in sys.path]
        try:
            return ReadyCall(task, failed.failed_call(self._store, self._codec, task))
        except CodecError as error:
            if isinstance(error, AuthenticationError) or not self._unpack(task):
                raise self._unread(task, error) from error
        try:
            return ReadyCall(task, failed.failed_call(self._store, self._codec, task))
        except CodecError as error:
            raise self._unread(task, error) from error

    def _first(self, job: Job, name: str) -> FailedTask | None:
        """Return the failed task of a job that this client has run, in a store that does not list its keys."""
        for story in job.record.stories:
            if story.task is not None:
                task = failed.failed_task(self._store, self._codec, Names(name), story.task)
                if task is not None:
                    return task
        return None

    def _unpack(self, task: FailedTask) -> bool:
        """Make the archive of the user's modules, which this process lacks, importable; return whether there is one."""
        key = Names(task.job).modules
        blob = self._store.get([key])[0]
        if blob is None:
            return False
        folder = scratch("wukong-code-")
        with zipfile.ZipFile(BytesIO(bytes(self._codec.decode(blob, key)))) as packed:
            packed.extractall(folder)
        sys.path.append(folder)
        importlib.invalidate_caches()
        return True

    def _unread(self, task: FailedTask, error: CodecError) -> JobError:
        return JobError(
            f"what the task runs, or an input of it, cannot be read here: {error.message}",
            job=task.job,
            task=task.key,
            hint="run this where the modules of the program can be imported: in its folder, or with PYTHONPATH set",
        )

    def _absent(self, job: Job | None, name: str, key: Hashable | None, found: Sequence[FailedTask]) -> JobError:
        """Return why there is no such task."""
        text = None if key is None else text_of(key)
        what, hint = "no task of this job that failed is in the store", _GONE
        if found:
            keys = [task.key for task in found]
            more = f" and {len(keys) - _SHOWN:,} more" if len(keys) > _SHOWN else ""
            what, hint = "no task with this key has failed", f"these have: {', '.join(keys[:_SHOWN])}{more}"
        elif job is None:
            if not self._store.capabilities.scans or not self._store.scan(Names(name).prefix + b"/"):
                what = "there is no such job in this store, or none of its failed tasks"
        elif job.status in ("running", "succeeded"):
            what, hint = f"no task of this job has failed{' so far' if job.status == 'running' else ''}", ""
        elif not job.policy.keep_failed:
            what = "tasks of this job that failed were not kept"
            hint = "run it again with keep_failed=True; only on the emulator that is the default"
        if text is not None and (graph := None if job is None else job.graph) is not None:
            keys = [text_of(each) for each in graph.keys]
            if text not in keys:
                meant = nearest(text, keys) if len(keys) <= _COMPARED else None
                what = "this is no task of the job: it is none of its keys, or Dask has fused it into another task"
                hint = f"did you mean {meant}?" if meant else hint
        return JobError(what, job=name, task=text, hint=hint or None)


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames that are ours."""
    own = trace
    while own is not None and own.tb_frame.f_code.co_filename in _OURS:
        own = own.tb_next
    return own or trace
