"""Plans against what happens: each workload runs once, is planned, and runs again, on the emulator and each store.

    python benchmarks/plan.py [--store redis://...] [--faas aws-lambda] [workload ...]

What is learned goes into a folder of its own, so that nothing is known before the first run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from statistics import median
from typing import Any

import dask
import dask.array as da

import wukong

AIM = 0.3


def _delayed(n: int, task_s: float) -> Any:
    work = dask.delayed(_work, pure=False)
    return dask.delayed(sum)([work(i, task_s) for i in range(n)])


def _work(i: int, task_s: float) -> int:
    until = time.process_time() + task_s
    while time.process_time() < until:
        pass
    return i


def _random(rows: int, columns: int, chunks: tuple[int, int]) -> Any:
    return da.random.default_rng(1).random((rows, columns), chunks=chunks)


def _gemm(n: int, chunk: int) -> list[Any]:
    x = _random(n, n, (chunk, chunk))
    return [x @ x.T]


def _tsqr(rows: int, columns: int, chunk: int) -> list[Any]:
    return [da.linalg.svd(_random(rows, columns, (chunk, columns)))[2]]


def _svd(n: int, chunk: int) -> list[Any]:
    return list(da.linalg.svd_compressed(_random(n, n, (chunk, chunk)), k=5, seed=2))


WORKLOADS = {
    "gemm": lambda small: _gemm(1_000, 500) if small else _gemm(4_000, 1_000),
    "tsqr": lambda small: _tsqr(2_000, 50, 500) if small else _tsqr(200_000, 100, 10_000),
    "svd": lambda small: _svd(1_000, 500) if small else _svd(8_000, 2_000),
    "fan-out": lambda small: [_delayed(10 if small else 200, 0.05)],
}


def compare(names: list[str], *, small: bool, repeat: int, **choices: Any) -> list[dict[str, Any]]:
    """Plan each workload after one run of it, run it again, and return what was planned and what happened."""
    rows = []
    with wukong.Client(progress=False, **choices) as client:
        for name in names:
            collections = WORKLOADS[name](small)
            client.compute(collections, sync=True)
            plan = client.plan(collections)
            walls, moved = [], []
            for _ in range(repeat):
                began = time.perf_counter()
                client.compute(collections, sync=True)
                walls.append(time.perf_counter() - began)
                summary = client.last_job.summary()
                moved.append(summary.put_bytes + summary.got_bytes)
            planned_bytes = plan.put_bytes.expected + plan.got_bytes.expected
            rows.append(
                {
                    "workload": name,
                    "tasks": plan.tasks,
                    "planned_s": plan.time_s.expected,
                    "low_s": plan.time_s.low,
                    "high_s": plan.time_s.high,
                    "took_s": median(walls),
                    "planned_bytes": planned_bytes,
                    "moved_bytes": median(moved),
                    "planned_usd": plan.usd.expected if plan.usd else None,
                    "load": os.getloadavg()[0],
                }
            )
            print(_line(rows[-1]), flush=True)
    return rows


def _off(planned: float, seen: float) -> str:
    return f"{100 * (planned / seen - 1):+.0f}%" if seen else "-"


def _line(row: dict[str, Any]) -> str:
    within = "" if abs(row["planned_s"] / row["took_s"] - 1) <= AIM else "  (time is off by more than 30%)"
    time_off, bytes_off = _off(row["planned_s"], row["took_s"]), _off(row["planned_bytes"], row["moved_bytes"])
    return (
        f"{row['workload']:8} {row['tasks']:5} tasks  planned {row['planned_s']:7.3f} s "
        f"({row['low_s']:.3f} to {row['high_s']:.3f}), took {row['took_s']:7.3f} s {time_off:>5}; "
        f"planned {row['planned_bytes'] / 1e6:8.1f} MB, moved {row['moved_bytes'] / 1e6:8.1f} MB "
        f"{bytes_off:>5}; load {row['load']:.1f}{within}"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--faas", default="local")
    parser.add_argument("--store", default="local")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="sizes for a look only")
    given = parser.parse_args()
    unknown = set(given.workloads) - set(WORKLOADS)
    if unknown:
        sys.exit(f"there is no workload {', '.join(sorted(unknown))}: {', '.join(WORKLOADS)}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        compare(given.workloads, small=given.small, repeat=given.repeat, faas=given.faas, storage=given.store)


if __name__ == "__main__":
    main()
