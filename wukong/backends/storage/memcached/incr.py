"""Arrivals at fan-ins in memcached: read all records, store values beside them, swap the records, retry the losers.

One `Turn` is three round trips at most for a whole batch, on one connection:

    gets    the records that are still to be written, each with its version
    add     values that ride beside a record; before anybody is told of them, see `wukong.backends.storage.fanin`
            (and `touch` those that are there, if they would not live as long as the record; that is rare)
    cas     the records, or `add` if there was none

and a fourth only for claimants, if values ride beside a record. If another writer comes between the first and the
third, the swap fails, and the arrivals at that record are judged afresh in the next turn. Of several writers at the
same time one always wins, so 1,000 arrivals at one fan-in take at most 1,000 successful swaps in sequence.

All of a turn goes over one connection, because versions are unique only until the server restarts: a version from
before a restart must not be sent after it. A turn that was cut off begins again with its reading; the record is a set,
so what the turn had already written changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from wukong.backends.storage.fanin import ALIAS_BYTES, TOKEN_BYTES, FanIn, Ruling
from wukong.core.storage import Arrival, Outcome

__all__ = ["Batch", "Cells"]

logger = logging.getLogger(__name__)


class Cells(Protocol):
    """What a batch needs of a connection. Names are any bytes; `riders` are a name space of their own."""

    def records(self, keys: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, bytes]]:
        """Return those of the records that exist, each with its version."""

    def swap(self, records: Sequence[tuple[bytes, bytes, bytes | None]]) -> Sequence[bool]:
        """Write records by key, bytes and version (None: a new record). Return which versions were still current."""

    def add(self, riders: Sequence[tuple[bytes, bytes]]) -> Sequence[bool]:
        """Store values by name and bytes, if the name is free. Return which names were."""

    def touch(self, names: Sequence[bytes]) -> None:
        """Give riders the same time to live as those that are added now."""

    def riders(self, names: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those of these names that exist."""

    def drop(self, names: Sequence[bytes]) -> None:
        """Delete these riders."""


class Batch:
    """A batch of arrivals and its progress.

    Args:
        arrivals: in the order in which they arrive at one record.
        until_s: until when the records have to be kept, by a clock that all share; infinity: until they are deleted.
        riders_until_s: until when riders that are added or touched now are kept; well beyond `until_s`.
        random_bytes: the source of tokens and aliases.

    Attributes:
        n_open: how many records are still open, that is, to be written.
    """

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        until_s: float,
        riders_until_s: float,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._until_s = until_s
        self._riders_until_s = riders_until_s
        self._random_bytes = random_bytes
        self._n_arrivals = len(arrivals)
        self._outcomes: dict[int, Outcome] = {}
        by_record: dict[bytes, dict[int, Arrival]] = {}
        for n, arrival in enumerate(arrivals):
            by_record.setdefault(arrival.record, {})[n] = arrival
        self._open = [_AtRecord(key, at_record) for key, at_record in by_record.items()]

    @property
    def n_open(self) -> int:
        return len(self._open)

    def outcomes(self) -> list[Outcome]:
        """Return the answers, in the order of the arrivals. Call it when no record is open any more."""
        return [self._outcomes[n] for n in range(self._n_arrivals)]

    def turn(self, cells: Cells) -> None:
        """Try once to write all open records. A turn that was cut off may begin again.

        Raises ValueError as `Store.incr` does; this turn has written nothing then.
        """
        found = cells.records([at.key for at in self._open])
        tokens = self._random_bytes(TOKEN_BYTES * len(self._open))
        for n, at in enumerate(self._open):
            at.judge(found.get(at.key), tokens[n * TOKEN_BYTES : (n + 1) * TOKEN_BYTES])
        self._store_riders(cells)
        to_write = [at for at in self._open if at.fanin.changed and not at.refused]
        written = cells.swap([(at.key, at.fanin.pack(), at.version) for at in to_write]) if to_write else ()
        for at, won in zip(to_write, written, strict=True):
            at.refused = not won
        self._settle([at for at in self._open if not at.refused], cells)
        self._open = [at for at in self._open if at.refused]

    def _store_riders(self, cells: Cells) -> None:
        for at in self._open:
            if at.fanin.changed:
                if at.fanin.riders_until_s < self._until_s:
                    cells.touch([name for name in at.fanin.riders() if name not in at.rides])
                    at.fanin.riders_until_s = self._riders_until_s
                elif at.rides:
                    at.fanin.riders_until_s = min(at.fanin.riders_until_s, self._riders_until_s)
        wanted = [(at, n, name) for at in self._open for n, name in at.to_store()]
        if not wanted:
            return
        stored = cells.add([(name, at.value(n)) for at, n, name in wanted])
        for (at, n, name), new in zip(wanted, stored, strict=True):
            if new:
                at.stored[name] = n
            else:
                at.aliases[n] = self._random_bytes(ALIAS_BYTES)
                at.refused = True

    def _settle(self, settled: Sequence[_AtRecord], cells: Cells) -> None:
        away = {name for at in settled for name in at.wanted()}
        values = dict(cells.riders(sorted(away))) if away else {}
        if len(values) < len(away):
            logger.warning("%d of %d values that rode in arrivals are lost", len(away) - len(values), len(away))
        for at in settled:
            self._outcomes.update(at.outcomes(values))
        unused = [name for at in settled for name in at.unused()]
        if unused:
            cells.drop(unused)


