"""What `factors.py` measures on: a Lambda service whose calls take a while, and Redis servers behind slow links.

    environments --- Invoke: 50 ms ---> Lambda service            (real API, real runtime client, warm environments)
      |    |
      |    `--- link: 25 MB/s each way, 1 ms ---> redis-server 0
      `-------- link: 25 MB/s each way, 1 ms ---> redis-server 1 ...

Servers, links, the fan-out proxy and the service are processes of their own, as the environments are. All of them share
this machine's cores, while AWS has machines for each. So every run measures how busy the cores were: a figure is worth
reading only if the links were the bottleneck.
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from factors_links import Carried, Links
from on_lambda import warm

from wukong.proxy.beside import ProxyBeside
from wukong.testing.lambda_service import LambdaService
from wukong.testing.servers import RedisServer

_MEMORY_MB = 1_769
_CODE = """
from wukong_executor.handler import handler
import numpy, dask.array
import wukong.backends.faas.aws_lambda.invoker, wukong.backends.storage.redis, wukong.proxy.client
"""
"""Imported once, before environments are forked."""


@dataclass(frozen=True)
class Wires:
    """What is scripted.

    Attributes:
        shards: Redis servers.
        bandwidth_mb_s: of the link to each, each way. latency_ms: of a round trip on it.
        invoke_ms: how long a call of the Lambda API takes; its function begins when it ends.
    """

    shards: int = 8
    bandwidth_mb_s: float = 25.0
    latency_ms: float = 1.0
    invoke_ms: float = 50.0


class Bed:
    """All that is started. Use as a context manager; it sets the variables by which clients find the service.

    Args:
        wires: what is scripted.
        environments: how many environments are warm before anything is measured.
        proxied: start a fan-out proxy as well, which calls the same API.

    Attributes:
        endpoints: of the links to the Redis servers.
        proxy: the fan-out proxy's address, if it has been asked for.
    """

    def __init__(self, wires: Wires, environments: int, *, proxied: bool) -> None:
        self.wires, self._environments, self._proxied = wires, environments, proxied
        self._up = ExitStack()
        self._links: Links | None = None
        self._carried: list[Carried] = []
        self.endpoints: list[str] = []
        self.proxy = ""

    def __enter__(self) -> Bed:
        with ExitStack() as up:
            wires = self.wires
            servers = [up.enter_context(RedisServer()) for _ in range(wires.shards)]
            half_ms = wires.latency_ms / 2
            links = Links([server.endpoint for server in servers], wires.bandwidth_mb_s, half_ms, half_ms)
            self.endpoints = up.enter_context(links).endpoints
            self._links = links
            limit = self._environments + 400
            start = {"start": "forked", "site_packages": True, "concurrency": limit, "scaling": 10_000}
            service = up.enter_context(LambdaService(throttle_delay_s=0.0, idle_s=3_600.0, **start))
            key = secrets.token_bytes(32)
            variables = {"WUKONG_DEPLOYMENT_KEY": key.hex()}
            limits = {"Timeout": 300, "MemorySize": _MEMORY_MB}
            service.create_function("wukong", _CODE, variables=variables, **limits)
            calls = up.enter_context(Links([service.url.removeprefix("http://")], 0.0, wires.invoke_ms, 0.0))
            os.environ.update(service.environment)
            os.environ["AWS_ENDPOINT_URL_LAMBDA"] = f"http://{calls.endpoints[0]}"
            if self._proxied:
                beside = ProxyBeside(key)
                up.callback(beside.close)
                self.proxy = beside.address
            warm(service, self._environments)
            self._up = up.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._up.close()

    def storage(self, shards: int) -> str:
        """Return the option `wukong.Client(storage=...)` for the first `shards` servers."""
        return f"redis://{','.join(self.endpoints[:shards])}"

    def carried(self) -> list[Carried]:
        """Return what each link to a Redis server has carried since this was last asked."""
        assert self._links is not None
        before, self._carried = self._carried or [Carried()] * self.wires.shards, self._links.carried()
        return [now - earlier for now, earlier in zip(self._carried, before, strict=True)]


@dataclass(frozen=True)
class Busy:
    """How long cores have been busy, in seconds: for this process and all it has started, and for all processes."""

    ours_s: float
    all_s: float

    def __sub__(self, other: Busy) -> Busy:
        return Busy(self.ours_s - other.ours_s, self.all_s - other.all_s)


def busy() -> Busy | None:
    """Return the CPU time used so far; None if the system does not tell by ``/proc``."""
    root = Path("/proc")
    if not (root / "stat").exists():
        return None
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, *_ = map(int, (root / "stat").read_text().split(None, 11)[1:11])
    children: dict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for path in root.iterdir():
        if path.name.isdecimal():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            children[int(fields[1])].append(int(path.name))
            ticks[int(path.name)] = sum(map(int, fields[11:15]))  # with what its children that have ended used
    ours, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        ours += ticks.get(pid, 0)
        todo += children[pid]
    return Busy(ours * tick_s, (user + nice + system + irq + softirq) * tick_s)
