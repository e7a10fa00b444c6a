"""Bursts and trees on AWS Lambda, as far as one machine can tell: the real service API, 50 ms from every function.

    python benchmarks/on_lambda.py [--bursts 100 500 1000] [--latency-ms 50] [--repeat 3]

The Lambda service of `wukong emulate lambda` adds the latency to every invocation; environments are warm, and share two
cores, while AWS would give each its own. So a figure is an upper bound, beside what the critical path alone would take.
It prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import math
import os
import secrets
import statistics
import time
from typing import Any

from report import machine, show_s

import wukong
from wukong.testing.lambda_service import LambdaService
from wukong.testing.servers import RedisServer

LEAVES = 1_024


def nothing(i: int) -> int:
    """A task that does nothing."""
    return i


def slow_add(a: int, b: int, delay_s: float) -> int:
    """Add, after a while."""
    if delay_s:
        time.sleep(delay_s)
    return a + b


def burst(n: int) -> tuple[dict[Any, Any], list[Any], list[int]]:
    """N tasks that depend on nothing, all wanted: one executor for each."""
    return {("n", i): (nothing, i) for i in range(n)}, [("n", i) for i in range(n)], list(range(n))


def tree(delay_s: float) -> tuple[dict[Any, Any], Any, int]:
    """The sum of 1,024 numbers, pair by pair."""
    graph: dict[Any, Any] = {("t", 0, i): i for i in range(LEAVES)}
    level, width = 0, LEAVES
    while width > 1:
        width //= 2
        level += 1
        for i in range(width):
            pair = ("t", level - 1, 2 * i), ("t", level - 1, 2 * i + 1)
            graph["t", level, i] = (slow_add, *pair, delay_s)
    return graph, ("t", level, 0), LEAVES * (LEAVES - 1) // 2


def timed(client: wukong.Client, graph: Any, keys: Any, answer: Any) -> tuple[float, int]:
    """Return the seconds of one run, and its executors. Raises SystemExit if the answer is wrong."""
    begun_s = time.perf_counter()
    found = client.get(graph, keys)
    wall_s = time.perf_counter() - begun_s
    if (list(found) if isinstance(answer, list) else found) != answer:
        raise SystemExit("wrong answer")
    assert client.last_job is not None
    return wall_s, client.last_job.summary().executors


def warm(service: LambdaService, count: int, timeout_s: float = 300.0) -> None:
    """Have `count` environments ready."""
    service.warm("wukong", count)
    end_s = time.monotonic() + timeout_s
    while sum(each["state"] == "idle" for each in service.environments("wukong")) < count:
        if time.monotonic() > end_s:
            raise SystemExit(f"{count} environments did not start within {timeout_s} s")
        time.sleep(0.5)


def rows(arguments: argparse.Namespace) -> list[tuple[str, list[tuple[float, int]], float, str]]:
    """Measure: name, (seconds, executors) of each run, the critical path in seconds, what the papers report."""
    latency_s = arguments.latency_ms / 1e3
    settings = {
        "site_packages": True,
        "start": "forked",
        "throttle_delay_s": 0.0,
        "concurrency": max(arguments.bursts) + 100,
        "scaling": 10_000,
        "faults": {"start_latency_s": latency_s},
    }
    found = []
    with LambdaService(**settings) as service, RedisServer() as redis:
        code = "from wukong_executor.handler import handler"
        variables = {"WUKONG_DEPLOYMENT_KEY": secrets.token_hex(32)}
        service.create_function("wukong", code, variables=variables, Timeout=300, MemorySize=1_769)
        os.environ.update(service.environment)
        store = f"redis://{redis.endpoint}"
        reported = {1_000: "~0.3 s", 2_000: "~0.5 s"}
        for n in sorted(arguments.bursts):
            warm(service, n)
            with wukong.Client(faas="aws-lambda", storage=store, progress=False, fan_out="eager") as client:
                runs = [timed(client, *burst(n)) for _ in range(arguments.repeat)]
            found.append((f"{n} no-op tasks, an executor each", runs, latency_s, reported.get(n, "")))
        for delay_s, said in ((0.0, "~1.7 s"), (0.1, "~2.9 s")):
            with wukong.Client(faas="aws-lambda", storage=store, progress=False) as client:
                runs = [timed(client, *tree(delay_s)) for _ in range(arguments.repeat)]
            path_s = latency_s + math.log2(LEAVES) * delay_s
            found.append((f"tree of {LEAVES:,}, {delay_s * 1e3:.0f} ms a task", runs, path_s, said))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", type=int, nargs="+", default=[100, 500, 1_000])
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    print("| job | time, s (median) | runs | executors | critical path, s | SoCC '20, on AWS |")
    print("|---|---|---|---|---|---|")
    for name, runs, path_s, said in rows(arguments):
        times = sorted(seconds for seconds, _ in runs)
        executors = statistics.median(n for _, n in runs)
        each = ", ".join(map(show_s, times))
        print(f"| {name} | {show_s(statistics.median(times))} | {each} | {executors:.0f} | {path_s:.2f} | {said} |")
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, load {about['load']:.1f} at the end")


if __name__ == "__main__":
    main()
