"""Wukong: run any Dask graph on cloud functions, with no cluster in between.

import wukong, dask.array as da

with wukong.Client():
    da.random.random((10_000, 1_000)).sum().compute()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wukong.client.client import Client
    from wukong.client.cluster import LocalCluster
    from wukong.client.following import progress
    from wukong.client.futures import Future
    from wukong.client.scheduler import get_client
    from wukong.client.waiting import as_completed, fire_and_forget, futures_of, wait
    from wukong.core.lock import Lock
    from wukong.core.partial import FailedValue, Partial

__version__ = "0.1.0"
__all__ = [
    "Client",
    "FailedValue",
    "Future",
    "LocalCluster",
    "Lock",
    "Partial",
    "__version__",
    "as_completed",
    "fire_and_forget",
    "futures_of",
    "get_client",
    "progress",
    "wait",
]

_HOME = {
    "Client": "wukong.client.client",
    "LocalCluster": "wukong.client.cluster",
    "Future": "wukong.client.futures",
    "as_completed": "wukong.client.waiting",
    "fire_and_forget": "wukong.client.waiting",
    "futures_of": "wukong.client.waiting",
    "get_client": "wukong.client.scheduler",
    "progress": "wukong.client.following",
    "wait": "wukong.client.waiting",
    "Lock": "wukong.core.lock",
    "FailedValue": "wukong.core.partial",
    "Partial": "wukong.core.partial",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    from wukong.core.interrupts import held

    if name not in _HOME:
        if name[:1] != "_" and (why := import_module("wukong.not_here").NAMES.get(name)) is not None:
            raise import_module("wukong.errors").NotOffered(
                f"wukong has no {name!r}, which is of distributed", hint=why
            )
        raise AttributeError(f"module 'wukong' has no attribute {name!r}")
    with held():
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
