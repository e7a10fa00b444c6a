"""What jobs ask of a store, and what that costs in DynamoDB, with and without S3, beside a Redis node by the hour.

    python benchmarks/which_store.py

Whole jobs on the emulator, with a dynalite, moto's S3 and a real Redis server, and a scripted latency before every
operation: 5 ms for DynamoDB, 0.5 ms for Redis. What is counted (operations, bytes, units, requests) depends little on
how busy the machine is; no time is told, because it would be that of the stand-ins. Prints a table in Markdown. Needs
what the tests need ('make .venv/.servers').
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("XDG_DATA_HOME", tempfile.mkdtemp(prefix="wukong-which-store-"))

import boto3
import dask.array as da
import dynamodb_tools
from workloads import noop, pairs

import wukong
from wukong.backends.storage.fargate.options import Shape
from wukong.backends.storage.fargate.price import rent
from wukong.testing.servers import RedisServer

BUCKET = "wukong-values"
PATIENCE_S = 0.05
"""What an invocation costs on AWS Lambda: so work is split as it would be there."""


def tsqr(client: wukong.Client) -> None:
    client.compute(da.linalg.svd(da.random.random((200_000, 50), chunks=(8_000, 50)))[1]).result()


def svd(client: wukong.Client) -> None:
    client.compute(da.linalg.svd_compressed(da.random.random((4_000, 4_000), chunks=1_000), 10, seed=1)[1]).result()


def gemm(client: wukong.Client) -> None:
    x = da.random.random((2_000, 2_000), chunks=500)
    client.compute((x @ x).sum()).result()


def reduced(client: wukong.Client) -> None:
    client.get(*pairs(128))


def fan_in(client: wukong.Client) -> None:
    graph: dict[Any, Any] = {("f", i): (noop, i) for i in range(200)}
    client.get({**graph, "sum": (sum, [*graph])}, "sum")


def noops(client: wukong.Client) -> None:
    graph = {("n", i): (noop, i) for i in range(10_000)}
    client.get(graph, list(graph))


Run = Callable[[wukong.Client], None]
JOBS: dict[str, dict[str, Run]] = {
    "eager": {
        "TSQR, 200,000 x 50 in 25 blocks": tsqr,
        "SVD compressed, 4,000 x 4,000 in 16 blocks": svd,
        "GEMM, 2,000 x 2,000 in 16 blocks": gemm,
        "tree of 128 numbers": reduced,
        "one fan-in of 200 numbers": fan_in,
    },
    "patience": {"10,000 no-ops": noops},
}
"""By how work is handed out. Eagerly, it does not depend on the machine how many executors there are."""


@contextmanager
def stores() -> Iterator[dict[str, Any]]:
    """Start what stands in for AWS; yield the stores by name."""
    with ExitStack() as stack:
        stack.enter_context(dynamodb_tools.logged_in())
        lite = stack.enter_context(dynamodb_tools.Dynalite())
        dynamodb_tools.make_table(lite.url)
        s3_url = dynamodb_tools.moto_url()
        with closing(boto3.client("s3", endpoint_url=s3_url)) as s3:
            s3.create_bucket(Bucket=BUCKET)
        redis = stack.enter_context(RedisServer())
        table = {"name": "dynamodb", "endpoint_url": lite.url}
        bucket = {**table, "values": "s3", "bucket": BUCKET, "s3_endpoint_url": s3_url}
        yield {
            "table": {"name": "faulty", "store": table, "latency_s": 0.005},
            "bucket": {"name": "faulty", "store": bucket, "latency_s": 0.005},
            "redis": {"name": "faulty", "store": f"redis://{redis.endpoint}", "latency_s": 0.0005},
        }


def main() -> None:
    """Run all jobs on all stores and print the table."""
    node_usd_per_s = rent(1, Shape()).usd_per_s
    found: dict[str, dict[str, Any]] = {}
    with stores() as opened:
        for name, storage in opened.items():
            for fan_out, jobs in JOBS.items():
                settings = {"progress": False, "patience_s": PATIENCE_S, "fan_out": fan_out}
                with wukong.Client(storage=storage, **settings) as client:
                    for job, run in jobs.items():
                        run(client)
                        found.setdefault(job, {})[name] = client.last_job.summary()
    print("| job | executors | store operations | put and got | table only | table and bucket | = a Redis node for |")
    print("|---|---|---|---|---|---|---|")
    for job, by in found.items():
        seen, usd = by["bucket"], {name: by[name].requests.usd for name in ("table", "bucket")}
        moved = (seen.put_bytes + seen.got_bytes) / 1e6
        print(
            f"| {job} | {seen.executors:,} | {seen.operations:,} | {moved:,.1f} MB | ${usd['table']:.4f} | "
            f"${usd['bucket']:.4f} | {usd['bucket'] / node_usd_per_s:,.0f} s |"
        )


if __name__ == "__main__":
    main()
