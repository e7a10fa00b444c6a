"""What backups of stragglers bring and cost: the same job with `backup` on and off, in turn.

    python benchmarks/stragglers.py [--pairs 5] [--tasks 100] [--slow 0.03]

The job is a fan-out of tasks that sleep for 1 s, each in an executor of its own, and a sum, on the emulator, with the
bill of AWS Lambda. In each pair another few tasks, chosen by chance, sleep for 30 s if they run for the first time, as
on a machine that others use too. Tasks sleep, so that their time depends little on what else this machine does.

`billed` is the summary's bill. In it a run that was backed up counts up to its end if it ended first, and its backup up
to the last sign of life; else until its backup was made, or its last heartbeat after that. `to the end` adds what slow
runs cost if the platform cannot stop them, so that they sleep for the rest of their time; it is too low by what the
backups of runs that ended first have cost.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import dask

import wukong
from wukong.command import tell

TASK_S, SLOW_S, MEMORY_BYTES = 1.0, 30.0, 1_769 << 20


class Seen(NamedTuple):
    """One job: seconds, US dollars as billed, the same if nobody stops slow runs, backups made, and ended first."""

    wall_s: float
    usd: float
    whole_usd: float
    backups: int
    first: int


def work(n: int, folder: str, *, slow: bool) -> int:
    """Take a second; if `slow`, and nobody has begun this before, much longer."""
    if slow:
        try:
            Path(folder, str(n)).touch(exist_ok=False)
        except FileExistsError:
            slow = False
    time.sleep(SLOW_S if slow else TASK_S)
    return n


def run(client: wukong.Client, n: int, slow: set[int]) -> Seen:
    """Run the job once."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [dask.delayed(work, pure=False)(i, folder, slow=i in slow) for i in range(n)]
        assert client.compute(dask.delayed(sum)(tasks), sync=True) == sum(range(n))
        summary = client.last_job.summary()
    bill = client._deployment.ground.bill
    usd_per_s = (bill(1, 1, 1_000.0).usd - bill(1, 1, 0.0).usd) / 1_000
    # Whoever was backed up and ended first has told what it took; the others go on after the job.
    unstopped_s = max(0.0, summary.backups_first * SLOW_S - summary.repeated_s)
    return Seen(
        summary.wall_s,
        summary.bill.usd,
        summary.bill.usd + unstopped_s * usd_per_s,
        summary.backed_up,
        summary.backups_first,
    )


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--slow", type=float, default=0.03, help="which part of the tasks is slow at first")
    given = parser.parse_args()
    shared: dict[str, Any] = {
        "faas": {"name": "local", "memory_bytes": MEMORY_BYTES, "slots": given.tasks},
        "fan_out": "eager",
        "lanes": 1,
        "progress": False,
        "set_as_default": False,
    }
    chance, found = random.Random(1), {backup: list[Seen]() for backup in (False, True)}
    with wukong.Client(**shared) as off, wukong.Client(backup=True, **shared) as on:
        for client in (off, on):
            run(client, given.tasks, set())  # so that functions are warm
        for pair in range(given.pairs):
            slow = set(chance.sample(range(given.tasks), max(1, round(given.slow * given.tasks))))
            for client in (off, on) if pair % 2 else (on, off):
                found[client is on].append(run(client, given.tasks, slow))
    tell(
        f"{'backups':<9}{'time':>9}{'part':>7}{'billed':>11}{'part':>7}"
        f"{'to the end':>12}{'part':>7}{'made':>6}{'first':>7}"
    )
    for backup, rows in found.items():
        each = Seen(*map(statistics.median, zip(*rows, strict=True)))
        parts = [
            statistics.median(row[i] / base[i] for row, base in zip(rows, found[False], strict=True)) for i in range(3)
        ]
        tell(
            f"{'on' if backup else 'off':<9}{each.wall_s:7.2f} s{parts[0]:7.0%}  ${each.usd:.5f}{parts[1]:7.0%}"
            f"    ${each.whole_usd:.5f}{parts[2]:7.0%}{each.backups:6g}{each.first:7g}"
        )
    tell(f"medians of {given.pairs} pairs, load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
