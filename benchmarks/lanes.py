"""Executors of one lane, and of as many as pay, beside Dask's threads, in one run.

    python benchmarks/lanes.py                                   all rows
    python benchmarks/lanes.py gemm gemm-sum --repeat 3
    python benchmarks/lanes.py chains chain noop-10k tree --processes
    python benchmarks/lanes.py lambda --tasks 1000 --sleep-ms 100
    python benchmarks/lanes.py first --repeat 3

Engines take turns, after one run each that is not counted. Medians; in brackets the median of an engine's times by
those of Dask's threads in the same round. ``lambda``: sleeping tasks on the Lambda service, on functions of two cores,
50 ms away; GB-seconds are those billed. ``first``: a dataframe job on a fresh client, and the same job again, if the
program imports pandas after it has made the client, and if it does so before.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import workloads
from report import machine, show_s

import wukong

TWO_CORES_MB = 3_538


def spin(i: int, seconds: float) -> int:
    """Hold the interpreter's lock for so much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    return i


def rest(i: int, seconds: float) -> int:
    """Sleep."""
    time.sleep(seconds)
    return i


def fan(task: Callable[..., int], n: int, seconds: float) -> workloads.Run:
    """The sum of what n tasks return that last so long."""
    leaf = dask.delayed(task)
    total = dask.delayed(sum)([leaf(i, seconds) for i in range(n)])

    def run(get: workloads.Get) -> Any:
        answer = total.compute(scheduler=get)
        assert answer == n * (n - 1) // 2, answer
        return answer

    return run


def gemm_sum(n: int, chunk: int) -> workloads.Run:
    """The sum of the elements of a product of two square matrices."""
    a, b = workloads._square(n, chunk)
    total = (a @ b).sum()
    return lambda get: total.compute(scheduler=get)


def frames(folder: Path) -> workloads.Run:
    """Eight parquet files, filtered, grouped, and joined with a table of names."""
    import dask.dataframe as dd
    import pandas

    if not list(folder.glob("*.parquet")):
        rng = np.random.default_rng(1)
        for i in range(8):
            table = {"key": rng.integers(0, 1_000, 250_000), "x": rng.random(250_000), "y": rng.random(250_000)}
            pandas.DataFrame(table).to_parquet(folder / f"{i}.parquet")
    names = pandas.DataFrame({"key": range(1_000), "name": [f"n{i % 50}" for i in range(1_000)]})
    frame = dd.read_parquet(sorted(map(str, folder.glob("*.parquet"))))
    grouped = frame[frame.x > 0.5].groupby("key").agg({"x": "mean", "y": "sum"}).reset_index()
    joined = grouped.merge(names, on="key").groupby("name").y.sum()

    def run(get: workloads.Get) -> Any:
        answer = joined.compute(scheduler=get)
        assert len(answer) == 50, answer
        return answer

    return run


def rows(folder: Path) -> dict[str, tuple[str, Callable[[], workloads.Run]]]:
    """Return title and builder of each workload that engines take turns on."""
    known = workloads.BY_NAME
    named = {
        name: (known[name].title, known[name].build)
        for name in (
            "tree",
            "tree-10ms",
            "tree-100ms",
            "noop-10k",
            "chains",
            "chain",
            "svd-compressed",
            "tsqr-v",
            "tsqr-usv",
            "svc",
        )
    }
    return {
        "gemm": ("GEMM 4,000² in 1,000² chunks", lambda: workloads.gemm()),
        "gemm-sum": ("the sum of that", lambda: gemm_sum(4_000, 1_000)),
        **named,
        "sleep": ("200 tasks that sleep 50 ms", lambda: fan(rest, 200, 0.05)),
        "python": ("40 pure-Python tasks of 50 ms", lambda: fan(spin, 40, 0.05)),
        "frames": ("8 parquet files: filter, group by, join", lambda: frames(folder)),
    }


def engines(opened: ExitStack, *, processes: bool) -> dict[str, workloads.Get]:
    """Return the engines' `get`, the one that the others are measured by last."""
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial

    import dask.multiprocessing
    import dask.threaded

    lanes = {name: wukong.Client(progress=False, lanes=n) for name, n in (("lanes=1", 1), ("lanes=auto", "auto"))}
    gets: dict[str, workloads.Get] = {name: opened.enter_context(client).get for name, client in lanes.items()}
    if processes:
        pool = opened.enter_context(ProcessPoolExecutor(os.cpu_count()))
        gets["processes"] = partial(dask.multiprocessing.get, pool=pool)
    return {**gets, "threads": dask.threaded.get}


