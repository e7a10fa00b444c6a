"""Which store for which job: the same jobs on each kind of store, on the virtual clock, and for real to check that.

The tasks' durations and sizes are those of one run here, without their wait for a core. From there on it is the
virtual clock: functions that start in 50 ms, and a store with a scripted latency. The check is a real run on the
emulator, whose store has the same latency by the layer `faulty`, against the virtual clock with that run's durations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
from workloads import noop, pairs

import wukong
from wukong.client.known_stores import DYNAMODB, DYNAMODB_S3, REDIS_NODE
from wukong.client.plans import modelled, overhead_of
from wukong.core.policy import Costs
from wukong.planning.estimates import FRAME_BYTES
from wukong.planning.prediction import Prediction, predict
from wukong.planning.store_model import StoreModel, StorePrices
from wukong.planning.terms import runs_of

INVOKE_S, SLOTS = 0.05, 1_000
FUNCTION_USD_PER_S = 1_769 / 1_024 * 1.66667e-5
EXPRESS_PRICES = StorePrices(write=0.625e-6, read=0.125e-6, put=1.13e-6, get=0.03e-6)
"""S3 Express One Zone's requests in us-east-1, without what it asks for each GB. Wukong does not use it."""

MODELS: Mapping[str, StoreModel] = {
    "Redis, 0.5 ms": REDIS_NODE,
    "DynamoDB, 5 ms": DYNAMODB,
    "DynamoDB and S3, 20 ms": DYNAMODB_S3,
    "DynamoDB and S3 Express, 6 ms": replace(DYNAMODB_S3, name="S3 Express", large_s=0.006, prices=EXPRESS_PRICES),
}


def _random(rows: int, columns: int, chunks: Any) -> Any:
    return da.random.default_rng(1).random((rows, columns), chunks=chunks)


Run = Callable[[wukong.Client], Any]


