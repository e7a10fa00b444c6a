"""The emulator: running, invoking from inside, slots, output, preparing."""

import importlib
import logging
import os
import signal
import site
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from faas_local_tools import children, evidence, left, order
from waiting import wait, wait_for

import wukong
from wukong.backends.faas import Invocation, TaskOutput
from wukong.backends.faas.emulator import ahead
from wukong.backends.faas.emulator.preloading import Preloading
from wukong.backends.faas.emulator.process import Child
from wukong.backends.faas.emulator.slots import SlotCount
from wukong.backends.faas.local import LocalFaaS
from wukong.backends.faas.task_output import show
from wukong.backends.plugins import load_faas
from wukong.backends.spec import PluginSpec
from wukong.errors import BackendError, ConfigError, PluginError
from wukong.testing.faas import FaaSTests

pytestmark = pytest.mark.fresh_hosts


class TestLocalFaaS(FaaSTests):
    def make_faas(self, function):
        return LocalFaaS(function=function)

    def make_limited_faas(self, function):
        return LocalFaaS(function=function, time_s=1.0)


@pytest.mark.long
class TestLocalFaaSAsAwsLambda(FaaSTests):
    def make_faas(self, function):
        return LocalFaaS(function=function, profile="aws-lambda")


@pytest.mark.long
class TestLocalFaaSWithDuplicatesAndLateness(FaaSTests):
    def make_faas(self, function):
        return LocalFaaS(function=function, faults={"seed": 3, "duplicate": 0.3, "late": 0.3, "late_s": 0.01})


def opened(function, **options):
    return closing(LocalFaaS(function=f"faas_functions:{function}", **options))


def test_the_suite_cannot_be_weakened_by_overriding_a_test():
    with pytest.raises(TypeError, match="test_an_invocation_runs_at_least_once"):
        type("Weak", (FaaSTests,), {"test_an_invocation_runs_at_least_once": lambda self: None})


def test_containers_are_reused_warm(tmp_path):
    with opened("note", slots=2, max_slots=2) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(50)])
        assert len({seen["pid"] for seen in left(tmp_path, 50)}) == 2


def test_workers_beyond_the_slots_end_after_the_idle_time(tmp_path):
    with opened("meet", slots=1, max_slots=8, idle_s=0.05) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(8)])
        left(tmp_path, 8)
        (tmp_path / "go").touch()
        wait(lambda: len(children(backend._link.process.pid)) == 1, "one worker is left")


def test_functions_run_in_no_fork_of_this_process(tmp_path):
    with opened("note") as backend:
        backend.invoke([order(tmp_path, "a")])
        (seen,) = left(tmp_path, 1)
        assert seen["pid"] != os.getpid()
        assert "pytest" not in seen["loaded"]


def test_functions_see_the_same_modules_as_this_process(tmp_path, monkeypatch):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    for place, told in (("first", "right"), ("second", "wrong")):
        (tmp_path / place / "two_of_a_name.py").write_text(f"def tell(payload):\n    print({told!r})\n")
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / place)])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "second"))
    got = []
    with closing(LocalFaaS(function="two_of_a_name:tell")) as backend:
        backend.subscribe(got.append)
        backend.invoke([Invocation("job/0", b"")])
        wait(lambda: got)
    assert got[0].text == "right\n"


def test_executors_invoke_others_from_threads_without_locking_up(tmp_path):
    with opened("spread", slots=2, max_slots=8) as backend:
        # 1 + 12 + 144 invocations of 200 kB, more than all the sockets' buffers hold together
        start = order(tmp_path, "r", deep=2, wide=12, target=backend.spec().target, ballast=200_000)
        backend.invoke([start])
        assert len(left(tmp_path, 157)) == 157
        assert backend.failures() == []


def test_without_a_door_the_spec_opens_only_inside_a_function():
    with opened("note") as backend, pytest.raises(BackendError, match="not a function of the emulator"):
        PluginSpec(backend.spec().target).open()


def test_sixty_four_sleepers_run_at_once_on_two_slots(tmp_path):
    with opened("meet", slots=2) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(64)])
        # None ends before all of them have begun: if fewer ran at once, this would wait in vain.
        assert len({seen["pid"] for seen in left(tmp_path, 64)}) == 64
        (tmp_path / "go").touch()


