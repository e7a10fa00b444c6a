"""The seats of limits in the store: at most n executors have one of a name, each for as long as it says so.

    <job>/q/<limit>/<seat>       b"7": ticket 7 is to be claimed    b"7 <sign>": it is claimed, and its holder lives
    <job>/q/<limit>/<seat>/7     a fan-in's record with one member: exactly one claimant gets it

A limit of n has n seats, and each of these is a row of tickets. Whoever wants one looks at all seats (`get`), claims
the ticket of a free one (`incr`), and signs (`put`); with each heartbeat it signs anew, and at the end it names the
next ticket (`put`). That is four operations for each time that a seat changes hands, one of them after the task; to
find that no seat is free costs one look. If a sign has not changed for `lease_s`, by the clock of whoever looks, its
holder is dead: then the next ticket is named in its place. Nobody compares the clocks of two machines.

No ticket is claimed twice, so a holder that was taken for dead cannot get its seat back. It may go on with its task:
if it was paused for longer than its lease, n + 1 tasks run. What it then writes about its seat may hide the new
holder's sign, until that signs again; at worst the seat is missing for one lease.

The keys are the job's, and are deleted with it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wukong.core.dag import Limits
from wukong.core.effects import Stopped
from wukong.core.names import Names
from wukong.core.storage import Arrival, Blob, Buffer, StorePort

_LOOKED_AT = 64
_DELETED = 500


@dataclass(slots=True)
class _Seen:
    """What was found under a seat's key, since when, and whether its ticket turned out to be claimed."""

    value: bytes | None
    since: float
    claimed: bool = False


class SeatTickets:
    """One executor's seats.

    Args:
        names, store, ttl_s, lease_s: the job's.
        written: notes the keys that it may write.
        clock: returns seconds.
    """

    def __init__(
        self,
        names: Names,
        store: StorePort,
        ttl_s: float | None,
        lease_s: float,
        written: Callable[[bytes], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names, self._store, self._ttl_s, self._lease_s = names, store, ttl_s, lease_s
        self._written, self._clock = written, clock
        self._run = uuid.uuid4().bytes
        self._signs, self._signed_at = 0, clock()
        self._held: defaultdict[str, dict[int, int]] = defaultdict(dict)
        self._seen: dict[bytes, _Seen] = {}
        self._from: defaultdict[str, int] = defaultdict(lambda: self._run[0])
        self._guard = threading.Lock()

    def take(self, limits: Limits) -> str | None:
        """See `wukong.core.effects.TakeSeats`. Raises Stopped if the job is not wanted any more."""
        taken: list[tuple[str, int]] = []
        for name, n in limits:
            if not self._take(name, n):
                if taken:
                    self.give(tuple(taken))
                return name
            taken.append((name, n))
        return None

    def give(self, limits: Limits) -> None:
        """See `wukong.core.effects.GiveSeats`."""
        with self._guard:  # no sign of this executor comes after it
            items: dict[bytes, Blob] = {}
            for name, _ in limits:
                seat, ticket = self._held[name].popitem()
                items[self._names.seat(name, seat)] = b"%d" % (ticket + 1)
            if self._clock() - self._signed_at < self._lease_s:  # else others have named the next ticket, or will
                self._store.put(items, self._ttl_s)

    def free(self, limits: Limits) -> int:
        """See `wukong.core.effects.FreeSeats`. Raises Stopped likewise."""
        return min(self._free(name, n) for name, n in limits)

    def keep(self) -> None:
        """See `wukong.core.effects.KeepSeats`."""
        with self._guard:
            items: dict[bytes, Blob] = {}
            for name, held in self._held.items():
                items.update((self._names.seat(name, seat), self._signed(ticket)) for seat, ticket in held.items())
            if items:
                self._signed_at = self._clock()
                self._store.put(items, self._ttl_s)

    def _signed(self, ticket: int) -> bytes:
        self._signs += 1
        return b"%d %b/%d" % (ticket, self._run.hex().encode(), self._signs)

    def _take(self, name: str, n: int) -> bool:
        begun = self._clock()
        for seat, ticket, over in self._look(name, n):
            key = self._names.seat(name, seat)
            self._written(key)
            self._written(_ticket(key, ticket))
            if over:
                self._store.put({key: b"%d" % ticket}, self._ttl_s)
            if self._store.incr([Arrival(_ticket(key, ticket), (0,), 1, self._run)], self._ttl_s)[0].claimed:
                with self._guard:
                    self._store.put({key: self._signed(ticket)}, self._ttl_s)
                    if self._clock() - begun > self._lease_s / 2:  # paused: somebody may have taken this for dead
                        return False
                    if not any(self._held.values()):
                        self._signed_at = begun
                    self._held[name][seat] = ticket
                self._seen.pop(key, None)
                self._from[name] = seat
                return True
            seen = self._seen[key]
            seen.claimed, seen.since = True, self._clock()  # its claimant has a lease from here on to sign
        self._from[name] += _LOOKED_AT
        return False

    def _free(self, name: str, n: int) -> int:
        looked_at = min(n, _LOOKED_AT)
        return len(self._look(name, n)) * n // looked_at

    def _look(self, name: str, n: int) -> list[tuple[int, int, bool]]:
        """Return the seats that may be claimed, with the ticket, and whether that follows on a dead holder's."""
        first = self._from[name]
        seats = [seat % n for seat in range(first, first + min(n, _LOOKED_AT))]
        keys = [self._names.seat(name, seat) for seat in seats]
        (wanted, *values), now = self._store.get([self._names.alive, *keys]), self._clock()
        if wanted is None:  # its seats are deleted, and are not free
            raise Stopped
        found = []
        for seat, key, buffer in zip(seats, keys, values, strict=True):
            if seat in self._held[name]:
                continue
            value = None if buffer is None else bytes(buffer)
            seen = self._seen.get(key)
            if seen is None or seen.value != value:
                seen = self._seen[key] = _Seen(value, now)
            ticket, signed = _read(value)
            if not signed and not seen.claimed:
                found.append((seat, ticket, False))
            elif now - seen.since > self._lease_s:
                found.append((seat, ticket + 1, True))
        return found


def _read(value: Buffer | None) -> tuple[int, bool]:
    """Return the ticket that is under a seat's key, and whether its holder has signed."""
    if value is None:
        return 0, False
    ticket, _, sign = bytes(value).partition(b" ")
    return int(ticket), bool(sign)


def _ticket(seat: bytes, number: int) -> bytes:
    return b"%b/%d" % (seat, number)


def keys_of(names: Names, store: StorePort, limits: Mapping[str, int]) -> list[bytes]:
    """Return the keys of all seats of a job and of their tickets, as the seats tell."""
    seats = [names.seat(name, seat) for name, n in limits.items() for seat in range(n)]
    keys: list[bytes] = []
    for at in range(0, len(seats), _DELETED):
        some = seats[at : at + _DELETED]
        for key, value in zip(some, store.get(some), strict=True):
            # The last ticket may have been claimed by one that died, as may the one after it.
            keys += [key, *(_ticket(key, number) for number in range(_read(value)[0] + 2))]
    return keys
