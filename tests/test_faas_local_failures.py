"""The emulator: deaths, limits, cancelling, scripted faults, and that nothing is left behind."""

import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from faas_local_tools import children, evidence, failures, left, order
from waiting import GIVE_UP_S, gone, wait

import wukong
from wukong.backends.faas import Failure, Invocation
from wukong.backends.faas.emulator import link, listener
from wukong.backends.faas.emulator.faults import FaultScript
from wukong.backends.faas.local import LocalFaaS
from wukong.errors import BackendError, ConfigError, PayloadTooLarge, Throttled

pytestmark = pytest.mark.fresh_hosts


def opened(function, **options):
    return closing(LocalFaaS(function=f"faas_functions:{function}", **options))


def test_a_killed_worker_is_reported_with_signal_and_task(tmp_path):
    with opened("stay") as backend:
        backend.invoke([order(tmp_path, "a", task="('x', 3)")])
        (seen,) = left(tmp_path, 1)
        os.kill(seen["pid"], signal.SIGKILL)
        (failure,) = failures(backend, 1)
    assert failure == Failure("job/a", "crash", "the process was killed by SIGKILL", "('x', 3)")


@pytest.mark.parametrize(("how", "told"), [("exit", "status 3"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL")])
def test_a_death_is_told_with_its_cause_and_last_words(tmp_path, how, told):
    with opened("die") as backend:
        backend.invoke([order(tmp_path, "a", how=how, task="t")])
        (failure,) = failures(backend, 1)
        assert (failure.invocation, failure.reason, failure.task) == ("job/a", "crash", "t")
        assert told in failure.detail
        assert failure.detail.endswith("last words: these are my last words")
        assert "\n" not in failure.detail


def test_a_function_that_raises_is_an_error_and_its_container_goes_on(tmp_path):
    with opened("fail", slots=1) as backend:
        backend.invoke([order(tmp_path, "a"), order(tmp_path, "b")])
        found = failures(backend, 2)
        assert [(failure.invocation, failure.reason) for failure in found] == [("job/a", "error"), ("job/b", "error")]
        assert found[0].detail.startswith("ValueError: cannot do a")


def test_a_failure_does_not_name_the_task_of_an_earlier_invocation(tmp_path):
    with opened("fail", slots=1, max_slots=1) as backend:
        backend.invoke([order(tmp_path, "a", task="t"), order(tmp_path, "b")])
        assert [failure.task for failure in failures(backend, 2)] == ["t", None]


def test_what_a_dying_task_has_started_dies_though_it_holds_the_line_open(tmp_path):
    with opened("die_but_for_a_fork", slots=1) as backend:
        backend.invoke([order(tmp_path, "a")])
        (failure,) = failures(backend, 1)
        assert failure.reason == "crash"
        (seen,) = left(tmp_path, 1)
        wait(lambda: gone(seen["helper"]), "the fork is gone")


def test_after_a_death_others_run_in_its_place(tmp_path):
    with opened("stay", slots=1, max_slots=1) as backend:
        backend.invoke([order(tmp_path, "a"), order(tmp_path, "b")])
        (first,) = left(tmp_path, 1, "a")
        os.kill(first["pid"], signal.SIGKILL)
        left(tmp_path, 1, "b")
        assert [failure.invocation for failure in failures(backend, 1)] == ["job/a"]


def test_what_a_task_has_started_dies_with_its_worker(tmp_path):
    with opened("stay") as backend:
        backend.invoke([order(tmp_path, "a", helper=True)])
        (seen,) = left(tmp_path, 1)
        os.kill(seen["pid"], signal.SIGKILL)
        wait(lambda: gone(seen["helper"]), "the helper is gone")


def test_over_the_time_limit_an_invocation_is_killed_and_told(tmp_path):
    with opened("stay", time_s=0.05) as backend:
        backend.invoke([order(tmp_path, "a")])
        (failure,) = failures(backend, 1)
        assert (failure.invocation, failure.reason) == ("job/a", "timeout")
        assert "0.05 s" in failure.detail


def test_the_time_limit_is_each_invocations_own(tmp_path):
    with opened("nap", time_s=2.0, slots=1, max_slots=1) as backend:
        # Together twice the limit, one after the other in one worker: the limit of one must not strike a later one.
        backend.invoke([order(tmp_path, f"n{n}", nap_s=0.1) for n in range(40)])
        left(tmp_path, 40)
        assert backend.failures() == []


def test_over_the_memory_limit_an_invocation_is_killed_and_told(tmp_path):
    with opened("swell", memory_bytes=200_000_000) as backend:
        backend.invoke([order(tmp_path, "a", bytes=300_000_000)])
        (failure,) = failures(backend, 1)
        assert (failure.invocation, failure.reason) == ("job/a", "memory")
        assert "the limit is 200,000,000" in failure.detail


def test_a_payload_over_the_limit_is_refused_inside_functions_too(tmp_path):
    with opened("spread", payload_bytes=5_000) as backend:
        target = backend.spec().target
        with pytest.raises(PayloadTooLarge, match=r"10,\d\d\d bytes.*5,000"):
            backend.invoke([Invocation("job/0", bytes(10_001))])
        backend.invoke([order(tmp_path, "r", deep=1, wide=1, target=target, ballast=10_000)])
        left(tmp_path, 1, "r")
        assert evidence(tmp_path, "rc") == []


def test_concurrency_bounds_what_runs_at_once(tmp_path):
    with opened("meet", concurrency=3) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(9)])
        left(tmp_path, 3)
        looks = iter(range(50))
        wait(lambda: next(looks, None) is None)
        assert len(evidence(tmp_path)) == 3
        (tmp_path / "go").touch()
        left(tmp_path, 9)


def test_cancel_drops_what_is_queued_kills_what_runs_and_reports_neither(tmp_path):
    with opened("stay", slots=2, max_slots=2) as backend:
        backend.invoke([order(tmp_path, "a", "one/1"), order(tmp_path, "b", "two/1")])
        backend.invoke([order(tmp_path, "c", f"one/{n}") for n in range(2, 30)])
        backend.invoke([order(tmp_path, "d", "two/2")])
        (a,), (b,) = left(tmp_path, 1, "a"), left(tmp_path, 1, "b")
        backend.cancel("one/")
        assert gone(a["pid"]), "cancel returns when the killed are gone"
        left(tmp_path, 1, "d")
        assert not gone(b["pid"])
        assert evidence(tmp_path, "c") == []
        assert backend.failures() == []


def test_cancel_reaches_late_invocations(tmp_path):
    with opened("note", slots=1, max_slots=1, faults={"start_latency_s": 0.02}) as backend:
        backend.invoke([order(tmp_path, "a", "one/1"), order(tmp_path, "b", "two/1")])
        backend.cancel("one/")
        left(tmp_path, 1, "b")
        assert evidence(tmp_path, "a") == []
        wait(lambda: backend.free_slots() == 1)


def test_the_same_seed_gives_the_same_faults_and_another_seed_others():
    kinds = {"crash_before": 0.2, "crash_during": 0.2, "crash_after": 0.2, "duplicate": 0.3, "late": 0.3, "lost": 0.2}
    first = [FaultScript(seed=7, **kinds).fault(n) for n in range(200)]
    assert first == [FaultScript(seed=7, **kinds).fault(n) for n in range(200)]
    assert first != [FaultScript(seed=8, **kinds).fault(n) for n in range(200)]
    assert {fault.crash for fault in first} == {None, "before", "during", "after"}
    assert 20 < sum(fault.lost for fault in first) < 60


def test_turning_one_fault_on_leaves_the_others_where_they_were():
    plain = [FaultScript(seed=7, duplicate=0.3).fault(n) for n in range(100)]
    more = [FaultScript(seed=7, duplicate=0.3, lost=0.5, late=0.5, crash_before=0.5).fault(n) for n in range(100)]
    assert [fault.duplicate for fault in plain] == [fault.duplicate for fault in more]


def test_a_script_with_an_unknown_or_impossible_fault_is_refused():
    with pytest.raises(ConfigError, match=r"'crash_befor'.*crash_before"):
        LocalFaaS(faults={"crash_befor": 0.1})
    with pytest.raises(ConfigError, match=r"faults\.lost"):
        LocalFaaS(faults={"lost": 1.5})


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_strike_as_scripted(tmp_path, seed):
    """One at a time, so that the n-th received is the n-th sent: what happened is exactly what the script says."""
    faults = {
        "seed": seed,
        "crash_before": 0.15,
        "crash_during": 0.15,
        "crash_after": 0.15,
        "duplicate": 0.2,
        "lost": 0.2,
    }
    script = FaultScript(**faults)
    count = 25
    ran, crashed = Counter(), Counter()
    with opened("tasks", slots=1, max_slots=1, faults=faults) as backend:
        for n in range(count):
            backend.invoke([order(tmp_path, f"n{n}")])
            fault = script.fault(n)
            times = 0 if fault.lost else 2 if fault.duplicate else 1
            if fault.crash:
                crashed[f"job/n{n}"] = times
            begun = {None: 8, "after": 8, "before": 0, "during": fault.at_task - 1}[fault.crash]
            for task in range(begun):
                ran[f"n{n}.{task}"] = times
        expected = Counter({name: times for name, times in ran.items() if times})
        wait(lambda: _names(tmp_path) == expected, "everything has run as scripted")
        reported = Counter(failure.invocation for failure in failures(backend, sum(crashed.values())))
        wait(lambda: backend.free_slots() == 1)
        assert _names(tmp_path) == expected
        assert reported == Counter({name: times for name, times in crashed.items() if times})


def _names(directory):
    return Counter(file.name.partition("~")[0] for file in Path(directory).iterdir() if not file.name.startswith("."))


def test_throttling_is_ridden_out_when_rare_and_raised_when_not(tmp_path):
    with opened("note", faults={"throttle": 0.5, "seed": 1}) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(10)])
        left(tmp_path, 10)
    with opened("note", faults={"throttle": 1.0}) as backend, pytest.raises(Throttled, match="job/a"):
        backend.invoke([order(tmp_path, "a")])


