"""What it brings to overlap the store with work: SVD on the factor benchmark's links, with `overlap` on and off.

    python benchmarks/overlap.py                       some three minutes
    python benchmarks/overlap.py --tiny                does it still work?
    python benchmarks/overlap.py --workloads svd fan-out --repeat 5 --json overlap.json

Functions are as many as executors want, on the Lambda service, or four of the emulator: then each has more tasks to go
on with while values move. Each configuration runs with and without overlap, in turn, after a round to warm up. Every
answer is checked. Medians. What it runs on, and what is scripted there: `factors_bed.py`.

    idle links    seconds for which a link to a shard was not full in either direction, the mean of all shards
    idle cores    seconds of functions outside tasks, of all functions together; a task asleep counts as at work
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import dask
from factors_bed import Bed, Wires, busy
from factors_what import FACTORS, TINY, WORKLOADS, Sizes, titles
from report import machine
from side_by_side import same

import wukong

FEW = {"name": "local", "slots": 4, "max_slots": 4}
MOVES = {key: value for each in FACTORS[1:3] for key, value in each.off.items()}
"""No clustering, no delayed I/O: what one executor has and another one needs goes through the store."""

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Lambda": {"faas": "aws-lambda"},
    "Lambda, all through the store": {"faas": "aws-lambda", **MOVES},
    "four functions": {"faas": FEW},
    "four functions, all through the store": {"faas": FEW, **MOVES},
}


@dataclass(frozen=True)
class One:
    """One run.

    Attributes:
        wall_s: from the call to the value.
        idle_link_s, idle_core_s: see the module's docstring. function_s: of all functions together.
        moved_bytes: what executors put and got.
        overlapped, refused: requests to the store, see `wukong.core.summary.Summary`.
        cpu_s: CPU time of all processes here, the links' and the servers' too; None if the system does not tell.
    """

    wall_s: float
    idle_link_s: float
    idle_core_s: float
    function_s: float
    moved_bytes: int
    executors: int
    overlapped: int
    refused: int
    cpu_s: float | None


def run_once(client: wukong.Client, bed: Bed, run: Any) -> tuple[Any, One]:
    """Run a workload once."""
    bed.carried()
    before, begun_s = busy(), time.perf_counter()
    answer = run(client.get)
    wall_s = time.perf_counter() - begun_s
    after, carried = busy(), bed.carried()
    assert client.last_job is not None
    told = client.last_job.summary()  # waits for the last reports
    idle_s = [wall_s - min(wall_s, each.full_s) for each in carried]
    return answer, One(
        wall_s,
        sum(idle_s) / len(idle_s),
        told.core_s / told.cores - told.busy_s,
        told.core_s / told.cores,
        told.put_bytes + told.got_bytes,
        told.executors,
        told.overlapped,
        told.refused,
        None if before is None or after is None else (after - before).ours_s,
    )


def measure(args: argparse.Namespace) -> dict[tuple[str, str, str], list[One]]:
    """Run everything; return the runs by workload, configuration and overlap, without those that warm up."""
    until_s = time.monotonic() + args.budget * 60
    runs: dict[tuple[str, str, str], list[One]] = {}
    expected = {workload: WORKLOADS[workload](args.sizes)(dask.get) for workload in args.workloads}
    with ExitStack() as up:
        bed = up.enter_context(Bed(Wires(args.shards), args.environments, proxied=False))
        clients = {
            (name, overlap): up.enter_context(
                wukong.Client(storage=bed.storage(args.shards), progress=False, overlap=overlap, **settings)
            )
            for name, settings in CONFIGURATIONS.items()
            for overlap in ("off", "on")
        }
        for turn in range(-1, args.repeat):
            for workload in args.workloads:
                pairs = list(clients.items())
                for name, overlap in [key for key, _ in (pairs if turn % 2 else pairs[::-1])]:
                    if time.monotonic() > until_s:
                        print("the time is up", file=sys.stderr)
                        return runs
                    run = WORKLOADS[workload](args.sizes)
                    answer, one = run_once(clients[name, overlap], bed, run)
                    if not same(answer, expected[workload]):
                        raise SystemExit(f"{name}, overlap {overlap}: a wrong answer for {workload}")
                    if args.verbose:
                        print(f"{turn:2} {workload:8} {name:30} {overlap:4} {one}", file=sys.stderr, flush=True)
                    if turn >= 0:
                        runs.setdefault((workload, name, overlap), []).append(one)
            print(f"round {turn + 1} of {args.repeat} is done", file=sys.stderr, flush=True)
    return runs


def to_markdown(args: argparse.Namespace, runs: dict[tuple[str, str, str], list[One]]) -> str:
    """Return the tables."""
    about, shown = machine(("dask", "numpy", "redis")), titles(args.sizes)
    n_pairs = min(map(len, runs.values()), default=0)
    lines = [f"{about['cpu']}, {about['cores']} cores, load {about['load']:.1f}; medians of {n_pairs} pairs."]
    for workload in args.workloads:
        lines += ["", f"### {shown[workload]}", ""]
        lines += [
            "| functions | overlap | time, s | idle links, s | idle cores, s | functions, s | moved, MB | CPU, s |"
        ]
        lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
        for name in CONFIGURATIONS:
            for overlap in ("off", "on"):
                ones = runs.get((workload, name, overlap), [])
                if ones:
                    figures = [
                        median(getattr(each, field) or 0.0 for each in ones)
                        for field in ("wall_s", "idle_link_s", "idle_core_s", "function_s", "moved_bytes", "cpu_s")
                    ]
                    figures[4] /= 1e6
                    lines.append(f"| {name} | {overlap} | {' | '.join(f'{each:.2f}' for each in figures)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["svd"])
    parser.add_argument("--repeat", type=int, default=7, help="measured pairs")
    parser.add_argument("--shards", type=int, default=Wires.shards)
    parser.add_argument("--environments", type=int, default=60, help="warm ones")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, one pair")
    parser.add_argument("--budget", type=float, default=4.5, help="minutes after which nothing new is begun")
    parser.add_argument("--json", type=Path, help="write every single figure here")
    parser.add_argument("--verbose", action="store_true", help="tell of every run")
    args = parser.parse_args(arguments)
    args.sizes = Sizes()
    if args.tiny:
        args.sizes, args.repeat, args.environments = TINY, 1, 16
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what was started is stopped
    runs = measure(args)
    print(to_markdown(args, runs))
    if args.json:
        args.json.write_text(
            json.dumps({" / ".join(key): [asdict(each) for each in ones] for key, ones in runs.items()})
        )


if __name__ == "__main__":
    main()
