"""A client's lease: what it says of itself in the store: that it lives, who it is and what it runs.

    client  --every 2 s, while it has something in the store-->  <client>/lease
            --a few times in every ttl_s, if the store can-->    all that it has there lives for another ttl_s
    others  --is it older than a bound, or its process gone?-->  what begins with <client> was left by a dead client

It is plain JSON, because a command that lists or cleans up may not have the client's key; it is shown and compared, and
nothing is unpickled. At each renewal the client also looks whether somebody else wants one of its jobs cancelled.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wukong.backends.storage import Store
from wukong.core import names
from wukong.core.job import Job
from wukong.core.storage import Buffer
from wukong.errors import StoreUnavailable, WukongError

logger = logging.getLogger("wukong")

RENEW_S = 2.0
RENEWALS = 4
"""How many times in every `ttl_s` a client has the store renew what it has there."""
SILENT_S = 300.0
"""How long a client may be silent before it is taken for dead, if its process cannot be looked for from here."""
_LEAST_S = 30.0


@dataclass(frozen=True, slots=True)
class Lease:
    """What a client says of itself.

    Attributes:
        at, began: Unix time of this lease, and of the client's first.
        host, user, pid: who it is.
        machine: on which machine its `pid` means something: see `machine`.
        jobs: the jobs it runs, by id: when each ``began`` (Unix time), and how many ``tasks`` it has.
        ttl_s: for how long after its last lease nobody is to delete what it has, unless told to.
    """

    at: float
    began: float
    host: str = ""
    user: str = ""
    pid: int = 0
    machine: str = ""
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ttl_s: float = 0.0

    @classmethod
    def read(cls, blob: Buffer | None) -> Lease | None:
        """Return the lease that `blob` holds; None: it holds none that can be read."""
        try:
            return None if blob is None else cls(**json.loads(bytes(blob)))
        except (ValueError, TypeError):
            return None

    def dead(self, now: float, older_than_s: float | None = None) -> bool:
        """Whether its client is dead, and has been for `older_than_s` seconds.

        On the client's own machine its process is looked for. From another machine, a client is taken for dead once it
        has been silent for `older_than_s`; if that is None, for `SILENT_S`.
        """
        silent_s = now - self.at
        if self.machine != machine():
            return silent_s > (SILENT_S if older_than_s is None else max(older_than_s, _LEAST_S))
        if _runs(self.pid):  # or another that has got its number
            return silent_s > max(SILENT_S, older_than_s or 0.0)
        return silent_s >= (older_than_s or 0.0)


def end_of(store: Store) -> str:
    """Return what becomes of what a client leaves in a store."""
    if store.capabilities.scans:
        return "'wukong clean' deletes what stays"
    return "this store does not list its keys: what stays goes when its time to live is over"


class Holder:
    """Keeps one client's lease.

    Args:
        store: where. ttl_s: how long what the client has there is to live after its last lease.
        written_s: the time to live of what the client writes, the lease too: larger in a store that renews nothing.
        client: its id.
        jobs: returns its jobs. keeps: whether it has values in the store besides.
    """

    def __init__(
        self,
        store: Store,
        ttl_s: float,
        written_s: float,
        client: str,
        jobs: Callable[[], Iterable[Job]],
        keeps: Callable[[], bool],
    ) -> None:
        self._written_s = written_s
        self._store, self._ttl_s, self._client, self._jobs, self._keeps = store, ttl_s, client, jobs, keeps
        self._began = time.time()
        self._written = False
        self._renewed_at = _now_s()
        self._renewed: set[str] = set()
        self._renewing = threading.Thread()
        self._told = self._dropped = False

    def renew(self) -> None:
        """Say that the client lives, if it has anything in the store; cancel what others want to be cancelled."""
        running = [job for job in self._jobs() if not job.ended]
        if not running and not self._keeps():
            self.drop()
            return
        self._dropped = False
        self._renew_keys({job.id for job in running if not job.id.startswith(self._client)})
        told = {job.id: {"began": job.began_at, "tasks": job.n_tasks} for job in running}
        here = os.uname().nodename, _user(), os.getpid(), machine()
        word = Lease(time.time(), self._began, *here, told, self._ttl_s)
        self._written = True
        self._store.put({names.lease(self._client): json.dumps(asdict(word)).encode()}, self._written_s)
        wanted = self._store.get([job.names.cancel for job in running])
        for job, word_of_others in zip(running, wanted, strict=True):
            if word_of_others is not None:
                logger.warning("job %s is cancelled by a command from elsewhere", job.id)
                job.cancel()
                if (
                    not job.id.startswith(self._client) and not job.awaited
                ):  # one that was taken over has no other watch
                    job.settle()

    def _renew_keys(self, taken_over: set[str]) -> None:
        """Renew what the client has in the store, and the jobs that it has taken over: those at once.

        In a thread of its own: if the store holds many keys of other people, that takes longer than a lease can wait.
        """
        now_s = _now_s()
        due = now_s - self._renewed_at >= self._ttl_s / RENEWALS
        prefixes = [self._client.encode()] if due else []
        for job in taken_over if due else taken_over - self._renewed:
            prefixes += [job.encode() + b"/", names.locks(job)]
        if not prefixes or not self._store.capabilities.renews or self._renewing.is_alive():
            return

        def work() -> None:
            try:
                for prefix in prefixes:
                    self._store.renew(prefix, self._ttl_s)
            except StoreUnavailable as error:
                logger.info("what the client has in the store is renewed later: %s", error)
                return
            except WukongError as error:
                self._told = self._told or self._tell(error)
            self._renewed = taken_over
            self._renewed_at = now_s if due else self._renewed_at

        self._renewing = threading.Thread(target=work, name="wukong-renewal", daemon=True)
        self._renewing.start()

    def _tell(self, error: WukongError) -> bool:
        if not self._dropped:
            logger.warning(
                "what this client has in the store vanishes %g s after it was written, since its time to live "
                "cannot be set anew: %s; a larger ttl_s gives it more time",
                self._ttl_s,
                error,
            )
        return True

    def drop(self) -> None:
        """Delete the lease: the client has nothing in the store any more."""
        self._dropped = True
        if self._written:
            self._store.delete([names.lease(self._client)])  # if the store is away, the next time
            self._written = False


def _now_s() -> float:
    """Return the time by a clock that nobody sets, and that goes on while the machine sleeps, if the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def machine() -> str:
    """Return a name that two processes share exactly if a process id means the same to both."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        booted = os.stat("/proc/1").st_ctime_ns
    except OSError:
        return ""
    return f"{os.uname().nodename}/{namespace}/{booted}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an id without a name
        return str(os.getuid())