def test_what_was_taken_before_a_throttle_is_named_and_the_rest_may_be_asked_again(tmp_path):
    refusals = [False, *[True] * 6, False, False]  # of the attempts: the first invocation's, six of the second one, ...
    scripts = (FaultScript(seed=n, throttle=0.5) for n in itertools.count())
    script = next(each for each in scripts if [each.throttled(n) for n in range(len(refusals))] == refusals)
    orders = [order(tmp_path, name) for name in "abc"]
    with opened("note", faults=script) as backend:
        with pytest.raises(Throttled, match="job/b") as refused:
            backend.invoke(orders)
        assert refused.value.taken == {"job/a"}
        backend.invoke(orders[1:])
        assert [len(left(tmp_path, 1, name)) for name in "abc"] == [1, 1, 1]


def test_a_host_that_dies_is_started_again_as_it_was_and_what_ran_is_reported(tmp_path):
    with opened("note", max_slots=3) as backend:
        backend.configure({"V": "7"})
        backend.prepare(["graphlib"])
        backend._link.ready.wait()
        for n in range(2):
            os.kill(backend._link.process.pid, signal.SIGKILL)
            backend.invoke([order(tmp_path, f"n{n}")])
            (seen,) = left(tmp_path, 1, f"n{n}")
            assert seen["value"] == "7" and "graphlib" in seen["loaded"]
    with opened("stay") as backend:
        backend.invoke([order(tmp_path, "a", task="t", helper=True), order(tmp_path, "b")])
        before = [*left(tmp_path, 1, "a"), *left(tmp_path, 1, "b")]
        os.kill(backend._link.process.pid, signal.SIGKILL)
        found = failures(backend, 2)
        assert {(failure.invocation, failure.reason, failure.task) for failure in found} == {
            ("job/a", "crash", "t"),
            ("job/b", "crash", None),
        }
        assert "host process" in found[0].detail and "exit status -9" in found[0].detail
        for pid in [before[0]["pid"], before[0]["helper"], before[1]["pid"]]:
            wait(lambda pid=pid: gone(pid), "the worker, and what its task has started, are gone")
        backend.invoke([order(tmp_path, "c")])
        left(tmp_path, 1, "c")
        assert backend.known(["job/a", "job/c"]) == ["job/c"]
        assert backend.failures() == []