def test_slots_count_the_cores_that_executors_use(tmp_path, monkeypatch):
    monkeypatch.setattr("wukong.backends.faas.local.machine.cores", lambda: 4)
    with opened("use_cores", slots=4, max_slots=4) as backend:
        backend.invoke([order(tmp_path, "a", more=2)])
        assert [seen["left"] for seen in left(tmp_path, 1)] == [1]
        assert backend.free_slots() == 1
        backend.invoke([order(tmp_path, "b"), order(tmp_path, "c")])
        left(tmp_path, 2)
        looks = iter(range(10))
        wait(lambda: next(looks, None) is None or len(evidence(tmp_path)) > 2)
        assert len(evidence(tmp_path)) == 2
        (tmp_path / "back").touch()
        left(tmp_path, 3)
        wait(lambda: backend.free_slots() == 1)
        (tmp_path / "go").touch()


@pytest.mark.parametrize("options", [{"profile": "aws-lambda"}, {"memory_bytes": 1 << 30}, {"cpus": 1}])
def test_a_function_as_on_a_real_platform_uses_no_cores_but_its_own(tmp_path, monkeypatch, options):
    monkeypatch.setattr("wukong.backends.faas.local.machine.cores", lambda: 4)
    with opened("lends_cores", slots=4, **options) as backend:
        backend.invoke([order(tmp_path, "a")])
        assert left(tmp_path, 1)[0]["lends"] is False


def test_slots_do_not_grow_while_functions_compute(tmp_path):
    with opened("compute", slots=2) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(6)])
        left(tmp_path, 2)
        # A good number of looks later (a look every 10 ms at most), still only two have begun.
        looks = iter(range(30))
        wait(lambda: next(looks, None) is None or len(evidence(tmp_path)) > 2)
        assert len(evidence(tmp_path)) == 2
        (tmp_path / "go").touch()
        left(tmp_path, 6)


@pytest.mark.parametrize(
    ("count", "computing", "blocked", "unknown", "waiting", "after"),
    [
        (2, 0, 0, 2, 0, 2),
        (2, 0, 2, 0, 0, 6),
        (6, 0, 6, 0, 0, 14),
        (64, 0, 64, 0, 0, 128),
        (6, 1, 5, 0, 0, 12),
        (2, 2, 0, 0, 0, 2),
        (40, 2, 10, 0, 0, 12),
        (100, 0, 0, 0, 0, 75),
        (100, 0, 3, 7, 0, 100),
        (2, 1, 0, 0, 0, 2),
        (2, 0, 0, 0, 2, 4),
        (4, 0, 0, 0, 40, 4),
        (4, 2, 0, 0, 40, 4),
        (4, 0, 1, 0, 3, 6),
    ],
)
def test_slots_double_while_tasks_sleep_and_fall_when_cores_are_full_and_hardly_grow_for_who_waits_for_the_store(
    count, computing, blocked, unknown, waiting, after
):
    slots = SlotCount(base=2, most=128)
    slots.count = count
    assert slots.moved(computing, blocked, unknown, waiting) == after


@pytest.mark.parametrize(
    ("waits", "room", "after"), [(False, None, 22), (False, 1, 11), (False, 0, 10), (True, None, 7)]
)
def test_slots_grow_as_far_as_there_is_memory_and_for_tasks_only(waits, room, after, monkeypatch):
    monkeypatch.setattr("wukong.backends.faas.emulator.slots.cpu_ns", lambda pid: 0)
    monkeypatch.setattr("wukong.backends.faas.emulator.slots.runnable", lambda pid: False)
    slots = SlotCount(base=2, most=128, waits=lambda index: waits, room=lambda workers: room)
    workers = [Child(pid, None, pid, 0) for pid in range(10)]
    for worker in workers:
        slots.begin(worker, 0.0)
    slots.count = 10
    slots.judge(workers, 1.0)
    assert slots.count == after