def jobs(*, small: bool) -> dict[str, tuple[str, Run]]:
    """Return the jobs by title: how work is handed out, and what runs one. `small`: sizes for a look only."""
    k, n = (8, 100) if small else (1, 10_000)
    flat = {("n", i): (noop, i) for i in range(n)}
    square, wide, rows, numbers = 8_000 // k, 4_000 // k, 400_000 // k, 256 // k
    svd = lambda: da.linalg.svd_compressed(_random(square, square, square // 4), 10, seed=1)[1]  # noqa: E731
    x = lambda: _random(wide, wide, wide // 4)  # noqa: E731
    tall = lambda: da.linalg.svd(_random(rows, 100, (rows // 25, 100)))[1]  # noqa: E731
    return {
        f"TSQR, {rows:,} x 100 in 25 blocks": ("eager", lambda client: client.compute(tall(), sync=True)),
        f"SVD compressed, {square:,} x {square:,} in 16 blocks": (
            "eager",
            lambda client: client.compute(svd(), sync=True),
        ),
        f"GEMM, {wide:,} x {wide:,} in 16 blocks": (
            "eager",
            lambda client: client.compute((x() @ x()).sum(), sync=True),
        ),
        f"tree of {numbers:,} numbers": ("eager", lambda client: client.get(*pairs(numbers))),
        f"{n:,} no-ops": ("patience", lambda client: client.get(flat, list(flat))),
    }


@dataclass(frozen=True, slots=True)
class Learned:
    """A job that has run: what the virtual clock needs of it."""

    dag: Any
    seconds: list[float]
    sizes: list[int]
    policy: Any
    overhead: Any


def learned(client: wukong.Client) -> Learned:
    """Return what the client's last job has taught."""
    job = client.last_job
    assert job is not None and job.graph is not None
    n, taught = job.record.n_tasks, job.taught()  # the record waits for the last reports
    seconds, sizes = [0.0] * n, [FRAME_BYTES] * n
    for each in runs_of(taught, n):
        seconds[each.task] = each.own_s
    for task, size in taught.sizes.items():
        sizes[task] = FRAME_BYTES + size
    return Learned(job.graph.dag, seconds, sizes, job.policy, overhead_of(client._deployment, job.graph))


def on(model: StoreModel, job: Learned, **more: Any) -> Prediction:
    """Return what a job does on a store."""
    costs = Costs(INVOKE_S, model.round_trip_s, model.bandwidth_bytes_per_s)
    choices = {"costs": costs, "policy": job.policy, "slots": SLOTS, "store": model, "overhead": job.overhead, **more}
    return predict(job.dag, job.seconds, job.sizes, **choices)


def compare(*, small: bool = False) -> list[dict[str, Any]]:
    """Return one row for each job and store."""
    rows = []
    for title, (fan_out, run) in jobs(small=small).items():
        with wukong.Client(progress=False, fan_out=fan_out) as client:
            for _ in range(2):  # the second time in warm processes
                run(client)
            job = learned(client)
        for name, model in MODELS.items():
            seen = on(model, job)
            functions_usd = seen.function_s * FUNCTION_USD_PER_S + seen.executors * 2e-7
            rows.append(
                {
                    "job": title,
                    "store": name,
                    "executors": seen.executors,
                    "operations": seen.operations,
                    "moved_bytes": seen.put_bytes + seen.got_bytes,
                    "time_s": seen.makespan_s,
                    "store_usd": seen.store_usd or 0.0,
                    "functions_usd": functions_usd,
                }
            )
    return rows


def scripted(model: StoreModel) -> dict[str, Any]:
    """Return the settings of a store here that is as slow as this model."""
    small = {"name": "faulty", "store": "local", "latency_s": model.round_trip_s}
    if not model.bucket:
        return {**small, "bandwidth_bytes_per_s": model.bandwidth_bytes_per_s}
    large = {"name": "faulty", "store": "local", "latency_s": model.large_s}
    large["bandwidth_bytes_per_s"] = model.bandwidth_bytes_per_s
    return {"name": "split", "records": small, "values": large, "from_bytes": int(model.large_bytes)}


def check(*, small: bool = False) -> list[dict[str, Any]]:
    """Run each job for real on stores of scripted latency; return what the virtual clock says beside what happened."""
    rows = []
    for name, model in MODELS.items():
        if not model.bucket:
            model = replace(model, large_bytes=float("inf"))  # the layer does not cut values into pieces
        for title, (fan_out, run) in jobs(small=small).items():
            with wukong.Client(progress=False, fan_out=fan_out, storage=scripted(model)) as client:
                for _ in range(2):
                    run(client)
                job = client.last_job
                assert job is not None
                summary, said = job.summary(), modelled(client._deployment, job, store=model)
                rows.append(
                    {
                        "job": title,
                        "store": name,
                        "took_s": summary.wall_s,
                        "said_s": summary.ingest_s + said.makespan_s,
                        "operations": summary.operations,
                        "said_operations": said.operations,
                        "moved_bytes": summary.put_bytes + summary.got_bytes,
                        "said_bytes": said.put_bytes + said.got_bytes,
                    }
                )
    return rows


def to_markdown(rows: list[dict[str, Any]], checks: list[dict[str, Any]]) -> str:
    """Return both as tables."""
    lines: list[str] = []
    if rows:
        lines += [
            "| job | store | executors | operations | moved | time | store | functions |",
            "|---|---|" + "---:|" * 6,
        ]
        lines += [
            f"| {row['job']} | {row['store']} | {row['executors']:,} | {row['operations']:,} | "
            f"{row['moved_bytes'] / 1e6:,.1f} MB | {row['time_s']:.2f} s | ${row['store_usd']:.4f} | "
            f"${row['functions_usd']:.4f} |"
            for row in rows
        ]
    if checks:
        lines += ["", "| job | store | time | virtual clock | operations | bytes |", "|---|---|" + "---:|" * 4]
        lines += [
            f"| {row['job']} | {row['store']} | {row['took_s']:.2f} s | {_off(row['said_s'], row['took_s'])} | "
            f"{_off(row['said_operations'], row['operations'])} | {_off(row['said_bytes'], row['moved_bytes'])} |"
            for row in checks
        ]
    return "\n".join(lines)


def _off(said: float, happened: float) -> str:
    return f"{100 * (said / max(happened, 1e-9) - 1):+.0f}%"
