"""What Dask calls: a client's scheduler function, and the client that is Dask's default.

Dask, and libraries that use it, take a *bound method* of a class named like ``Client`` for the scheduler of
`distributed`, and then ask `distributed` for its client. So a client hands an object of another class to Dask.

The default is Dask's setting ``scheduler``. A client that becomes the default puts itself there, on top of what was
there before:

    None <- Default(first client) <- "threads" <- Default(second client)      the setting's value is the last one

Closing takes clients that are closed off the top, down to what still holds; so clients may be closed in any order, and
a scheduler that the user has set meanwhile stays.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask
from dask.base import get_scheduler as _get_scheduler

from wukong.core.forks import free_in_children
from wukong.errors import NoClient

if TYPE_CHECKING:
    from wukong.client.client import Client

get_scheduler: Any = _get_scheduler


class _ByTasks(str):
    """Its one instance tells a setting made here from one that the user has made."""


_BY_TASKS = _ByTasks("tasks")
# Otherwise Dask chooses a local disk, which has to stay in one executor, or the workers of a `distributed` client that
# happens to exist.
_METHODS = ("dataframe.shuffle.method", "array.rechunk.method")


class Scheduler:
    """A client's scheduler function: ``x.compute(scheduler=client.get)``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute `keys` of a graph.

        Args:
            dsk: an expression, a HighLevelGraph, or a mapping of keys to tasks.
            keys: one key, or (nested) lists of keys; the results are nested alike, in tuples.
            kwargs: what Dask hands to every scheduler; ``timeout`` (seconds), ``retries``, ``budget_usd`` and ``keep``
                are used, see `wukong.client.given`.

        Raises the exception of a task as itself, with the remote traceback as its cause.
        """
        return self._client._get(dsk, keys, kwargs)

    def persist(self, collections: Sequence[Any], **kwargs: Any) -> Any:
        """What `dask.persist` calls; see `wukong.Client.persist`."""
        return self._client.persist(collections, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scheduler) and other._client is self._client

    def __hash__(self) -> int:
        return hash(self._client)

    def __repr__(self) -> str:
        return f"<scheduler function of {self._client!r}>"


class Default:
    """The value of the setting ``scheduler`` while a client is the default; false once the client is gone.

    Attributes:
        previous: the setting's value before.
    """

    def __init__(self, client: Client, previous: Any) -> None:
        self._client = weakref.ref(client)
        self._pid = os.getpid()
        self.previous = previous

    def client(self) -> Client | None:
        """Return the client; None if it is closed, gone, or of the process that this one was forked from."""
        client = self._client()
        return None if client is None or client.closed or os.getpid() != self._pid else client

    def __bool__(self) -> bool:
        return self.client() is not None or bool(self.previous)

    def __call__(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        """Compute `keys` of a graph; see `Scheduler`."""
        client = self.client()
        if client is not None:
            return client._get(dsk, keys, kwargs)
        if not self.previous:
            raise _no_client()
        return get_scheduler(scheduler=self.previous)(dsk, keys, **kwargs)

    def persist(self, collections: Sequence[Any], **kwargs: Any) -> Any:
        """What `dask.persist` calls; see `wukong.Client.persist`."""
        client = self.client()
        if client is not None:
            return client.persist(collections, **kwargs)
        return dask.persist(*collections, scheduler=self.previous, **kwargs)

    def __repr__(self) -> str:
        return f"<default scheduler: {self.client() or self.previous!r}>"


_lock = threading.RLock()
free_in_children(_lock)
_defaults: list[Default] = []
_held: Client | None = None
"""The newest default client: a program need not keep it in a variable."""


def become_default(client: Client) -> None:
    """Make a client Dask's default scheduler, if it is not, until it is closed."""
    with _lock:
        previous = _restored()
        if isinstance(previous, Default) and previous.client() is client:
            return
        default = Default(client, previous)
        methods = {name: _BY_TASKS for name in _METHODS if dask.config.get(name, None) is None}
        dask.config.set({"scheduler": default, **methods})
        _defaults.append(default)
        _newest()


def restore_default() -> None:
    """Restore the scheduler that Dask had before a client, now closed, became the default."""
    with _lock:
        _restored()
        if _newest() is None:
            dask.config.set({name: None for name in _METHODS if dask.config.get(name, None) is _BY_TASKS})


def _restored() -> Any:
    now = dask.config.get("scheduler", None)
    while isinstance(now, Default) and now.client() is None:
        now = now.previous
        dask.config.set({"scheduler": now})
    return now


def _newest() -> Client | None:
    global _held
    _defaults[:] = [default for default in _defaults if default.client() is not None]
    _held = _defaults[-1].client() if _defaults else None
    return _held


def get_client() -> Client:
    """Return the client that became Dask's default last. Raises NoClient if there is none, as inside tasks."""
    with _lock:
        client = _newest()
    if client is None:
        raise _no_client()
    return client


def _no_client() -> NoClient:
    return NoClient("there is no client here", hint="make one in the program itself: client = wukong.Client()")
