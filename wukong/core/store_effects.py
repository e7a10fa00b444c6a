"""What an executor does in the store besides values: pages of the DAG, fan-ins, records of invocations, deleting.

Each method carries out one effect of `wukong.core.effects`, and decides nothing. Values are `wukong.core.values`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wukong.core.books import Books
from wukong.core.dag import Out, Page
from wukong.core.effects import Arrive, Arrived, Delete, Incr, Invoke, LoadPage, Missing, Part, Read, Record, claimant
from wukong.core.gc_pause import gc_paused
from wukong.core.host import ExecutorHost
from wukong.core.payload import PAYLOAD, Envelope, Order
from wukong.core.storage import Arrival, Blob, Buffer, Outcome, joined
from wukong.core.values import Values

_INLINE_BYTES = 8_192


class StoreEffects:
    """The effects of one invocation on the store, apart from its values, and the invocations that it makes.

    Args:
        books, values: the executor's.
        envelope: the payload that started this invocation.
        host: has the store and the codec, and starts invocations.

    Attributes:
        ops, retries, reads: see `wukong.core.dag.Page`; of all tasks whose pages are loaded.
    """

    def __init__(self, books: Books, envelope: Envelope, values: Values, host: ExecutorHost) -> None:
        self._books, self._envelope, self._order = books, envelope, books.order
        self._store, self._codec, self._values = host.store, host.codec, values
        self._send, self._pages = host.send, host.pages
        self._names, self._ttl_s = books.names, books.order.policy.ttl_s
        self._payloads: dict[str, bytes] = {}
        self.ops: dict[int, Any] = {}
        self.retries: dict[int, int] = {}
        self.reads: dict[int, Out] = {}

    def archive(self) -> bytes:
        """Return the archive of the user's modules. Raises Missing if the store has lost it."""
        key = self._names.modules
        blob = self._values.read([key])[0]
        if blob is None:
            raise Missing(key)
        return bytes(self._codec.decode(blob, key))

    def read(self, effect: Read) -> list[Any]:
        """See `effects.Read`."""
        blobs = self._values.read(effect.keys)
        return [None if blob is None else self._opened(key, blob) for key, blob in zip(effect.keys, blobs, strict=True)]

    def _opened(self, key: bytes, blob: Buffer) -> Any:
        if key in (self._names.alive, self._names.held):
            return bytes(blob)
        if key.startswith(self._names.invocation("")):
            return self._codec.decode(blob, PAYLOAD).order
        return self._codec.decode(blob, key)

    def delete(self, effect: Delete) -> None:
        """See `effects.Delete`."""
        self._store.delete(effect.keys)

    def load_page(self, effect: LoadPage) -> Page:
        """See `effects.LoadPage`. Raises Missing if the store has lost the page."""
        index = effect.task // self._order.page_tasks
        page = self._pages.get(index)
        if page is None:
            begun, had, key = time.perf_counter(), self._books.recorder.on_core(), self._names.page(index)
            blob = self._order.pages.get(index) or self._values.read([key])[0]
            if blob is None:
                raise Missing(key)
            with gc_paused():
                page = self._pages[index] = self._codec.decode(blob, key)
            self._books.recorder.span("page", begun, time.perf_counter())
            self._books.recorder.aside("page", had)
        numbers = range(page.first, page.first + len(page.ops))
        self.ops.update(zip(numbers, page.ops, strict=True))
        if self._order.convicted:
            self.ops.update({t: (_same, (told,), ()) for t, told in self._order.convicted.items() if t in numbers})
        self._books.keys.update(zip(numbers, page.keys, strict=True))
        self.retries.update(page.retries)
        if page.reads:
            self.reads.update(zip(numbers, page.reads, strict=True))
        self._values.object_keys.update(page.objects)
        return page

    def incr(self, effect: Incr) -> tuple[Arrived, ...]:
        """See `effects.Incr`. Values that rode in are in the cache afterwards."""
        arrivals = self.arrivals(effect.arrivals)
        return self.arrived(arrivals, self._store.incr(arrivals, self._ttl_s))

    def arrivals(self, arrivals: Sequence[Arrive]) -> list[Arrival]:
        """Return arrivals as the store takes them, with the values that ride."""
        packed = []
        for arrive in arrivals:
            record = self._names.record(arrive.child)
            value = self._values.packed(arrive.carry, record) if arrive.carry else None
            packed.append(Arrival(record, arrive.members, arrive.of, claimant(arrive), value, arrive.only_if_last))
        return packed

    def arrived(self, arrivals: Sequence[Arrival], outcomes: Sequence[Outcome]) -> tuple[Arrived, ...]:
        """Take the values that rode in into the cache; return what the walk is told of the outcomes."""
        answers = []
        for arrival, outcome in zip(arrivals, outcomes, strict=True):
            carried: dict[int, Any] = {}
            for blob in outcome.values:
                carried |= self._codec.decode(blob, arrival.record)
            for task, value in carried.items():
                self._values.cache.setdefault(task, value)
            answers.append(Arrived(outcome.complete, outcome.claimed, tuple(carried), outcome.give_way))
        return tuple(answers)

    def record(self, effect: Record) -> None:
        """See `effects.Record`. Keeps the payloads for `start`."""
        items: dict[bytes, Blob] = {}
        if sum(map(len, self._order.pages.values())) > _INLINE_BYTES:
            # One executor needed no store for the DAG; several share it there, rather than a copy in each payload.
            items.update((self._names.page(index), page) for index, page in self._order.pages.items())
            self._books.ledger.shipped.extend(self._order.pages)
            self._order = replace(self._order, pages={})
        for part in effect.parts:
            envelope = replace(self._envelope, order=self._order_of(part))
            packed = bytes(joined(self._codec.encode(envelope, PAYLOAD)))
            self._payloads[part.invocation] = packed
            items[self._names.invocation(part.invocation)] = packed
        key = self._names.n_offloads(self._names.attempt_id(self._order.invocation, self._order.attempt))
        items[key] = self._codec.encode(effect.n, key)
        self._values.write_blobs(items)

    def _order_of(self, part: Part) -> Order:
        place = self._names.invocation(part.invocation) + b"/values"
        values = self._values.packed(part.inline, place) if part.inline else None
        return replace(
            self._order,
            attempt=0,
            invocation=part.invocation,
            start=part.tasks,
            values=values,
            alone=False,
            size=part.size,
            parked=part.parked,
            costs=self._books.costs.told,
            sent_at=time.time(),
        )

    def start(self, effect: Invoke) -> None:
        """See `effects.Invoke`."""
        report = self._books.report
        report.invocations += len(effect.parts)
        for size in sorted({part.size for part in effect.parts}):
            ours = [part.invocation for part in effect.parts if part.size == size]
            calls = [(invocation, self._payloads.pop(invocation)) for invocation in ours]
            report.sent += self._send(calls, size) if size else self._send(calls)


def _same(value: Any) -> Any:
    return value
