"""What a dashboard that somebody looks at costs: CPU seconds of the same jobs with one and without, in turn.

    python benchmarks/dashboard.py --turns 20

Two clients in one process, one with a dashboard which another process asks for news in its turns, as a page does.
Counted is the CPU time of this process and of all that it has started except for who asks: client and executors.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workloads

import wukong
from wukong.client.feed import Feed

_ASKER = """
import json, sys, time, urllib.parse, urllib.request
seen = ""
while True:
    query = urllib.parse.urlencode({"job": "", "seen": seen})
    with urllib.request.urlopen(f"{sys.argv[1]}data?{query}") as answer:
        seen = json.load(answer)["version"]
    time.sleep(0.2)
"""


def nothing(n: int) -> int:
    """Return what is given."""
    return n


def no_ops(n: int) -> Any:
    """Return a graph of no-ops and its keys."""
    graph = {("nothing", i): (nothing, i) for i in range(n)}
    return lambda client: client.get(graph, list(graph))


def gemm(n: int, chunk: int) -> Any:
    """Return what multiplies matrices."""
    return lambda client: workloads.gemm(n, chunk)(client.get)


def cpu_s(without: int) -> float:
    """Return the CPU seconds of this process and of its descendants, but for one of them."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], spent[pid] = int(told[1]), sum(map(int, told[11:15])) / ticks
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours and pid not in ours}:
        ours |= more
    mine = time.process_time() - spent[os.getpid()]  # more exact than ticks
    return mine + sum(spent[pid] for pid in ours if pid != without)


def timed(method: Callable[..., Any], feed_s: list[float]) -> Callable[..., Any]:
    """Return a method that adds the CPU seconds of each call to the last of `feed_s`."""

    def called(*args: Any) -> Any:
        before_s = time.thread_time()
        try:
            return method(*args)
        finally:
            if feed_s:
                feed_s[-1] += time.thread_time() - before_s

    return called


def main() -> None:
    """Print a line for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20, help="pairs of each workload")
    parser.add_argument("--repeat", type=int, default=30, help="jobs of no-ops in one measurement")
    parser.add_argument("--n", type=int, default=2_000, help="edge of the matrices")
    given = parser.parse_args()
    cases = {
        f"{given.repeat} x 10,000 no-ops": (no_ops(10_000), given.repeat),
        f"GEMM {given.n:,}²": (gemm(given.n, given.n // 4), 3),
    }
    feed_s: list[float] = []
    for name in ("answer", "settled"):
        setattr(Feed, name, timed(getattr(Feed, name), feed_s))
    with wukong.Client(progress=False) as plain, wukong.Client(progress=False) as shown:
        command = [sys.executable, "-c", _ASKER, shown.dashboard.link]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as asker:
            for name, (run, repeat) in cases.items():
                feed_s.append(0.0)
                spent: dict[Any, list[float]] = {plain: [], shown: []}
                for turn in range(1 + given.turns):
                    for client in (plain, shown) if turn % 2 else (shown, plain):
                        asker.send_signal(signal.SIGCONT if client is shown else signal.SIGSTOP)
                        before = cpu_s(asker.pid)
                        for _ in range(repeat):
                            run(client)
                        if turn:
                            spent[client].append(cpu_s(asker.pid) - before)
                ratios = [b / a for a, b in zip(spent[plain], spent[shown], strict=True)]
                without_s, with_s = (statistics.median(each) for each in spent.values())
                low, middle, high = statistics.quantiles(ratios, n=4)
                pairs = f"ratio of pairs {middle:.3f} ({low:.3f} to {high:.3f})"
                told = f"{without_s:.3f} s without, {with_s:.3f} s with"
                share = 100 * feed_s.pop() / sum(spent[shown])
                print(f"{name}: {told}; {pairs}; {share:.2f} % in the feed", flush=True)
            asker.kill()


if __name__ == "__main__":
    main()
