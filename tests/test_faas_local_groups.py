"""The emulator: what tasks have started ends with their worker, and is given the time to clean up."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import gone, wait

import wukong

pytestmark = pytest.mark.fresh_hosts

TRACKER = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
(folder / "begun").touch()
sys.stdin.read()  # until all who could still need it are gone
time.sleep(0.2)
(folder / "cleaned").touch()
"""


def leaves_a_tracker(folder, then):
    """As joblib does: a process that deletes what is left once everybody who used it has died."""
    subprocess.Popen([sys.executable, "-c", TRACKER, folder], stdin=subprocess.PIPE)
    while not Path(folder, "begun").exists():
        time.sleep(0.002)
    Path(folder, "ready").touch()
    if then == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "stays":
        time.sleep(600)
    return 1


@pytest.mark.parametrize(
    "end", ["the client is closed", "the client is closed in mid-task", "cancelled", "the worker dies"]
)
def test_what_cleans_up_after_a_task_lives_to_its_end(tmp_path, end):
    then = {"the client is closed": "returns", "the worker dies": "dies"}.get(end, "stays")
    with wukong.Client(progress=False) as client:
        future = client.submit(leaves_a_tracker, str(tmp_path), then)
        wait((tmp_path / "ready").exists)
        if then == "returns":
            assert future.result() == 1
        if end == "cancelled":
            future.cancel()
        if end in ("cancelled", "the worker dies"):
            wait((tmp_path / "cleaned").exists)
    assert (tmp_path / "cleaned").exists()


def test_joblib_inside_a_task_leaves_nothing_in_shared_memory():
    def parallel():
        import joblib
        import numpy as np

        def mapped(values, i):
            return os.path.dirname(values.filename)

        values = np.zeros(1_000_000)  # so large that it is mapped from a file
        return joblib.Parallel(n_jobs=2)(joblib.delayed(mapped)(values, i) for i in range(4)), os.getpid()

    with wukong.Client(progress=False) as client:
        folders, pid = client.submit(parallel).result()
    for folder in folders:
        assert folder.startswith("/dev/shm/") and f"_{pid}_" in folder, "joblib has begun to keep its files elsewhere"
        assert not os.path.exists(folder)
    assert not [name for name in os.listdir("/dev/shm") if f"-{pid}-" in name or f"_{pid}_" in name]


def test_a_task_that_does_not_listen_is_killed(tmp_path):
    def deaf(path):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])  # which has inherited that
        Path(path).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    told = tmp_path / "told"
    with wukong.Client(progress=False) as client:
        future = client.submit(deaf, str(told))
        pids = [int(pid) for pid in wait(lambda: told.exists() and told.read_text()).split()]
        future.cancel()
        wait(lambda: all(map(gone, pids)))
