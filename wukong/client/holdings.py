"""What one client has in the store: its lease while it lives, and the end of all of it when it closes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence

from wukong.client.deployment import Deployment
from wukong.client.lease import Holder
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
        self._jobs: set[weakref.ref[Job]] = set()  # of which another thread may take a copy at any time
        self._lease = Holder(
            deployment.store, deployment.settings.ttl_s, deployment.client, self._all, lambda: bool(self.kept())
        )

    def add(self, job: Job) -> None:
        """One more job, for as long as anybody has it."""
        self._jobs.add(weakref.ref(job, self._jobs.discard))

    def renew(self) -> None:
        """Say that the client lives."""
        self._lease.renew()

    def give_up(self) -> None:
        """Cancel what still runs and delete everything. What cannot be is told once."""
        jobs, store = self._all(), self._deployment.store
        running = [job for job in jobs if not job.ended]
        try:
            for job in running:
                job.cancel()
            for job in jobs:
                job.settle()
            keys = self.kept()
            if running and (listed := self._deployment.listed(harmed=True)) is not None:
                keys = [*keys, *listed]
            if keys:
                store.delete(keys)
            self._lease.drop()
        except WukongError as error:
            logger.warning("the client closes, and 'wukong clean' has to delete what it had in the store: %s", error)

    def _all(self) -> list[Job]:
        return [job for each in list(self._jobs) if (job := each()) is not None]
