"""What a job that has failed leaves, so that another one goes on with it: values of its tasks.

    at its end      held, v/, r/, i/ stay, all else is deleted; a run that ends later sees ``held``, and leaves its own
    the next job    v/<task>         a value that is stored: it stays there, and is taken as those of futures are
                    r/<child>        small values that came to a fan-in: whoever completes it is told them, and that is
                                     this client, which brings all that is missing
                    i/<invocation>   small values that travelled with ready tasks
    afterwards      ``held`` is deleted, then the values; a run that ends later still finds no ``held``

Nothing is certain to be there: what is missing is computed again. Of a job that goes on past failed tasks only small
values are taken, for a stored one may be what a task has raised, and the client does not read it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.names import Names
from wukong.core.partial import Partial
from wukong.core.payload import PAYLOAD
from wukong.core.raised import Raised
from wukong.core.shipment import KeptValue
from wukong.core.storage import Arrival, Buffer, StorePort

logger = logging.getLogger(__name__)

_AT_ONCE = 1_000
_DELETED_AT_ONCE = 2_000
_CLAIMANT = b"resume"


@dataclass(eq=False, repr=False)
class JobRemains:
    """What one failed job has left.

    Attributes:
        names, graph: the job's.
        keys: those of `Names.remains` that may be there, as far as they were known at its end.
        stored: the tasks whose values were stored, as executors have told.
        kept: the requested tasks whose values belong to futures.
        isolated: the job went on past failed tasks.
        leaves: nothing is deleted, see `wukong.core.ground.Ground`.
        listed: returns the keys that begin with a prefix; None: the store does not list them.
        before: what an earlier job has left and this one went on with; it is deleted with this.
    """

    names: Names
    graph: Graph
    keys: Sequence[bytes]
    stored: Collection[int]
    kept: Collection[int]
    isolated: bool
    leaves: bool
    listed: Callable[[bytes], Iterable[bytes] | None]
    before: JobRemains | None = None

    def all(self) -> list[JobRemains]:
        """Return this, and all that it has gone on with."""
        return [self, *(self.before.all() if self.before is not None else ())]

    def values(self, store: StorePort, codec: Codec) -> dict[Hashable, Any]:
        """Return what is still there, by Dask key: small values, and keys of stored ones. Raises StoreError."""
        found = {} if self.before is None else self.before.values(store, codec)
        listed, keys = self._listed(), self.keys
        stored = self.stored
        if listed is not None:
            keys, stored = listed, list(_numbers(listed, self.names.value))
        small = self._small(store, codec, keys)
        tasks = {task: value for task, value in small if type(value) is not Raised and type(value) is not Partial}
        if not self.isolated:
            for task in stored:
                tasks.setdefault(task, KeptValue(self.names.value(task)))
        of = self.graph.keys
        return found | {of[task]: value for task, value in tasks.items() if 0 <= task < len(of)}

    def delete(self, store: StorePort) -> None:
        """Delete it. Raises StoreError; if called again then, it goes on with the rest."""
        if self.before is not None:
            self.before.delete(store)
        store.delete([self.names.held])  # from here on, whoever ends leaves nothing
        if self.leaves:
            return
        kept = {*map(self.names.value, self.kept)}
        doomed = dict.fromkeys([*self.keys, *(self._listed() or ())])
        keys = [key for key in doomed if key.partition(b"~")[0] not in kept]
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            store.delete(keys[at : at + _DELETED_AT_ONCE])

    def _listed(self) -> list[bytes] | None:
        found = self.listed(self.names.prefix + b"/")
        return None if found is None else [*filter(self.names.remains, found)]

    def _small(self, store: StorePort, codec: Codec, keys: Sequence[bytes]) -> Iterator[tuple[int, Any]]:
        """Yield the values that have travelled inside records and invocations."""
        dag, names = self.graph.dag, self.names
        whole = []
        for child in _numbers(keys, names.record):
            of = 0 if child > dag.sink else len(dag.outputs) if child == dag.sink else len(dag.parents_of(child))
            if of > 1:
                whole.append(Arrival(names.record(child), tuple(range(of)), of, _CLAIMANT))
        claimed: list[Arrival] = []
        yield from _rode(store, codec, whole, claimed)
        singly = [  # it was completed in the name of one of its members
            Arrival(each.record, (member,), each.of, b"%d" % member) for each in claimed for member in each.members
        ]
        yield from _rode(store, codec, singly, [])
        records = [key for key in keys if key.startswith(names.invocation(""))]
        for at in range(0, len(records), _AT_ONCE):
            part = records[at : at + _AT_ONCE]
            for key, blob in zip(part, store.get(part), strict=True):
                envelope = None if blob is None else _opened(codec, blob, PAYLOAD)
                values = None if envelope is None or envelope.order is None else envelope.order.values
                if values is not None and (found := _opened(codec, values, key + b"/values")):
                    yield from found.items()


def _rode(
    store: StorePort, codec: Codec, arrivals: Sequence[Arrival], claimed: list[Arrival]
) -> Iterator[tuple[int, Any]]:
    """Arrive; yield the values that rode in. Those whose set is complete in another's name are added to `claimed`."""
    for at in range(0, len(arrivals), _AT_ONCE):
        part = arrivals[at : at + _AT_ONCE]
        for arrival, outcome in zip(part, store.incr(part), strict=True):
            if not outcome.claimed:
                claimed.append(arrival)
            for blob in outcome.values:
                found: Mapping[int, Any] | None = _opened(codec, blob, arrival.record)
                yield from (found or {}).items()


def _numbers(keys: Iterable[bytes], name: Callable[[int], bytes]) -> Iterator[int]:
    begin = name(0)[:-1]
    return (int(key[len(begin) :]) for key in keys if key.startswith(begin) and key[len(begin) :].isdigit())


def _opened(codec: Codec, blob: Buffer, place: bytes) -> Any:
    """Return what a blob holds; None if it cannot be read here: then it is computed again."""
    try:
        return codec.decode(blob, place)
    except Exception as error:  # also what unpickling raises
        logger.info("%r cannot be read, and is computed again: %s", place, error)
        return None
