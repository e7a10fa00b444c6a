"""The two backends of a client, opened, and what every job on them needs."""

from __future__ import annotations

import logging
import platform
import re
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any

from wukong.backends.entry import KEY_VARIABLE, sender
from wukong.backends.faas import FaaS, Failure
from wukong.backends.faas.checked import CheckedFaaS
from wukong.backends.faas.deployment_key import deployment_key
from wukong.backends.machine import boot
from wukong.backends.plugins import load_faas, load_storage
from wukong.backends.storage import Rented, Store
from wukong.backends.storage.layers import checked, stacked
from wukong.client.display import steps
from wukong.client.job import ClientJob
from wukong.client.kept_key import kept_key, leave_key
from wukong.client.owner import Owned, Owner
from wukong.config import Settings
from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.ground import Ground
from wukong.core.job import Job
from wukong.core.payload import Envelope
from wukong.core.policy import Costs, Policy
from wukong.core.seats import leased
from wukong.core.shipment import ShippingPlan
from wukong.core.time_left import limited
from wukong.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from wukong.client.proxied import Proxied

logger = logging.getLogger("wukong")

_HEAVY_NAME = re.compile(
    r"(?:numpy|scipy|pandas|pyarrow|sklearn|dask_ml|dask|xarray|numba|torch|statsmodels)(?:\.[\w.]+)?"
)
_CLIENT_PAST = 1
"""The proxy makes every job's first invocations for the client, unless there is only one."""
_CHEAP_S = 0.2
"""How long a listing of keys may take for a job that nothing happened to, seconds."""
_ASK_S = 2.0
_CLOSE_S = 2.0
_UNRENEWED_S = 86_400.0
"""The least time to live, in seconds, in a store that cannot make a key live longer after it was written."""
_FREE_WAIT_S = 1.0
"""The delay budget, seconds, if nobody pays for an executor that waits, and others may use its slot meanwhile."""


