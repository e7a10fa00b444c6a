"""Mutants of the protocol and of what it rests on: what pins them within seconds, and a sample of them.

`mutmut <https://mutmut.readthedocs.io>`_ (``[tool.mutmut]`` in pyproject.toml) changes one operator, constant or
argument at a time, about 3,000 times, and runs the tests that reach the changed function, these here among them:

    pip install mutmut
    mutmut run 'wukong.core.policy*'                 # makes all mutants, and tries those of one module
    mutmut run $(python benchmarks/mutants.py 300)   # tries a sample of all
    mutmut results                                   # which have survived; `mutmut show NAME`: what was changed

Far faster, for what is imported once and holds no thread or process: the tests stay loaded, and each mutant is put in
place in a fork of them.

    python benchmarks/mutants.py 300 'wukong/core/walk/*.py' tests/test_protocol.py   # these tests, then those here
    SEEDS=20 python benchmarks/mutants.py NAME,NAME 'wukong/core/walk/*.py'           # two mutants, 20 times the seeds
"""

import importlib
import json
import logging
import os
import random
import resource
import signal
import sys
from pathlib import Path

import pytest

from wukong.testing.exhaustive import cases, explore
from wukong.testing.recovery import rough_case, survive
from wukong.testing.simulator import limited, random_case, simulate

SEED = 14
SEEDS = int(os.environ.get("SEEDS", "1"))
CPU_S, WALL_S, ROOM_BYTES = 30 * SEEDS, 900 * SEEDS, 4 << 30
"""Who takes more has hung: a fault, too."""


@pytest.mark.parametrize("first", range(0, 200 * SEEDS, 50))
def test_seeds_without_faults(first):
    for seed in range(first, first + 50):
        simulate(seed)


@pytest.mark.parametrize("first", range(0, 300 * SEEDS, 50))
def test_seeds_with_faults(first):
    for seed in range(first, first + 50):
        survive(seed)


@pytest.mark.parametrize("first", range(0, 60 * SEEDS, 20))
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


def made(pattern):
    """Return the mutants of these modules: for each name the function, and the changed one, of which code is to be."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    mutants = {}
    for path in sorted(Path().glob(pattern)):
        module = importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
        mutated, changed = mutate_file_contents(str(path), path.read_text()), {"__name__": module.__name__}
        exec(compile(mutated.code, str(path), "exec"), changed)
        for name in mutated.mutant_names:
            owner, own = module, changed
            there = name.split("__mutmut_")[0].removeprefix("x_")
            if "ǁ" in there:
                _, owner, there = there.split("ǁ")
                owner, own = getattr(module, owner), vars(changed[owner])
            pair = getattr(owner, there), own[name]
            mutants[f"{module.__name__}.{name}"] = pair
    return mutants


class Forks:
    """Runs the tests that were collected in a fork for each mutant; tells of each by which test it is killed."""

    def __init__(self, mutants):
        self.mutants = mutants

    def pytest_runtestloop(self, session):
        told = os.fdopen(os.dup(1), "w", buffering=1)
        for name in (None, *self.mutants):
            if not (child := os.fork()):
                self.run(name, session, told)
            status = os.waitpid(child, 0)[1]
            assert name or not status, "the tests fail for what was not changed"
            if os.WIFSIGNALED(status):
                print("killed ", name, signal.Signals(os.WTERMSIG(status)).name, file=told)
            elif not status and name:
                print("survives", name, file=told)
        return True

    def run(self, name, session, told):
        """Put this mutant in place, run the tests until one fails, and end the process."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        resource.setrlimit(resource.RLIMIT_AS, (ROOM_BYTES, ROOM_BYTES))
        signal.alarm(WALL_S)
        if name:
            there, changed = self.mutants[name]
            for field in ("__code__", "__defaults__", "__kwdefaults__"):
                setattr(there, field, getattr(changed, field))
        for item, after in zip(session.items, [*session.items[1:], None], strict=True):
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if session.testsfailed:
                print("killed ", name, item.name, file=told)
                os._exit(1)
        os._exit(0)


def tried(which, pattern, *tests):
    """Try a number of mutants of these modules, drawn by chance, or those that are named; on these tests."""
    mutants = made(pattern)
    names = random.Random(SEED).sample(sorted(mutants), int(which)) if which.isdigit() else which.split(",")
    options = ["-q", "-s", "-p", "no:cacheprovider", "--no-summary", "--hypothesis-seed=0"]
    pytest.main([*options, *tests, __file__], plugins=[Forks({name: mutants[name] for name in names})])


def main() -> None:
    """Print the names of so many mutants, drawn from all that were made; or try some at once."""
    if len(sys.argv) > 2:
        return tried(*sys.argv[1:])
    metas = [json.loads(path.read_text()) for path in Path("mutants").rglob("*.meta")]
    names = sorted(name for meta in metas for name in meta["exit_code_by_key"])
    print(*sorted(random.Random(SEED).sample(names, int(sys.argv[1]))))


if __name__ == "__main__":
    main()
