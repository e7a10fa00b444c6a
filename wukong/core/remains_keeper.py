"""An executor's side of what a failed job leaves: it stores the values that it has when a task fails.

    a task fails for good  ->  a thread of its own pickles what is here, and stores it    at most `MOST_S` in all
                               after that the lane waits no longer, and tells of the failure

Pickling runs code of the user's, which takes what time it likes, and stores may be slow: nobody is to wait for either.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from wukong.core.codec import Codec
from wukong.core.lazy import holds_lazy
from wukong.core.names import Names
from wukong.core.sizes import size_bytes
from wukong.core.storage import Blob, blob_size
from wukong.core.time_left import limited
from wukong.core.values import pinned

logger = logging.getLogger(__name__)

MOST_S = 2.0
"""How long an executor holds an error back for this, in all its lanes together."""


class RemainsKeeper:
    """See the module's docstring. Lanes may call it at once.

    Args:
        cache: values by task; objects, which are not kept, have negative numbers.
        codec: how values become bytes. write: stores blobs.
        names: of the job. ledger: which tasks' values are stored; added to before they are.
        most_bytes: how many bytes are stored at most.
    """

    def __init__(
        self,
        cache: Mapping[int, Any],
        codec: Codec,
        write: Callable[[Mapping[bytes, Blob]], None],
        names: Names,
        ledger: list[int],
        most_bytes: int,
    ) -> None:
        self._cache, self._codec, self._write = cache, codec, write
        self._names, self._ledger, self._left_bytes = names, ledger, most_bytes
        self._seen: set[int] = set()
        self._until: float | None = None
        self._over = False
        self._one_at_a_time, self._writing = threading.Lock(), threading.Lock()

    def keep(self, stored: Collection[int], left_s: float) -> None:
        """Store what is here, is not `stored`, and was not kept before; nothing if less than `MOST_S` is left.

        Raises nothing: the job fails of its task's error, and of no other.

        Args:
            stored: tasks whose values are in the store.
            left_s: how long until the executor has to leave, seconds.
        """
        with self._one_at_a_time:
            now = time.monotonic()
            if self._until is None:
                self._until = now + MOST_S
            if self._over or left_s < MOST_S or now >= self._until:
                return
            thread = threading.Thread(target=self._keep, args=(stored, self._until), name="wukong-remains", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads
                return
            thread.join(self._until - now)
            if thread.is_alive():
                with self._writing:
                    self._over = True

    def _keep(self, stored: Collection[int], until: float) -> None:
        items: dict[int, Blob] = {}
        for task, value in list(self._cache.items()):
            if task < 0 or task in stored or task in self._seen:
                continue
            if time.monotonic() >= until:
                return
            try:
                size = size_bytes(value)
                if size > self._left_bytes or holds_lazy(value) or pinned(value):
                    continue
                blob = self._codec.encode(value, self._names.value(task))
                size = max(size, blob_size(blob))
            except BaseException:  # whatever a user's object raises when it is pickled: it is computed again
                continue
            if size <= self._left_bytes:
                self._left_bytes -= size
                self._seen.add(task)
                items[task] = blob
        with self._writing:
            if self._over or not items:
                return
            self._ledger.extend(items)  # before anybody may find that there are values, so that they are deleted
        try:
            with limited(max(0.0, until - time.monotonic())):
                self._write({self._names.value(task): blob for task, blob in items.items()})
        except Exception as error:
            logger.info("what a failed task's executor has is not stored: %s", error)
