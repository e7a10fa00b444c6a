"""A million simulated jobs: ``python -m wukong.testing.simulator --seeds 1000000``.

Both simulators get every seed: interleavings alone, and with faults; with one lane, with several, with requests under
way, and with limits. Shows progress; stops at the first broken promise, with its seed and its story.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from wukong.planning.world import Violation
from wukong.testing.recovery import rough_case, survive
from wukong.testing.simulator import limited, random_case, simulate

__all__ = ["chunk", "main"]

_CHUNK = 500
_JOBS = 4
"""Jobs with faults for each seed."""


def chunk(first: int, n: int) -> tuple[Counter[str], str]:
    """Simulate `n` seeds from `first` on. Returns the outcomes' counts, and the story of the first broken promise."""
    outcomes: Counter[str] = Counter()
    for seed in range(first, first + n):
        lanes = 2 + seed % 3
        try:
            simulate(seed)
            simulate(seed, lanes=lanes)
            simulate(seed, lanes=lanes - 1, overlap="on")
            simulate(seed, limited(random_case(seed, lanes=lanes - 1), seed))
            outcomes[survive(seed).outcome] += 1
            outcomes[survive(seed, lanes=lanes).outcome] += 1
            outcomes[survive(seed, lanes=lanes - 1, overlap="on").outcome] += 1
            outcomes[survive(seed, case=limited(rough_case(seed, lanes=lanes - 1), seed)).outcome] += 1
        except Violation as violation:
            return outcomes, f"seed {seed}: {violation}"
    return outcomes, ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line; exits with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m wukong.testing.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at once (default: all cores)")
    given = parser.parse_args(arguments)
    total: Counter[str] = Counter()
    firsts = range(given.first, given.first + given.seeds, _CHUNK)
    with ProcessPoolExecutor(given.processes) as pool:
        for outcomes, story in pool.map(partial(chunk, n=min(_CHUNK, given.seeds)), firsts):
            total += outcomes
            sys.stderr.write(f"\r{total.total() // _JOBS:,} of {given.seeds:,}")
            sys.stderr.flush()
            if story:
                pool.shutdown(cancel_futures=True)
                sys.stdout.write(f"\n{story}\n")
                sys.exit(1)
    sys.stdout.write(f"\n{total.total() // _JOBS:,} seeds, all promises held: {dict(total.most_common())}\n")
