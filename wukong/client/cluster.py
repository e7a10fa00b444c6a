"""`LocalCluster`, so that programs written for the original Wukong run with their import line only.

The original started a scheduler, lambda invokers and a key-value store proxy from here. None of that exists any more:
a parameter that means something here is mapped to a setting, one that does not is accepted with a warning that says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

_MEANINGLESS = {
    "host": "there is no scheduler that listens",
    "scheduler_port": "there is no scheduler that listens",
    "n_workers": "executors are functions; their number follows the work",
    "threads_per_worker": "the setting `lanes` says how many tasks a function runs at once",
    "num_lambda_invokers": "executors invoke each other",
    "chunk_size": "leaves are handed over as the work demands",
    "dashboard_address": "there is no dashboard",
    "diagnostics_port": "there is no dashboard",
    "processes": "a function is always a process of its own",
    "silence_logs": "logging is configured by the program",
    "local_proxy_path": "the proxy is part of this package",
}


class LocalCluster:
    """The settings of an original `LocalCluster`, for ``Client(local_cluster)``.

    Args:
        max_task_fanout: larger fan-outs go through the fan-out proxy, if there is one.
        redis_endpoints: ``[(host, port), ...]``: use the store plug-in ``redis`` with these servers.
        use_fargate, num_fargate_nodes: use the store plug-in ``fargate`` with this number of nodes.
        proxy_address, proxy_port: where the fan-out proxy is; the port is 8989 if none is given.
        use_local_proxy: the client starts one beside itself, on `proxy_port`, and stops it when it closes.
        faas, storage: as for `wukong.Client`, which the original did not know.
        others: accepted, with a warning if they have no meaning here.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        host: str | None = None,
        *,
        proxy_address: str | None = None,
        proxy_port: int | None = None,
        redis_endpoints: Any = None,
        num_lambda_invokers: int | None = None,
        max_task_fanout: int | None = None,
        use_fargate: bool = False,
        num_fargate_nodes: int | None = None,
        use_local_proxy: bool = False,
        local_proxy_path: str | None = None,
        faas: Any = None,
        storage: Any = None,
        **others: Any,
    ) -> None:
        self.faas = faas
        self.storage = storage
        self.options: dict[str, Any] = {}
        if max_task_fanout is not None:
            self.options["max_task_fanout"] = max_task_fanout
        if use_fargate:
            nodes: Mapping[str, Any] = {} if num_fargate_nodes is None else {"nodes": num_fargate_nodes}
            self.storage = {"name": "fargate", **nodes}
        elif num_fargate_nodes is not None:
            _warn("num_fargate_nodes", "use_fargate is not set")
        if redis_endpoints and not use_fargate:
            self.storage = {"name": "redis", "endpoints": [_endpoint(each) for each in redis_endpoints]}
        elif redis_endpoints:
            _warn("redis_endpoints", "the store is on Fargate, which finds its own addresses")
        if use_local_proxy:
            self.options["proxy"] = f"local:{8989 if proxy_port is None else proxy_port}"
        elif proxy_address:
            self.options["proxy"] = f"{proxy_address}:{8989 if proxy_port is None else proxy_port}"
        elif proxy_port is not None:
            _warn("proxy_port", "no proxy_address is given")
        given = {
            "n_workers": n_workers,
            "host": host,
            "num_lambda_invokers": num_lambda_invokers,
            "local_proxy_path": local_proxy_path,
            **others,
        }
        for name, value in given.items():
            if value is not None:
                _warn(name, _MEANINGLESS.get(name, "it is not known"))

    def close(self, timeout: float | None = None) -> None:
        """Nothing is running; the client closes what it opened."""

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalCluster(storage={self.storage!r}, {self.options})"


def _endpoint(given: Any) -> str:
    return given if isinstance(given, str) else ":".join(map(str, given))


def _warn(name: str, why: str) -> None:
    warnings.warn(f"LocalCluster({name}=...) has no effect in this Wukong: {why}", UserWarning, stacklevel=3)
