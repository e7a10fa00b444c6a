"""What one client has in the store: its lease while it lives, and the end of all of it when it closes."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from wukong.client.background import stop
from wukong.client.deployment import Deployment
from wukong.client.job import ClientJob
from wukong.client.lease import Holder, end_of
from wukong.client.survey import sweep
from wukong.core.job import Job
from wukong.core.remains import JobRemains
from wukong.errors import WukongError

logger = logging.getLogger("wukong")

_SETTLED_S = 30.0


class Holdings:
    """The jobs of a client and the values that it keeps. It must not refer to the client, whose end it sees.

    Attributes:
        kept: returns the keys of the values that are kept.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.kept: Callable[[], Sequence[bytes]] = list
        self._deployment = deployment
        self._jobs: set[weakref.ref[Job]] = set()  # another thread may take a copy of it at any time
        self._failures: list[tuple[float, Sequence[bytes]]] = []
        # By job; until when, infinite for what another job goes on with.
        self._remains: dict[str, tuple[float, JobRemains]] = {}
        self._lease = Holder(
            deployment.store,
            deployment.settings.ttl_s,
            deployment.ttl_s,
            deployment.client,
            self._all,
            lambda: bool(self.kept() or self._failures or self._remains),
        )
        self._swept = False

    def add(self, job: Job) -> None:
        """Note one more job, for as long as anybody has it."""
        self._jobs.add(weakref.ref(job, self._jobs.discard))

    def keep_failures(self, job: Job) -> None:
        """Keep the failed tasks of a job that is settled, for `ttl_s`."""
        if job.failures:
            self._failures.append((time.monotonic() + self._deployment.settings.ttl_s, job.failures))

    def hold(self, job: ClientJob) -> None:
        """Keep what a job that is settled and has not succeeded has left, and what it went on with; else delete that.

        For `ttl_s`, and of the last `resume_jobs` jobs.
        """
        remains, settings, doomed = job.remains, self._deployment.settings, list[JobRemains]()
        if remains is not None:
            remains.before = job.before
        elif job.before is not None and job.resumable and job.status != "succeeded":
            remains = job.before  # it has made nothing itself
        elif job.before is not None:
            doomed.append(job.before)
        if remains is not None:
            self._forget(remains)
            self._remains[job.id] = time.monotonic() + settings.ttl_s, remains
            idle = [each for until, each in list(self._remains.values()) if until < math.inf]
            doomed += idle[: max(0, len(idle) - settings.resume_jobs)]
        job.held.set()
        try:
            for each in doomed:
                self.let_go(each)
        except WukongError as error:
            logger.info("what a job has left is deleted later: %s", error.message)

    def take(self, job: str) -> tuple[JobRemains | None, Mapping[Hashable, Any]]:
        """Return what a job has left, which stays until it is let go, and its values by Dask key. Raises StoreError."""
        found = self._remains.get(job)
        if found is None:
            return None, {}
        values = found[1].values(self._deployment.store, self._deployment.codec)
        self._remains[job] = math.inf, found[1]
        return found[1], values

    def give_back(self, job: str) -> None:
        """Keep what was taken, and not gone on with, for another `ttl_s`."""
        if job in self._remains:
            self._remains[job] = time.monotonic() + self._deployment.settings.ttl_s, self._remains[job][1]

    def let_go(self, remains: JobRemains) -> None:
        """Delete what a job has left. Raises StoreError: then it is deleted with the next renewal of the lease."""
        for job, (_, each) in list(self._remains.items()):
            if each is remains:
                self._remains[job] = 0.0, remains
        remains.delete(self._deployment.store)
        self._forget(remains)

    def forgo(self, job: Job) -> None:
        """Delete what a job has left, once it is settled, unless another one goes on with it now. Raises StoreError."""
        if isinstance(job, ClientJob):
            job.held.wait(_SETTLED_S)
        until, remains = self._remains.get(job.id, (math.inf, None))
        if remains is not None and until < math.inf:
            self.let_go(remains)

    @property
    def idle(self) -> bool:
        """Whether something is left that no job goes on with now, or of failed tasks."""
        return bool(self._failures) or any(until < math.inf for until, _ in list(self._remains.values()))

    def make_room(self) -> None:
        """Delete what no job goes on with now, and what is kept of failed tasks. Raises StoreError."""
        self._drop_failures(math.inf)
        for until, remains in list(self._remains.values()):
            if until < math.inf:
                self.let_go(remains)

    def _drop_failures(self, until: float) -> None:
        """Delete what is kept of failed tasks up to that time."""
        for each in [each for each in list(self._failures) if each[0] < until]:
            self._deployment.store.delete(each[1])
            with suppress(ValueError):  # another thread was quicker
                self._failures.remove(each)

    def _forget(self, remains: JobRemains) -> None:
        every = remains.all()
        for job, (_, each) in list(self._remains.items()):
            if each in every:
                self._remains.pop(job, None)

    @property
    def jobs(self) -> Sequence[Job]:
        """The client's jobs that anybody has."""
        return self._all()

    def say(self) -> None:
        """Say what the client runs, at once: what it has taken over looks like left behind. Raises StoreError."""
        self._lease.renew()

    def renew(self) -> None:
        """Say that the client lives; the first time, look for what dead clients have left."""
        self._lease.renew()
        self._drop_failures(time.monotonic())
        for until, remains in list(self._remains.values()):
            if until < time.monotonic():
                self.let_go(remains)
        if not self._swept:
            self._swept = True
            self._sweep()

    def _sweep(self) -> None:
        """Delete what dead clients have left, if the store cannot renew keys: then they live for long."""
        store, ttl_s = self._deployment.store, self._deployment.settings.ttl_s
        if store.capabilities.scans and not store.capabilities.renews:
            threading.Thread(target=sweep, args=(store, ttl_s), name="wukong-sweep", daemon=True).start()

    def give_up(self) -> None:
        """Cancel what still runs and delete everything. Warn once if something cannot be deleted."""
        jobs, store = self._all(), self._deployment.store
        running = [job for job in jobs if not job.ended]
        try:
            for job in jobs:
                job.resumable = False
            for job in running:
                stop(job)
            for job in jobs:
                job.settle()
            keys = [*self.kept(), *(key for _, failed in self._failures for key in failed)]
            if running and (listed := self._deployment.listed(harmed=True)) is not None:
                keys = [*keys, *listed]
            if keys:
                store.delete(keys)
            for _, remains in list(self._remains.values()):
                self.let_go(remains)
            self._lease.drop()
        except WukongError as error:
            logger.warning(
                "the client closes, and what it had in the store stays: %s (%s)", error.message, end_of(store)
            )

    def _all(self) -> list[Job]:
        return [job for each in list(self._jobs) if (job := each()) is not None]
