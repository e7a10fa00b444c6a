"""Asynchronous invocations per second from one process: this backend beside boto3, against the same server.

    python benchmarks/invoke_rate.py                            a sink that accepts events and runs nothing
    python benchmarks/invoke_rate.py --latency-ms 20            the sink takes that long to answer, as AWS's own would
    python benchmarks/invoke_rate.py --service                  the Lambda service, which runs them one after the other
    python benchmarks/invoke_rate.py --endpoint http://127.0.0.1:9001 --function wukong     any endpoint

A burst is one call of `AwsLambda.invoke`, or as many calls of boto3's `invoke`, each answer read (else each would open
a connection of its own). Bursts alternate, so that a slower minute of the machine affects all alike: figures are
medians, the ratio is the median of those within a round. If there are two cores, the client has one, the sink another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from report import machine

from wukong.backends.faas import Invocation
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.backends.faas.aws_lambda.event import pack
from wukong.testing.lambda_service import LambdaService

SINK = """
import asyncio, sys

ANSWER = (
    b"HTTP/1.1 202 Accepted\\r\\nDate: Sat, 21 Nov 2026 00:00:00 GMT\\r\\nContent-Type: application/json\\r\\n"
    b"Content-Length: 0\\r\\nConnection: keep-alive\\r\\nx-amzn-RequestId: 6a7d2f1e-1111-4e5a-9f3e-0123456789ab\\r\\n"
    b"x-amzn-Remapped-Content-Length: 0\\r\\nX-Amzn-Trace-Id: Root=1-655c0c79-0123456789abcdef01234567\\r\\n\\r\\n"
)
LATENCY_S = float(sys.argv[1])

class Sink(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer, self.size = transport, b"", None

    def data_received(self, data):
        self.buffer += data
        if self.size is None:
            end = self.buffer.find(b"\\r\\n\\r\\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            self.size = end + 4 + int(head.partition(b"content-length:")[2].partition(b"\\r\\n")[0] or b"0")
        if len(self.buffer) >= self.size:
            self.buffer, self.size = self.buffer[self.size:], None
            if LATENCY_S:
                asyncio.get_running_loop().call_later(LATENCY_S, self.transport.write, ANSWER)
            else:
                self.transport.write(ANSWER)

async def main():
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

try:
    import uvloop
    uvloop.run(main())
except ImportError:
    asyncio.run(main())
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
Burst = Callable[[Sequence[Invocation]], None]


def by_boto3(url: str, function: str, threads: int) -> Burst:
    """Return what sends a burst through boto3, from `threads` threads."""
    client = boto3.client("lambda", endpoint_url=url, config=Config(max_pool_connections=max(10, threads)))
    pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def send(calls: Sequence[Invocation]) -> None:
        for call in calls:
            told = client.invoke(FunctionName=function, InvocationType="Event", Payload=pack(call))
            told["Payload"].read()

    def share(calls: Sequence[Invocation]) -> None:
        assert pool is not None
        list(pool.map(send, [calls[at::threads] for at in range(threads)]))

    return send if pool is None else share


def measured(send: Burst, calls: Sequence[Invocation]) -> tuple[float, float]:
    """Return calls per second, and microseconds of this process's CPU time per call."""
    wall, cpu = time.perf_counter(), time.process_time()
    send(calls)
    return len(calls) / (time.perf_counter() - wall), (time.process_time() - cpu) / len(calls) * 1e6


def pinned(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start the sink on another core than this process's, if there is one and the system lets us choose."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:])
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    finally:
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[:1])


@contextmanager
def stand_in(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield the URL of what takes the events, and what it is."""
    if options.endpoint:
        yield options.endpoint, options.endpoint
    elif options.service:
        with LambdaService(concurrency=1, retry_delays_s=[]) as service:
            service.create_function(options.function, "def handler(event, context): pass", Timeout=60)
            os.environ.update(service.environment)
            yield service.url, "a Lambda service that runs one at a time"
    else:
        sink = pinned([sys.executable, "-c", SINK, str(options.latency_ms / 1_000)])
        try:
            assert sink.stdout is not None
            url = f"http://127.0.0.1:{int(sink.stdout.readline())}"
            yield url, f"a sink that answers after {options.latency_ms:g} ms"
        finally:
            sink.kill()
            sink.wait()


def run(url: str, options: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Return what was measured in each round, for each way of sending."""
    backend = AwsLambda(
        function=options.function,
        endpoint_url=url,
        time_s=60.0,
        memory_bytes=2**27,
        max_connections=options.connections,
    )
    senders: dict[str, Burst] = {
        "boto3, 1 thread": by_boto3(url, options.function, 1),
        f"boto3, {options.threads} threads": by_boto3(url, options.function, options.threads),
        "aws-lambda": backend.invoke,
    }
    calls = [Invocation(f"bench/{n}", os.urandom(options.payload_bytes)) for n in range(options.calls)]
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in senders}
    with closing(backend):
        for send in senders.values():
            send(calls[:100])
        for _ in range(options.repeat):
            for name, send in senders.items():
                results[name].append(measured(send, calls))
    return results


def table(results: dict[str, list[tuple[float, float]]]) -> str:
    """Return the medians, and the ratios to the better of boto3's two in the same round, in Markdown."""
    boto3s = [runs for name, runs in results.items() if name.startswith("boto3")]
    best = [max(rate for rate, _ in round_) for round_ in zip(*boto3s, strict=True)]
    lines = ["| | calls / s | CPU, us per call | times boto3's best |", "|---|---|---|---|"]
    for name, runs in results.items():
        rate, cpu_us = (statistics.median(values) for values in zip(*runs, strict=True))
        ratios = [mine / theirs for (mine, _), theirs in zip(runs, best, strict=True)]
        spread = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        lines.append(f"| {name} | {rate:,.0f} | {cpu_us:.0f} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--endpoint", help="URL of Lambda, or of what stands in for it; by default a sink is started")
    target.add_argument("--service", action="store_true", help="start a Lambda service with a function of one line")
    parser.add_argument("--function", default="wukong")
    parser.add_argument("--calls", type=int, default=1_000, help="in one burst")
    parser.add_argument("--payload-bytes", type=int, default=3_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=8, help="of boto3's second line")
    parser.add_argument("--connections", type=int, default=128, help="of this backend")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of the sink")
    parser.add_argument("--json", type=Path, help="write every figure there as well")
    options = parser.parse_args()
    for name, value in CREDENTIALS.items():
        os.environ.setdefault(name, value)

    with stand_in(options) as (url, where):
        results = run(url, options)
    print(f"{options.calls:,} events of {options.payload_bytes:,} bytes to {where}, {options.repeat} times\n")
    print(table(results))
    about: dict[str, Any] = machine()
    print(
        f"\n{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}, "
        f"boto3 {boto3.__version__}, {about['system']}"
    )
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
