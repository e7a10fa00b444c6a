"""SVD and TSQR on functions of 1, 2, 4 and 6 cores, with one lane and with one for each core: as a plan sees them.

    python benchmarks/cores.py [--small] [--repeat 5]

Each task runs once, here, alone, with one BLAS thread: its own CPU time and the size of its value go into the plan,
with AWS Lambda's prices and a store that moves 250 MB/s for each executor. The walk is on the virtual clock, so how
busy this machine is changes little. Lanes are supposed to cost each other nothing. Medians, and ranges in brackets.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Hashable, Mapping
from statistics import median
from typing import Any

import dask
import dask.array as da
from dask.callbacks import Callback
from dask.core import flatten
from threadpoolctl import threadpool_limits

from wukong.backends.faas.aws_lambda import price
from wukong.core.dag import Graph
from wukong.core.ingest import ingest
from wukong.core.policy import Costs, Policy
from wukong.core.sizes import size_bytes
from wukong.planning.estimates import FRAME_BYTES, Estimates
from wukong.planning.plan import Plan, Platform, plan

SIZES_MB = (1_769, 3_538, 7_076, 10_240)
COSTS = Costs(0.05, 0.001, 250e6)
RATES = price.RATES["x86_64"]


def svd_compressed(n: int, chunk: int) -> list[Any]:
    """The five largest singular values and their vectors of a square matrix of random numbers."""
    x = da.random.default_rng(1).random((n, n), chunks=(chunk, chunk))
    return list(da.linalg.svd_compressed(x, k=5, seed=2))


def tsqr(rows: int, columns: int, chunk: int) -> list[Any]:
    """The singular values and vectors of a tall matrix of random numbers."""
    x = da.random.default_rng(1).random((rows, columns), chunks=(chunk, columns))
    return list(da.linalg.svd(x))


def measured(collections: list[Any]) -> tuple[Graph, dict[Hashable, float], dict[Hashable, int]]:
    """Run each task once; return the graph, and by key the CPU seconds and the size of the value in bytes."""
    ready = dask.optimize(*collections)
    work: dict[Hashable, Any] = {}
    for each in ready:
        work.update(each.__dask_graph__())
    keys = list(flatten([each.__dask_keys__() for each in ready]))
    seconds: dict[Hashable, float] = {}
    sizes: dict[Hashable, int] = {}
    begun = 0.0

    def begins(key: Hashable, dsk: Mapping[Any, Any], state: Any) -> None:
        nonlocal begun
        begun = time.thread_time()

    def ends(key: Hashable, value: Any, dsk: Mapping[Any, Any], state: Any, worker: Any) -> None:
        seconds[key], sizes[key] = time.thread_time() - begun, size_bytes(value)

    with threadpool_limits(1), Callback(pretask=begins, posttask=ends):
        dask.get(work, keys)
    return ingest(work, keys), seconds, sizes


def planned(collections: list[Any]) -> Plan:
    """Plan a job on functions of each size."""
    graph, seconds, sizes = measured(collections)
    found = Estimates()
    for key in graph.keys:
        found.seconds.append(seconds.get(key, 0.0))
        found.sizes.append(sizes.get(key, 0) - FRAME_BYTES if key in sizes else 0)
        found.on_core.append(1.0)
        found.spreads.append(1.0)
        found.size_spreads.append(1.0)
    offered = [price.size(memory_mb, RATES) for memory_mb in SIZES_MB]

    def usd(executors: int, function_s: float, wall_s: float) -> float:
        return price.bill(executors, executors, function_s, offered[0].memory_bytes, RATES).usd

    place = Platform("AWS Lambda", COSTS, Policy(), None, 512, usd, RATES.name, offered, offered[0])
    return plan(graph, found, place)


def main() -> None:
    """Plan and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="sizes for a look only")
    parser.add_argument("--repeat", type=int, default=5, help="how often tasks are measured, and the job is planned")
    given = parser.parse_args()
    n, chunk = (800, 200) if given.small else (10_000, 2_000)
    rows, columns, high = (2_000, 10, 500) if given.small else (200_000, 100, 10_000)
    jobs = {
        f"SVD compressed {n:,}² in {chunk:,}² chunks, k = 5": lambda: svd_compressed(n, chunk),
        f"TSQR {rows:,} x {columns} in {rows // high} chunks: u, s, v": lambda: tsqr(rows, columns, high),
    }
    print("| job | function | vCPUs | lanes | time, s | $ per 1,000 jobs | best |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    lines = []
    for name, made in jobs.items():
        seen = [planned(made()) for _ in range(given.repeat)]
        for same in zip(*(each.sizes for each in seen), strict=True):
            size = same[0]
            told = f"{size.memory_bytes >> 20:,} MB | {size.vcpus:.2g} | {size.lanes}"
            times, prices = spread([each.time_s for each in same]), spread([1_000 * each.usd for each in same])
            print(f"| {name} | {told} | {times} | {prices} | {sum(each.best for each in same) or ''} |")
        chain = spread([each.critical_path_s.expected for each in seen])
        moved = spread([(each.put_bytes.expected + each.got_bytes.expected) / 1e6 for each in seen])
        lines.append(
            f"{name}: {seen[0].tasks} tasks, longest chain {chain} s; with one lane {moved} MB through the store"
        )
    print("", *lines, sep="\n")


def spread(figures: list[float]) -> str:
    """Return the median and, in brackets, the range."""
    return f"{median(figures):.3g} ({min(figures):.3g} to {max(figures):.3g})"


if __name__ == "__main__":
    main()
