"""What the soak runs: its workloads, and the cases that seeds draw."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: who imports this forks

import dask.array as da
import numpy as np
from dask.core import flatten

PRIME = 1_000_003

Answer = tuple[dict[Any, Any], list[Any], Callable[[Sequence[Any]], bool]]
"""A graph, the keys wanted, and whether their values are right."""


# --- workloads


def slowly(block: Any, sleep_s: float) -> Any:
    time.sleep(sleep_s)
    return block


def tsqr(rng: Random) -> Answer:
    """The singular value decomposition of a tall array, which is a literal of the graph or made by tasks."""
    rows, columns, n = rng.choice((2_000, 5_000, 20_000)), rng.choice((5, 20, 50)), rng.choice((4, 8, 16))
    source: Any = np.random.default_rng(rng.randrange(PRIME))
    if rng.random() < 0.5:
        x = da.from_array(source.random((rows, columns)), chunks=(rows // n, columns))
    else:
        x = da.random.default_rng(rng.randrange(PRIME)).random((rows, columns), chunks=(rows // n, columns))
    plain = x.compute(scheduler="sync")
    u, s, v = da.linalg.svd(x.map_blocks(slowly, rng.choice((0.0, 0.1, 0.3)), dtype=x.dtype))
    wanted = [s, v] if rng.random() < 0.5 else [s, v, u]
    graph = {key: task for each in wanted for key, task in each.__dask_graph__().items()}
    keys = [key for each in wanted for key in flatten(each.__dask_keys__())]
    expected = np.linalg.svd(plain, compute_uv=False)

    def right(values: Sequence[Any]) -> bool:
        if not np.allclose(values[0], expected):
            return False
        if len(wanted) == 2:
            return np.allclose(values[1] @ values[1].T, np.eye(columns))
        return np.allclose(np.vstack(values[2:]) * values[0] @ values[1], plain)

    return graph, keys, right


def slow_add(a: int, b: int, sleep_s: float) -> int:
    time.sleep(sleep_s)
    return a + b


def tree(rng: Random) -> Answer:
    """A tree reduction, each task of which sleeps a little."""
    n, sleep_s = rng.choice((32, 64, 128, 256)), rng.choice((0.002, 0.01, 0.03, 0.1))
    graph: dict[Any, Any] = {("t", 0, i): (slow_add, i, i, sleep_s) for i in range(n)}
    level, width = 0, n
    while width > 1:
        level, width = level + 1, width // 2
        for i in range(width):
            graph["t", level, i] = slow_add, ("t", level - 1, 2 * i), ("t", level - 1, 2 * i + 1), sleep_s
    return graph, [("t", level, 0)], lambda values: list(values) == [n * (n - 1)]


def digest(value: Any) -> int:
    """Return a number that depends on all of a node's value."""
    if value is None:
        return 1
    if isinstance(value, int):
        return value
    return (len(value) + int(np.sum(value if isinstance(value, np.ndarray) else list(value)))) % PRIME


