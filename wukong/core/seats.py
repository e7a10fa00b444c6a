"""The seats of limits in the store: at most n executors have one of a name, each for as long as it says so.

    <job>/q/<limit>/<seat>       b"7": ticket 7 is to be claimed    b"7 <sign>": it is claimed, and its holder lives
    <job>/q/<limit>/<seat>/7     a fan-in's record with one member: exactly one claimant gets it

A limit of n has n seats, and each of these is a row of tickets. Whoever wants one looks at all seats (`get`), claims
the ticket of a free one (`incr`), and signs (`put`); with each heartbeat it signs anew, and at the end it names the
next ticket (`put`). That is four operations for each time that a seat changes hands, one of them after the task; to
find that no seat is free costs one look for each 64 seats. Of more than 256, an attempt looks at the next 256 only: it
may find none though some are free, and the attempts after it come to those. How many are free is counted in one look at
256, and guessed by those of more. If a sign has not changed for `lease_s`, by
the clock of whoever looks, its holder is dead: then the next ticket is named in its place. Nobody compares the clocks
of two machines. Executors that wait may leave before they have seen a lease go by; then the client does that (`mend`).

No ticket is claimed twice, so a holder that was taken for dead cannot get its seat back. It may go on with its task:
if it was paused for longer than its lease, n + 1 tasks run until the one that it runs has ended. It does not sign for
that seat any more. What it was writing when it was paused may hide the new holder's sign, until that signs again; at
worst the seat is missing for one lease.

The keys are the job's, and are deleted with it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from wukong.core.dag import Limits
from wukong.core.effects import Stopped
from wukong.core.names import Names
from wukong.core.policy import Policy, margin_s
from wukong.core.storage import Arrival, Blob, Buffer, StorePort
from wukong.errors import ConfigError

_LOOKED_AT, _LOOKS = 64, 4
_SURVEYED = _LOOKED_AT * _LOOKS
_UNBOUNDED = 1 << 62
_DELETED = 500
_LEASE_BEATS, _LEASES = 3, 3


@dataclass(slots=True)
class _Seen:
    """What was found under a seat's key, since when, and whether its ticket turned out to be claimed."""

    value: bytes | None
    since: float
    claimed: bool = False


