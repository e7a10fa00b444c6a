"""GB-seconds of one job on functions of one size and of two: few tasks need much memory, most need little.

    python benchmarks/sizes.py [--rounds 12]

The job is 40 tasks of 0.1 s, two that fill 300 MB for 0.5 s, and a sum, on the emulator, with the bill of AWS Lambda:

all large       functions are all as large as the two tasks need
annotated       two sizes, and the two tasks say what they need
killed first    two sizes, without a word: the two tasks are ended on the small one, and run again on the large one
learned         two sizes, without a word, after one such job

In each round every row runs once, on a client that has run the job before. Medians; `part` is the median of each
round's ratio to the first row. Tasks sleep, so that their time depends little on what else the machine does. `in tasks`
is their time with the memory of the function that each has run on; `billed` adds what executors do and wait for
besides, which depends on it more, and runs that were killed: these leave no report, so they count from their call until
the client hears that they have died.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple

import dask
import numpy as np

import wukong
from wukong.command import tell

SMALL_BYTES, LARGE_BYTES, NEEDED_BYTES, FILL_S = 200 << 20, 800 << 20, 300 << 20, 0.5
_TWO: dict[str, Any] = {"faas": {"name": "local", "sizes_bytes": [SMALL_BYTES, LARGE_BYTES]}}
CLIENTS: dict[str, dict[str, Any]] = {
    "all large": {"faas": {"name": "local", "memory_bytes": LARGE_BYTES}},
    "annotated": {**_TWO, "learned_sizes": False},
    "killed first": {**_TWO, "learned_sizes": False},
    "learned": _TWO,
}


class Seen(NamedTuple):
    """One job: GB-seconds in its tasks and billed, invocations made again, tasks on large functions, seconds."""

    in_tasks: float
    billed: float
    again: int
    on_large: int
    wall_s: float


def nap(n: int) -> int:
    """Take little memory, and a while."""
    time.sleep(0.1)
    return n


def fill(n: int) -> int:
    """Take much memory, and as long as that is given, however long it takes to get it."""
    until_s = time.monotonic() + FILL_S
    held = np.full(NEEDED_BYTES // 8, float(n))
    time.sleep(max(0.0, until_s - time.monotonic()))
    return int(held[-1])


def job(*, annotated: bool) -> Any:
    """Return what is to be computed."""
    small = [dask.delayed(nap)(n, dask_key_name=("small", n)) for n in range(40)]
    with dask.annotate(memory=NEEDED_BYTES * 1.3) if annotated else nullcontext():
        large = [dask.delayed(fill)(n, dask_key_name=("large", n)) for n in range(2)]
    return dask.delayed(sum)([*small, *large], dask_key_name="sum")


def run(client: wukong.Client, *, annotated: bool) -> Seen:
    """Run the job once."""
    assert client.compute(job(annotated=annotated), sync=True) == sum(range(40)) + 1
    summary, record = client.last_job.summary(), client.last_job.record
    on = [row.function_bytes or LARGE_BYTES for row in record.invocations]
    runs = [(took, on[row]) for took, row in zip(record.runs.took, record.runs.executors, strict=True)]
    return Seen(
        sum(took * size_bytes for took, size_bytes in runs) / 2**30,
        summary.bill.gb_seconds,
        summary.repeated,
        sum(size_bytes == LARGE_BYTES for _, size_bytes in runs),
        summary.wall_s,
    )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    found: defaultdict[str, list[Seen]] = defaultdict(list)
    with ExitStack() as opened:
        os.environ["XDG_CACHE_HOME"] = opened.enter_context(tempfile.TemporaryDirectory())
        clients = {
            name: opened.enter_context(wukong.Client(progress=False, heartbeat_s=0.2, set_as_default=False, **options))
            for name, options in CLIENTS.items()
        }
        for turn in range(rounds + 1):
            for name, client in clients.items():
                seen = run(client, annotated=name == "annotated")
                if turn:
                    found[name].append(seen)
    tell(f"{'':<14}{'in tasks':>11}{'part':>7}{'billed':>12}{'part':>7}{'again':>7}{'on large':>10}{'wall':>9}")
    first = found["all large"]
    for name, rows in found.items():
        each = Seen(*map(statistics.median, zip(*rows, strict=True)))
        parts = [statistics.median(row[i] / base[i] for row, base in zip(rows, first, strict=True)) for i in (0, 1)]
        tell(
            f"{name:<14}{each.in_tasks:6.2f} GB-s{parts[0]:7.0%}{each.billed:7.2f} GB-s{parts[1]:7.0%}"
            f"{each.again:7g}{each.on_large:10g}{each.wall_s:7.2f} s"
        )


if __name__ == "__main__":
    main()
