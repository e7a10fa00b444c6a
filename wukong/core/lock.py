"""A lock between tasks, in whichever functions they run, by way of the store.

A lock is a row of tickets, each a fan-in's record with one member, so that exactly one claimant gets it:

    <client>/l/<lock>/0     claimed by a job, with task 7    <client>/l/<lock>/0/free   task 7 has released it
    <client>/l/<lock>/1     claimed by a job, with task 3    <client>/l/<lock>/next     1: where to begin

A task that wants the lock arrives at the first ticket that is not free yet. If another task has claimed that ticket, it
waits for ``free`` and goes on to the next. A ticket is claimed in the name of a job, and the task rides in with the
claim: if a function dies with the lock, its task gets the lock back when it is run again. Everything is written before
it counts, and may be written twice. No ticket is used again, or deleted while a job may use the lock, so that no slow
task takes an old one for new.

A task that dies with the lock in a job that ends is never run again. So the client says under ``<client>/l/over`` which
jobs are over, and from when on: once none of their functions runs any more, by the platform's word or by its time
limit. Who waits for a ticket asks once in the name of each, which claims nothing new, for some task has the ticket
already; if it is that job's, it is free. A job that runs loses no lock, however long its tasks hold one.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

from wukong.core import task_context
from wukong.core.names import Names, tells_alive
from wukong.core.storage import Arrival, Blob, Buffer, StorePort
from wukong.errors import JobCancelled, LockError

Listed: TypeAlias = Callable[[bytes], Iterable[bytes] | None]

_WAIT_S = 1.0
_MOST_OVER = 64


class Lock:
    """Exclude other tasks while this one does something, in whichever functions they run.

    Args:
        name: locks of one name are the same lock, in all jobs of a client; None: a lock of its own, which stays the
            same wherever it is sent.

    Tasks use it, by ``with lock:`` or as they would use a `threading.Lock`. One that waits occupies its function.
    """

    __slots__ = ("name",)

    def __init__(self, name: str | None = None) -> None:
        self.name = uuid.uuid4().hex if name is None else name

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take the lock, waiting `timeout` seconds at most (None or below 0: for ever); return whether it is taken.

        Raises LockError outside a task, or if this task has it already; JobCancelled if nobody wants the job any more.
        """
        if not blocking:
            timeout = 0.0
        return _tickets().acquire(self.name, None if timeout is None or timeout < 0 else timeout)

    def release(self) -> None:
        """Let the next one have it. Raises LockError if it is not taken here."""
        _tickets().release(self.name)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return Lock, (self.name,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lock) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<wukong.Lock {self.name}>"


def _tickets() -> Tickets:
    tickets = task_context.tickets()
    if not isinstance(tickets, Tickets):
        raise LockError("a wukong.Lock is held by tasks, and this is not one", hint="use it inside of what tasks run")
    return tickets


class _Held:
    """What one executor knows of a lock; `lock` is for the threads of a task."""

    __slots__ = ("lock", "next", "taken")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken: _Taken | None = None
        self.next = 0


class _Taken(NamedTuple):
    """By which thread, and by which task: its number, if that is known, and its key."""

    thread: int
    task: int | None
    key: str | None


