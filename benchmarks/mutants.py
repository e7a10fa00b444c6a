"""Mutants of the protocol and of what it rests on: what pins them within seconds, and a sample of them.

`mutmut <https://mutmut.readthedocs.io>`_ (``[tool.mutmut]`` in pyproject.toml) changes one operator, constant or
argument at a time, about 3,000 times, and runs the tests that reach the changed function, these here among them:

    pip install mutmut
    mutmut run 'wukong.core.policy*'                 # makes all mutants, and tries those of one module
    mutmut run $(python benchmarks/mutants.py 300)   # tries a sample of all
    mutmut results                                   # which have survived; `mutmut show NAME`: what was changed
"""

import json
import logging
import random
import sys
from pathlib import Path

import pytest

from wukong.testing.exhaustive import cases, explore
from wukong.testing.recovery import rough_case, survive
from wukong.testing.simulator import limited, random_case, simulate

SEED = 14


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_seeds_without_faults(first):
    for seed in range(first, first + 50):
        simulate(seed)


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_seeds_with_faults(first):
    for seed in range(first, first + 50):
        survive(seed)


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_seeds_with_lanes_requests_and_limits(first):
    for seed in range(first, first + 20):
        more, overlapping = {"lanes": 2 + seed % 3}, {"lanes": 1 + seed % 3, "overlap": "on"}
        for how in (more, overlapping):
            simulate(seed, **how)
            survive(seed, **how)
        for case in (random_case(seed), random_case(seed, **more)):
            simulate(seed, limited(case, seed))
        survive(seed, limited(rough_case(seed, **overlapping), seed))


def test_every_order_of_two_tasks():
    logging.getLogger("wukong").setLevel(logging.ERROR)
    for n_tasks in (1, 2):
        for case in cases(n_tasks):
            explore(case)


def main() -> None:
    """Print the names of so many mutants, drawn from all that were made."""
    metas = [json.loads(path.read_text()) for path in Path("mutants").rglob("*.meta")]
    names = sorted(name for meta in metas for name in meta["exit_code_by_key"])
    print(*sorted(random.Random(SEED).sample(names, int(sys.argv[1]))))


if __name__ == "__main__":
    main()