def test_what_is_queued_when_the_host_dies_is_run_by_the_next_one_unless_it_was_cancelled(tmp_path):
    with opened("stay", slots=1, max_slots=1) as backend:
        backend.invoke([order(tmp_path, name, f"{name}/0") for name in "abc"])
        left(tmp_path, 1, "a")
        backend.cancel("b")
        os.kill(backend._link.process.pid, signal.SIGKILL)
        left(tmp_path, 1, "c")
        assert [failure.invocation for failure in failures(backend, 1)] == ["a/0"]
        assert not evidence(tmp_path, "b")


def test_a_host_that_dies_over_and_over_is_given_up(monkeypatch):
    monkeypatch.setattr(link, "_MOST_DEATHS", 3)
    with opened("note") as backend:
        for _ in range(3):
            assert backend._link.ready.wait(GIVE_UP_S)
            host = backend._link.process
            host.kill()
            wait(lambda host=host: backend._link.process is not host or backend._link.dead, "its death is noticed")
        with pytest.raises(BackendError, match=r"host process \d+ died \(exit status -9\), as 2 had within 60 s"):
            backend.invoke([Invocation("job/a", b"{}")])
        assert backend.known(["job/a"]) == ()


def test_a_job_goes_on_when_the_host_dies(tmp_path):
    def task(n):
        Path(tmp_path, f"begun-{n}").touch()
        while not Path(tmp_path, "go").exists():
            time.sleep(0.01)
        return n

    with wukong.Client(heartbeat_s=0.1, progress=False) as client:
        futures = client.map(task, range(4))
        wait(lambda: len(list(tmp_path.glob("begun-*"))) == 4, "all run")
        os.kill(client.faas._link.process.pid, signal.SIGKILL)
        Path(tmp_path, "go").touch()
        assert client.submit(sum, futures).result() == 6


