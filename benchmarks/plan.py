"""Plans against what happens: each workload runs once; then it is planned and runs again, some times.

    python benchmarks/plan.py [--store redis://...] [--faas aws-lambda] [workload ...]
    python benchmarks/plan.py --lambda-service [workload ...]

What is learned goes into a folder of its own, so that nothing is known before the first run. `--lambda-service` brings
up what `wukong emulate lambda` does, which adds 50 ms to each invocation, and a Redis.

Two figures are off for different reasons, so there are two. ``plan`` is what a user sees: durations and sizes as
the first run has taught them. ``model`` is a plan with the durations and sizes that the run itself had, and so without
what differs from run to run: on a machine that others use as well, that is most of it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import dask
import dask.array as da

import wukong
from wukong.client.plans import modelled

AIM = 0.3


def _delayed(n: int, task_s: float) -> Any:
    work = dask.delayed(_work, pure=False)
    return dask.delayed(sum)([work(i, task_s) for i in range(n)])


def _tree(n: int, task_s: float) -> list[Any]:
    add = dask.delayed(_slow_add, pure=False)
    level: list[Any] = [add(i, i, task_s) for i in range(n)]
    while len(level) > 1:
        level = [add(a, b, task_s) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level


def _slow_add(a: int, b: int, task_s: float) -> int:
    time.sleep(task_s)
    return a + b


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
    "gemm-8000": lambda small: _gemm(1_000, 500) if small else _gemm(8_000, 2_000),
    "tsqr": lambda small: _tsqr(2_000, 50, 500) if small else _tsqr(200_000, 100, 10_000),
    "svd": lambda small: _svd(1_000, 500) if small else _svd(8_000, 2_000),
    "svd-16000": lambda small: _svd(1_000, 500) if small else _svd(16_000, 4_000),
    "fan-out": lambda small: [_delayed(10 if small else 200, 0.05)],
    "tree": lambda small: _tree(4 if small else 32, 0.25),
}
ELSEWHERE = ("tree", "gemm-8000", "svd-16000")
"""Workloads for functions that have cores of their own and take 50 ms to start. One sleeps; the tasks of the others
take several times as long as that. Those of `gemm` and `svd` take about as long, so they may go or stay.
"""


@contextmanager
def lambda_service() -> Iterator[str]:
    """Run a Lambda service whose functions are warm, and a Redis; yield the store's URL."""
    from wukong.testing.lambda_service import LambdaService
    from wukong.testing.servers import RedisServer

    latency = {"start_latency_s": 0.05}
    with LambdaService(site_packages=True, start="forked", faults=latency) as service, RedisServer() as redis:
        code = "from wukong_executor.handler import handler\nimport dask.array"
        variables = {"WUKONG_DEPLOYMENT_KEY": secrets.token_hex(32)}
        service.create_function("wukong", code, variables=variables, Timeout=300, MemorySize=1_769)
        os.environ.update(service.environment)
        service.warm("wukong", 16)
        yield f"redis://{redis.endpoint}"


def compare(names: list[str], *, small: bool, repeat: int, **choices: Any) -> list[dict[str, Any]]:
    """Plan each workload after one run of it, run it again, and return what was planned and what happened."""
    rows = []
    with wukong.Client(progress=False, **choices) as client:
        for name in names:
            collections = WORKLOADS[name](small)
            client.compute(collections, sync=True)
            walls, moved, model_s, model_bytes, plans = [], [], [], [], []
            for _ in range(repeat):
                plans.append(
                    client.plan(collections)
                )  # each run teaches, and begins at the rate that the last has found
                began = time.perf_counter()
                client.compute(collections, sync=True)
                walls.append(time.perf_counter() - began)
                job = client.last_job
                summary = job.summary()
                moved.append(summary.put_bytes + summary.got_bytes)
                model = modelled(client._deployment, job)
                model_s.append((summary.ingest_s + model.makespan_s) / walls[-1])
                model_bytes.append((model.put_bytes + model.got_bytes) / max(1, moved[-1]))
            rows.append(
                {
                    "workload": name,
                    "tasks": plans[-1].tasks,
                    "planned_s": median(plan.time_s.expected for plan in plans),
                    "low_s": median(plan.time_s.low for plan in plans),
                    "high_s": median(plan.time_s.high for plan in plans),
                    "took_s": median(walls),
                    "plan_s": _ratio([plan.time_s.expected for plan in plans], walls),
                    "model_s": median(model_s),
                    "planned_bytes": median(map(_bytes, plans)),
                    "moved_bytes": median(moved),
                    "plan_bytes": _ratio(list(map(_bytes, plans)), moved),
                    "model_bytes": median(model_bytes),
                    "planned_usd": plans[-1].usd.expected if plans[-1].usd else None,
                    "load": os.getloadavg()[0],
                }
            )
            print(_line(rows[-1]), flush=True)
    return rows


def _bytes(plan: Any) -> float:
    return plan.put_bytes.expected + plan.got_bytes.expected


def _ratio(planned: list[float], happened: list[float]) -> float:
    """Return the median of what was planned for each run by what happened in it."""
    return median(one / max(1e-9, other) for one, other in zip(planned, happened, strict=True))


def _off(ratio: float) -> str:
    mark = "" if abs(ratio - 1) <= AIM else "!"
    return f"{100 * (ratio - 1):+.0f}%{mark}"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['workload']:9} {row['tasks']:5} tasks  planned {row['planned_s']:7.3f} s "
        f"({row['low_s']:.3f} to {row['high_s']:.3f}), took {row['took_s']:7.3f} s: plan {_off(row['plan_s'])}, "
        f"model {_off(row['model_s'])}; planned {row['planned_bytes'] / 1e6:8.3f} MB, moved "
        f"{row['moved_bytes'] / 1e6:8.3f} MB: plan {_off(row['plan_bytes'])}, model {_off(row['model_bytes'])}; "
        f"load {row['load']:.1f}"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--faas", default="local")
    parser.add_argument("--store", default="local")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--lambda-service", action="store_true", help="on a Lambda service of its own, and a Redis")
    parser.add_argument("--small", action="store_true", help="sizes for a look only")
    given = parser.parse_args()
    unknown = set(given.workloads) - set(WORKLOADS)
    if unknown:
        sys.exit(f"there is no workload {', '.join(sorted(unknown))}: {', '.join(WORKLOADS)}")
    names = given.workloads or [name for name in WORKLOADS if given.lambda_service or name not in ELSEWHERE]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        if not given.lambda_service:
            compare(names, small=given.small, repeat=given.repeat, faas=given.faas, storage=given.store)
            return
        with lambda_service() as store:
            compare(names, small=given.small, repeat=given.repeat, faas="aws-lambda", storage=store)


if __name__ == "__main__":
    main()
