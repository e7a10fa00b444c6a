"""The soak of `benchmarks/soak.py`: a few of its jobs, and that it sees what it is there to see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the soak finds processes by /proc")


def soak(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the soak after `before`, which may break something."""
    program = f"import sys, soak, soak_cases\n{before}\nsys.exit(soak.main({list(arguments)!r}))"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def row(report: str, title: str) -> int:
    """Return the last cell of a row of the table, the sum over all workloads."""
    [line] = [line for line in report.splitlines() if line.startswith(f"| {title} |")]
    return int(line.rstrip(" |").rpartition("|")[2])


CALM = """
from dataclasses import replace
drawn = soak.Case.of
def calm(seed, heartbeat_s):
    case = drawn(seed, heartbeat_s)
    faas = {"name": "local", "slots": 2}
    return replace(case, workload="tree", faas=faas, faults={}, kills=[], client_kills=[], forget_s=None, **more)
soak.Case.of = calm
more = {}
"""


def test_some_jobs_of_the_soak_are_right():
    done = soak("--jobs", "2", "--seed", "35", "--heartbeat", "0.2", "--minutes", "1", "--verbose")
    assert done.returncode == 0, done.stdout + done.stderr
    assert row(done.stdout, "jobs") >= 1
    assert row(done.stdout, "takeovers") >= 1


def test_a_wrong_answer_is_seen_and_its_seed_told():
    lie = "soak_cases.WORKLOADS['tree'] = lambda rng: (*soak_cases.tree(rng)[:2], lambda values: False)"
    done = soak("--only", "17", before=CALM + lie)
    assert done.returncode == 1
    assert "WRONG --only 17 (tree): wrong answer" in done.stdout
    assert row(done.stdout, "right") == 0


@pytest.mark.long
def test_what_is_left_in_the_store_is_seen():
    litter = """
soak.CLEAN_S = 1.0
fetched = soak.wukong.Client._get
def get(self, *args, **kwargs):
    self.storage.put({b"litter": b"1"})
    return fetched(self, *args, **kwargs)
soak.wukong.Client._get = get
"""
    done = soak("--only", "17", before=CALM + litter)
    assert done.returncode == 1
    assert "left in the store: [b'vlitter']" in done.stdout


@pytest.mark.long
def test_a_process_that_remains_is_seen_and_ended():
    stray = """
soak.CLEAN_S = 1.0
import subprocess
fetched = soak.wukong.Client._get
def get(self, *args, **kwargs):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    return fetched(self, *args, **kwargs)
soak.wukong.Client._get = get
"""
    done = soak("--only", "17", before=CALM + stray)
    assert done.returncode == 1
    assert "remain" in done.stdout


@pytest.mark.long
def test_an_unexpected_error_is_seen():
    broken = "soak_cases.WORKLOADS['tree'] = lambda rng: ({'a': (soak_cases.slow_add, 1, None, 0.0)}, ['a'], bool)"
    done = soak("--only", "17", before=CALM + broken)
    assert done.returncode == 1
    assert "TypeError: unsupported operand" in done.stdout
