"""What a function runs. A payload comes in, an executor runs tasks, and its results go to the store only.

The same for every FaaS backend. Between invocations a warm function keeps its connections and the pages of the last
job, nothing else. The deployment's key comes from the function's own configuration, never from a payload.
"""

from __future__ import annotations

import json
import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from random import uniform
from typing import Any, TypeAlias

from wukong.backends.environment import KEY_VARIABLE as KEY_VARIABLE
from wukong.backends.faas import FaaS, Invocation
from wukong.backends.faas.checked import CheckedFaaS
from wukong.backends.faas.emulator.process import memory_bytes
from wukong.backends.machine import boot
from wukong.backends.peak_memory import PeakMemory
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.layers import Metered, stacked, within
from wukong.core.codec import Codec
from wukong.core.dag import Page
from wukong.core.executor import Executor
from wukong.core.host import ExecutorHost
from wukong.core.limits import MemoryGauge
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Address, Envelope, ProxyPort, Send, Sent
from wukong.core.policy import Policy
from wukong.core.storage import joined
from wukong.errors import AuthenticationError, Throttled

logger = logging.getLogger(__name__)

AHEAD = ("yaml", "toolz", "tlz", "importlib_metadata", "jinja2", "psutil", "dask._task_spec")
"""What a graph's Dask nodes need, in pieces: a platform that has nothing else to do imports them one by one."""

Around: TypeAlias = Callable[[Store, str], Store]

_MOST_OPEN = 8
_MOST_THROTTLED_S = 300.0
"""How long a platform without a time limit is asked again if it refuses invocations, seconds."""

_PAUSE_S = (0.05, 5.0)
_now_s: Callable[[], float] = time.monotonic
_sleep: Callable[[float], None] = time.sleep

_opened: dict[str, Any] = {}
_pages: dict[str, dict[int, Page]] = {}
_n_handled = 0


def handle(
    payload: bytes,
    *,
    time_limit_s: float | None = None,
    memory_limit_bytes: int | None = None,
    cores: int | None = None,
    around: Around | None = None,
) -> None:
    """Run one invocation. Raises only if it cannot even report to the client through the store.

    Args:
        payload: what a client or an executor has sent.
        time_limit_s: the platform ends this invocation this long after now; None: what the backend says.
        memory_limit_bytes: the platform ends this process when it uses more; None: what the backend says.
        cores: of this function; None: what the backend says.
        around: puts a further layer around the store, for the job of this id.
    """
    global _n_handled
    began, arrived_s = time.monotonic(), time.perf_counter()
    _n_handled += 1
    codec = Codec(_deployment_key(), sign_buffers=False)
    envelope: Envelope = codec.decode(payload, PAYLOAD)
    opened: Store = _open(envelope.store)
    if envelope.order is None:
        assert envelope.fetch is not None
        record = stacked(opened, patience_s=Policy().store_patience_s).get([envelope.fetch])[0]
        if record is None:
            return  # a late delivery, after the job's end; if the record was lost instead, the client notices
        envelope = codec.decode(record, PAYLOAD)
        assert envelope.order is not None
    faas: FaaS = CheckedFaaS(_open(envelope.faas))
    proxy: ProxyPort | None = None if envelope.proxy is None else _open(envelope.proxy)
    job = envelope.order.job
    if job not in _pages:
        _pages.clear()
        _pages[job] = {}
    codec = Codec(_deployment_key(), sign_buffers=envelope.sign_buffers, compress=envelope.compress)
    store = stacked(opened, patience_s=envelope.order.policy.store_patience_s)
    stub = replace(envelope, order=None)
    limit_s = faas.limits.time_s if time_limit_s is None else time_limit_s
    until_s = began + (_MOST_THROTTLED_S if limit_s is None else limit_s - min(1.0, 0.1 * limit_s))
    send = sender(faas, codec, lambda: stub, Names(job), proxy, envelope.order.policy.max_task_fanout, until_s)
    metered = within(store, Metered)
    assert metered is not None

    before_usd = _spent_usd(opened)  # the store is that of the process, and has served other invocations

    def usage() -> tuple[int, int, int, float, float]:
        total = metered.usage().total
        return total.calls, total.written_bytes, total.read_bytes, total.busy_s, _spent_usd(opened) - before_usd

    if around is not None:
        store = around(store, job)
    left_s = None if limit_s is None else limit_s - (time.monotonic() - began)
    most_bytes = faas.limits.memory_bytes if memory_limit_bytes is None else memory_limit_bytes
    gauge = None if most_bytes is None else MemoryGauge(partial(memory_bytes, os.getpid()), most_bytes)
    cores = faas.limits.cores if cores is None else cores
    sizes = faas.limits.sizes
    host = ExecutorHost(
        store=store,
        codec=codec,
        send=send,
        free_slots=faas.free_slots,
        pages=_pages[job],
        usage=usage,
        time_limit_s=left_s,
        gauge=gauge,
        cores=cores,
        arrived_s=arrived_s,
        cold=_n_handled == 1,
        machine=boot(),
        memory_bytes=PeakMemory(),
        scale=most_bytes / sizes[0] if sizes and most_bytes else 1.0,
        functions=sizes,
        function=max(0, bisect_right(sizes, most_bytes) - 1) if sizes and most_bytes else 0,
    )
    executor = Executor(envelope, host)
    try:
        executor.execute()
    finally:
        executor.values.cache.clear()  # the executor is part of a cycle: what it held would wait for a collection


