"""What one client has in the store: its lease while it lives, and the end of all of it when it closes."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from wukong.client.deployment import Deployment
from wukong.client.lease import Holder, end_of
from wukong.client.survey import sweep
from wukong.core.job import Job
from wukong.errors import WukongError

logger = logging.getLogger("wukong")


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
        self._lease = Holder(
            deployment.store,
            deployment.settings.ttl_s,
            deployment.ttl_s,
            deployment.client,
            self._all,
            lambda: bool(self.kept() or self._failures),
        )
        self._swept = False

    def add(self, job: Job) -> None:
        """Note one more job, for as long as anybody has it."""
        self._jobs.add(weakref.ref(job, self._jobs.discard))

    def keep_failures(self, job: Job) -> None:
        """Keep the failed tasks of a job that is settled, for `ttl_s`."""
        if job.failures:
            self._failures.append((time.monotonic() + self._deployment.settings.ttl_s, job.failures))

    def renew(self) -> None:
        """Say that the client lives; the first time, look for what dead clients have left."""
        self._lease.renew()
        while self._failures and self._failures[0][0] < time.monotonic():
            self._deployment.store.delete(self._failures[0][1])
            del self._failures[0]
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
            for job in running:
                job.cancel()
            for job in jobs:
                job.settle()
            keys = [*self.kept(), *(key for _, failed in self._failures for key in failed)]
            if running and (listed := self._deployment.listed(harmed=True)) is not None:
                keys = [*keys, *listed]
            if keys:
                store.delete(keys)
            self._lease.drop()
        except WukongError as error:
            logger.warning(
                "the client closes, and what it had in the store stays: %s (%s)", error.message, end_of(store)
            )

    def _all(self) -> list[Job]:
        return [job for each in list(self._jobs) if (job := each()) is not None]
