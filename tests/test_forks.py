"""Processes forked from one that has a client: nothing of the client is theirs, and none of them hangs."""

import signal
import subprocess
import sys

PARENT = """
import gc, multiprocessing, os, signal, sys, threading, warnings

warnings.filterwarnings("ignore")  # that there are threads is the point
import dask.config, dask.tokenize
import wukong
from wukong.client import rows, scheduler
from wukong.core import gc_pause, modules

client = wukong.Client(progress=False)
kept = client.map(pow, range(3), [2] * 3)
client.gather(kept)
kept[0].add_done_callback(id)  # so that there is a thread for callbacks
never = client.submit(signal.pause)
waiting = wukong.as_completed([never])

owned = [client._registry._lock, client._background._lock, client._registry.callers._changed, kept[0]._state.changed,
         never._state.changed, waiting._changed, client._accounts._lock, client._deployment._lock]
shared = [scheduler._lock, modules._lock, gc_pause._lock, rows._terminal._lock, dask.config.config_lock,
          dask.tokenize.tokenize_lock]
held, ended = threading.Event(), threading.Event()

def hold():  # as threads do for a moment: this one, for as long as all children live
    for lock in owned + shared:
        lock.acquire()
    held.set()
    ended.wait()
    for lock in owned + shared:
        lock.release()

holder = threading.Thread(target=hold)
holder.start()
held.wait()

def refused(use):
    try:
        use()
    except wukong.errors.ClientClosed as error:
        assert "not to its forked child" in str(error)
    else:
        raise AssertionError(use)

def leaves():
    sys.exit(7)

def leaves_at_once():
    os._exit(7)

def drops():
    global client, kept, never, waiting
    for future in kept:
        future.release()
    client = kept = never = waiting = None
    gc.collect()
    sys.exit(7)

def closes():
    repr(client)
    client.close()
    sys.exit(7)

def uses():
    for use in (
        kept[0].result, never.result, never.exception, never.cancel, lambda: never.add_done_callback(id),
        lambda: wukong.wait([never]), lambda: next(waiting), lambda: client.gather(kept), client.cost,
        lambda: client.submit(pow, 2, 3), lambda: client.map(pow, [2], [3]), lambda: client.scatter(1),
        lambda: client.get({"x": (pow, 2, 3)}, "x"), lambda: client.attach("x"), client.last_job.cancel,
    ):
        refused(use)
    sys.exit(7)

def makes_one_of_its_own():
    with wukong.Client(progress=False) as own:
        assert own.submit(pow, 2, 5).result() == 32 == dask.delayed(pow)(2, 5).compute()
    sys.exit(7)

def pools():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
    sys.exit(7)

for live in (leaves, leaves_at_once, drops, closes, uses, makes_one_of_its_own, pools):
    child = os.fork()
    if not child:
        signal.alarm(100)
        live()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 7:
        print(f"a child that {live.__name__} ended with {status}", file=sys.stderr, flush=True)
        os._exit(1)
ended.set()
holder.join()
assert client.gather(kept) == [0, 1, 4] and client.submit(pow, 2, 6).result() == 64
client.close()
print("fine")
"""


def test_nothing_of_a_client_is_a_forked_childs(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, timeout=400, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("fine\n", "")


TOLD = """
import os, signal, wukong

with wukong.Client(progress=False):
    for _ in range(50):
        child = os.fork()
        if not child:
            signal.alarm(60)
            signal.pause()
        os.kill(child, signal.SIGTERM)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_that_is_told_to_end_at_once_does() -> None:
    done = subprocess.run([sys.executable, "-c", TOLD], capture_output=True, text=True, timeout=200, check=False)
    assert (set(done.stdout.split()), done.stderr) == ({f"-{signal.SIGTERM}"}, "")
