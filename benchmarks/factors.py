"""What each of Wukong's techniques brings, after the papers' factor analysis (SoCC '20, section 5; PDSW '19).

    python benchmarks/factors.py                                tables and plot, written into docs/; some six minutes
    python benchmarks/factors.py --dry                          the tables alone, nothing is written
    python benchmarks/factors.py --workloads fan-out --repeat 9 --json factors.json
    python benchmarks/factors.py --factors shards clustering    only these; the others are off

Two workloads run with every technique on, with each of them off in turn, and on a ladder that switches them on one by
one: SVD compressed; and a wide fan-out, in which the value of one source goes to many tasks, and their values to one
task. All configurations run in turn, after a round to warm up. Every answer is checked.

What it runs on, and what is scripted there: `factors_bed.py`. Nothing new is begun after --budget minutes.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dask
import factors_report
import workloads
from factors_bed import Bed, Wires, busy
from factors_what import FACTORS, FULL, TINY, WORKLOADS, Plan, Sizes, planned, titles
from report import machine
from side_by_side import same

import wukong

DOCS = Path(__file__).parent.parent / "docs"
PACKAGES = ("dask", "numpy", "redis", "hiredis")


@dataclass(frozen=True)
class One:
    """One run.

    Attributes:
        wall_s: from the call to the value.
        put_bytes, got_bytes, operations: what executors asked of the store.
        carried_bytes: what went over all links, both ways, the client's share and the protocol included.
        link_s: for how long the busiest link was full, in one direction at least.
        executors: invocations. reported: those that had reported when the job's keys were deleted: bytes, calls and
            cost are theirs. again: those that were made again. proxied: made by the proxy. unproxied: past it.
        usd: what the invocations would have cost on AWS.
        cpu_s, cpu_all_s: CPU time meanwhile of all processes of the benchmark, and of all on the machine; None if the
            system does not tell.
    """

    wall_s: float
    put_bytes: int
    got_bytes: int
    operations: int
    carried_bytes: int
    link_s: float
    executors: int
    reported: int
    again: int
    proxied: int
    unproxied: int
    usd: float
    cpu_s: float | None
    cpu_all_s: float | None


def run_once(client: wukong.Client, bed: Bed, build: Callable[[], workloads.Run]) -> tuple[Any, One]:
    """Build a workload and run it once."""
    run = build()
    bed.carried()
    cpu = busy()
    begun_s = time.perf_counter()
    answer = run(client.get)
    wall_s = time.perf_counter() - begun_s
    cpu_after = busy()
    carried = bed.carried()
    assert client.last_job is not None
    summary = client.last_job.summary()  # waits for the last reports, and until the job's keys are deleted
    used = None if cpu is None or cpu_after is None else cpu_after - cpu
    return answer, One(
        wall_s,
        summary.put_bytes,
        summary.got_bytes,
        summary.operations,
        sum(each.there_bytes + each.back_bytes for each in carried),
        max(each.full_s for each in carried),
        summary.executors,
        summary.reported,
        summary.repeated,
        summary.proxied,
        summary.unproxied,
        summary.bill.usd,  # type: ignore[attr-defined]
        used and used.ours_s,
        used and used.all_s,
    )


def measure(args: argparse.Namespace, plan: Plan) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Run everything; return the runs by workload and configuration, without those that warm up."""
    until_s = time.monotonic() + args.budget * 60
    order = plan.configurations
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        workload: {each.name: [] for each in order} for workload in args.workloads
    }
    expected = {workload: WORKLOADS[workload](args.sizes)(dask.get) for workload in args.workloads}
    with ExitStack() as up:
        bed = up.enter_context(Bed(args.wires, args.environments, proxied="proxy" in args.factors))
        clients = {}
        for each in order:
            storage = bed.storage(args.wires.shards if "shards" in each.on else 1)
            client = wukong.Client(faas="aws-lambda", storage=storage, progress=False, **each.settings(bed.proxy))
            clients[each.name] = up.enter_context(client)
        for turn in range(-1, args.repeat):
            for workload in args.workloads:
                for step in range(len(order)):
                    each = order[(step + turn) % len(order)]
                    if time.monotonic() > until_s:
                        print("the time is up", file=sys.stderr)
                        return runs
                    answer, one = run_once(clients[each.name], bed, lambda name=workload: WORKLOADS[name](args.sizes))
                    if not same(answer, expected[workload]):
                        raise SystemExit(f"{each.name}: a wrong answer for {workload}")
                    if args.verbose:
                        print(f"{turn:2} {workload:8} {each.name:24} {one}", file=sys.stderr, flush=True)
                    if turn >= 0:
                        runs[workload][each.name].append(asdict(one))
            print(f"round {turn + 1} of {args.repeat} is done", file=sys.stderr, flush=True)
    return runs


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [factor.name for factor in FACTORS]
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--factors", nargs="+", choices=names, default=names)
    parser.add_argument("--repeat", type=int, default=7, help="measured runs of each")
    parser.add_argument("--shards", type=int, default=Wires.shards)
    parser.add_argument("--bandwidth-mb-s", type=float, default=Wires.bandwidth_mb_s, help="of each shard, each way")
    parser.add_argument("--latency-ms", type=float, default=Wires.latency_ms, help="of a shard's round trip")
    parser.add_argument("--invoke-ms", type=float, default=Wires.invoke_ms, help="of one call of the Lambda API")
    parser.add_argument("--environments", type=int, default=100, help="warm ones")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, one run of each: does it still work?")
    parser.add_argument("--budget", type=float, default=10, help="minutes after which nothing new is begun")
    parser.add_argument("--dry", action="store_true", help="print the tables, write nothing into docs/")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of benchmarks.md and factors.svg")
    parser.add_argument("--json", type=Path, help="write every single figure here")
    parser.add_argument("--verbose", action="store_true", help="tell of every run")
    args = parser.parse_args(arguments)
    args.wires = Wires(args.shards, args.bandwidth_mb_s, args.latency_ms, args.invoke_ms)
    args.sizes = Sizes()
    if args.tiny:
        args.sizes, args.repeat, args.environments = TINY, 1, 16
    return args


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and write tables and plot into docs/."""
    args = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that what was started is stopped
    plan = planned(args.factors)
    about = machine(PACKAGES) | {"day": date.today().isoformat()}
    runs = measure(args, plan)
    workload_titles = titles(args.sizes)
    result: dict[str, Any] = {
        "machine": about,
        "wires": asdict(args.wires),
        "sizes": asdict(args.sizes),
        "workloads": {workload: workload_titles[workload] for workload in args.workloads},
        "configurations": {each.name: each.settings() for each in plan.configurations},
        "ladder": plan.ladder,
        "pairs": plan.pairs,
        "full": FULL,
        "runs": runs,
    }
    print(factors_report.to_markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    if not args.dry:
        factors_report.write(result, args.docs)


if __name__ == "__main__":
    main()
