"""Every exception that Wukong raises, under one root.

An error says what happened, to which job and task, on which backend, and what to do about it. If doing the same thing
again may work, the error is `Retryable`; every other one is fatal to the operation that raised it. All of them survive
pickling, because an executor's errors reach the client through the store.

A *task's* own exception is never wrapped: it arrives at the client as itself, with the remote traceback as its
cause.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any


class WukongError(Exception):
    """Root of all exceptions of this package.

    Args:
        message: what happened.
        job: id of the job it happened to.
        task: Dask key of the task it happened to, as text.
        backend: the plug-in it happened on, e.g. ``"storage: local"``.
        hint: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        job: str | None = None,
        task: str | None = None,
        backend: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.job = job
        self.task = task
        self.backend = backend
        self.hint = hint

    def __str__(self) -> str:
        where = ", ".join(
            f"{name} {value}"
            for name, value in (("job", self.job), ("task", self.task), ("backend", self.backend))
            if value
        )
        text = f"{self.message} ({where})" if where else self.message
        return f"{text}\n  -> {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__.copy())


def _rebuild(cls: type[WukongError], message: str, state: dict[str, Any]) -> WukongError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class Retryable(WukongError):
    """The same operation may succeed when it is tried again."""


class ConfigError(WukongError, ValueError):
    """A setting is unknown, ill-typed or contradicts another one."""


class PluginError(WukongError):
    """A plug-in is missing, cannot be imported, is of the wrong class, or its name is claimed twice."""


class GraphError(WukongError, ValueError):
    """The graph cannot be run: it has a cycle, lacks a key, or has an annotation that means nothing, for example."""


class UnknownKeyError(WukongError, KeyError):
    """A requested key is not in the graph."""

    __str__ = WukongError.__str__


class CodecError(WukongError):
    """A value or a callable cannot be serialised or deserialised."""


class AuthenticationError(WukongError):
    """A blob is not signed with the key of this deployment, or is signed for another place. It was not unpickled."""


class StoreError(WukongError):
    """The intermediate store failed."""


class StoreFull(StoreError):
    """The store has no room for a value."""


class StoreUnavailable(StoreError, Retryable):
    """The store did not answer.

    Attributes:
        silent_s: if a large value was on its way: for how long none of it had moved when this was raised; else None.
    """

    silent_s: float | None = None


class ValueLost(StoreError):
    """A value that was announced is not in the store any more."""


class KeptLost(StoreError):
    """A value that was kept beyond its job, and was to be taken, is not there any more."""


class BackendError(WukongError):
    """The FaaS backend failed."""


class PayloadTooLarge(BackendError):
    """An invocation's payload is over the platform's limit."""


class Throttled(BackendError, Retryable):
    """The platform refuses further invocations for now.

    Attributes:
        taken: the ids of those that it has surely taken before; the others may be tried again.
    """

    taken: frozenset[str] = frozenset()


class JobError(WukongError):
    """A job could not be finished."""


class TaskError(JobError):
    """A task raised an exception that cannot travel to the client; this one says its class and its message."""


class InvocationFailed(JobError):
    """An invocation died or vanished more often than the job allows."""


class JobStalled(JobError):
    """Nothing of the job runs any more, there is no result, and making its invocations again did not help."""


class JobCancelled(JobError, CancelledError):
    """The job, or the future, was cancelled."""


class JobTimeout(JobError, TimeoutError):
    """The result was not there within the time the caller gave."""


class BudgetReached(JobError):
    """A job has cost what it may (`budget_usd`), and was stopped.

    Attributes:
        usd: what it has cost, as far as is known, in US dollars.
    """

    usd: float = 0.0


class LockError(WukongError, RuntimeError):
    """A lock is used outside of a task, taken twice, or released though it is not taken."""


class ClientClosed(WukongError, RuntimeError):
    """The client has been closed."""


class NoClient(WukongError, ValueError):
    """There is no client that is the default: none was made, all are closed, or this is inside a task."""


class NotOffered(WukongError, AttributeError):
    """Something of `distributed` that has no meaning here; the hint says why, and what there is instead."""