class _AtRecord:
    """The arrivals of a batch at one record.

    Attributes:
        stored: names of the values that are stored, each with the number of its arrival.
        aliases: by number, aliases of arrivals whose name without alias is taken.
        rides: names of the values that ride with this turn's arrivals, each with the number of its arrival.
        refused: another writer was faster in this turn.
    """

    def __init__(self, key: bytes, arrivals: Mapping[int, Arrival]) -> None:
        self.key = key
        self.stored: dict[bytes, int] = {}
        self.aliases: dict[int, bytes] = {}
        self.rides: dict[bytes, int] = {}
        self.refused = False
        self.version: bytes | None = None
        self.fanin: FanIn
        self._arrivals = arrivals
        self._rulings: dict[int, Ruling] = {}

    def judge(self, found: tuple[bytes, bytes] | None, token: bytes) -> None:
        self.refused = False
        if found is None:
            self.version = None
            self.fanin = FanIn(next(iter(self._arrivals.values())).of, token)
        else:
            raw, self.version = found
            self.fanin = FanIn.unpack(raw, self.key)
        self._rulings = {
            n: self.fanin.arrive(arrival, self.aliases.get(n, b"")) for n, arrival in self._arrivals.items()
        }
        self.rides = {ruling.ride: n for n, ruling in self._rulings.items() if ruling.ride is not None}

    def value(self, n: int) -> bytes:
        value = self._arrivals[n].value
        assert value is not None
        return value

    def to_store(self) -> list[tuple[int, bytes]]:
        return [(n, name) for name, n in self.rides.items() if self.stored.get(name) != n]

    def wanted(self) -> set[bytes]:
        """Return the names of values that claimants get and that still have to be fetched."""
        return {name for ruling in self._rulings.values() for name in ruling.collect}.difference(self.rides)

    def outcomes(self, values: Mapping[bytes, bytes]) -> dict[int, Outcome]:
        outcomes = {}
        rides = self.rides
        for n, ruling in self._rulings.items():
            outcome = ruling.outcome
            if ruling.collect:
                more = [self.value(rides[name]) if name in rides else values.get(name) for name in ruling.collect]
                outcome = Outcome(True, True, (*outcome.values, *(value for value in more if value is not None)))
            outcomes[n] = outcome
        return outcomes

    def unused(self) -> list[bytes]:
        """Return names under which values were stored that the record does not mention: another arrival came first."""
        if self.rides.keys() >= self.stored.keys():
            return []
        return sorted(self.stored.keys() - set(self.fanin.riders()))
