"""A client's lease: its word in the store that it lives, who it is and what it runs.

    client  --every 2 s, while it has something in the store-->  <client>/lease
    others  --is it older than a bound, or its process gone?-->  what begins with <client> was left by a dead client

It is plain JSON, because whoever lists or cleans up need not have the client's key; it is shown and compared, and
nothing is unpickled. In the same breath the client looks whether somebody else wants one of its jobs to be cancelled.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wukong.core import names
from wukong.core.effects import Buffer
from wukong.core.job import Job
from wukong.core.order import StorePort

logger = logging.getLogger("wukong")

RENEW_S = 2.0
SILENT_S = 300.0
"""Without a word for so long, a client is taken for dead if its process cannot be looked for from here."""
_LEAST_S = 30.0


@dataclass(frozen=True, slots=True)
class Lease:
    """What a client says of itself.

    Attributes:
        at, began: Unix time of this word, and of the client's first.
        host, user, pid: who it is.
        machine: where its `pid` means something: see `machine`.
        jobs: the jobs it runs, by id: when each ``began`` (Unix time), and how many ``tasks`` it has.
    """

    at: float
    began: float
    host: str = ""
    user: str = ""
    pid: int = 0
    machine: str = ""
    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, blob: Buffer | None) -> Lease | None:
        """Return what is written there; None: nothing that can be read."""
        try:
            return None if blob is None else cls(**json.loads(bytes(blob)))
        except (ValueError, TypeError):
            return None

    def dead(self, now: float, older_than_s: float | None = None) -> bool:
        """Whether its client is, and has been for `older_than_s` seconds.

        Its process on this machine is asked for. From elsewhere it is taken for dead when it has been silent for so
        long; if None, for `SILENT_S`.
        """
        silent_s = now - self.at
        if self.machine != machine():
            return silent_s > (SILENT_S if older_than_s is None else max(older_than_s, _LEAST_S))
        if _runs(self.pid):  # or another that has got its number
            return silent_s > max(SILENT_S, older_than_s or 0.0)
        return silent_s >= (older_than_s or 0.0)


class Holder:
    """Keeps one client's lease.

    Args:
        store: where. ttl_s: how long a word may stay after the last one.
        client: its id.
        jobs: returns its jobs. keeps: whether it has values in the store besides.
    """

    def __init__(
        self,
        store: StorePort,
        ttl_s: float,
        client: str,
        jobs: Callable[[], Iterable[Job]],
        keeps: Callable[[], bool],
    ) -> None:
        self._store, self._ttl_s, self._client, self._jobs, self._keeps = store, ttl_s, client, jobs, keeps
        self._began = time.time()
        self._written = False

    def renew(self) -> None:
        """Say that the client lives, if it has anything in the store; cancel what others want to be cancelled."""
        running = [job for job in self._jobs() if not job.ended]
        if not running and not self._keeps():
            self.drop()
            return
        told = {job.id: {"began": job.began_at, "tasks": job.n_tasks} for job in running}
        word = Lease(time.time(), self._began, os.uname().nodename, _user(), os.getpid(), machine(), told)
        self._written = True
        self._store.put({names.lease(self._client): json.dumps(asdict(word)).encode()}, self._ttl_s)
        wanted = self._store.get([job.names.cancel for job in running])
        for job, word_of_others in zip(running, wanted, strict=True):
            if word_of_others is not None:
                logger.warning("job %s is cancelled by a command from elsewhere", job.id)
                job.cancel()

    def drop(self) -> None:
        """The client has nothing in the store any more."""
        if self._written:
            self._written = False
            self._store.delete([names.lease(self._client)])


def machine() -> str:
    """Return what is the same for two processes exactly if a process id means the same to both."""
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