@dataclass(slots=True)
class _Held:
    """A seat that is held: by which ticket, and since when its sign has not been renewed."""

    ticket: int
    signed_at: float


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
        self._signs = 0
        self._held: defaultdict[str, dict[int, _Held]] = defaultdict(dict)
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
                held = self._held[name]
                seat = min(held, key=lambda each: held[each].signed_at)  # one that is lost, if any is
                mine = held.pop(seat)
                if self._lives(mine):  # else others have named the next ticket, or will
                    items[self._names.seat(name, seat)] = b"%d" % (mine.ticket + 1)
            if items:
                self._store.put(items, self._ttl_s)

    def leave(self) -> None:
        """Give back what is held: no task runs here any more. Raises StoreError; then the leases have to go by."""
        while held := [name for name, seats in self._held.items() if seats]:
            self.give(tuple((name, 1) for name in held))

    def free(self, limits: Limits) -> int:
        """See `wukong.core.effects.FreeSeats`. Raises Stopped likewise."""
        return min(self._free(name, n) for name, n in limits)

    def keep(self) -> bool:
        """See `wukong.core.effects.KeepSeats`."""
        with self._guard:
            items: dict[bytes, Blob] = {}
            held = [(name, seat, each) for name, seats in self._held.items() for seat, each in seats.items()]
            live = [(name, seat, each) for name, seat, each in held if self._lives(each)]
            for name, seat, each in live:
                items[self._names.seat(name, seat)] = self._signed(each.ticket)
                each.signed_at = self._clock()
            if items:
                self._store.put(items, self._ttl_s)
            return len(live) == len(held)

    def _lives(self, held: _Held) -> bool:
        """Whether nobody can have taken this seat yet."""
        return self._clock() - held.signed_at < self._lease_s

    def _signed(self, ticket: int) -> bytes:
        self._signs += 1
        return b"%d %b/%d" % (ticket, self._run.hex().encode(), self._signs)

    def mend(self, limits: Limits) -> int:
        """Name the next ticket of each seat whose holder is dead, and return how many are free; Stopped likewise.

        For who lives longer than a lease, as the client does: an executor that waits for a seat leaves before it has
        seen one go by.
        """
        least = _UNBOUNDED
        for name, n in limits:
            found = self._look(name, n, _SURVEYED)
            self._from[name] += _SURVEYED
            items: dict[bytes, Blob] = {}
            for seat, ticket, over in found:
                key = self._names.seat(name, seat)
                if over:
                    items[key] = b"%d" % ticket
                elif self._clock() - self._seen[key].since > self._lease_s and self._claims(key, ticket):
                    items[key] = b"%d" % (ticket + 1)  # it was free; else its claimant may have died before it signed
            if items:
                self._store.put(items, self._ttl_s)
            least = min(least, _of_all(found, n))
        return least

    def _take(self, name: str, n: int) -> bool:
        return any(self._taken(name, n) for _ in range(0, min(n, _LOOKS * _LOOKED_AT), _LOOKED_AT))

    def _taken(self, name: str, n: int) -> bool:
        """Try to take one of the seats of a look."""
        begun = self._clock()
        for seat, ticket, over in self._look(name, n):
            key = self._names.seat(name, seat)
            self._written(key)
            self._written(_ticket(key, ticket))
            if over:
                self._store.put({key: b"%d" % ticket}, self._ttl_s)
            if self._claims(key, ticket):
                with self._guard:
                    self._store.put({key: self._signed(ticket)}, self._ttl_s)
                    if self._clock() - begun > self._lease_s / 2:  # paused: somebody may have taken this for dead
                        return False
                    self._held[name][seat] = _Held(ticket, begun)
                self._seen.pop(key, None)
                self._from[name] = seat
                return True
        self._from[name] += _LOOKED_AT
        return False

    def _claims(self, seat: bytes, ticket: int) -> bool:
        """Claim a ticket; if somebody else has it, that one has a lease from here on to sign."""
        if self._store.incr([Arrival(_ticket(seat, ticket), (0,), 1, self._run)], self._ttl_s)[0].claimed:
            return True
        seen = self._seen[seat]
        seen.claimed, seen.since = True, self._clock()
        return False

    def _free(self, name: str, n: int) -> int:
        return _of_all(self._look(name, n, _SURVEYED), n)

    def _look(self, name: str, n: int, most: int = _LOOKED_AT) -> list[tuple[int, int, bool]]:
        """Look at `most` of the seats.

        Return those that may be claimed, with the ticket, and whether that follows on a dead holder's.
        """
        first = self._from[name]
        seats = [seat % n for seat in range(first, first + min(n, most))]
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


def _of_all(found: Sequence[object], n: int) -> int:
    """Return how many of n seats are free, if these are free of those that were surveyed."""
    return len(found) * n // min(n, _SURVEYED)


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


def free_seats(names: Names, store: StorePort, policy: Policy) -> Callable[[Limits], int]:
    """Return what tells how many more tasks of some limits may run now in a job, and frees the seats of the dead.

    That returns 0 if nobody wants the job any more.
    """
    seats = SeatTickets(names, store, policy.ttl_s, policy.lease_s)

    def free(limits: Limits) -> int:
        try:
            return seats.mend(limits)
        except Stopped:
            return 0

    return free


def leased(policy: Policy, time_limit_s: float | None) -> Policy:
    """Return the settings of a job with limits: a lease, of which an executor lives to see three.

    Whoever waits for the seat of a dead executor has to see a lease go by. If it had to leave before, its successor
    would begin to wait anew, and so on for ever. Raises ConfigError if the lease is shorter than three heartbeats.

    Args:
        policy: the settings.
        time_limit_s: how long after its begin the platform ends an invocation, seconds; None: it never does.
    """
    lease_s, least_s, where = policy.lease_s, _LEASE_BEATS * policy.heartbeat_s, ""
    if time_limit_s is not None and (lives_s := time_limit_s - margin_s(time_limit_s)) < _LEASES * lease_s:
        lease_s = lives_s / _LEASES
        where = f", as functions that end after {time_limit_s:g} s allow"
    if lease_s < least_s:
        raise ConfigError(
            f"a seat of a limit is lost after {lease_s:g} s (lease_s{where}): less than three heartbeats of "
            f"{policy.heartbeat_s:g} s (heartbeat_s)",
            hint="set a longer lease_s, or a shorter heartbeat_s"
            if not where
            else "set a shorter heartbeat_s, or have functions run for longer",
        )
    return replace(policy, lease_s=lease_s)
