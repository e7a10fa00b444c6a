"""Stores: what Wukong saves them, what it asks of them per task, and what the plug-ins cost over bare clients.

    python benchmarks/stores.py                                  all four parts; some ten minutes
    python benchmarks/stores.py sides --on local --dags tsqr svd
    python benchmarks/stores.py per-task --stores local redis-3 --workloads tree gemm
    python benchmarks/stores.py raw --stores redis-1
    python benchmarks/stores.py --output stores.md --json stores.json

    sides      the same DAGs through a numpywren-like baseline (`stateless.py`) and through Wukong, with clustering and
               delayed I/O on and off: bytes, calls and time, side by side
    per-task   round trips and bytes per task of each workload of `engines.py` on each store
    raw        large values, arrivals and small values against the bare client libraries
    choice     time, operations, bytes and dollars of the same jobs on DynamoDB, S3 and Redis, on the virtual clock; and
               the virtual clock beside real runs on stores of the same latency (without --no-check)

The script starts the servers it needs itself. Nothing new is begun after --budget minutes. Sizes are set by
``--set gemm_n=8000 gemm_chunk=2000`` (the fields of `side_by_side.Sizes`); ``--tiny`` runs everything in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import per_task
import raw_clients
import side_by_side
import store_choice
from report import machine
from side_by_side import TINY, Sizes
from store_servers import Ground
from stores_report import to_markdown
from workloads import BY_NAME

PARTS = ("sides", "per-task", "raw", "choice")
STORES = ("local", "redis-1", "redis-3", "memcached-2")
PACKAGES = ("dask", "numpy", "redis", "hiredis", "pymemcache", "lmdb", "lz4", "wukong-serverless")
DAGS = tuple(side_by_side.cases(TINY))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--stores", nargs="+", default=list(STORES), help="local, redis-N, memcached-N")
    parser.add_argument("--on", nargs="+", default=["local", "redis-1"], help="the stores of the part `sides`")
    parser.add_argument("--dags", nargs="+", choices=DAGS, default=list(DAGS), help="of the part `sides`")
    parser.add_argument("--engines", nargs="+", choices=side_by_side.ENGINES, default=list(side_by_side.ENGINES))
    parser.add_argument("--large-on", nargs="*", default=["local"], help="the stores that also take the largest TSQR")
    parser.add_argument("--workloads", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), help="of `per-task`")
    parser.add_argument("--sizes-mb", nargs="+", type=int, default=list(raw_clients.SIZES_MB), help="of `raw`")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=N", help="sizes of the DAGs of `sides`")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, one run of each: does it still work?")
    parser.add_argument("--repeat", type=int, default=2, help="measured runs of each")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of `raw`")
    parser.add_argument("--calls", type=int, default=2_000, help="small calls in one round of `raw`")
    parser.add_argument("--workers", type=int, default=2, help="workers of the baseline, and slots of Wukong")
    parser.add_argument("--budget", type=float, default=15, help="minutes after which nothing new is begun")
    parser.add_argument("--no-check", action="store_true", help="of `choice`: only on the virtual clock")
    parser.add_argument("--output", type=Path, help="also write the Markdown report here")
    parser.add_argument("--json", type=Path, help="write every single figure here")
    args = parser.parse_args(arguments)
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    args.parts = args.parts or list(PARTS)
    try:
        args.sizes = sizes_of(args.set, TINY if args.tiny else Sizes())
    except ValueError as error:
        parser.error(str(error))
    if args.tiny:
        args.repeat, args.pairs, args.calls, args.sizes_mb = 1, 1, 20, [1]
    return args


def sizes_of(assignments: list[str], sizes: Sizes) -> Sizes:
    """Return the sizes with ``name=number`` set. Raises ValueError if there is no such size."""
    known = [each.name for each in fields(Sizes)]
    for assignment in assignments:
        name, _, number = assignment.partition("=")
        if name not in known:
            raise ValueError(f"there is no size {name!r}; sizes are {', '.join(known)}")
        sizes = replace(sizes, **{name: int(number)})
    return sizes


def server_versions(stores: set[str]) -> dict[str, str]:
    """Return the versions of the server programs that these stores need."""
    versions = {}
    for program in ("redis-server", "memcached"):
        if any(program.startswith(store.partition("-")[0]) for store in stores):
            told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
            found = re.search(r"\d+\.\d+\.\d+", told)
            versions[program] = found[0] if found else told.strip()
    return versions


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that servers and workers are stopped
    until = time.monotonic() + args.budget * 60
    about = machine(PACKAGES)
    about["versions"] |= server_versions({*args.stores, *args.on})
    shown = {name: value if isinstance(value, (int, float)) else str(value) for name, value in vars(args).items()}
    result: dict[str, Any] = {"machine": about, "arguments": shown, "stores": args.stores}
    result |= {"sides": {}, "per_task": {}, "raw": {}}
    if "sides" in args.parts:
        for name in args.on:
            with Ground(name) as ground:
                print(f"side by side on {ground.title}", file=sys.stderr, flush=True)
                dags = [dag for dag in args.dags if dag != "tsqr-large" or name in args.large_on]
                options = {"workers": args.workers, "repeat": args.repeat, "until": until, "engines": args.engines}
                result["sides"][ground.title] = side_by_side.measure(ground, args.sizes, dags, **options)
    if {"per-task", "raw"} & set(args.parts):
        with ExitStack() as stack:
            grounds = [stack.enter_context(Ground(name)) for name in args.stores]
            if "per-task" in args.parts:
                print("round trips and bytes per task", file=sys.stderr, flush=True)
                options = {"workers": args.workers, "repeat": args.repeat, "until": until}
                result["per_task"] = per_task.measure(grounds, args.workloads, **options)
            if "raw" in args.parts:
                print("plug-ins against raw clients", file=sys.stderr, flush=True)
                options = {"pairs": args.pairs, "calls": args.calls, "until": until}
                result["raw"] = raw_clients.measure(grounds, args.sizes_mb, **options)
    if "choice" in args.parts:
        print("which store for which job", file=sys.stderr, flush=True)
        result["choice"] = store_choice.compare(small=args.tiny)
        result["check"] = [] if args.no_check else store_choice.check(small=args.tiny)
    about["load_after"] = os.getloadavg()[0]
    report = to_markdown(result)
    if "choice" in args.parts:
        report += "\n" + store_choice.to_markdown(result["choice"], result["check"]) + "\n"
    print(report)
    if args.output:
        args.output.write_text(report)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
