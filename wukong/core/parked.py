"""Invocations that wait on record for a seat of a limit, and when the client makes them.

    executor  --no seat for a while--> Record, no Invoke: parked --the client sees a free seat--> invoked --> ended
                    ^                                                                              |
                    `----------------------------- still no seat: parks it once more -------------'

At each look, once in a heartbeat, as many are made as seats are free, and some *ahead*, which wait for the next seats:
or seats of short tasks would be free until the next look. At the first look that are as many as seats are taken. Then
it follows from what comes of it: if a seat is free at a look, twice as many as before; if one that was made has found
no seat, half of them.

A parked invocation is lost by no fault: it is in the tree of invocations as any other, and one that was made and has
not begun is one that was lost (`wukong.core.watch`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

from wukong.core.codec import Codec
from wukong.core.dag import Limits
from wukong.core.invocation_tree import InvocationState, InvocationTree
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Envelope, Order
from wukong.core.storage import StorePort

_MOST_AHEAD = 256


class Parked:
    """See the module's docstring.

    Args:
        names, store, codec: the job's.
        tree: its invocations; those that wait are noted there, too.
        free: returns how many more tasks of these limits may run now.

    Attributes:
        woken: those that were made, and of which limits they need a seat.
    """

    def __init__(
        self, names: Names, store: StorePort, codec: Codec, tree: InvocationTree, free: Callable[[Limits], int]
    ) -> None:
        self._names, self._store, self._codec, self._tree, self._free = names, store, codec, tree, free
        self.woken: dict[str, Limits] = {}
        self._asked: set[str] = set()
        self._ahead: dict[Limits, int] = {}

    def due(self, states: Sequence[InvocationState], gone: Collection[str]) -> list[str]:
        """Take in what is parked by now, and return which invocations to make; `made` is to be called with each.

        `gone`: invocations whose record is lost; their makers park others instead.
        """
        waits = self._tree.parked
        for state in states:
            if state.beat is not None or state.end is not None or state.attempts:
                self._tree.made_now(state.invocation)  # by whomever
        fruitless = self._find(states)
        by_limits: defaultdict[Limits, list[str]] = defaultdict(list)
        for invocation, limits in waits.items():
            if invocation not in gone:
                by_limits[limits].append(invocation)
        waiting = Counter[Limits]()
        for state in states:
            state.parked = state.invocation in waits
            if state.ended or state.invocation not in self.woken:
                continue
            if not state.beat.running if state.beat is not None else state.invocation not in gone:
                waiting[self.woken[state.invocation]] += 1
        due: list[str] = []
        for limits, parked in by_limits.items():
            free, ahead = self._free(limits), self._ahead.get(limits)
            if ahead is None:
                ahead = max(0, min(n for _, n in limits) - max(0, free))
            elif fruitless[limits]:
                ahead //= 2
            elif free > 0:
                ahead = max(1, 2 * ahead)
            self._ahead[limits] = ahead = min(ahead, _MOST_AHEAD)
            due += parked[: max(0, free + ahead - waiting[limits])]
        return due

    def orders(self, due: Sequence[str], gone: Collection[str]) -> tuple[list[Order], list[str]]:
        """Return what is on record of invocations to make; and which records are lost, of all that are parked."""
        records = self._store.get([self._names.invocation(each) for each in due])
        lost: list[str] = []
        if None in records:  # others may be gone with it: then their maker is made again once for all of them
            waits = [each for each in self._tree.parked if each not in gone]
            found = self._store.get([self._names.invocation(each) for each in waits])
            lost = [each for each, record in zip(waits, found, strict=True) if record is None]
        envelopes: list[Envelope] = [self._codec.decode(each, PAYLOAD) for each in records if each is not None]
        return [each.order for each in envelopes if each.order is not None], lost

    def made(self, invocation: str) -> None:
        """Note that an invocation is made, and waits on record no more."""
        limits = self._tree.made_now(invocation)
        if limits is not None:
            self.woken[invocation] = limits

    def _find(self, states: Sequence[InvocationState]) -> Counter[Limits]:
        """Find out which invocations are parked; count those which others have parked that were made for a seat."""
        fruitless: Counter[Limits] = Counter()
        new = [
            state.invocation
            for state in states
            if state.beat is None and state.end is None and not state.attempts and state.invocation not in self._asked
        ]
        self._asked.update(new)
        records = self._store.get([self._names.invocation(each) for each in new]) if new else ()
        for invocation, record in zip(new, records, strict=True):
            order = None if record is None else self._codec.decode(record, PAYLOAD).order
            if order is not None and order.parked and not order.attempt:
                self._tree.parked[invocation] = order.parked
                fruitless[order.parked] += self._names.maker(invocation) in self.woken
        return fruitless
