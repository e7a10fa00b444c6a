"""A client's side of values that are kept beyond their jobs: which are asked for, which are there, which are too many.

ingest -> which tasks are to be kept -> their digests -> the shelf -- there --> ingest again, those tasks take
                                                              `- not there --> their executors keep
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from dask._task_spec import Task

from wukong.config import Settings
from wukong.core.codec import names_in
from wukong.core.dag import Graph
from wukong.core.digest import Digests, NoDigest
from wukong.core.ingest import Topped, ingest
from wukong.core.kept import KeepOrder, KeptAbout, Take, found_on
from wukong.core.shelves import FileShelf, Shelf, StoreShelf
from wukong.core.storage import StorePort
from wukong.errors import ConfigError, WukongError

logger = logging.getLogger("wukong")

DEFAULT = "kept"
"""The name of what ``dask.annotate(keep=True)`` keeps."""
_NAME = re.compile(r"[\w][\w.-]*")


def opened(settings: Settings, store: StorePort, scan: Callable[[bytes], Iterable[bytes]] | None) -> Shelf:
    """Return where values are kept, as configured. Raises ConfigError."""
    return StoreShelf(store, scan) if settings.keep_in is None else FileShelf(settings.keep_in)


def named(name: Any) -> str:
    """Return the name to keep values under; True is the default one. Raises ConfigError if it is none."""
    if name is True:
        return DEFAULT
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"keep={name!r}: a name of letters, digits, '.', '-' and '_', or True")
    return name


class Keep:
    """What one client keeps.

    Args:
        settings: the client's.
        shelf: opens the shelf, when it is needed first.
        fingerprint: of the key that signs what it keeps: what others have signed is in other places. None is needed to
            list and to delete.
    """

    def __init__(self, settings: Settings, shelf: Callable[[], Shelf], fingerprint: str = "") -> None:
        self._settings, self._open, self._fingerprint = settings, shelf, fingerprint
        self._shelf: Shelf | None = None

    @property
    def shelf(self) -> Shelf:
        """Where values are kept."""
        if self._shelf is None:
            self._shelf = self._open()
        return self._shelf

    def ingested(
        self, described: Any, keys: Any, known: Mapping[Hashable, Any], keep: Any = None, *, take: bool = True
    ) -> Graph:
        """Ingest a graph; what is kept of it, its tasks take, unless `take` is False: then all of it is kept anew.

        `keep`: the name under which its results are kept. Raises what `wukong.core.ingest.ingest` raises, ConfigError
        if values cannot be kept, StoreError if it cannot be told what is kept.
        """
        graph = ingest(described, keys, known=known)
        wanted = {task: named(name) for task, name in graph.keeps.items()}
        if keep:
            wanted |= dict.fromkeys(_results(graph), named(keep))
        if not wanted:
            return graph
        orders = self._orders(graph, wanted)
        self.shelf.check(writes=False)
        there = self._there(orders) if take else set()
        if len(there) < len(orders):
            self.shelf.check(writes=True)
        if there:
            nodes = {graph.keys[task]: _taking(graph.keys[task], orders[task]) for task in there}
            by_key = {graph.keys[task]: order for task, order in orders.items() if task not in there}
            graph = ingest(Topped((described,), nodes), keys, known=known)
            graph.keeping.update({task: by_key[key] for task, key in enumerate(graph.keys) if key in by_key})
        else:
            graph.keeping.update(orders)
        return graph

    def _orders(self, graph: Graph, wanted: Mapping[int, str]) -> dict[int, KeepOrder]:
        """Return how each of these tasks is kept; none for one that cannot be told from others, which is said."""
        settings, digests, orders = self._settings, Digests(graph, names_in), {}
        equal: Counter[tuple[str, str]] = Counter()
        for task in sorted(wanted):
            name = wanted[task]
            try:
                told = f"{self._fingerprint} {digests.of(task)}"
            except (NoDigest, WukongError) as error:
                logger.warning("the value of %s is neither kept nor taken: %s", graph.keys[task], error)
                continue
            digest = blake2b(told.encode(), digest_size=20).hexdigest()
            equal[name, digest] += 1  # one of several equal calls, each of which has a value of its own
            digest, key = f"{digest}-{equal[name, digest]}", graph.keys[task]
            text = key if isinstance(key, str) else repr(key)
            most, ttl_s = settings.keep_value_bytes, settings.keep_s
            orders[task] = KeepOrder(name, digest, text, settings.keep_in, most, ttl_s)
        return orders

    def _there(self, orders: Mapping[int, KeepOrder]) -> set[int]:
        found = found_on(self.shelf, list(orders.values()))
        oldest = time.time() - self._settings.keep_s
        return {task for task, about in zip(orders, found, strict=True) if about is not None and about.at >= oldest}

    # --- what there is

    def listed(self) -> list[KeptAbout]:
        """Return what is kept, the oldest first. Raises StoreError if it cannot be listed."""
        places = self.shelf.places()
        abouts = [KeptAbout.unpack(data) for data in self.shelf.abouts(places) if data is not None]
        return sorted((about for about in abouts if about is not None), key=lambda about: about.at)

    def drop(self, abouts: Sequence[KeptAbout]) -> None:
        """Delete these values."""
        settings = self._settings
        orders = [KeepOrder(a.name, a.digest, a.key, settings.keep_in, 0, 0.0) for a in abouts]
        self.shelf.drop([order.place for order in orders])

    def evict(self, names: Collection[str]) -> None:
        """Delete what is too old, and of each of these names the oldest beyond `keep_bytes`."""
        try:
            self.drop(beyond(self.listed(), self._settings, names))
            self.shelf.sweep(self._settings.keep_s)
        except WukongError as error:
            logger.info("what is kept is not looked through: %s", error.message)


def beyond(abouts: Iterable[KeptAbout], settings: Settings, names: Collection[str]) -> list[KeptAbout]:
    """Return those values that are too old, and of each of these names the oldest beyond `keep_bytes`."""
    oldest, room = time.time() - settings.keep_s, defaultdict[str, int](lambda: settings.keep_bytes)
    over = []
    for about in sorted(abouts, key=lambda about: about.at, reverse=True):
        room[about.name] -= about.size_bytes
        if about.at < oldest or (about.name in names and room[about.name] < 0):
            over.append(about)
    return over


def _results(graph: Graph) -> list[int]:
    """Return the tasks that make the results; of one that collects what has not failed, those that it needs."""
    found: list[int] = []
    for task in graph.dag.outputs:
        collects = getattr(graph.ops[task][0], "takes_raised", False)
        found += graph.dag.parents_of(task) if collects else [task]
    return found


def _taking(key: Hashable, order: KeepOrder) -> Task:
    return Task(key, Take(order))
