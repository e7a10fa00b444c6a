"""The two backends of a client, opened, and what every job on them needs."""

from __future__ import annotations

import re
import secrets
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from importlib.util import find_spec
from typing import Any

from wukong.backends.entry import KEY_VARIABLE, sender
from wukong.backends.faas import FaaS, Failure
from wukong.backends.plugins import load_faas, load_storage
from wukong.backends.storage import Store
from wukong.backends.storage.layers import stacked
from wukong.config import Settings
from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.job import Ground, Job
from wukong.core.order import Envelope
from wukong.core.policy import Costs
from wukong.core.shipment import Plan

# Modules that a pickle names: whole short strings, so that a docstring which mentions one does not count.
_HEAVY = re.compile(
    rb"\x8c([\x00-\xff])"
    rb"((?:numpy|scipy|pandas|pyarrow|sklearn|dask_ml|dask|xarray|numba|torch|statsmodels)(?:\.[\w.]+)?)"
)
_LOOK_BYTES = 1_000_000
_FREE_WAIT_S = 1.0
"""The delay budget where nobody pays for an executor that waits, and its slot is free for others meanwhile."""


class Deployment:
    """Open a FaaS backend and a store; make and start jobs on them.

    Attributes:
        faas, storage: as the plug-ins made them.
        store: `storage` with the layers around it which everybody uses it through.

    Raises PluginError where one cannot be loaded; the other is closed then.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.storage: Store = load_storage(settings.storage)
        try:
            self.faas: FaaS = load_faas(settings.faas)
            key = _key_of(settings, self.faas)
            self.faas.configure({KEY_VARIABLE: key.hex(), **self.storage.environment()})
        except BaseException:
            self.storage.close()
            raise
        self.store = stacked(self.storage, patience_s=settings.store_patience_s)
        capabilities = self.storage.capabilities
        compress = settings.compression == "lz4" or (settings.compression == "auto" and not capabilities.zero_copy)
        self.codec = Codec(key, sign_buffers=not capabilities.trusted, compress=compress)
        faas_spec, store_spec = self.faas.spec(), self.storage.spec()
        self.faas.prepare([store_spec.target.partition(":")[0]])
        envelope = Envelope(
            (store_spec.target, dict(store_spec.options)),
            (faas_spec.target, dict(faas_spec.options)),
            self.codec.sign_buffers,
            compress,
            None,
        )
        self.ground = Ground(
            envelope,
            self.store,
            self.codec,
            Costs(self.faas.latency_s, capabilities.round_trip_s, capabilities.bandwidth_bytes_per_s),
            Plan(settings.payload_inline_bytes, settings.page_tasks),
            lambda names: sender(self.faas, self.codec, envelope, names),
            self._failures_of,
            self.faas.cancel,
            self.faas.bill,
        )
        self._lock = threading.Lock()
        self._failures: dict[str, list[Failure]] = {}
        self._prepared: set[str] = set()

    def job(
        self,
        graph: Graph,
        *,
        retries: int | None = None,
        stream: bool = False,
        keep: bool = False,
        events: bool = False,
        began: float | None = None,
    ) -> Job:
        """Return a job that has not been started. `began`: when the call that wants it came, by `time.perf_counter`."""
        policy = self.settings.policy()
        if not self.faas.billed:
            budget_s = _FREE_WAIT_S if policy.delay_budget_s is None else policy.delay_budget_s
            policy = replace(policy, delay_budget_s=budget_s, backup=policy.backup is not False)
        if retries is not None:
            policy = replace(policy, retries=retries)
        if events:
            policy = replace(policy, events=True, heartbeat_s=min(0.2, policy.heartbeat_s))
        return Job(self.ground, policy, graph, stream=stream, keep=keep, began=began)

    def start(self, job: Job) -> None:
        """Ship a job and make its first invocations."""
        job.ship()
        self._prepare(job)
        job.invoke()

    def attach(self, job_id: str) -> Job:
        """Take over a job; see `wukong.core.job.Job.attach`."""
        job = Job.attach(self.ground, job_id)
        self._prepare(job, taken_over=True)
        return job

    def _prepare(self, job: Job, *, taken_over: bool = False) -> None:
        """Have the platform load the installed modules that a job's code names, once, rather than in each function."""
        pairs = [pair for blob in job.code() for pair in _HEAVY.findall(blob[:_LOOK_BYTES])]
        found = {name[: size[0]].decode() for size, name in pairs if size[0] <= len(name)}
        found = {name for name in found if all(part.isidentifier() for part in name.split("."))}
        with self._lock:
            new = sorted(name for name in found - self._prepared if name in sys.modules or (taken_over and _here(name)))
            self._prepared |= found
        if new:
            self.faas.prepare(new)

    def forget(self, job: Job) -> None:
        """A job has ended: what the platform still reports of it is of no interest."""
        with self._lock:
            self._failures.pop(job.id, None)

    def _failures_of(self, job: str) -> Sequence[Failure]:
        """The platform reports for all jobs at once: keep what belongs to the others."""
        reported = self.faas.failures()
        with self._lock:
            for failure in reported:
                self._failures.setdefault(failure.invocation.partition("/")[0], []).append(failure)
            return self._failures.pop(job, ())

    def close(self) -> None:
        """Close both backends. Closing twice is no error."""
        try:
            self.faas.close()
        finally:
            self.storage.close()

    def described(self) -> str:
        """Return both backends' names, for a `repr`."""
        return f"faas: {_name(self.settings.faas)}, storage: {_name(self.settings.storage)}"


def _key_of(settings: Settings, faas: FaaS) -> bytes:
    """The key in the settings; else that of the functions, where they are deployed; else a new one."""
    if settings.key is not None:
        return blake2b(settings.key.encode(), digest_size=32).digest()
    deployed = faas.deployment_key()
    return secrets.token_bytes(32) if deployed is None else bytes.fromhex(deployed)


def _here(name: str) -> bool:
    """Whether a module's package is installed where the client is."""
    return find_spec(name.partition(".")[0]) is not None


def _name(choice: Any) -> str:
    if isinstance(choice, str):
        return choice
    return str(choice["name"]) if isinstance(choice, dict) else type(choice).__name__
