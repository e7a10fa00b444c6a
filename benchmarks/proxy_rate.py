"""Asynchronous invocations per second with and without the fan-out proxy, through the same plug-in.

    python benchmarks/proxy_rate.py                      a stand-in for Lambda's API that answers after 50 ms
    python benchmarks/proxy_rate.py --calls 100 3000     how many invocations one sender makes at once
    python benchmarks/proxy_rate.py --local              on the emulator, which accepts by one write to a socket

A sender makes its invocations itself (*direct*; *cold*: it has to open its connections first, like a function that has
just started), or has them made by a proxy with one process or with worker processes. The ways take turns; figures are
medians over the rounds, of the rate and of the sender's own CPU time for each invocation.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

from invoke_rate import CREDENTIALS, SINK
from report import machine

from wukong.backends.faas import FaaS, Invocation
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.backends.faas.local import LocalFaaS
from wukong.proxy.beside import ProxyBeside
from wukong.proxy.client import Proxy

Calls = Sequence[tuple[str, bytes]]
Way = Callable[[Calls], None]
_KEY = bytes(32)
_PAYLOAD = b"1".ljust(3_000)


@contextmanager
def platform(options: argparse.Namespace) -> Iterator[FaaS]:
    """Yield the backend; what it invokes on runs meanwhile."""
    if options.local:
        with closing(LocalFaaS(function="json:loads", slots=1, max_slots=1)) as faas:
            yield faas
        return
    command = [sys.executable, "-c", SINK, str(options.latency_ms / 1_000)]
    sink = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert sink.stdout is not None
        url = f"http://127.0.0.1:{int(sink.stdout.readline())}"
        with closing(
            AwsLambda(endpoint_url=url, time_s=60.0, memory_bytes=2**27, max_connections=options.connections)
        ) as faas:
            yield faas
    finally:
        sink.kill()
        sink.wait()


def ways(faas: FaaS, options: argparse.Namespace, opened: ExitStack) -> dict[str, Way]:
    """Return what makes a batch of invocations, by name."""
    spec = faas.spec()
    address = spec.target, dict(spec.options)

    def direct(calls: Calls) -> None:
        faas.invoke([Invocation(*call) for call in calls])

    def cold(calls: Calls) -> None:
        with closing(spec.open()) as one:
            one.invoke([Invocation(*call) for call in calls])

    def through(proxy: Proxy) -> Way:
        def send(calls: Calls) -> None:
            relayed = proxy.invoke(address, calls)
            assert len(relayed.accepted) == len(calls), relayed.why

        return send

    found: dict[str, Way] = {"direct": direct, "direct, cold": cold}
    for workers in options.workers:
        beside = opened.enter_context(closing(ProxyBeside(_KEY, workers=workers)))
        proxy = opened.enter_context(closing(Proxy(beside.address, key=_KEY)))
        found["proxy" if workers == 1 else f"proxy, {workers} workers"] = through(proxy)
    return found


def measured(found: dict[str, Way], count: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return seconds for `count` invocations, rate, and microseconds of the sender's CPU for each; medians."""
    numbers = itertools.count()
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for turn in range(rounds + 1):
        for name, send in found.items():
            calls = [(f"bench/{next(numbers)}", _PAYLOAD) for _ in range(count)]
            wall, cpu = time.perf_counter(), time.process_time()
            send(calls)
            if turn:  # the first one opens connections
                seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: [statistics.median(each) for each in zip(*runs, strict=True)] for name, runs in seen.items()}
    return {name: (wall, count / wall, cpu / count * 1e6) for name, (wall, cpu) in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", action="store_true", help="invoke on the emulator")
    parser.add_argument("--calls", type=int, nargs="+", default=[30, 300, 1_000, 3_000], help="at once")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="of the proxies that are compared")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency-ms", type=float, default=50.0, help="until the stand-in answers")
    parser.add_argument("--connections", type=int, default=128, help="the plug-in's max_connections")
    options = parser.parse_args()
    os.environ.update(CREDENTIALS)
    with ExitStack() as opened:
        faas = opened.enter_context(platform(options))
        found = ways(faas, options, opened)
        print("| at once | | ms | invocations / s | sender's CPU, us each |\n|---:|---|---:|---:|---:|")
        for count in options.calls:
            for name, (wall_s, rate, cpu_us) in measured(found, count, options.rounds).items():
                print(f"| {count:,} | {name} | {wall_s * 1e3:,.0f} | {rate:,.0f} | {cpu_us:.0f} |")
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.1f}")


if __name__ == "__main__":
    main()
