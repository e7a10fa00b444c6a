"""What clients have in a store, seen from outside: for commands that list jobs, cancel one, or clean up.

    scan("") -> keys -> by client and job -> leases -> which clients live, which are dead

Only names, sizes and leases are looked at: no key of a deployment is needed, and nothing is unpickled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from wukong.backends.storage import Store
from wukong.client.lease import RENEW_S, Lease
from wukong.core.names import Names, lease, locks, owner
from wukong.errors import WukongError

logger = logging.getLogger("wukong")

_DELETE_BATCH = 2_000
_LOOK_S = 0.25
_LOOKS = int(2.5 * RENEW_S / _LOOK_S)


@dataclass(slots=True)
class Portion:
    """What one job has in a store, or a client besides its jobs: `keys`, and about how many bytes they take."""

    keys: list[bytes] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, key: bytes, size_bytes: int) -> None:
        """Add one more key."""
        self.keys.append(key)
        self.size_bytes += size_bytes


@dataclass(slots=True)
class Tenant:
    """One client, as its store shows it.

    Attributes:
        client: its id. lease: its last lease; None: there is none.
        jobs: what each of its jobs has there, by id. own: what it keeps besides, its lease included.
    """

    client: str
    lease: Lease | None = None
    jobs: dict[str, Portion] = field(default_factory=dict)
    own: Portion = field(default_factory=Portion)

    def portions(self) -> list[Portion]:
        """Return all it has there."""
        return [*self.jobs.values(), self.own]

    def dead(self, older_than_s: float | None) -> bool:
        """Whether the client is dead, as far as can be told. Without a lease it is, but nobody knows since when."""
        if self.lease is None:
            return older_than_s is None
        return self.lease.dead(time.time(), older_than_s)

    def since(self, before: Tenant) -> Tenant:
        """Return what is left of what it was before. What is new is a living client's: it may be about to say so."""
        jobs = {job: portion for job, portion in self.jobs.items() if job in before.jobs}
        had = set(before.own.keys)
        own = Portion([key for key in self.own.keys if key in had], min(self.own.size_bytes, before.own.size_bytes))
        return Tenant(self.client, self.lease or before.lease, jobs, own)  # who drops its lease has lived


class Survey:
    """What all clients have in one store.

    A client writes its lease some seconds after its first key. So if a client has none, it is waited for, and there is
    a second look: at what was there at the first. A client that had a lease at any look is not one without.

    Args:
        store: which one.
        job: if only this job is asked for, only a lease that says something of it is waited for.
        sleep: waits until the next look at the leases. looks: how often, at most.

    Raises StoreError if the store does not list its keys.
    """

    def __init__(
        self,
        store: Store,
        job: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
        looks: int = _LOOKS,
    ) -> None:
        self._store = store
        self.tenants = self._look()
        waited = False
        while looks > 0 and (absent := self._awaited(job)):
            looks, waited = looks - 1, True
            sleep(_LOOK_S)
            for tenant, blob in zip(absent, store.get([lease(each.client) for each in absent]), strict=True):
                tenant.lease = Lease.read(blob)
        if waited:  # what has ended meanwhile has left no lease
            again = self._look()
            kept = [again[client].since(each) for client, each in self.tenants.items() if client in again]
            self.tenants = {each.client: each for each in kept if each.jobs or each.own.keys}

    def _awaited(self, job: str | None) -> list[Tenant]:
        """Return the clients whose leases are missing, if one of them would change what is said of `job`."""
        absent = [tenant for tenant in self.tenants.values() if tenant.lease is None]
        if job is None:
            return absent
        if self.runner(job) is not None:
            return []
        held = next((tenant.jobs[job] for tenant in self.tenants.values() if job in tenant.jobs), None)
        runs = held is not None and Names(job).alive in held.keys  # somebody else may have taken it over
        return absent if runs or any(job in tenant.jobs for tenant in absent) else []

    def _look(self) -> dict[str, Tenant]:
        tenants: dict[str, Tenant] = {}
        for key, size_bytes in self._store.scan(b"").items():
            whose = owner(key)
            if whose is not None:
                client, job = whose
                tenant = tenants.setdefault(client, Tenant(client))
                portion = tenant.own if job is None else tenant.jobs.setdefault(job, Portion())
                portion.add(key, size_bytes)
        leases = self._store.get([lease(client) for client in tenants])
        for tenant, blob in zip(tenants.values(), leases, strict=True):
            tenant.lease = Lease.read(blob)
        return tenants

    def runner(self, job: str) -> Tenant | None:
        """Return the living client that runs a job: the one that started it or has taken it over; None: nobody does."""
        held = next((tenant.jobs[job] for tenant in self.tenants.values() if job in tenant.jobs), None)
        if held is None or Names(job).alive not in held.keys:  # it has ended, whatever the last lease says
            return None
        for tenant in self.tenants.values():
            said = tenant.lease is not None and job in tenant.lease.jobs
            if (said or job in tenant.jobs) and not tenant.dead(None):
                return tenant
        return None

    def jobs(self) -> Iterator[tuple[Tenant, str, Portion]]:
        """Yield every job that has anything in the store, with its client."""
        for tenant in self.tenants.values():
            for job, portion in sorted(tenant.jobs.items()):
                yield tenant, job, portion

    def left(self, older_than_s: float | None) -> list[Tenant]:
        """Return the dead clients, without the jobs that others have taken over, and without what those may lock."""
        found = []
        for tenant in self.tenants.values():
            if tenant.dead(older_than_s):
                jobs = {job: portion for job, portion in tenant.jobs.items() if self.runner(job) is None}
                own = tenant.own
                if len(jobs) < len(tenant.jobs):
                    locked = locks(tenant.client)
                    own = Portion([key for key in own.keys if not key.startswith(locked)], own.size_bytes)
                found.append(Tenant(tenant.client, tenant.lease, jobs, own))
        return found

    def delete(self, jobs: Sequence[str], portions: Sequence[Portion]) -> None:
        """Delete what is in `portions`; first the keys that tell the executors of `jobs` that these are wanted."""
        self._store.delete([Names(job).alive for job in jobs])
        keys = [key for portion in portions for key in portion.keys]
        for at in range(0, len(keys), _DELETE_BATCH):
            self._store.delete(keys[at : at + _DELETE_BATCH])


def sweep(store: Store, ttl_s: float) -> None:
    """Delete what dead clients have left, if they died longer ago than `ttl_s` and than the time to live they had set.

    A client that has left no lease is spared: nobody knows since when it is dead. For a thread of its own; raises
    nothing.
    """
    try:
        survey = Survey(store, looks=0)
        now = time.time()
        left = [
            each for each in survey.left(ttl_s) if each.lease is not None and now - each.lease.at > each.lease.ttl_s
        ]
        survey.delete([job for each in left for job in each.jobs], [part for each in left for part in each.portions()])
    except WukongError as error:
        logger.info("what dead clients may have left in the store stays for now: %s", error)
        return
    for each in left:
        keys = sum(len(part.keys) for part in each.portions())
        logger.info("deleted %d keys that the client %s had left in the store", keys, each.client)
