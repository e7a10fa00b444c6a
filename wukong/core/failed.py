"""Failed tasks: what they were told to do, and their inputs, kept so that a person can run them again and look.

    executor   a task fails for good  ->  f/<name>/call   `FailedCall`: what it runs, and its inputs
                                          f/<name>        `FailedTask`: what it raised; why there is no call, if so
    client     debug(job, key)        ->  the call, run here

The name is made of the task's key, so that it can be found by whoever has the job's id and the key. Both are written
before the failure is told, as copies: wherever the inputs came from, nothing else of the job has to stay. A task that
changes its inputs in place, and then raises, leaves them as they are by then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any, NamedTuple

from wukong.core import task_context
from wukong.core.codec import Codec
from wukong.core.dag import Op, op_refs, run_op
from wukong.core.lazy import holds_lazy
from wukong.core.lock import Tickets
from wukong.core.modules import Modules
from wukong.core.names import Names, text_of
from wukong.core.payload import Order
from wukong.core.raised import Raised
from wukong.core.sizes import size_bytes
from wukong.core.storage import Blob, StorePort
from wukong.errors import AuthenticationError, CodecError, JobError, StoreError, WukongError

_DEBUGS = "client.debug() runs it here under pdb"
_RESUMES = "client.resume("

logger = logging.getLogger(__name__)

MOST_FAILED = 100
"""How many failed tasks one executor keeps."""


@dataclass(frozen=True, slots=True)
class FailedTask:
    """What is known of a task that has failed.

    Attributes:
        job, key, task: whose it is, its key as text, and its number.
        invocation: of the executor that ran it. at: Unix time by its clock.
        function: the name of what it runs.
        kind, message, traceback: as in `wukong.core.raised.Raised`.
        inputs, size_bytes: how many inputs it has, and about how large they are together.
        why_not: why its call is not kept; empty: it is.
        modules: where the user's modules were imported from.
    """

    job: str
    key: str
    task: int
    invocation: str
    at: float
    function: str
    kind: str
    message: str
    traceback: str
    inputs: int
    size_bytes: int
    why_not: str
    modules: Modules


class DebugCall(NamedTuple):
    """A failed task as a plain call: ``func(*args, **kwargs)`` runs it again."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FailedCall:
    """What a task runs, and its inputs: tasks' values by number, and objects (negative)."""

    op: Op
    inputs: Mapping[int, Any]

    def run(self) -> Any:
        """Run it as an executor would, except that locks are always free and nothing is written to a client's target.

        Raises what the task raises.
        """
        before = task_context.writer(), task_context.tickets()
        task_context.set_writer(lambda target, index, chunk: None)
        task_context.set_tickets(_FreeLocks())
        try:
            return run_op(self.op, self.inputs.__getitem__)
        finally:
            task_context.set_writer(before[0])
            task_context.set_tickets(before[1])

    def plain(self) -> DebugCall:
        """Return it as a function and its arguments."""
        from dask._task_spec import Task
        from dask.utils import apply

        op, value = self.op, self.inputs.__getitem__
        named: dict[str, Any] = {}
        if len(op) == 4:
            node, keys, refs, constants = op
            values = dict(zip(keys, map(value, refs), strict=True)) | constants
            func, args = node, [values]
            if type(node) is Task:
                func, args = node.func, [_filled(arg, values) for arg in node.args]
                named = {name: _filled(arg, values) for name, arg in node.kwargs.items()}
        else:
            func, args = op[0], list(map(value, op[1]) if len(op) == 2 else op[1])
            for position, ref in op[2] if len(op) == 3 else ():
                args[position] = value(ref)
        if func is apply and len(args) == 3 and not named:  # how calls with keywords are written in a graph
            func, args, named = args[0], list(args[1]), dict(args[2])
        return DebugCall(func, tuple(args), named)


def _filled(arg: Any, values: Mapping[Any, Any]) -> Any:
    from dask._task_spec import GraphNode, TaskRef

    if isinstance(arg, GraphNode):
        return arg({key: values[key] for key in arg.dependencies})
    return values[arg.key] if isinstance(arg, TaskRef) else arg


class _FreeLocks(Tickets):
    """For a task that runs alone, outside its job: every lock is free."""

    def __init__(self) -> None:
        return

    def acquire(self, name: str, timeout_s: float | None) -> bool:
        return True

    def release(self, name: str) -> None:
        return