def test_an_executor_tells_its_host_when_it_waits_for_the_store_and_not_when_it_runs_a_task(tmp_path):
    def stays(path):
        wait_for(path, 1)
        return bytes(100_000)

    storage = {"name": "faulty", "store": "local", "latency_s": 0.2}
    with wukong.Client(storage=storage, progress=False) as client:
        board = client.faas._link.board
        future = client.submit(stays, str(tmp_path / "go"))
        running = wait(lambda: [n for n in range(board.records) if board.task(n)])
        assert not board.waits(running[0])
        (tmp_path / "go").touch()
        wait(lambda: board.waits(running[0]), "it stores the value")
        assert len(future.result()) == 100_000


def test_slots_grown_for_one_job_are_forgotten_before_the_next(tmp_path):
    with opened("meet", slots=2) as backend:
        backend.invoke([order(tmp_path, f"n{n}") for n in range(8)])
        left(tmp_path, 8)
        wait(lambda: backend._link.board.slots() > 2)
        (tmp_path / "go").touch()
        wait(lambda: backend.free_slots() == 2 == backend._link.board.slots())


def test_an_interrupt_in_the_middle_of_a_large_send_leaves_the_line_whole(tmp_path):
    large = order(tmp_path, "large", deep=0, more="x" * 5_000_000)

    def interrupt():
        waits_s = 5.0  # if no thread does the sending, strike all the same
        while waits_s > 0 and all(thread.name != "wukong-send" for thread in threading.enumerate()):
            time.sleep(0.01)
            waits_s -= 0.01
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with opened("spread", slots=1, max_slots=1) as backend:
        backend._wait_until_ready()
        host = backend._link.process.pid
        os.kill(host, signal.SIGSTOP)  # so that the send cannot end before the interrupt
        try:
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                backend.invoke([large])
        finally:
            os.kill(host, signal.SIGCONT)
        backend.invoke([order(tmp_path, "after", deep=0)])
        left(tmp_path, 1, "large")
        left(tmp_path, 1, "after")


def test_free_slots_count_what_runs_and_what_is_queued(tmp_path):
    with opened("meet", slots=3, max_slots=3) as backend:
        assert backend.free_slots() == 3
        backend.invoke([order(tmp_path, "a")])
        left(tmp_path, 1)
        assert backend.free_slots() == 2
        backend.invoke([order(tmp_path, f"n{n}") for n in range(5)])
        wait(lambda: backend.free_slots() == 0)
        (tmp_path / "go").touch()
        wait(lambda: backend.free_slots() == 3)


def test_output_of_tasks_reaches_a_subscriber_marked_with_its_task():
    got = []
    with opened("speak") as backend:
        backend.subscribe(got.append)
        backend.invoke([Invocation("job/7", b"")])
        wait(lambda: len(got) >= 4)
    task = "('x', 1)"
    assert got == [
        TaskOutput("job/7", task, "stdout", "first line\n"),
        TaskOutput("job/7", task, "stderr", "to stderr\n"),
        TaskOutput("job/7", task, "log", "a log record", "user.module", logging.WARNING),
        TaskOutput("job/7", task, "stdout", "no end"),
    ]


def test_a_level_set_later_on_the_root_logger_holds_in_functions():
    got = []
    level = logging.getLogger().level
    with opened("speak", slots=1) as backend:
        backend.subscribe(got.append)
        try:
            logging.getLogger().setLevel(logging.DEBUG)
            backend.invoke([Invocation("job/7", b"")])
        finally:
            logging.getLogger().setLevel(level)
        wait(lambda: any(output.text == "too quiet" for output in got))


def test_output_without_a_subscriber_is_shown_with_its_task_but_never_in_a_pipe(capsys, caplog, monkeypatch):
    output = [TaskOutput("job/1", "('x', 1)", "stdout", "one\ntwo\n"), TaskOutput("job/1", None, "stderr", "three")]
    for each in output:
        show(each)
    assert tuple(capsys.readouterr()) == ("", "[('x', 1)] one\n[('x', 1)] two\n[job/1] three\n")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for each in output:
        show(each)
    assert tuple(capsys.readouterr()) == ("[('x', 1)] one\n[('x', 1)] two\n", "[job/1] three\n")
    show(TaskOutput("job/1", "inc", "log", "careful", "user.module", logging.WARNING))
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("user.module", logging.WARNING, "[inc] careful")
    assert record.wukong_task == "inc"


