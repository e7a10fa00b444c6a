"""GB-seconds of one job on functions of one size and of two: few tasks need much memory, most need little.

    python benchmarks/sizes.py [--runs 5]

The job is 40 tasks of 0.1 s, two that fill 600 MB for 0.3 s, and a sum, on the emulator, with the bill of AWS Lambda:
on functions that are all as large as the two tasks need, on two sizes with those tasks annotated, and on two sizes
without a word, where they are ended for their memory on the small one first. In turn, and medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import dask
import numpy as np

import wukong
from wukong.command import tell

SMALL_BYTES, LARGE_BYTES, NEEDED_BYTES = 400 << 20, 1_600 << 20, 600 << 20
FAAS: dict[str, dict[str, Any]] = {
    "all large": {"memory_bytes": LARGE_BYTES},
    "two sizes, annotated": {"sizes_bytes": [SMALL_BYTES, LARGE_BYTES]},
    "two sizes, not annotated": {"sizes_bytes": [SMALL_BYTES, LARGE_BYTES]},
}


def nap(n: int) -> int:
    """Take little memory, and a while."""
    time.sleep(0.1)
    return n


def fill(n: int) -> int:
    """Take much memory for a while."""
    held = np.full(NEEDED_BYTES // 8, float(n))
    time.sleep(0.3)
    return int(held[-1])


def job(*, annotated: bool) -> Any:
    """Return what is to be computed."""
    small = [dask.delayed(nap)(n, dask_key_name=("small", n)) for n in range(40)]
    with dask.annotate(memory=NEEDED_BYTES * 1.3) if annotated else nullcontext():
        large = [dask.delayed(fill)(n, dask_key_name=("large", n)) for n in range(2)]
    return dask.delayed(sum)([*small, *large], dask_key_name="sum")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for _ in range(runs):
        for name, options in FAAS.items():
            faas = {"name": "local", **options}
            with wukong.Client(faas=faas, progress=False, heartbeat_s=0.2) as client:
                assert client.compute(job(annotated=name.endswith(", annotated")), sync=True) == sum(range(40)) + 1
                summary = client.last_job.summary()
                found[name].append((summary.bill.gb_seconds, summary.repeated))
    for name, seen in found.items():
        gb_s = statistics.median(each for each, _ in seen)
        tell(f"{name:<26}{gb_s:8.2f} GB-s, {statistics.median(n for _, n in seen):g} made again")


if __name__ == "__main__":
    main()