def _spent_usd(store: Store) -> float:
    spent = store.spent()
    return 0.0 if spent is None else spent.usd


def disconnect() -> None:
    """Close the store and the backend that this process has opened; the next invocation opens them anew."""
    plugins = list(_opened.values())
    _opened.clear()
    for plugin in plugins:
        plugin.close()


def sender(
    faas: FaaS,
    codec: Codec,
    stub: Callable[[], Envelope],
    names: Names,
    proxy: ProxyPort | None = None,
    past: int = 0,
    until_s: float = -inf,
) -> Send:
    """Return a function that starts invocations on `faas`. A payload over its limit is sent as the key of its record.

    If there is a proxy, it makes the invocations when there are more than `past` at once, on functions of the smallest
    size. Those that it has not made, for whatever reason, are made here. A platform that refuses further invocations
    for now is asked again, with growing pauses, until `until_s` by the monotonic clock, for nobody else knows of these
    invocations yet.
    """

    def send(invocations: Sequence[tuple[str, bytes]], size: int = 0) -> Sent:
        limits = faas.limits
        limit = min((each for each in (limits.payload_bytes, limits.inline_bytes) if each is not None), default=None)
        calls = []
        for invocation, payload in invocations:
            if limit is not None and len(payload) > limit:
                payload = bytes(joined(codec.encode(replace(stub(), fetch=names.invocation(invocation)), PAYLOAD)))
            calls.append(Invocation(names.label(invocation), payload, size))
        requests = sum(faas.billed_requests(len(call.payload)) for call in calls)
        if proxy is None or size or len(calls) <= past:
            _start(faas, calls, until_s)
            return Sent(requests)
        relayed = proxy.invoke(stub().faas, [(call.id, call.payload) for call in calls])
        left = [call for call in calls if call.id not in relayed.accepted]
        if left:
            _start(faas, left, until_s)
        return Sent(requests, len(calls) - len(left), len(left), relayed.why if left else "")

    return send


def _start(faas: FaaS, calls: Sequence[Invocation], until_s: float) -> None:
    failures = 0
    while calls:
        try:
            faas.invoke(calls)
            return
        except Throttled as error:
            failures = 1 if error.taken else failures + 1
            wait_s = uniform(0.5, 1.0) * min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** min(failures, 16))
            if _now_s() + wait_s > until_s:
                raise
            if failures == 1:
                logger.warning("%d invocations are refused for now, and tried again: %s", len(calls), error.message)
            calls = [call for call in calls if call.id not in error.taken]
        _sleep(wait_s)


def _open(address: Address) -> Any:
    target, options = address
    name = json.dumps([target, dict(options)], sort_keys=True)
    plugin = _opened.pop(name, None)
    if plugin is None:
        while len(_opened) >= _MOST_OPEN:  # of stores that change their address, close the oldest
            _opened.pop(next(iter(_opened))).close()
        plugin = PluginSpec(target, options).open()
    _opened[name] = plugin
    return plugin


def _deployment_key() -> bytes:
    text = os.environ.get(KEY_VARIABLE)
    if not text:
        raise AuthenticationError(
            f"this function has no deployment key (environment variable {KEY_VARIABLE})",
            hint="deploy the function with Wukong, or start it through a Wukong client",
        )
    return bytes.fromhex(text)
