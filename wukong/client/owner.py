"""A client belongs to the process that made it. In a child forked from that process, all of it is inert.

The child has none of the client's threads, and a lock that one of them held is never released there; what is kept in
the store, and what runs on the platform, is the parent's. So the child touches neither: dropping futures or ending the
child does nothing, and using the client raises an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import dask.config
import dask.tokenize

from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Store
from wukong.backends.storage.layers import Layer
from wukong.core.forks import free_in_children
from wukong.errors import ClientClosed


class Owner:
    """The process that creates this object."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise ClientClosed in any other process."""
        if os.getpid() != self._pid:
            raise ClientClosed(
                f"this client belongs to process {self._pid}, not to its forked child {os.getpid()}",
                hint="make a client of its own in the child; values are handed over as values, not as futures",
            )


class Owned(Layer):
    """The client's store, for its owner only."""

    def __init__(self, inner: Store, owner: Owner) -> None:
        super().__init__(inner)
        self._check = owner.check

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        self._check()
        return self.inner.get(keys)

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        self._check()
        self.inner.put(items, ttl_s)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self._check()
        self.inner.delete(keys)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        self._check()
        return self.inner.wait(key, timeout_s)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        self._check()
        return self.inner.incr(arrivals, ttl_s)

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`."""
        self._check()
        return self.inner.scan(prefix)

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`."""
        self._check()
        self.inner.renew(prefix, ttl_s)


def _forget_what_dask_was_reading() -> None:
    dask.tokenize._SEEN = {}


# A child may make a client of its own while threads of its parent are inside Dask.
free_in_children(dask.config.config_lock)
free_in_children(dask.tokenize.tokenize_lock)
os.register_at_fork(after_in_child=_forget_what_dask_was_reading)
