"""Values that are kept beyond their jobs, so that a later job takes them instead of computing them.

    client     a task that is to be kept -> its digest (`core/digest`) -> kept? -- yes --> `Take`, a task without inputs
                                                                           `- no ---> `Keeping`, around its function
    function   Take: reads the value       Keeping: runs the task, then writes its value, and what it is (`KeptAbout`)

The name says what was computed, so nothing has to be compared, and nothing is ever changed: whoever computes the same
writes the same. The value is there before its description, by which others find it. The protocol knows nothing of this.
Where values are is a `Shelf` (`core/shelves`): the job's store, or files.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from wukong.core import task_context
from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.lazy import holds_lazy
from wukong.core.shelves import PREFIX, Shelf, shelf_of
from wukong.core.sizes import size_bytes
from wukong.core.storage import StorePort, blob_size
from wukong.errors import KeptLost, StoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class KeptAbout:
    """What is known of a value that is kept.

    Attributes:
        name: the name it is kept under. digest: what was computed. key: the task's Dask key, as text.
        size_bytes: of the value, as it is stored. took_s: how long its task took. at: Unix time when it was written.
    """

    name: str
    digest: str
    key: str
    size_bytes: int
    took_s: float
    at: float

    def pack(self) -> bytes:
        """Return it as bytes."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, data: Any) -> KeptAbout | None:
        """Return what `pack` has packed; None: it is something else."""
        try:
            return cls(**json.loads(bytes(data)))
        except (TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class KeepOrder:
    """What an executor is told of a value that is kept, or is to be.

    Attributes:
        name, digest, key: see `KeptAbout`.
        url: the folder or the prefix of the files; None: it is in the job's store.
        most_bytes: a larger value is not kept. ttl_s: how long it is kept in the store.
    """

    name: str
    digest: str
    key: str
    url: str | None
    most_bytes: int
    ttl_s: float

    @property
    def place(self) -> bytes:
        """Where the value is on its shelf."""
        return PREFIX + f"{self.name}/{self.digest}".encode()


class Take:
    """The function of a task whose value is kept: reads it. Raises KeptLost if it has gone since."""

    def __init__(self, order: KeepOrder) -> None:
        self.order = order

    def __call__(self) -> Any:
        return _keeper().take(self.order)


class Keeping:
    """The function of a task whose value is to be kept: runs it, and writes the value, if it can be written."""

    def __init__(self, func: Callable[..., Any], order: KeepOrder) -> None:
        self.func, self.order = func, order

    def __call__(self, *args: Any) -> Any:
        began = time.perf_counter()
        value = self.func(*args)
        if task_context.keeper() is not None:  # else somebody looks at this task by itself
            _keeper().keep(self.order, value, time.perf_counter() - began)
        return value


def keep_values(graph: Graph) -> None:
    """Have the tasks that a graph says are to be kept keep their values."""
    for task, order in graph.keeping.items():
        op = graph.ops[task]
        if type(op[0]) is not Keeping:
            graph.ops[task] = (Keeping(op[0], order), *op[1:])


class Keeper:
    """One executor's access to shelves.

    Args:
        codec, store: the job's.
    """

    def __init__(self, codec: Codec, store: StorePort) -> None:
        self._codec, self._store = codec, store

    def keep(self, order: KeepOrder, value: Any, took_s: float) -> None:
        """Write a value; what goes wrong is logged, beside the task's key, for nobody depends on it."""
        try:
            if holds_lazy(value):
                logger.warning("its value is not kept: it is an iterator, which can be read once")
                return
            size = size_bytes(value)
            blob: Any = b"" if size > order.most_bytes else self._codec.encode(value, order.place)
            size = max(size, blob_size(blob))
            if size > order.most_bytes:
                logger.warning("its value is not kept: %d bytes, and keep_value_bytes is %d", size, order.most_bytes)
                return
            about = KeptAbout(order.name, order.digest, order.key, blob_size(blob), took_s, time.time())
            shelf_of(order.url, self._store).write(order.place, blob, about.pack(), order.ttl_s)
        except Exception as error:
            logger.warning("its value is not kept: %s", error)

    def take(self, order: KeepOrder) -> Any:
        """Return a kept value. Raises KeptLost."""
        shelf = shelf_of(order.url, self._store)
        blob = shelf.value(order.place)
        if blob is None:
            with suppress(StoreError):  # whoever may read may not be allowed to delete
                shelf.drop([order.place])  # so that it is not found again
            raise KeptLost(
                f"a value that was kept under {order.name!r} is not there any more",
                hint="compute it again",
            )
        return self._codec.decode(blob, order.place)


def _keeper() -> Keeper:
    keeper = task_context.keeper()
    if not isinstance(keeper, Keeper):
        raise KeptLost("kept values are read in functions only", hint="client.compute(...) returns it")
    return keeper


def found_on(shelf: Shelf, orders: Sequence[KeepOrder]) -> list[KeptAbout | None]:
    """Return what is known of the values of these orders; None for one that is not kept."""
    abouts = shelf.abouts([order.place for order in orders])
    return [None if about is None else KeptAbout.unpack(about) for about in abouts]