def node(number: int, kind: str, size: int, sleep_s: float, *inputs: Any) -> Any:
    """A task of a random DAG: its value depends on all of its inputs."""
    time.sleep(sleep_s)
    total = (number + sum((i + 2) * digest(each) for i, each in enumerate(inputs))) % PRIME
    if kind == "none":
        return None
    if kind == "int":
        return total
    if kind == "list":
        return [total, *range(size % 1_000)]
    return bytes([total % 256]) * size if kind == "bytes" else np.arange(size) + total


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def dag(rng: Random) -> Answer:
    """A random DAG: values from nothing to some megabytes, tasks from nothing to some hundredths of a second."""
    n = rng.choice((6, 12, 25, 50, 100))
    near, dense, leafy = rng.choice((3, 8, n)), rng.choice((1, 2, 2, 4)), rng.choice((0.05, 0.2, 0.4))
    sizes = rng.choice(((1, 100), (1, 100, 3_000, 40_000), (100, 40_000, 400_000)))
    sleeps = rng.choice(((0.0,), (0.0, 0.001, 0.1), (0.02, 0.05), (0.1, 0.3)))
    kinds = ("array", "array", "array", "array", "int", "int", "bytes", "list", "none")
    graph: dict[Any, Any] = {}
    values: dict[Any, Any] = {}
    used = set()
    for i in range(n):
        leaf = i == 0 or rng.random() < leafy
        parents = [] if leaf else sorted({rng.randrange(max(0, i - near), i) for _ in range(rng.randint(1, dense))})
        used.update(parents)
        what = (i, rng.choice(kinds), rng.choice(sizes))
        graph["n", i] = node, *what, rng.choice(sleeps), *(("n", parent) for parent in parents)
        values["n", i] = node(*what, 0.0, *(values["n", parent] for parent in parents))
    ends = [("n", i) for i in range(n) if i not in used]
    keys = rng.choice((ends, ends, [("n", n - 1)], [*ends, ("n", n // 2)]))
    keys = list(dict.fromkeys(keys))
    return graph, keys, lambda got: all(same(values[key], each) for key, each in zip(keys, got, strict=True))


WORKLOADS: dict[str, Callable[[Random], Answer]] = {"tsqr": tsqr, "tree": tree, "dag": dag}


# --- what happens to a job


@dataclass(slots=True)
class Case:
    """All that a seed decides on. Times are seconds from the moment that the job is in the store.

    Attributes:
        workload: its name. settings, faas: the client's.
        faults: the emulator's script; `faas` has it too.
        kills: when a worker is killed. client_kills: when each client is killed; for the second one and later ones,
            counted from when it attached.
        forget_s: when the store loses values, counted from its first value; None: never.
        records: the store loses records of fan-ins as well.
    """

    seed: int
    workload: str
    settings: dict[str, Any]
    faas: dict[str, Any]
    faults: dict[str, Any]
    kills: list[float]
    client_kills: list[float]
    forget_s: float | None
    records: bool

    @classmethod
    def of(cls, seed: int, heartbeat_s: float) -> Case:
        """Draw a case. The rates are such that an invocation hardly ever dies as often as a job allows."""
        rng = Random(f"soak {seed}")
        workload = rng.choice(sorted(WORKLOADS))
        faults: dict[str, Any] = {}
        for name, rate in (
            ("crash_before", 0.04),
            ("crash_during", 0.04),
            ("crash_after", 0.04),
            ("duplicate", 0.4),
            ("lost", 0.12),
            ("late", 0.3),
            ("throttle", 0.2),
        ):
            if rng.random() < 0.3:
                faults[name] = rate * rng.uniform(0.5, 1.0)
        if "late" in faults:
            faults["late_s"] = rng.choice((0.05, 0.3, 1.0))
        if faults:
            faults["seed"] = seed
        faas: dict[str, Any] = {"name": "local", "slots": rng.choice((2, 2, 3, 4)), "faults": faults}
        if rng.random() < 0.12:
            faas["time_s"] = 3.0
        if rng.random() < 0.12:
            faas["payload_bytes"] = 20_000
        settings: dict[str, Any] = {"heartbeat_s": heartbeat_s}
        settings["fan_out"] = rng.choice(("patience", "patience", "patience", "eager"))
        for name, values in (
            ("large_object_bytes", (None, None, 50_000)),
            ("delay_budget_s", (None, None, 0.0, 0.05)),
            ("ride_bytes", (16_384, 16_384, 100)),
            ("payload_inline_bytes", (131_072, 131_072, 0)),
            ("page_tasks", (512, 16)),
            ("release", (False, False, True)),
        ):
            settings[name] = rng.choice(values)
        settings["lanes"] = Random(f"lanes of {seed}").choice((1, 1, 2, 3, "auto"))
        pace = rng.choice((3.0, 10.0, 20.0))
        kills = sorted(rng.expovariate(pace) for _ in range(rng.choice((0, 0, 1, 1, 2, 3))))
        client_kills = [rng.expovariate(pace) for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2)))]
        forget_s = rng.expovariate(pace) if rng.random() < 0.25 else None
        records = forget_s is not None and rng.random() < 0.4
        return cls(seed, workload, settings, faas, faults, kills, client_kills, forget_s, records)

    def answer(self) -> Answer:
        """Return the work. The same in every process."""
        return WORKLOADS[self.workload](Random(f"work {self.seed}"))
