"""The scripts that measure stores, on tiny sizes: that they run, and count what they say they count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(*arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """Run `stores.py`, or a program that imports its modules."""
    command = ["-c", program] if program else [str(BENCHMARKS / "stores.py")]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_baseline_and_wukong_agree_side_by_side_and_every_value_of_the_baseline_is_stored(tmp_path):
    figures = tmp_path / "run.json"
    which = ("--dags", "tree", "tsqr-large", "--large-on", "redis-1", "--engines", "stateless", "Wukong")
    done = run("sides", "--tiny", "--workers", "1", "--on", "redis-1", *which, "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(figures.read_text())["sides"]["redis x 1"]
    assert list(cases) == ["tree", "tsqr-large"]
    for case in cases.values():
        assert list(case["runs"]) == ["stateless", "Wukong"]
        [baseline] = case["runs"]["stateless"]
        assert baseline["work"]["keys_put"] == baseline["work"]["puts"] == baseline["tasks"]
        assert baseline["queue_operations"] >= baseline["tasks"]
        assert sum(baseline["put_of"].values()) == baseline["work"]["put_bytes"]
        [wukong] = case["runs"]["Wukong"]
        assert wukong["tasks"] == baseline["tasks"]
        for side in (baseline, wukong):
            for ours, its in (("put_bytes", "in_bytes"), ("got_bytes", "out_bytes")):
                assert side["seen"][its] >= side["work"][ours] + side["client"][ours]
    [wukong], [baseline] = (cases["tsqr-large"]["runs"][name] for name in ("Wukong", "stateless"))
    assert wukong["told"]["put_bytes"] <= wukong["work"]["put_bytes"] < baseline["work"]["put_bytes"] / 10
    assert "fewer (aim 1,000x" in done.stdout


def test_round_trips_per_task_and_raw_clients_are_measured_on_each_kind_of_store():
    arguments = (
        "per-task",
        "raw",
        "--tiny",
        "--stores",
        "local",
        "redis-2",
        "memcached-2",
        "--workloads",
        "tree",
        "chain",
    )
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("Round trips and bytes on")] == [
        "Round trips and bytes on local:",
        "Round trips and bytes on redis-2:",
        "Round trips and bytes on memcached-2:",
    ]
    assert sum(line.startswith("| tree reduction of 1,024 integers | 1,023 |") for line in lines) == 3
    for store in ("local", "redis x 2", "memcached x 2"):
        assert sum(line.startswith(f"| {store} |") for line in lines) == 5, "one large size, four small calls"


def test_a_size_or_part_that_does_not_exist_is_refused_with_those_that_do():
    for arguments, hint in ((("--set", "rows=4"), "sizes are tsqr_rows"), (("side",), "parts are sides")):
        done = run(*arguments)
        assert done.returncode == 2
        assert hint in done.stderr


BASELINE = """
import dask
import numpy as np
from stateless import TUNED, Stateless
from wukong.backends.plugins import load_storage

def check(engine):
    table = np.arange(20_000.0)
    double = dask.delayed(lambda x: 2 * x)
    pairs = [dask.delayed(divmod)(i, 2)[1] for i in range(20)]
    wanted = [double(table), dask.delayed(sum)(pairs), dask.delayed(None, pure=True)]
    array, total, none = dask.compute(*wanted, scheduler=engine.get)
    assert np.array_equal(array, 2 * table) and total == 10 and none is None
    try:
        double(dask.delayed(int)("seven")).compute(scheduler=engine.get)
    except RuntimeError as error:
        assert "invalid literal for int() with base 10: 'seven'" in str(error)
    else:
        raise AssertionError("a failing task went unnoticed")

def main():
    store = load_storage("local")
    for workers, options in ((2, {}), (1, TUNED)):
        engine = Stateless(store, workers, **options)
        check(engine)
        engine.close()
    store.close()

if __name__ == "__main__":
    main()
"""


def test_the_baseline_runs_what_dask_gives_it_and_tells_of_a_task_that_fails():
    done = run(program=BASELINE)
    assert done.returncode == 0, done.stdout + done.stderr


COUNTED = """
import os
from counted import Counted
from wukong.backends.storage import Arrival

store = Counted.around("local")
store.put({b"a": (b"12", b"345"), b"b": b""})
child = os.fork()
if not child:
    other = store.spec().open()
    assert bytes(other.get([b"a", b"b", b"c"])[0]) == b"12345"
    outcomes = other.incr([Arrival(b"r", (0,), 2, b"0", b"xy"), Arrival(b"r", (1,), 2, b"1", b"z")])
    assert sorted(outcomes[1].values) == [b"xy", b"z"]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
mine, others = store.counts()
assert (mine.calls, mine.puts, mine.keys_put, mine.put_bytes, mine.got_bytes) == (1, 1, 2, 5, 0), mine
assert (others.calls, others.gets, others.keys_got, others.incrs, others.arrivals) == (2, 1, 3, 1, 2), others
assert (others.put_bytes, others.got_bytes) == (3, 8), others
folder = store.folder
store.close()
assert not os.path.exists(folder)
"""


def test_the_counting_store_tells_the_clients_share_from_the_others():
    done = run(program=COUNTED)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_largest_tsqr_is_a_power_of_two_whose_values_fit():
    done = run(program="from side_by_side import *; print(*[largest_rows(128, n << 30) for n in (20, 1, 0)])")
    assert done.stdout.split() == [str(1 << 23), str(1 << 19), "0"], done.stderr
