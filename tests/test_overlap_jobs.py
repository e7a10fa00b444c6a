"""Jobs whose executors write behind, on real stores that are slow: they are right, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from waiting import wait

import wukong
from wukong.core.job import Job
from wukong.errors import StoreFull

SLOW = {"name": "faulty", "latency_s": 0.003}
HOW: dict[str, Any] = {"overlap": "on", "fan_out": "eager", "ride_bytes": 1_000, "large_object_bytes": 1 << 40}
MANY_KINDS = {"crash_during": 0.05, "duplicate": 0.2, "lost": 0.05, "late": 0.2, "late_s": 0.2, "throttle": 0.2}
N = 8


def leaf(i: int) -> np.ndarray:
    return np.full(10_000, float(i))


def add(*values: np.ndarray) -> np.ndarray:
    return sum(values[1:], values[0])


def meshed() -> tuple[dict[Any, Any], Any, float]:
    """Return a graph in which each value goes to two fan-ins of different executors, its result's key, and that."""
    graph: dict[Any, Any] = {("leaf", i): (leaf, i) for i in range(N)}
    graph |= {("pair", i): (add, ("leaf", i), ("leaf", (i + 1) % N)) for i in range(N)}
    graph |= {("four", i): (add, ("pair", i), ("pair", (i + N // 2) % N)) for i in range(N)}
    graph["all"] = (add, *[("four", i) for i in range(N)])
    return graph, "all", 4.0 * N * (N - 1) / 2


def nothing_is_left(client: wukong.Client, job: Job | None) -> Any:
    assert job is not None
    names = job.names
    return wait(lambda: not client.storage.scan(names.prefix + b"/"), "nothing of the job is left")


@pytest.mark.parametrize("faults", [{}, {"seed": 3, **MANY_KINDS}], ids=["no faults", "faults"])
def test_a_job_is_right_and_leaves_nothing_behind(redis_url: str, faults: Any) -> None:
    store = {**SLOW, "store": "local" if faults else redis_url}
    faas = {"name": "local", "slots": 4, "faults": faults}
    graph, key, total = meshed()
    with wukong.Client(faas=faas, storage=store, progress=False, heartbeat_s=0.1, **HOW) as client:
        assert float(client.get(graph, key)[0]) == total
        job = client.last_job
        assert job is not None
        summary = job.summary(timeout_s=30)
        assert summary.overlapped > 0
        assert f", {summary.overlapped} store requests overlapped with work" in str(summary)
        nothing_is_left(client, job)


def test_overlap_is_on_unless_told_or_unless_the_store_only_copies(redis_url: str) -> None:
    chosen = []
    for storage in ("local", redis_url):
        for overlap in ("auto", "on", "off"):
            with wukong.Client(storage=storage, progress=False, overlap=overlap) as client:
                chosen.append(client._deployment.policy().overlap)
    assert chosen == ["off", "on", "off", "on", "on", "off"]


def test_a_store_that_is_full_fails_the_job_by_name(redis_url: str) -> None:
    graph, key, _ = meshed()
    full = {**SLOW, "store": redis_url, "full": 1.0, "only": ["put"], "matching": "/v/"}
    with wukong.Client(storage=full, progress=False, **HOW) as client:
        with pytest.raises(StoreFull, match=r"found the store full.*storage: faulty"):
            client.get(graph, key)
        nothing_is_left(client, client.last_job)