class Deployment:
    """Open a FaaS backend and a store; make and start jobs on them.

    Attributes:
        client: the client's name in the store; those of its jobs begin with it.
        owner: the process that made it.
        faas, storage: as the plug-ins made them.
        store: `storage`, inside the layers through which everybody uses it.
        ttl_s: how long what is written there lives, unless it is renewed.

    Raises PluginError if one cannot be loaded; the other is closed then.
    """

    def __init__(self, settings: Settings, client: str | None = None) -> None:
        self.settings = settings
        self.owner = Owner()
        self.client = secrets.token_hex(6) if client is None else client
        self._numbers = count()
        self._listing_s = 0.0
        with ExitStack() as opened:
            self.storage: Store = load_storage(settings.storage)
            opened.callback(self.storage.close)
            self.faas: FaaS = load_faas(settings.faas)
            opened.callback(self.faas.close)
            self._platform: FaaS = CheckedFaaS(self.faas)
            storage = checked.Checked(self.storage)
            key = deployment_key(settings.key, self._platform, partial(kept_key, settings))
            with steps(settings.progress) as tell:
                storage.start(tell)
            variables = {**storage.environment(), **self._platform.environment()}
            self._platform.configure({KEY_VARIABLE: key.hex(), **variables})
            self._proxy = None if settings.proxy is None else opened.enter_context(_proxied(settings.proxy, key))
            self.store = Owned(stacked(self.storage, patience_s=settings.store_patience_s, aloud=True), self.owner)
            capabilities = self.storage.capabilities
            self.ttl_s = settings.ttl_s if capabilities.renews else max(settings.ttl_s, _UNRENEWED_S)
            self._compress = settings.compression == "lz4" or (
                settings.compression == "auto" and not capabilities.zero_copy
            )
            leave_key(settings, self.storage, key)
            self.codec = Codec(key, sign_buffers=not capabilities.trusted, compress=self._compress)
            self._platform.prepare([self.store.spec().target.partition(":")[0]])
            round_trip_s, bandwidth = capabilities.round_trip_s, capabilities.bandwidth_bytes_per_s
            self.ground = Ground(
                envelope=self._envelope,
                store=self.store,
                codec=self.codec,
                costs=Costs(self._platform.latency_s, round_trip_s, bandwidth),
                plan=ShippingPlan(settings.payload_inline_bytes, settings.page_tasks),
                send=lambda names: sender(self._platform, self.codec, self._envelope, names, self._proxy, _CLIENT_PAST),
                failures=self._failures_of,
                stop=self._platform.cancel,
                bill=self._platform.bill,
                rent=self._rented,
                spent=self.storage.spent,
                leaves=capabilities.leaves,
                known=self._platform.known,
                shares_files=self._platform.shares_files,
                listed=self._listed,
                backends=self.described(),
                evictions=self.evictions,
                about=self._about,
                machine=boot(),
                sizes=lambda: self._platform.limits.sizes,
                limit_s=lambda: self._platform.limits.time_s,
            )
            opened.callback(self._close_locks)
            self._opened = opened.pop_all()
        self._lock = threading.Lock()
        self._failures: dict[str, list[Failure]] = {}
        self._prepared: set[str] = set()

    def _envelope(self) -> Envelope:
        """Return where everything is now: a store may have replaced a server since the last job."""
        store, faas = self.store.spec(), self._platform.spec()
        return Envelope(
            (store.target, dict(store.options)),
            (faas.target, dict(faas.options)),
            self.codec.sign_buffers,
            self._compress,
            None,
            proxy=None if self._proxy is None else self._proxy.address,
        )

    def _about(self) -> dict[str, Any]:
        """Return the settings and versions that a job's record names."""
        settings = {key: (str(value), source) for key, value, source in self.settings.describe()}
        return {"backends": self.described(), "settings": settings, "versions": _versions()}

    def _rented(self, wall_s: float) -> Rented | None:
        rent = self.store.rent()
        return None if rent is None else rent.over(wall_s)

    def listed(self, *, harmed: bool) -> Iterable[bytes] | None:
        """Return the keys of this client and its jobs, as far as the store lists them; None: it does not."""
        return self._listed(self.client.encode(), harmed)

    def _listed(self, prefix: bytes, harmed: bool) -> Iterable[bytes] | None:
        """See `wukong.core.ground.Ground.listed`. A store that holds many keys of other people takes its time."""
        if not self.store.capabilities.scans or (self._listing_s > _CHEAP_S and not harmed):
            return None
        began_s = time.monotonic()
        try:
            return self.store.scan(prefix)
        finally:
            self._listing_s = time.monotonic() - began_s

    def job(
        self,
        graph: Graph,
        *,
        retries: int | None = None,
        stream: bool = False,
        keep: bool = False,
        collect: bool = False,
        events: bool = False,
        budget_usd: float | None = None,
        began: float | None = None,
    ) -> ClientJob:
        """Return a job that has not been started. `began`: when the user's call came, by `time.perf_counter`."""
        policy = replace(self.policy(), retries=self.settings.of_call("retries", retries))
        if events:
            policy = replace(policy, events="on", heartbeat_s=min(0.2, policy.heartbeat_s))
        if policy.lanes == "auto" and graph.by_process:
            policy = replace(policy, lanes=1)
        if graph.limits:
            policy = leased(policy, self._platform.limits.time_s)
        name = f"{self.client}-{next(self._numbers)}"
        most_usd = self.budget(budget_usd)
        given: dict[str, Any] = {"stream": stream, "keep": keep, "collect": collect}
        return ClientJob(self.ground, policy, graph, job=name, budget_usd=most_usd, began=began, **given)

    def budget(self, budget_usd: float | None) -> float | None:
        """Return what a job may cost. Raises ConfigError if that is no amount, or if nobody can tell what it costs."""
        budget_usd = self.settings.of_call("budget_usd", budget_usd)
        if budget_usd is None:
            return None
        if self._platform.bill(1, 1, 1.0) is None and self.store.rent() is None and self.store.spent() is None:
            raise ConfigError(
                f"'budget_usd' is set, and neither backend knows what it costs ({self.described()})",
                hint="leave it out, or use timeout_s",
            )
        return float(budget_usd)

    def policy(self) -> Policy:
        """Return the settings that executors follow, before those of a single job."""
        policy = replace(self.settings.policy(), ttl_s=self.ttl_s)
        if self.settings.keep_failed == "auto":
            policy = replace(policy, keep_failed=not self._platform.billed)
        if self.settings.backup == "auto" and self._platform.billed:
            policy = replace(policy, backup=True, backup_share=self.settings.backup_share)
        if self.settings.overlap == "auto" and not self.storage.capabilities.zero_copy:  # one copies, nobody waits
            policy = replace(policy, overlap="on")
        if self._platform.billed or policy.delay_budget_s is not None:
            return policy
        return replace(policy, delay_budget_s=_FREE_WAIT_S)

    @property
    def platform(self) -> FaaS:
        """The backend, held to its contract."""
        return self._platform

    def start(self, job: Job) -> None:
        """Ship a job and make its first invocations."""
        job.ship()
        self._prepare(job)
        job.invoke()

    def attach(self, job_id: str) -> ClientJob:
        """Take over a job; see `wukong.core.job.Job.attach`."""
        job = ClientJob.attach(self.ground, job_id)
        self._prepare(job, taken_over=True)
        return job

    def _prepare(self, job: Job, *, taken_over: bool = False) -> None:
        """Have the platform load once, rather than in each function, the installed modules that a job's code names."""
        found = {name for name in job.manifest.imports if _HEAVY_NAME.fullmatch(name)}
        found = {name for name in found if all(part.isidentifier() for part in name.split("."))}
        with self._lock:
            new = sorted(name for name in found - self._prepared if name in sys.modules or (taken_over and _here(name)))
            self._prepared |= found
        if new:
            self._platform.prepare(new)

    def forget(self, job: Job) -> None:
        """Drop what the platform still reports of a job that has ended."""
        with self._lock:
            self._failures.pop(job.id, None)

    def _failures_of(self, job: str) -> Sequence[Failure]:
        """Return the failures of one job; the platform reports for all at once, so keep what belongs to the others."""
        reported = self._platform.failures()
        with self._lock:
            for failure in reported:
                self._failures.setdefault(failure.invocation.partition("/")[0], []).append(failure)
            return self._failures.pop(job, ())

    def close(self) -> None:
        """Close both backends and the connection to the proxy. Closing twice is no error."""
        self._opened.close()

    def evictions(self) -> Sequence[str]:
        """Return which of the store's servers drop what they were given, one line each; none if it cannot be asked."""
        try:
            with limited(_ASK_S):
                return [line.replace(" -> ", ": ") for line in self.storage.evictions()]
        except Exception as error:  # nothing depends on the answer
            logger.info("the store does not say whether it evicts: %s", error)
            return ()

    def warn_of_evictions(self) -> None:
        """Warn if the store's servers may drop what they are given."""
        for line in self.evictions():
            logger.warning("%s", line)

    def _close_locks(self) -> None:
        try:
            with limited(_CLOSE_S):
                self.ground.locks.close(self.store, lambda prefix: self.ground.listed(prefix, True))
        except StoreError as error:
            logger.warning("the client closes, and its locks stay in the store: %s", error.message)

    @property
    def faas_name(self) -> str:
        """The backend's name."""
        return _name(self.settings.faas)

    def described(self) -> str:
        """Return both backends' names, for a `repr`."""
        return f"faas: {_name(self.settings.faas)}, storage: {_name(self.settings.storage)}"


_PACKAGES = ("wukong-serverless", "dask", "cloudpickle", "numpy", "pandas", "pyarrow", "lmdb", "redis", "boto3")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _proxied(setting: str, key: bytes) -> AbstractContextManager[Proxied]:
    from wukong.client.proxied import proxied  # few use one, and it takes its time to import

    return proxied(setting, key)


def _here(name: str) -> bool:
    """Whether a module's package is installed in the client's environment."""
    return find_spec(name.partition(".")[0]) is not None


def _name(choice: Any) -> str:
    if isinstance(choice, str):
        return choice
    return str(choice["name"]) if isinstance(choice, dict) else type(choice).__name__