def in_turns(
    build: Callable[[], workloads.Run], gets: Mapping[str, workloads.Get], repeat: int
) -> dict[str, list[float]]:
    """Return the seconds of each engine's runs, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in gets}
    for turn in range(repeat + 1):
        for name, get in gets.items():
            run = build()
            begun_s = time.perf_counter()
            run(get)
            if turn:
                seconds[name].append(time.perf_counter() - begun_s)
    return seconds


def line(title: str, seconds: Mapping[str, list[float]]) -> str:
    """Return a row of the table: medians, and medians of the ratios of runs of one round."""
    by = seconds["threads"]
    cells = []
    for name, times in seconds.items():
        ratio = (
            "" if name == "threads" else f" ({statistics.median(a / b for a, b in zip(times, by, strict=True)):.2f})"
        )
        cells.append(f"{show_s(statistics.median(times))}{ratio}")
    pairs = zip(seconds["lanes=auto"], seconds["lanes=1"], strict=True)
    return f"| {title} | {' | '.join(cells)} | {statistics.median(a / b for a, b in pairs):.2f} |"


@contextmanager
def lambda_service(n: int) -> Iterator[str]:
    """Run a Lambda service with warm functions of two cores, 50 ms away, and a Redis; yield the store's URL."""
    from on_lambda import warm

    from wukong.testing.lambda_service import LambdaService
    from wukong.testing.servers import RedisServer

    faults = {"start_latency_s": 0.05}
    how = {"site_packages": True, "start": "forked", "throttle_delay_s": 0.0, "concurrency": n + 100, "scaling": 10_000}
    with LambdaService(faults=faults, **how) as service, RedisServer() as redis:
        code = "from wukong_executor.handler import handler"
        variables = {"WUKONG_DEPLOYMENT_KEY": secrets.token_hex(32)}
        service.create_function("wukong", code, variables=variables, Timeout=300, MemorySize=TWO_CORES_MB)
        os.environ.update(service.environment)
        warm(service, min(n, 200))
        yield f"redis://{redis.endpoint}"


def on_lambda(n: int, sleep_s: float, repeat: int) -> list[str]:
    """Return the table of sleeping tasks on functions of two cores."""
    lines = ["| lanes | time, s | GB-seconds | executors | tasks at once |", "|---|---|---|---|---|"]
    spent: dict[str, list[float]] = {}
    took: dict[str, list[float]] = {}
    with lambda_service(n) as store:
        clients = {
            str(lanes): wukong.Client(faas="aws-lambda", storage=store, progress=False, lanes=lanes)
            for lanes in (1, "auto")
        }
        for _ in range(repeat):
            for name, client in clients.items():
                run = fan(rest, n, sleep_s)
                begun_s = time.perf_counter()
                run(client.get)
                took.setdefault(name, []).append(time.perf_counter() - begun_s)
                assert client.last_job is not None
                summary = client.last_job.summary(timeout_s=30)
                bill: Any = summary.bill
                spent.setdefault(name, []).append(bill.gb_seconds)
                last = f"{summary.executors} | {summary.lanes}"
                lines.append(f"| {name} | {took[name][-1]:.2f} | {spent[name][-1]:.1f} | {last} |")
        for client in clients.values():
            client.close()
    less = statistics.median(a / b for a, b in zip(spent["1"], spent["auto"], strict=True))
    time_ratio = statistics.median(a / b for a, b in zip(took["auto"], took["1"], strict=True))
    lines += [
        "",
        f"GB-seconds: {less:.1f} times fewer; time: {time_ratio:.2f} of that with one lane (medians of pairs)",
    ]
    return lines


def first_jobs(folder: Path, repeat: int) -> list[str]:
    """Return how long the first and the second job of a fresh client take, each time in a process of its own."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import lanes; lanes.first"
    frames(folder)
    lines = ["| imports | first job, s | second, s | ratio |", "|---|---|---|---|"]
    ratios: dict[str, list[float]] = {"after": [], "before": []}
    for _ in range(repeat):
        for when, found in ratios.items():
            call = f"{program}({str(folder)!r}, before={when == 'before'})"
            done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
            first_s, second_s = map(float, done.stdout.split()[-2:])
            found.append(first_s / second_s)
            lines.append(f"| {when} | {show_s(first_s)} | {show_s(second_s)} | {found[-1]:.2f} |")
    medians = (f"{when} {statistics.median(found):.2f}" for when, found in ratios.items())
    return [*lines, "", f"medians of the ratios: {', '.join(medians)}"]


def first(folder: str, *, before: bool) -> None:
    """Print the seconds of two dataframe jobs on a fresh client; `before`: pandas is imported before that is made."""
    if before:
        import dask.dataframe  # noqa: F401
    with wukong.Client(progress=False) as client:
        for _ in range(2):
            run = frames(Path(folder))
            begun_s = time.perf_counter()
            run(client.get)
            print(time.perf_counter() - begun_s)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="rows of the table, `lambda`, `first`; none: all")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--processes", action="store_true", help="beside Dask's processes too")
    parser.add_argument("--tasks", type=int, default=1_000, help="of the row `lambda`")
    parser.add_argument("--sleep-ms", type=float, default=100.0, help="that each of them sleeps")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wukong-lanes-") as name, ExitStack() as opened:
        known = rows(Path(name))
        wanted = given.rows or [*known, "lambda", "first"]
        if unknown := set(wanted) - {*known, "lambda", "first"}:
            parser.error(
                f"no such rows: {', '.join(sorted(unknown))}; there are {', '.join([*known, 'lambda', 'first'])}"
            )
        if chosen := [each for each in wanted if each in known]:
            gets = engines(opened, processes=given.processes)
            print(f"| workload | {' | '.join(f'{each}, s' for each in gets)} | auto by 1 |")
            print("|---" * (len(gets) + 2) + "|")
            for each in chosen:
                title, build = known[each]
                print(line(title, in_turns(build, gets, given.repeat)), flush=True)
        if "lambda" in wanted:
            print("", *on_lambda(given.tasks, given.sleep_ms / 1e3, min(3, given.repeat)), sep="\n", flush=True)
        if "first" in wanted:
            print("", *first_jobs(Path(name), given.repeat), sep="\n", flush=True)
    about = machine()
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, load {about['load']:.1f} at the end")


if __name__ == "__main__":
    main()