def test_a_door_is_opened_again_once_the_last_process_that_has_inherited_it_is_dead():
    name = listener.named()
    before = listener.opened(name)
    threading.Timer(0.2, before.close).start()
    listener.opened(name).close()


def test_close_leaves_no_process(tmp_path):
    backend = LocalFaaS(function="faas_functions:stay")
    backend.invoke([order(tmp_path, f"n{n}", helper=True) for n in range(2)])
    seen = left(tmp_path, 2)
    host = backend._link.process.pid
    backend.close()
    assert all(gone(pid) for each in seen for pid in (each["pid"], each["helper"]))
    assert gone(host)
    with pytest.raises(BackendError, match="closed"):
        backend.invoke([order(tmp_path, "x")])
    assert backend.free_slots() == 0
    assert backend.failures() == []


def test_a_forgotten_backend_is_closed_by_garbage_collection():
    backend = LocalFaaS(function="faas_functions:note")
    backend._link.ready.wait()
    host = backend._link.process.pid
    del backend
    gc.collect()
    assert gone(host)


_CLIENT = """
import json, sys, time
from wukong.backends.faas import Invocation
from wukong.backends.faas.local import LocalFaaS
backend = LocalFaaS(function="faas_functions:stay")
payload = {"directory": sys.argv[1], "name": "a", "helper": True}
backend.invoke([Invocation(f"job/{n}", json.dumps(payload).encode()) for n in range(4)])
backend._link.ready.wait()
print(backend._link.process.pid, flush=True)
"""


def _client(directory, more):
    paths = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
    return subprocess.Popen(
        [sys.executable, "-c", _CLIENT + textwrap.dedent(more), str(directory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_client_leaves_no_process(tmp_path):
    with _client(tmp_path, "time.sleep(600)") as client:
        _kill_and_see(client, tmp_path)


def test_a_killed_client_leaves_no_process_even_when_a_fork_of_it_holds_the_line_open(tmp_path):
    forks = "import os\npid = os.fork()\nif pid:\n    print(pid, flush=True)\ntime.sleep(600)"
    with _client(tmp_path, forks) as client:
        host, fork = int(client.stdout.readline()), int(client.stdout.readline())
        try:
            _kill_and_see(client, tmp_path, host)
            assert not gone(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


def _kill_and_see(client, directory, host=None):
    host = host or int(client.stdout.readline())
    seen = left(directory, 4)
    workers = children(host)
    assert len(workers) >= 4
    client.kill()
    for pid in [host, *workers, *(each["helper"] for each in seen)]:
        wait(lambda pid=pid: gone(pid), f"process {pid} is gone")


def test_a_client_that_ends_without_closing_leaves_no_process(tmp_path):
    with _client(tmp_path, "while len(__import__('os').listdir(sys.argv[1])) < 4: time.sleep(0.002)") as client:
        host = int(client.stdout.readline())
        assert client.wait(30) == 0
    assert gone(host)
    assert all(gone(pid) for each in evidence(tmp_path) for pid in (each["pid"], each["helper"]))


def test_the_host_leaves_no_zombies(tmp_path):
    with opened("die", slots=2, max_slots=2) as backend:
        backend.invoke([order(tmp_path, f"n{n}", how="exit") for n in range(10)])
        failures(backend, 10)
        host = backend._link.process.pid
        wait(lambda: len(children(host)) == 2, "only the two workers kept warm are left")


def test_a_forked_child_of_the_client_is_told_to_make_its_own(tmp_path):
    with opened("note") as backend:
        backend._link.ready.wait()
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                backend.invoke([order(tmp_path, "a")])
                told = "nothing"
            except BackendError as error:
                told = str(error)
            backend.close()
            os.write(writing, json.dumps(told).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        told = json.loads(os.read(reading, 10_000))
        os.close(reading)
        os.close(writing)
        assert "not to its forked child" in told
        backend.invoke([order(tmp_path, "b")])
        left(tmp_path, 1, "b")