def test_drain_returns_when_earlier_output_has_been_handed_on(tmp_path):
    got = []
    with opened("speak_first", slots=2) as backend:
        backend.subscribe(got.append)
        backend.invoke([order(tmp_path, f"n{n}") for n in range(20)])
        left(tmp_path, 20)
        backend.drain()
        assert len(got) == 20


def test_what_was_said_before_the_host_sees_the_client_close_is_handed_on(tmp_path):
    got = []
    with opened("speak_when_told", slots=1) as backend:
        backend.subscribe(got.append)
        backend.invoke([order(tmp_path, "one")])
        left(tmp_path, 1)
        host = backend._link.process.pid
        os.kill(host, signal.SIGSTOP)
        closing = threading.Thread(target=backend.close)
        closing.start()
        wait(lambda: backend._link._closing, "it is being closed")
        (tmp_path / "go").touch()
        left(tmp_path, 2)
        os.kill(host, signal.SIGCONT)
        closing.join()
    assert [each.text for each in got] == ["said by one\n"]


def test_a_process_forked_by_a_task_does_not_disturb_the_line_to_the_host(tmp_path):
    got = []
    with opened("fork_and_speak", slots=1) as backend:
        backend.subscribe(got.append)
        backend.invoke([order(tmp_path, f"n{n}") for n in range(5)])
        left(tmp_path, 5)
        backend.drain()
        assert backend.failures() == []
    assert got == []


