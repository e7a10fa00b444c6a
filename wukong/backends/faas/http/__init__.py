"""Executors behind HTTP: `HttpFaaS`, the FaaS backend ``http`` (and ``https``).

    HttpFaaS.invoke -> posting (threads, retries) -> endpoint (one URL: connections, signature) -> wukong-executor serve
    configure, prepare, known, failures, cancel -> asking (all URLs at once) -> endpoint -> ...

`wire` is what both sides say, `access` what requests need besides, `held` keeps answers that end with invocations.
What stands behind a URL decides what can be told: behind a load balancer nobody knows which server has an invocation,
so heartbeats tell what is lost; of URLs with one server each (``direct``) all is known.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from wukong.backends.environment import KEY_VARIABLE, variable
from wukong.backends.faas import FaaS, Failure, Invocation, Limits
from wukong.backends.faas.description import refuse_misfit
from wukong.backends.faas.http import wire
from wukong.backends.faas.http.access import HttpAccess
from wukong.backends.faas.http.asking import ask_all, descriptions, in_words
from wukong.backends.faas.http.endpoint import HttpEndpoint, ServerAnswer
from wukong.backends.faas.http.held import HeldAnswers
from wukong.backends.faas.http.posting import Posting
from wukong.backends.faas.http.wire import BACKEND, Posted
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, ConfigError, PayloadTooLarge

__all__ = ["HttpFaaS"]

_STATE_S = 5.0
"""How long to wait for a server that is asked what it has."""
_FAILURES_S = 1.0
_CANCEL_S = 3.0
_MOST_JOBS = 1_000

logger = logging.getLogger("wukong")


class HttpFaaS(FaaS):
    """Executor servers (``wukong-executor serve``) behind one or several URLs. All arguments are keywords.

    Args:
        url, urls: where they are: one URL, or several that share out the invocations.
        direct: each URL is one server, with nothing in between that chooses one. Then it is known which invocations
            run, which have failed and how many places are free; and use counts as free of charge.
        wait: servers end their answers only when the invocations have ended, for platforms that give a container no
            CPU when it has answered.
        concurrency: most invocations at once; None: the servers' places if `direct`, else not known.
        headers: of every request, for what stands in front: by name, the environment variable that holds the value.
        ca_file: certificate authorities to trust instead of the system's, a file.
        verify: False trusts any certificate.
        max_connections: postings under way at once in one `invoke`.
        timeout_s: how long one answer may take, seconds.
        patience_s: give up when nothing has been taken for this long, seconds.
        check: compare versions and modules before a job.
        payload_bytes, time_s, memory_bytes: the servers' limits; None: asked for.
    """

    latency_s = 0.005
    configurable = False

    def __init__(
        self,
        *,
        url: str | None = None,
        urls: Sequence[str] | None = None,
        direct: bool = False,
        wait: bool = False,
        concurrency: int | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        verify: bool = True,
        max_connections: int = 16,
        timeout_s: float = 10.0,
        patience_s: float = 30.0,
        check: bool = True,
        payload_bytes: int | None = None,
        time_s: float | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._urls = [*([] if url is None else [url]), *(urls or ())]
        if not self._urls:
            raise ConfigError("no URL is named", backend=BACKEND, hint='the option url, e.g. "http://localhost:8080"')
        for name, value, least in (
            ("concurrency", concurrency, 1),
            ("max_connections", max_connections, 1),
            ("timeout_s", timeout_s, 0.001),
            ("patience_s", patience_s, 0.001),
            ("payload_bytes", payload_bytes, 1_024),
            ("time_s", time_s, 0.001),
            ("memory_bytes", memory_bytes, 1),
        ):
            if value is not None and not value >= least:
                raise ConfigError(f"{name} is {value!r}; it is at least {least}", backend=BACKEND)
        self.billed = not direct
        self._direct, self._wait, self._concurrency = direct, wait, concurrency
        self._access = HttpAccess(headers or {}, ca_file, verify)
        self._ca_file, self._verify = ca_file, verify
        self._max_connections, self._timeout_s, self._patience_s = max_connections, timeout_s, patience_s
        self._compare = check
        self._given = payload_bytes, time_s, memory_bytes
        self._jobs: OrderedDict[str, None] = OrderedDict()
        self._failures: deque[Failure] = deque()
        self._held = HeldAnswers()
        self._lock = threading.RLock()
        self._asked: set[str] | None = None
        self._closed = False
        self._endpoints = [HttpEndpoint(each, self._access, timeout_s, max_connections) for each in self._urls]

    def __repr__(self) -> str:
        return f"HttpFaaS({', '.join(self._urls)})"

    # --- the contract

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        """Post these invocations; return when servers have taken all. See `FaaS.invoke`."""
        self._check_open()
        if not invocations:
            return
        limit = self.limits.payload_bytes
        for each in invocations:
            if limit is not None and len(each.payload) > limit:
                raise PayloadTooLarge(
                    f"the payload of {each.id} has {len(each.payload):,} bytes; a server takes {limit:,}",
                    backend=BACKEND,
                )
        self._note_jobs(each.id for each in invocations)
        post = self._held.post if self._wait else _post
        Posting(self._endpoints, invocations, post, self._wait, self._max_connections, self._patience_s).run()

    def spec(self) -> PluginSpec:
        """Return how a function opens this backend: URLs and limits, and no secrets."""
        limits = self.limits
        options = {
            "urls": self._urls,
            "direct": self._direct,
            "wait": self._wait,
            "concurrency": limits.concurrency,
            "headers": self._access.variables,
            "ca_file": self._ca_file,
            "verify": self._verify,
            "max_connections": self._max_connections,
            "timeout_s": self._timeout_s,
            "patience_s": self._patience_s,
            "payload_bytes": limits.payload_bytes,
            "time_s": limits.time_s,
            "memory_bytes": limits.memory_bytes,
        }
        return PluginSpec(f"{__name__}:HttpFaaS", options)

    def environment(self) -> Mapping[str, str]:
        """Return the variables of the option `headers`, which the servers need as well."""
        found = {of: variable(of) for of in self._access.variables.values()}
        return {of: value for of, value in found.items() if value is not None}

    def free_slots(self) -> int | None:
        """Return how many places are free: in a function, of its own server; else as servers told a moment ago."""
        if not self._direct or self._several():
            return None
        if _in_a_function():
            from wukong.backends.faas.emulator.worker import attach

            return attach().free_slots()
        told = [each.free() for each in self._endpoints]
        return None if None in told else sum(each for each in told if each is not None)

    @cached_property
    def limits(self) -> Limits:  # type: ignore[override]
        """The limits: given, or the least of all servers'."""
        payload_bytes, time_s, memory_bytes = self._given
        told = [each for _, each in self._described(())] if payload_bytes is None or not _in_a_function() else []
        limits = [each["limits"] for each in told]
        places = sum(int(each["places"]) for each in told) if self._direct else None
        return Limits(
            payload_bytes=_least(payload_bytes, [each["payload_bytes"] for each in limits]),
            time_s=_least(time_s, [each["time_s"] for each in limits]),
            memory_bytes=_least(memory_bytes, [each["memory_bytes"] for each in limits]),
            cores=_least(None, [each.get("cores") for each in limits]) or 1,
            concurrency=places or None if self._concurrency is None else self._concurrency,
        )

    def failures(self) -> list[Failure]:
        """Return what has failed, as far as it can be known. See `FaaS.failures`."""
        if not self._direct:
            return self._held.failures()
        if self._jobs and not self._closed:
            self._states((), _FAILURES_S)
        taken = []
        while self._failures:
            taken.append(self._failures.popleft())
        return taken

    def known(self, ids: Sequence[str]) -> Collection[str] | None:
        """Return which of these invocations any server has. None unless `direct`. See `FaaS.known`."""
        if not self._direct or self._several():
            return None
        if self._closed:
            return ids
        self._note_jobs(ids)
        found = self._states(ids)
        return ids if found is None else found

    def cancel(self, prefix: str) -> None:
        """Have the servers end these invocations; of many behind one URL only one is reached."""
        if not self._closed:
            for each, answer in ask_all(self._endpoints, "cancel", {"prefix": prefix}, min(_CANCEL_S, self._timeout_s)):
                if not isinstance(answer, ServerAnswer) or answer.status != 200:
                    logger.info("%s: %s was not told to end %s: %s", BACKEND, each.url, prefix, in_words(answer))

    def deployment_key(self) -> str | None:
        """Return the key that this process has in its environment, as functions do; None: it has none."""
        return variable(KEY_VARIABLE)

    def configure(self, environment: Mapping[str, str]) -> None:
        """Compare these variables with the servers'. Raises `BackendError` that names those that are missing there."""
        self._check_open()
        if KEY_VARIABLE in environment:
            self._access.use(environment[KEY_VARIABLE])
        wanted = {name: value for name, value in environment.items() if name != KEY_VARIABLE}  # as signatures prove
        for each, told in self._described((), wanted):
            for names, has in ((told["variables"]["missing"], "no"), (told["variables"]["differ"], "another")):
                if names:
                    plural = "s" if len(names) > 1 else ""
                    raise BackendError(
                        f"the server has {has} value of the variable{plural} {', '.join(names)} [{each.url}]",
                        backend=BACKEND,
                        hint="set it in the containers' environment, as it is here: executors need it for the store",
                    )

    def prepare(self, modules: Sequence[str]) -> None:
        """Ask the servers whether their versions fit and these modules are there. Raises `BackendError`."""
        self._check_open()
        with self._lock:
            new = sorted(set(modules) - (self._asked or set()))
            if not self._compare or (self._asked is not None and not new):
                return
            for each, told in self._described(new):
                refuse_misfit(
                    told,
                    each.url,
                    BACKEND,
                    redeploy="build the containers' image from an environment like the client's",
                    add="add it to the containers' image (check=False runs the job regardless)",
                )
            self._asked = (self._asked or set()) | set(new)

    def close(self) -> None:
        """Close all connections. Closing twice is no error."""
        self._closed = True
        self._held.close()
        for each in self._endpoints:
            each.close()

    # --- what it stands on

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError("this backend has been closed", backend=BACKEND)

    def _several(self) -> bool:
        return any(each.several for each in self._endpoints)

    def _note_jobs(self, ids: Iterator[str] | Sequence[str]) -> None:
        with self._lock:
            for job in {each.partition("/")[0] for each in ids}:
                self._jobs[job] = None
                self._jobs.move_to_end(job)
            while len(self._jobs) > _MOST_JOBS:
                self._jobs.popitem(last=False)

    def _states(self, ids: Sequence[str], timeout_s: float = _STATE_S) -> Collection[str] | None:
        """Return which of these any server has, and note what has failed; None: one has not answered in time.

        If nothing listens at a URL, nothing runs there. A server that answers nobody for longer than `patience_s`
        counts as gone.
        """
        found: set[str] = set()
        silent = False
        with self._lock:  # what has failed is told once
            asked = {"ids": list(ids), "jobs": list(self._jobs)}
            for each, answer in ask_all(self._endpoints, "state", asked, min(timeout_s, self._timeout_s)):
                if isinstance(answer, ServerAnswer) and answer.status == 200 and "known" in answer.told:
                    found.update(answer.told["known"])
                    for invocation, reason, detail, task in answer.told["failures"]:
                        self._failures.append(Failure(invocation, reason, detail, task))
                    each.after = int(answer.told["last"])
                elif not isinstance(answer, ConnectionRefusedError):
                    logger.info("%s: %s does not tell what it has: %s", BACKEND, each.url, in_words(answer))
                    silent = silent or time.monotonic() < each.answered_at + self._patience_s
        return None if silent else found

    def _described(
        self, modules: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> list[tuple[HttpEndpoint, Mapping[str, Any]]]:
        """Return what the servers that answer say of themselves. Raises `BackendError`, `Throttled`."""
        key = self._access.key()
        digests = {name: wire.value_digest(key, name, value) for name, value in (environment or {}).items()}
        question = {"modules": list(modules), "variables": digests}
        return descriptions(self._endpoints, question, self._timeout_s, self._patience_s)


def _in_a_function() -> bool:
    return variable(wire.SERVER_VARIABLE) is not None


def _post(endpoint: HttpEndpoint, posted: Posted) -> ServerAnswer:
    return endpoint.call("invoke", wire.pack(posted))


def _least(given: float | None, told: Sequence[float | None]) -> Any:
    """Return the least of the limits that there are; None: there is none."""
    return min((each for each in (given, *told) if each is not None), default=None)
