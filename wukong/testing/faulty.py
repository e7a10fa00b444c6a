"""The model of everything an executor can reach, with faults: `World`, with a store that also keeps words.

Words are what the engine writes besides values and fan-in records: invocation records, end reports, heartbeats, ...
They are kept under their real keys (`wukong.core.names`), so that the real `wukong.core.watch.Watch` can read them,
and so that what is left over shows. Values stay a function of the DAG: if one is computed again, it is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from zlib import crc32

from wukong.core.effects import Effect, Record, Run
from wukong.core.invocation import Execution, WalkType
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Envelope, Order
from wukong.core.walk import Walk
from wukong.planning.world import Case, ModelExecutor, Request, Violation, World, check

__all__ = ["SERVERS", "Delivery", "FaultyWorld", "Plain"]

SERVERS = 3


class Plain:
    """A codec that keeps objects as they are; payloads become tokens, which are bytes."""

    def __init__(self) -> None:
        self._payloads: list[Envelope] = []

    def encode(self, value: Any, place: bytes) -> Any:
        """Return the value itself; of a payload its token."""
        if place != PAYLOAD:
            return value
        self._payloads.append(value)
        return b"%d" % (len(self._payloads) - 1)

    def decode(self, blob: Any, place: bytes) -> Any:
        """Return what was encoded."""
        return self._payloads[int(blob)] if place == PAYLOAD else blob


class Delivery(ModelExecutor):
    """One delivery of an invocation, carried out (`wukong.testing.recovery`)."""

    __slots__ = (
        "attempt_id",
        "beat_at",
        "beats",
        "began",
        "broken",
        "cut_off",
        "known",
        "n_made",
        "n_read",
        "order",
        "payloads",
        "restored",
        "stage",
        "stored",
        "until",
    )

    def __init__(self, order: Order) -> None:
        self.order = order
        self.invocation = order.invocation
        self.attempt_id = Names.attempt_id(order.invocation, order.attempt)
        self.walk: Any = None
        self.cache: dict[int, int] = {}
        self.busy: Run | None = None
        self.away: dict[int, Run] = {}
        self.requests: list[Request] = []
        self.ended: list[Request] = []
        self.stored: list[int] = []
        self.n_made: list[int | None] = []
        self.n_read = 0
        self.payloads: dict[str, bytes] = {}
        self.beats = self.broken = self.cut_off = self.done = self.died = False
        self.beat_at = self.began = self.since = 0.0
        self.until = float("inf")
        self.priority = 0.0
        self.known: frozenset[int] = frozenset()
        self.restored: set[int] = set()
        self.execution: Execution
        self.stage: Generator[Effect, None, None]


class FaultyWorld(World):
    """The store, the platform's books and the caches.

    Attributes:
        names, codec: the job's.
        words: what the store keeps besides values and fan-in records.
        written: tasks whose value was stored at some time; it may be lost since.
        computed: tasks that have run to their end.
        restored: tasks run again because their values were lost, how often.
    """

    def __init__(self, case: Case, *, walk: WalkType = Walk) -> None:
        super().__init__(case, walk=walk)
        self.codec = Plain()
        self.words: dict[bytes, Any] = {}
        self.written: set[int] = set()
        self.computed: set[int] = set()
        self.restored: Counter[int] = Counter()

    # --- the store, by key

    def read(self, key: bytes) -> Any:
        """Return what is under a key, or None."""
        if (task := self._number(key, b"v")) is not None:
            return self.values.get(task)
        return self.words.get(key)

    def write(self, items: Mapping[bytes, Any]) -> None:
        """Store words."""
        self.words.update(items)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete words, values and records."""
        for key in keys:
            if (task := self._number(key, b"v")) is not None:
                self.values.pop(task, None)
            elif (task := self._number(key, b"r")) is not None:
                self.fan_ins.pop(task, None)
            else:
                self.words.pop(key, None)

    def _number(self, key: bytes, kind: bytes) -> int | None:
        _, what, *rest = key.split(b"/")
        return int(rest[0]) if what == kind else None

    def left_over(self) -> list[str]:
        """Return every key there is."""
        return sorted(key.decode() for key in self.keys())

    def keys(self) -> list[bytes]:
        """Return every key there is."""
        return [*self.words, *map(self.names.value, self.values), *map(self.names.record, self.fan_ins)]

    def lose_server(self, server: int) -> None:
        """Start one of the servers over which keys are spread again, empty."""
        self.delete([key for key in self.keys() if crc32(key) % SERVERS == server])

    # --- invocations

    def packed(self, order: Order) -> bytes:
        """Return the payload of an order."""
        payload: bytes = self.codec.encode(replace(self.envelope(), order=order), PAYLOAD)
        return payload

    def envelope(self) -> Envelope:
        """Return an envelope without addresses: nothing has to be opened."""
        return Envelope(("", {}), ("", {}), False, False, None)

    def opened(self, payload: bytes) -> Order:
        """Return the order in a payload."""
        order: Order | None = self.codec.decode(payload, PAYLOAD).order
        assert order is not None
        return order

    def n_made(self, order: Order) -> list[int | None]:
        """Return how many invocations each attempt at an invocation has made, as far as that is on record now."""
        labels = [self.names.attempt_id(order.invocation, attempt) for attempt in range(order.attempt + 1)]
        return [self.words.get(self.names.n_offloads(label)) for label in labels]

    def handed_over(self, order: Order, n_made: list[int | None]) -> frozenset[int]:
        """Return the tasks that these invocations of each attempt were given, as far as that is on record now.

        If two runs of an attempt have written its number, it may be the smaller one: what follows on record counts too.
        """
        tasks: set[int] = set()
        for attempt, n in enumerate(n_made):
            for i in count() if n is not None else ():
                made = f"{self.names.attempt_id(order.invocation, attempt)}.{i}"
                payload = self.words.get(self.names.invocation(made))
                if payload is not None:
                    tasks.update(self.opened(payload).start)
                elif i >= (n or 0):
                    break
        return frozenset(tasks)

    def unpack(self, executor: ModelExecutor) -> tuple[int, ...]:
        """Take the values in a payload into the cache; the executor has begun."""
        self.executors.append(executor)
        return super().unpack(executor)

    # --- effects

    def told(self, task: int) -> bool:
        """Whether a task's value may be announced as stored: it was, at some time."""
        return task in self.written

    def is_made(self, task: int) -> bool:
        """Whether a task's value may be counted on by others: it was computed, and may be lost since."""
        return task in self.computed

    def begin(self, executor: ModelExecutor, run: Run) -> None:
        """Begin a task, perhaps not for the first time."""
        assert isinstance(executor, Delivery)
        cache, uses = executor.cache, executor.walk.frontier.uses
        for parent in self.parents[run.task]:
            check(parent in cache, f"task {run.task} runs without its input {parent}")
        restores = executor.walk.frontier.task != run.task
        if restores:
            self.restored[run.task] += 1
            executor.restored.add(run.task)
        elif run.task in executor.known:
            raise Violation(f"task {run.task} was handed over by an earlier run, and runs")
        elif cache.keys() != uses.keys() | set(run.last_use):
            raise Violation(f"the cache holds {sorted(cache)}, uses says {sorted(uses)} besides {sorted(run.last_use)}")
        if run.task in self.case.larger and not restores and executor.execution.order.size == 0:
            raise Violation(f"task {run.task} begins on too small a function")
        self.unshared(executor, run.task)
        self.room_for(executor, run.task)
        self.seat_for(executor, run.task)
        self.ran[run.task] += 1

    def seat_for(self, executor: ModelExecutor, task: int) -> None:
        """See `World.seat_for`. An executor that is cut off may have lost its seats, and does not know that."""
        assert isinstance(executor, Delivery)
        if not executor.cut_off:
            super().seat_for(executor, task)

    def counted(self, executor: ModelExecutor) -> Sequence[int]:
        """Return the tasks that run in an executor; none if it is cut off, for then its leases may be over."""
        assert isinstance(executor, Delivery)
        return () if executor.cut_off else super().counted(executor)

    def end(self, executor: ModelExecutor, run: Run) -> None:
        """End a task; its value is the one it always has."""
        executor.cache.pop(run.task, None)  # another run of this invocation may have brought it
        super().end(executor, run)
        self.computed.add(run.task)
        check(executor.cache[run.task] == self.right[run.task], f"the value of task {run.task} is wrong")

    def put(self, executor: ModelExecutor, task: int) -> None:
        """Store one value, perhaps again."""
        assert isinstance(executor, Delivery)
        check(task in executor.cache, f"Put of {task}, which is not in the cache")
        check(executor.cache[task] == self.right[task], f"a wrong value of {task} is stored")
        executor.stored.append(task)
        self.values[task] = executor.cache[task]
        self.written.add(task)
        self.n_put += 1

    def found(self, executor: ModelExecutor, task: int, into: dict[int, int] | None = None) -> bool:
        """Fetch one value into the cache, or this; return whether the store has it."""
        self.n_got += 1
        if task in self.values:
            (executor.cache if into is None else into)[task] = self.values[task]
        return task in self.values

    def hand_over(self, executor: Delivery, effect: Record) -> None:
        """Write invocation records, and how many there are. Another run of the attempt may have written them too."""
        names = self.names
        for part in effect.parts:
            order = self.order_for(executor, part, executor.attempt_id)
            payload = executor.payloads[part.invocation] = self.packed(order)
            self.words[names.invocation(part.invocation)] = payload
        self.words[names.n_offloads(executor.attempt_id)] = effect.n