def test_prepared_modules_are_loaded_in_workers_and_broken_ones_passed_over(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise SystemExit('broken')")
    monkeypatch.syspath_prepend(tmp_path)
    with opened("note", slots=1) as backend:
        backend.invoke([order(tmp_path, "before")])
        (before,) = left(tmp_path, 1, "before")
        assert "colorsys" not in before["loaded"]
        backend.prepare(["broken_module", "no_such_module", "colorsys"])
        backend.invoke([order(tmp_path, "after")])
        (after,) = left(tmp_path, 1, "after")
        assert "colorsys" in after["loaded"]
        assert after["pid"] != before["pid"]
        backend.prepare(["colorsys", "broken_module"])
        backend.invoke([order(tmp_path, "same")])
        assert left(tmp_path, 1, "same")[0]["pid"] == after["pid"], "nothing new was imported"


def test_what_functions_are_going_to_need_is_imported_while_nobody_asks_for_anything(tmp_path, monkeypatch):
    ahead = "AHEAD = ('no_such_module', 'colorsys', 'the_last')"
    (tmp_path / "looks_ahead.py").write_text(f"from faas_functions import note\n{ahead}\ndef run(x):\n    note(x)\n")
    watching = "from wukong.backends.faas.emulator import ahead\nahead.watch(1, print)\n"
    evident = f"open({str(tmp_path / 'imported')!r}, 'w').write(str(len(ahead._finder.listeners)))\n"
    (tmp_path / "the_last.py").write_text(watching + evident)
    monkeypatch.syspath_prepend(tmp_path)
    with closing(LocalFaaS(function="looks_ahead:run", slots=1)) as backend:
        backend.invoke([order(tmp_path, "at once")])  # what is left to import is not forgotten for it
        wait((tmp_path / "imported").exists, "the last one is imported")
        backend.invoke([order(tmp_path, "first")])
        (first,) = left(tmp_path, 1, "first")
        assert {"colorsys", "the_last"} <= set(first["loaded"])
    assert (tmp_path / "imported").read_text() == "0", "a host has others import nothing"


def installed_in(folder, monkeypatch):
    """Return where packages of a user whose home is this folder are installed, which is on the path by now."""
    packages = Path(sysconfig.get_path("purelib", "posix_user", {"userbase": str(folder)}))
    packages.mkdir(parents=True)
    monkeypatch.setenv("PYTHONUSERBASE", str(folder))
    monkeypatch.setattr(site, "USER_SITE", str(packages))
    monkeypatch.syspath_prepend(packages)
    return packages


def test_what_the_client_imports_its_host_imports_meanwhile_but_no_file_of_the_user_s(tmp_path, monkeypatch):
    packages = installed_in(tmp_path, monkeypatch)
    for name in ("library", "later_library"):
        (packages / f"{name}.py").touch()
        (packages / f"piece_of_{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    (tmp_path / "own_file.py").write_text(f"open({str(tmp_path / 'own')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    libraries = {name: ("no_such_module", "own_file", f"piece_of_{name}") for name in ("library", "later_library")}
    monkeypatch.setattr(ahead, "LIBRARIES", libraries)
    importlib.import_module("library")
    before = list(sys.meta_path)
    with opened("note", slots=1) as backend:
        wait((tmp_path / "library").exists, "what was there before is imported")
        importlib.import_module("later_library")
        wait((tmp_path / "later_library").exists, "what came later is imported")
        backend.invoke([order(tmp_path, "first")])
        (first,) = left(tmp_path, 1, "first")
        assert {"piece_of_library", "piece_of_later_library"} <= set(first["loaded"])
    assert not (tmp_path / "own").exists()
    assert sys.meta_path == before


def test_workers_get_what_was_imported_ahead_when_a_job_comes_before_all_of_it_is(tmp_path, monkeypatch):
    packages = installed_in(tmp_path, monkeypatch)
    for name in ("one_piece", "another_piece"):
        (packages / f"{name}.py").touch()
    preloading = Preloading()
    preloading.expect(["one_piece", "another_piece", "one_piece"])
    assert list(preloading.ahead) == ["one_piece", "another_piece"]
    assert not preloading.load_next()
    assert preloading.load(["one_piece"])
    assert not preloading.load(["one_piece"])
    assert preloading.load_next()


def test_configured_variables_are_in_the_environment_of_warm_functions_too(tmp_path):
    with opened("note", slots=1) as backend:
        backend.invoke([order(tmp_path, "before")])
        (before,) = left(tmp_path, 1, "before")
        backend.configure({"V": "configured"})
        backend.invoke([order(tmp_path, "after")])
        (after,) = left(tmp_path, 1, "after")
    assert (before["value"], after["value"]) == (None, "configured")
    assert before["pid"] == after["pid"]
    assert "V" not in os.environ


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from beside import hello
            from wukong.backends.faas import Invocation
            from wukong.backends.faas.local import LocalFaaS

            print("the script runs")
            backend = LocalFaaS(function="beside:hello")
            got = []
            backend.subscribe(got.append)
            backend.invoke([Invocation("job/0", b"there")])
            while not got:
                time.sleep(0.002)
            print(got[0].text, end="")
            """
        )
    )
    (tmp_path / "beside.py").write_text("def hello(payload):\n    print('hello', payload.decode())\n")
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root},
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the script runs\nhello there\n"
    assert done.stderr == ""


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"'aws-lamda'.*'aws-lambda'"):
        LocalFaaS(profile="aws-lamda")
    with pytest.raises(ConfigError, match="slots"):
        LocalFaaS(slots=0)
    with pytest.raises(ConfigError, match="time_s"):
        LocalFaaS(time_s=-1.0)


def test_a_profile_sets_limits_which_options_replace():
    with closing(LocalFaaS(profile="aws-lambda", memory_bytes=1_000, function="faas_functions:note")) as backend:
        assert backend.limits.payload_bytes == 1_048_576
        assert backend.limits.time_s == 900
        assert backend.limits.memory_bytes == 1_000
        assert backend.limits.concurrency == 1_000


def test_a_function_that_cannot_be_imported_is_told_at_the_first_invoke():
    with opened("nothing_of_this_name") as backend, pytest.raises(BackendError, match="nothing_of_this_name"):
        backend.invoke([Invocation("job/0", b"")])


def test_sizes_of_functions_that_are_none_are_refused_in_plain_words():
    with pytest.raises(ConfigError, match="goes the smallest first"):
        LocalFaaS(sizes_bytes=[])
    with pytest.raises(PluginError, match=r"'sizes_bytes' of .* must be a list, each item a whole number, or null"):
        load_faas({"name": "local", "sizes_bytes": ["1 GiB", "2 GiB"]})