class Tickets:
    """One executor's access to locks.

    Args:
        names, store, ttl_s: the job's.
        task: returns the number of the task that runs.
        describe: returns its key, as text.

    Attributes:
        used: the names of the locks that its tasks have used.
    """

    def __init__(
        self,
        names: Names,
        store: StorePort,
        ttl_s: float | None,
        task: Callable[[], int | None],
        describe: Callable[[], str | None],
    ) -> None:
        self._names, self._store, self._ttl_s = names, store, ttl_s
        self._task, self._describe = task, describe
        self._held: dict[str, _Held] = {}
        self._threads = b"-%b" % uuid.uuid4().hex.encode()  # nobody knows which task they belong to
        self._guard = threading.Lock()

    @property
    def used(self) -> list[str]:
        return list(self._held)

    def acquire(self, name: str, timeout_s: float | None) -> bool:
        """See `Lock.acquire`."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        with self._guard:
            held = self._held.setdefault(name, _Held())
        taken = held.taken
        if taken is not None and taken.thread == threading.get_ident():
            raise LockError(f"the lock {name!r} is taken already, by {taken.key}", hint="release it, or take it once")
        if not held.lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
            return False
        claimed = False
        try:
            claimed = self._claim(name, held, until)
        finally:
            if not claimed:
                held.lock.release()
        if claimed:
            held.taken = _Taken(threading.get_ident(), self._task(), self._describe())
        return claimed

    def release(self, name: str) -> None:
        """See `Lock.release`."""
        held = self._held.get(name)
        if held is None or held.taken is None:
            raise LockError(f"the lock {name!r} cannot be released: it is not taken", task=self._describe())
        self._release(name, held)

    def leave(self, running: Callable[[], Collection[int]]) -> None:
        """Release what tasks have taken and nobody releases any more. `running` returns the tasks that run here.

        It is asked last: so whoever had a lock before, and runs, is among them.
        """
        taken = [(name, held, held.taken) for name, held in list(self._held.items()) if held.taken is not None]
        run = running()
        for name, held, by in taken:
            over = not run if by.task is None else by.task not in run
            if over and held.taken is by:
                self._release(name, held)

    def _release(self, name: str, held: _Held) -> None:
        self._pass_on(self._names.lock(name), held)
        held.taken = None
        held.lock.release()

    def _pass_on(self, base: bytes, held: _Held) -> None:
        self._store.put({_free(base, held.next): b"", _next(base): b"%d" % (held.next + 1)}, self._ttl_s)
        held.next += 1

    def _claim(self, name: str, held: _Held, until: float | None) -> bool:
        """Get the ticket ``held.next``, or one after it."""
        task = self._task()
        base, names = self._names.lock(name), self._names
        me = self._threads if task is None else b"%d" % task
        asked: set[tuple[int, bytes]] = set()
        while True:
            arrival = Arrival(_ticket(base, held.next), (0,), 1, names.prefix, me)
            outcome = self._store.incr([arrival], self._ttl_s)[0]
            keys = [_free(base, held.next), _next(base), names.alive, names.over]
            free, following, wanted, over = self._store.get(keys)
            if free is not None:  # perhaps this task itself claimed and released it, before its function died
                held.next = max(held.next + 1, 0 if following is None else int(bytes(following)))
                continue
            if outcome.claimed and tuple(map(bytes, outcome.values)) == (me,):
                return True
            if wanted is None:
                raise JobCancelled(f"nobody wants this job any more; its task was waiting for the lock {name!r}")
            if over is not None and not outcome.claimed:
                others = [(held.next, job) for job in _due(over) if (held.next, job) not in asked]
                asked.update(others)
                arrivals = [replace(arrival, claimant=job, value=None) for _, job in others]
                if arrivals and any(each.claimed for each in self._store.incr(arrivals, self._ttl_s)):
                    self._pass_on(base, held)
                    continue
            left_s = _WAIT_S if until is None else min(_WAIT_S, until - time.monotonic())
            if left_s <= 0:
                return False
            if self._store.wait(_free(base, held.next), left_s) is not None:
                held.next += 1


def _due(over: Buffer) -> list[bytes]:
    """Return the jobs of which no function runs any more."""
    now = time.time()
    return [job.encode() for job, since in json.loads(bytes(over)).items() if since <= now]


class Locks:
    """The client's side: which locks its jobs use, and which jobs are over.

    After the last job that uses a lock, the keys of the lock are deleted. Those that a job of another client uses are
    left to whoever deletes what that client has left, if it has left more jobs that somebody wants.
    """

    def __init__(self) -> None:
        self._users: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._left: set[bytes] = set()
        self._over: defaultdict[bytes, dict[str, float]] = defaultdict(dict)
        self._running: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self._others: set[bytes] = set()
        self._guard = threading.Lock()

    def use(self, names: Names, locks: Iterable[str]) -> Mapping[bytes, Blob]:
        """Note that a job begins which uses these locks. Return what is to be stored before it does."""
        with self._guard:
            for lock in locks:
                self._users[names.lock(lock)].add(names.prefix)
            self._running[names.over].add(names.prefix)
            return self._told(names.over)

    def take_over(self, store: StorePort, names: Names) -> None:
        """Note that a job of another client is taken over, with what that client has said."""
        told = store.get([names.over])[0]
        with self._guard:
            self._others.add(names.over.removesuffix(b"over"))
            if told is not None:
                self._over[names.over] = json.loads(bytes(told)) | self._over[names.over]

    def _told(self, key: bytes) -> dict[bytes, Blob]:
        over = self._over.get(key)
        return {key: json.dumps(over).encode()} if over else {}

    def leave(
        self,
        store: StorePort,
        names: Names,
        used: Iterable[str],
        since: float | None = None,
        ttl_s: float | None = None,
        listed: Listed = lambda prefix: None,
    ) -> None:
        """Note that a job has ended which has used the locks `used`. May be called again.

        `listed`: see `close`.

        `since`: from when on none of its functions runs any more, Unix time, if one may run on or have died with a
        lock; inf: nobody knows; None: none has. While they may run, the locks stay, at most until the client closes.
        """
        with self._guard:
            running, locks = self._running[names.over], names.over.removesuffix(b"over")
            others = locks in self._others and _wanted(locks, listed)
            running.discard(names.prefix)
            if since is not None:
                jobs = self._over[names.over]
                jobs[names.job] = since
                for job in list(jobs)[:-_MOST_OVER]:
                    del jobs[job]
            if (running or others) and since is not None:
                store.put(self._told(names.over), ttl_s)
            elif not running and not others and self._over.get(names.over):
                store.delete([names.over])  # it comes again with the next job
            self._left.update(names.lock(lock) for lock in used)
            if since is None or since <= time.time():
                for users in self._users.values():
                    users.discard(names.prefix)
            over = [base for base, users in self._users.items() if not users]
            _delete(store, over)
            for base in over:
                del self._users[base]
            self._left.difference_update(over)

    def close(self, store: StorePort, listed: Listed = lambda prefix: None) -> None:
        """Delete what is left of all locks: no job of the client's runs any more.

        `listed` returns the keys in the store that begin with a prefix, by which it is known whether somebody wants
        other jobs of a client whose job was taken over; None: nobody can tell.
        """
        with self._guard:
            others = tuple(each for each in self._others if _wanted(each, listed))
            _delete(store, {base for base in self._left.union(self._users) if not base.startswith(others)})
            self._left.clear()
            self._users.clear()
            if over := [key for key in self._over if not key.startswith(others)]:
                store.delete(over)


def _wanted(locks: bytes, listed: Listed) -> bool:
    keys = listed(locks.removesuffix(b"/l/") + b"-")
    return keys is None or any(map(tells_alive, keys))  # what a slow function has left says nothing


def _delete(store: StorePort, bases: Collection[bytes]) -> None:
    if not bases:
        return
    told = zip(bases, store.get([_next(base) for base in bases]), strict=True)
    last = {base: 0 if following is None else int(bytes(following)) for base, following in told}
    ahead = [*last]
    while ahead:  # whoever was slow to release has turned `next` back
        free = store.get([_free(base, last[base]) for base in ahead])
        ahead = [base for base, found in zip(ahead, free, strict=True) if found is not None]
        for base in ahead:
            last[base] += 1
    tickets = [(base, ticket) for base, n in last.items() for ticket in range(n + 1)]  # the last may be claimed
    store.delete([*map(_next, last), *(key(*each) for each in tickets for key in (_ticket, _free))])


def _ticket(base: bytes, number: int) -> bytes:
    return b"%b/%d" % (base, number)


def _free(base: bytes, number: int) -> bytes:
    return b"%b/%d/free" % (base, number)


def _next(base: bytes) -> bytes:
    return base + b"/next"


_names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def between_functions(lock: Any) -> Lock | None:
    """Return the lock between functions that takes the place of `lock`, which excludes only within a process.

    None: `lock` is not of that kind, and travels as it is.
    """
    from dask.utils import SerializableLock

    if isinstance(lock, SerializableLock):
        return Lock(str(lock.token))
    if isinstance(lock, Lock) or not hasattr(lock, "acquire") or type(lock).__module__.startswith("distributed"):
        return None
    return Lock(_names.setdefault(lock, uuid.uuid4().hex))
