"""The scripts that measure stores and factors, on tiny sizes: that they run, and count what they say they count."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def run(*arguments: str, script: str = "stores.py", program: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script, or a program that imports its modules."""
    command = ["-c", program] if program else [str(BENCHMARKS / script)]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of the scripts here, which costs less than an interpreter; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in sys.modules.keys() - before:
        if str(BENCHMARKS) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


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


@pytest.mark.long
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


@pytest.mark.long
def test_plans_are_held_against_what_happens():
    done = run("gemm", "--small", "--repeat", "1", script="plan.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:4] == ["gemm", "17", "tasks", "planned"]
    assert run("gem", script="plan.py").stderr.startswith("there is no workload gem: gemm, ")


def test_a_size_or_part_that_does_not_exist_is_refused_with_those_that_do(scripts, capsys):
    for arguments, hint in ((["--set", "rows=4"], "sizes are tsqr_rows"), (["side"], "parts are sides")):
        with pytest.raises(SystemExit) as refused:
            scripts("stores").main(arguments)
        assert refused.value.code == 2
        assert hint in capsys.readouterr().err


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


def writes_and_arrives(spec: PluginSpec) -> None:
    """Use a store in a process of its own."""
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return
    try:
        other = spec.open()
        assert bytes(other.get([b"a", b"b", b"c"])[0]) == b"12345"
        outcomes = other.incr([Arrival(b"r", (0,), 2, b"0", b"xy"), Arrival(b"r", (1,), 2, b"1", b"z")])
        assert sorted(outcomes[1].values) == [b"xy", b"z"]
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def test_the_counting_store_tells_the_clients_share_from_the_others(scripts):
    store = scripts("counted").Counted.around("local")
    store.put({b"a": (b"12", b"345"), b"b": b""})
    writes_and_arrives(store.spec())
    mine, others = store.counts()
    assert (mine.calls, mine.puts, mine.keys_put, mine.put_bytes, mine.got_bytes) == (1, 1, 2, 5, 0)
    assert (others.calls, others.gets, others.keys_got, others.incrs, others.arrivals) == (2, 1, 3, 1, 2)
    assert (others.put_bytes, others.got_bytes) == (3, 8)
    store.close()
    assert not os.path.exists(store.folder)


def test_the_largest_tsqr_is_a_power_of_two_whose_values_fit(scripts):
    largest_rows = scripts("side_by_side").largest_rows
    assert [largest_rows(128, n << 30) for n in (20, 1, 0)] == [1 << 23, 1 << 19, 0]


PAGE = """\
# Benchmarks

before
<!-- benchmarks/factors.py writes from here on -->
an older table
<!-- benchmarks/factors.py writes up to here -->
after
"""


@pytest.mark.long
def test_factors_are_switched_one_by_one_and_tables_and_plot_go_into_the_page(tmp_path):
    figures, page = tmp_path / "factors.json", tmp_path / "benchmarks.md"
    page.write_text(PAGE)
    options = ("--tiny", "--factors", "shards", "patience", "proxy", "--shards", "2", "--invoke-ms", "5")
    done = run(*options, "--docs", str(tmp_path), "--json", str(figures), script="factors.py")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(figures.read_text())
    assert result["ladder"] == ["everything off", "+ many shards", "+ patience", "everything on"]
    for workload in ("svd", "fan-out"):
        runs = {name: one for name, [one] in result["runs"][workload].items()}
        assert set(result["ladder"]) < set(runs)
        for one in runs.values():
            assert one["link_s"] > 0 and one["carried_bytes"] >= one["put_bytes"] + one["got_bytes"]
        assert runs["everything off"]["proxied"] == runs["+ patience"]["proxied"] == 0
    [off], [eager] = (result["runs"]["fan-out"][name] for name in ("everything off", "without patience"))
    assert off["executors"] == eager["executors"] == 12, "one for each task of the fan-out"
    assert eager["proxied"] + eager["unproxied"] > 10
    text = page.read_text()
    assert text.startswith("# Benchmarks\n\nbefore\n<!--") and text.endswith("up to here -->\nafter\n")
    assert "| many shards |" in text and "an older table" not in text and done.stdout.strip() in text
    bars = ElementTree.parse(tmp_path / "factors.svg").getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 2 * len(result["configurations"])


def test_two_configurations_that_are_compared_differ_in_one_factor(scripts):
    what = scripts("factors_what")
    names = [factor.name for factor in what.FACTORS]
    plan = what.planned(names)
    on = {each.name: each.on for each in plan.configurations}
    assert len(on) == len(plan.configurations) == len(set(on.values())) + 1, "each once, but for the one left as it is"
    assert [len(on[name]) for name in plan.ladder] == list(range(len(names) + 1))
    assert all(on[a] < on[b] for a, b in pairwise(plan.ladder))
    assert all(len(on[b] - on[a]) == 1 and on[a] < on[b] for _, a, b in plan.pairs), plan.pairs
    assert {name for _, a, b in plan.pairs for name in on[b] - on[a]} == set(names)
    settings = {each.name: each.settings("host:1") for each in plan.configurations}
    off, full = settings["everything off"], settings["everything on"]
    assert (off["fan_out"], off["proxy"], full["proxy"]) == ("eager", None, "host:1")
    assert settings["no setting made"] == {}


class Slow:
    """A socket that takes three bytes, and none the next time."""

    taken, full = b"", False

    def send(self, data):
        self.full = not self.full
        if not self.full:
            raise BlockingIOError
        self.taken += bytes(data[:3])
        return len(data[:3])


def echo(listener):
    with contextlib.closing(listener.accept()[0]) as peer:
        received = bytearray()
        while data := peer.recv(65_536):
            received += data
        peer.sendall(received[::-1])


def test_a_link_delivers_what_was_sent_and_knows_how_long_it_was_full(scripts):
    links = scripts("factors_links")
    wire = links.Wire(1_000_000, 0.5)
    assert [round(wire.take(bytes(size), None, 10.0), 6) for size in (1_000, 2_000, 0)] == [10.001, 10.003, 10.003]
    assert wire.take(bytes(1_000), None, 20.0) == 20.001 and [round(at, 6) for at, *_ in wire.due][-1] == 20.501

    link = links.Link(("127.0.0.1", 1), 0.0, 0.0, 0.0)
    link._watch = lambda end: None
    end = links.End(Slow(), link.there)
    end.peer = links.End(None, link.back, end, under_way=8)
    end.unwritten.append(memoryview(b"abcdefgh"))
    while end.unwritten:
        link._write(end)
    assert (end.socket.taken, end.peer.under_way) == (b"abcdefgh", 0)

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    sent = bytes(range(256)) * 4_000
    with listener, links.Links([f"127.0.0.1:{listener.getsockname()[1]}"], 100.0, 0.1, 0.1) as opened:
        host, port = opened.endpoints[0].split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            got = bytearray()
            while data := client.recv(65_536):
                got += data
        assert got == sent[::-1]
        [carried] = opened.carried()
        assert (carried.there_bytes, carried.back_bytes) == (len(sent), len(sent))
        assert abs(carried.full_s - 2 * len(sent) / 100e6) < 1e-6, "one after the other, at the link's rate"


def test_a_page_that_does_not_say_where_the_tables_go_is_left_alone(scripts, tmp_path):
    (tmp_path / "benchmarks.md").write_text("# Benchmarks\n")
    with pytest.raises(ValueError, match="does not say where the tables go"):
        scripts("factors_report").write({}, tmp_path)
    assert (tmp_path / "benchmarks.md").read_text() == "# Benchmarks\n"
    assert not (tmp_path / "factors.svg").exists()