class FailureKeeper:
    """An executor's side: keeps its failed tasks in the store.

    Args:
        order: what the executor was told.
        codec: how values become bytes. put: stores blobs.
        value_of: returns an input.
        keys: the keys of what is kept are added to this.
    """

    def __init__(
        self,
        order: Order,
        codec: Codec,
        put: Callable[[Mapping[bytes, Blob]], None],
        value_of: Callable[[int], Any],
        keys: list[bytes],
    ) -> None:
        self._order, self._codec, self._put, self._value_of, self._keys = order, codec, put, value_of, keys
        self._names = Names(order.job)
        self._left_bytes, self._left = order.policy.keep_failed_bytes, MOST_FAILED
        self._one_at_a_time = threading.Lock()  # tasks in several lanes may fail at once

    def keep(self, task: int, op: Op, raised: Raised) -> Raised:
        """Keep a task that has failed, if the job wants that; return what it raised, with the way to look at it.

        Raises nothing: a job does not fail for this in another way than it does already.
        """
        if not self._order.policy.keep_failed or self._left <= 0:
            return raised
        try:
            with self._one_at_a_time:
                self._left -= 1
                kept = self._keep(task, op, raised)
        except Exception as error:
            logger.info("a failed task cannot be kept: %s", error)
            told = error.message if isinstance(error, WukongError) else f"{type(error).__name__}: {error}"
            return replace(raised, hint=f"it could not be kept for client.debug(): {told}")
        return replace(raised, hint=hint(self._order.job, kept.key)) if not kept.why_not else raised

    def _keep(self, task: int, op: Op, raised: Raised) -> FailedTask:
        names, order = self._names, self._order
        key = raised.task or str(task)
        inputs = {ref: self._value_of(ref) for ref in op_refs(op)}
        total_bytes = sum(map(size_bytes, inputs.values()))
        place = names.failed_call(key)
        why_not = self._unkept(total_bytes, inputs)
        if not why_not:
            try:
                blob = self._codec.encode_code(FailedCall(op, inputs), place)
                self._keys.append(place)
                self._put({place: blob})
                self._left_bytes -= total_bytes
            except CodecError as error:
                why_not = f"its call cannot be pickled: {error.message}"
            except StoreError as error:
                why_not = f"its inputs could not be stored: {error.message}"
        told = FailedTask(
            order.job,
            key,
            task,
            order.invocation,
            time.time(),
            _name(op),
            raised.kind,
            raised.message,
            raised.traceback,
            len(inputs),
            total_bytes,
            why_not,
            order.modules,
        )
        place = names.failed(key)
        self._keys.append(place)
        self._put({place: self._codec.encode(told, place)})
        return told

    def _unkept(self, total_bytes: int, inputs: Mapping[int, Any]) -> str:
        if total_bytes > self._left_bytes:
            of = self._order.policy.keep_failed_bytes
            what = f"of {of:,} bytes that an executor may keep, {self._left_bytes:,} are left"
            return f"its inputs are {total_bytes:,} bytes, and {what} (setting keep_failed_bytes)"
        if any(map(holds_lazy, inputs.values())):
            return "an input of it is an iterator, which it may have read already"
        return ""


def _name(op: Op) -> str:
    func = getattr(op[0], "func", op[0])
    return str(getattr(func, "__qualname__", None) or type(func).__qualname__)


def hint(job: str, key: str) -> str:
    """Return how to look at a failed task that is kept."""
    return f"{_DEBUGS}, and so does: wukong debug {job} {quote(key)}"


def resume_hint(job: str) -> str:
    """Return how to go on with a job whose values are kept."""
    return f"{_RESUMES}{job!r}) goes on with it: what is stored is not run again"


def without_hint(error: BaseException) -> None:
    """Take what both have returned out of an error of a job whose client has closed, for what was kept is gone."""
    notes = getattr(error, "__notes__", None)
    if notes:
        error.__notes__ = [left for note in notes if (left := _without(note)) or not note]
    if isinstance(error, WukongError) and error.hint:
        error.hint = _without(error.hint) or None


def _without(hints: str) -> str:
    return "; ".join(each for each in hints.split("; ") if not each.startswith((_DEBUGS, _RESUMES)))


# --- the client's side


def failed_tasks(store: StorePort, codec: Codec, names: Names, listed: Sequence[bytes]) -> list[FailedTask]:
    """Return a job's failed tasks, the first to fail first; `listed` are keys of its `Names.failures`."""
    keys = [key for key in listed if names.is_failed(key)]
    blobs = store.get(keys) if keys else []
    found = [_opened(codec, blob, key, names.job) for key, blob in zip(keys, blobs, strict=True) if blob is not None]
    return sorted(found, key=lambda task: task.at)


def failed_task(store: StorePort, codec: Codec, names: Names, key: object) -> FailedTask | None:
    """Return the failed task with this key; None: none is kept."""
    place = names.failed(text_of(key))
    blob = store.get([place])[0]
    return None if blob is None else _opened(codec, blob, place, names.job)


def failed_call(store: StorePort, codec: Codec, task: FailedTask) -> FailedCall:
    """Return what a failed task runs, with its inputs. Raises JobError if it is not there, or cannot be read here."""
    if task.why_not:
        raise JobError(
            f"the task cannot be run again here: {task.why_not}",
            job=task.job,
            task=task.key,
            hint=f"it raised {task.kind}: {task.message}",
        )
    place = Names(task.job).failed_call(task.key)
    blob = store.get([place])[0]
    if blob is None:
        raise JobError(
            "the inputs of this task are not in the store any more",
            job=task.job,
            task=task.key,
            hint="they stay until the client closes, for ttl_s, and as long as the store has room",
        )
    call: FailedCall = _opened(codec, blob, place, task.job)
    return call


def _opened(codec: Codec, blob: Any, place: bytes, job: str) -> Any:
    try:
        return codec.decode(blob, place)
    except AuthenticationError as error:
        raise JobError(
            "what is kept of this job was signed with another deployment key, so that it is not read here",
            job=job,
            hint="give the key of the client that started it, as key=... or WUKONG_KEY ('wukong key show' there)",
        ) from error
    except WukongError as error:
        error.job = job
        raise
