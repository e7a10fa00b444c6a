"""Whatever ends a client, nothing of it stays in the store; what a killed one leaves is found and deleted."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from waiting import wait, wait_for

import wukong
from wukong.backends.plugins import load_storage
from wukong.testing.servers import RedisServer

SCRIPT = """\
import os, signal, sys, threading
sys.path.insert(0, {tests!r})
import wukong
from waiting import wait, wait_for

class Held:
    def __init__(self, n):
        self.content = bytes([n]) * 300_000

def hold(n):
    open(f"{{folder}}/{{n}}", "w").close()
    wait_for(f"{{folder}}/never", None)

storage, folder, how = sys.argv[1:]
if how == "handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
client = wukong.Client(storage=storage, faas={{"name": "local", "max_slots": 8}}, progress=False, heartbeat_s=0.2)
futures = client.map(Held, range(4))
client.gather(futures)
scattered = client.scatter([1, "two"])
running = client.map(hold, range(2), pure=False)
wait(lambda: all(os.path.exists(f"{{folder}}/{{n}}") for n in range(2)))
print("ready", flush=True)
if how == "thread":
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
elif how == "get":
    client.get({{"x": (hold, 2), "y": (abs, "x")}}, "y")
elif how != "end":
    signal.pause()
"""


@pytest.fixture(scope="module")
def shards() -> Iterator[str]:
    with RedisServer() as one, RedisServer() as two:
        yield f"redis://{one.endpoint},{two.endpoint}"


def left(storage: str) -> list[bytes]:
    with closing(load_storage(storage)) as store:
        return sorted(store.scan(b""))


def started(storage: str, folder: Path, how: str) -> subprocess.Popen[str]:
    """Return a process with kept values and running tasks in the store."""
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", script, storage, str(folder), how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("how", "number", "code"),
    [
        ("end", None, 0),
        ("thread", None, 0),
        ("pause", signal.SIGTERM, -signal.SIGTERM),
        ("pause", signal.SIGHUP, -signal.SIGHUP),
        ("get", signal.SIGTERM, -signal.SIGTERM),
        ("handler", signal.SIGTERM, 7),
    ],
)
def test_a_process_that_ends_without_close_leaves_nothing(
    shards: str, tmp_path: Path, how: str, number: int | None, code: int
) -> None:
    with started(shards, tmp_path, how) as process:
        assert process.stdout is not None
        if how == "get":
            wait((tmp_path / "2").exists, "the job runs")
        if number is not None:
            process.send_signal(number)
        assert process.wait(60) == code
    assert left(shards) == []


def test_a_client_that_closes_leaves_nothing(shards: str, tmp_path: Path) -> None:
    client = wukong.Client(storage=shards, progress=False, heartbeat_s=0.2)
    kept = client.map(lambda n: bytes(300_000) + bytes(n), range(8))
    client.gather(kept)
    places = client.scatter({"a": 1, "b": bytes(300_000)})
    running = client.submit(wait_for, str(tmp_path / "never"), None)
    assert len(left(shards)) > 8
    client.close()
    assert left(shards) == []
    assert running.cancelled()
    assert len(kept) == 8 and len(places) == 2


def test_a_client_whose_store_has_gone_closes_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer() as server:
        client = wukong.Client(storage=f"redis://{server.endpoint}", progress=False, store_patience_s=0.1)
        kept = client.scatter([1])
        server.kill()
        client.close()
    assert "'wukong clean'" in caplog.text
    assert kept


def test_signals_are_the_programs_own_again_when_all_clients_have_closed() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_DFL:
            pytest.skip("somebody handles this signal here")
    with wukong.Client(progress=False, close_on_signals=False):
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with wukong.Client(progress=False), wukong.Client(progress=False):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
