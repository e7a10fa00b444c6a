"""A store as a plan sees it: what its operations take, and what they cost. Pure: the prices come from the plug-ins.

small values and records    one round trip, billed by units of what is written (1 kB) and read (4 kB)
large values                in pieces, some at a time, and then a manifest; in a bucket, billed by the request

What a job asks is what its executors ask; of its client the first invocations' records and the end reports, not its
waiting, nor the looks at executors of a job that lasts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wukong.core.effects import (
    Effect,
    Finish,
    FreeSeats,
    Get,
    GiveSeats,
    Incr,
    Invoke,
    LeaveWord,
    Put,
    Read,
    Record,
    TakeSeats,
)
from wukong.planning.effect_times import SEAT_STEPS
from wukong.planning.overhead import ORDER_BYTES

_END_BYTES, _END_TASK_BYTES = 2_000, 24
_RECORD_BYTES, _KEY_BYTES = 120, 40
_WRITE_BYTES, _READ_BYTES = 1_000, 4_000


@dataclass(frozen=True, slots=True)
class StorePrices:
    """US dollars.

    Attributes:
        write, read: for a unit. put, get: for a request for a large value, if those go to a bucket.
        per_s: for a second of its servers. least_s: how long these are paid for at least.
    """

    write: float = 0.0
    read: float = 0.0
    put: float = 0.0
    get: float = 0.0
    per_s: float = 0.0
    least_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StoreModel:
    """A store that a job could use.

    Attributes:
        name: for a person.
        round_trip_s: a small operation. bandwidth_bytes_per_s: the rate of one executor's transfers.
        large_bytes: a value larger than this is large. large_s: one request for a piece of it.
        piece_bytes: the largest piece. pieces_at_once: how many are under way at once.
        bucket: pieces are billed by the request, not by units.
        prices: None: nobody knows them.
    """

    name: str
    round_trip_s: float
    bandwidth_bytes_per_s: float
    large_bytes: float = math.inf
    large_s: float = 0.0
    piece_bytes: float = 8 * 2**20
    pieces_at_once: int = 16
    bucket: bool = False
    prices: StorePrices | None = None

    def moving_s(self, sizes: Sequence[int]) -> float:
        """Return what putting or getting values of these sizes, in one call, takes."""
        pieces = sum(self._pieces(size) for size in sizes)
        rounds = math.ceil(pieces / self.pieces_at_once)
        return self.round_trip_s + rounds * self.large_s + sum(sizes) / self.bandwidth_bytes_per_s

    def _pieces(self, size_bytes: int) -> int:
        return math.ceil(size_bytes / self.piece_bytes) if size_bytes > self.large_bytes else 0


@dataclass(slots=True)
class StoreUse:
    """What a job asks of a store, added up effect by effect.

    Attributes:
        dag_bytes: size of the DAG if it travels inside the payloads that executors make.
        writes, reads: units. puts, gets: requests for large values.
        requests: round trips of executors.
    """

    model: StoreModel
    sizes: Sequence[int]
    dag_bytes: int = 0
    writes: int = 0
    reads: int = 0
    puts: int = 0
    gets: int = 0
    requests: int = 0

    def shipped(self, records: int, size_bytes: int) -> None:
        """Add the records of the first invocations, each with `size_bytes` of the DAG."""
        for _ in range(records):
            self._write(ORDER_BYTES + size_bytes)

    def takes_s(self, effect: Effect) -> float | None:
        """Return what an effect takes on this store; None: it does not touch it."""
        model = self.model
        match effect:
            case Get(tasks) | Put(tasks) | Finish(tasks):
                return model.moving_s([self.sizes[task] for task in tasks])
            case Incr(arrivals):
                return model.moving_s([sum(self.sizes[task] for task in arrive.carry) for arrive in arrivals])
            case Record(parts):
                return model.moving_s([ORDER_BYTES + sum(self.sizes[task] for task in part.inline) for part in parts])
            case Read() | LeaveWord() | FreeSeats() | GiveSeats():
                return model.round_trip_s
            case TakeSeats(limits):
                return SEAT_STEPS * len(limits) * model.round_trip_s
        return None

    def count(self, effect: Effect, n_tasks: int) -> None:
        """Add an effect. `n_tasks`: how many the executor has run, for its end report."""
        match effect:
            case Put(tasks):
                for task in tasks:
                    self._put(self.sizes[task])
            case Get(tasks):
                for task in tasks:
                    self._get(self.sizes[task])
            case Incr(arrivals):
                for arrive in arrivals:
                    carried = sum(self.sizes[task] for task in arrive.carry)
                    # An arrival writes the whole record; on average half of what rides in it is there.
                    self._write(_RECORD_BYTES + arrive.of // 8 + carried * (1 + arrive.of) / 2)
            case Record(parts):
                self._write(_KEY_BYTES)
                for part in parts:
                    self._write(ORDER_BYTES + self.dag_bytes + sum(self.sizes[task] for task in part.inline))
            case Read(keys):
                self.reads += len(keys)
            case TakeSeats(limits):
                self.reads += sum(n for _, n in limits)
                self.writes += 2 * len(limits)
                self.requests += SEAT_STEPS * len(limits) - 1
            case GiveSeats(limits):
                self.writes += len(limits)
            case FreeSeats(limits):
                self.reads += sum(n for _, n in limits)
            case LeaveWord():
                self._end(n_tasks)
            case Finish(tasks):
                self._write(_KEY_BYTES + sum(self.sizes[task] for task in tasks))
                self._end(n_tasks)
            case Invoke() | _:
                return
        self.requests += 1

    def _write(self, size_bytes: float) -> None:
        self.writes += max(1, math.ceil(size_bytes / _WRITE_BYTES))

    def _read(self, size_bytes: float) -> None:
        self.reads += max(1, math.ceil(size_bytes / _READ_BYTES))

    def _put(self, size_bytes: int) -> None:
        pieces = self.model._pieces(size_bytes)
        if pieces and self.model.bucket:
            self.puts += pieces
            self._write(_KEY_BYTES)
        else:
            self._write(size_bytes + _KEY_BYTES)

    def _get(self, size_bytes: int) -> None:
        pieces = self.model._pieces(size_bytes)
        if pieces and self.model.bucket:
            self.gets += pieces
            self._read(_KEY_BYTES)
        else:
            self._read(size_bytes + _KEY_BYTES)

    def _end(self, n_tasks: int) -> None:
        size_bytes = _END_BYTES + n_tasks * _END_TASK_BYTES
        self._write(size_bytes)
        self._read(size_bytes)  # by the client

    def usd(self, wall_s: float) -> float | None:
        """Return what all of it costs in a job of `wall_s` seconds, US dollars; None: nobody knows."""
        prices = self.model.prices
        if prices is None:
            return None
        asked = self.writes * prices.write + self.reads * prices.read + self.puts * prices.put + self.gets * prices.get
        return asked + prices.per_s * max(wall_s, prices.least_s)
