"""`wukong run` and `wukong plan`: programs of users."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from cli_tools import run_here, write_script, wukong  # noqa: F401

from wukong import Client
from wukong.client.total import accounts, counting


def test_an_error_shows_its_traceback_only_with_verbose(script, here):
    path = script("import wukong\nwukong.Client(faas='lokal')\n")
    for arguments in (["--verbose", "run", path], ["run", "--verbose", path]):
        told = here(*arguments).stderr
        assert told.startswith("wukong: PluginError: no faas plug-in is called 'lokal'")
        assert "did you mean 'local'? valid: aws-lambda, " in told
        assert f'File "{path}", line 2' in told


def test_run_computes_unmodified_dask_code_on_wukong(script):
    path = script(
        """
        import os, sys
        import dask
        import beside

        class Point:                        # defined in __main__, and no guard around what follows
            def __init__(self, x):
                self.x = x

        @dask.delayed
        def double(point):
            return Point(2 * point.x), os.getpid()

        point, pid = dask.compute(double(Point(beside.START)))[0]
        print(point.x, isinstance(point, Point), pid != os.getpid(), __name__, sys.argv)
        """
    )
    script("START = 21", "beside.py")
    done = wukong("run", "--faas", "local", path, "--size", "3", "--faas", "mine")
    assert done.stdout == f"42 True True __main__ {[str(path), '--size', '3', '--faas', 'mine']}\n", done.stderr
    assert done.returncode == 0


PLANNED = """
import dask, sys
ran = open(sys.argv[1], "a")

@dask.delayed
def costly(n):
    ran.write("ran")
    return n

first = costly(1).compute()
print("said", first)
[second] = dask.persist(costly(2))
third = dask.compute(costly(first), costly(second))
{then}
"""


@pytest.mark.parametrize(
    ("then", "stops"), [("print(third)", None), ("try:\n    first + 1\nexcept Exception:\n    pass", 15)]
)
def test_plan_tells_what_a_programs_jobs_would_take_and_computes_nothing(script, tmp_path, then, stops):
    path = script(PLANNED.replace("{then}", then))
    done = wukong("plan", "--json", path, tmp_path / "ran")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [each["tasks"] for each in told["plans"]] == [1, 1, 2]
    assert told["stopped_at"] == (stops and {"file": str(path), "line": stops})
    assert "said <planned, not computed>" in done.stderr
    assert ("what follows is not planned" in done.stderr) == (stops is not None)
    assert not (tmp_path / "ran").read_text()


def test_after_a_plan_within_a_program_that_program_computes_again(here, script):
    planned = here("plan", "--json", script("import dask; dask.delayed(len)([1]).compute()"))
    assert [each["tasks"] for each in json.loads(planned.stdout)["plans"]] == [1]
    with Client(progress=False) as client:
        assert client.get({"x": (len, [1, 2])}, "x") == 2


def test_plan_as_text_and_the_programs_end(script):
    path = script("import dask; dask.delayed(len)([1]).compute(); raise SystemExit(5)")
    done = wukong("plan", path)
    assert (done.returncode, done.stdout.splitlines()[0]) == (5, "plan of 1 tasks on faas: local, storage: local")
    nothing = wukong("plan", script("print('nothing')"))
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no job would run on Wukong" in nothing.stderr
    assert wukong("plan", "no-such.py").returncode == 2


def test_what_is_counted_of_a_program_ends_with_it(script, here):
    """Whoever counted around it lost all that came later, and the accounts of all later clients were kept for ever."""
    with counting() as mine:
        assert here("run", script("import dask; dask.delayed(len)([1]).compute()")).returncode == 0
        accounts("later")
    accounts("afterwards")
    assert [each.backends for each in mine] == ["later"]


def test_run_runs_a_module(script, tmp_path):
    script("import sys, dask; print(dask.delayed(len)(sys.argv[1:]).compute())", "program.py")
    done = wukong("run", "-m", "program", "a", "-b", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('so long')", 1)])
def test_the_programs_exit_code_passes_through(script, ending, code):
    done = wukong("run", script(f"import sys; {ending}"))
    assert done.returncode == code
    assert ("so long" in done.stderr) == (code == 1)


def test_the_programs_own_error_shows_its_traceback_as_python_would(script):
    code = """
    def f():
        raise ValueError("mine")
    f()
    """
    path = script(code)
    done = wukong("run", path)
    plain = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == plain.returncode == 1
    assert done.stderr == plain.stderr


RAN = r"wukong: 3 jobs, 6 tasks on faas: local, storage: local; \d+\.\d s, \$\S+ \(had it been us-east-1, .*\)"


def test_run_ends_with_one_line_on_what_ran_of_all_clients_and_hands_on_only_the_programs_output(script):
    path = script(
        """
        import dask, wukong
        def speak(n):
            print("speaking")
            return n
        print(dask.delayed(speak)(1).compute())
        with wukong.Client() as client:
            print(client.gather(client.map(speak, range(4), pure=False)))
        dask.delayed(speak)(3).compute()
        """
    )
    done = wukong("run", path)
    assert (done.returncode, done.stdout) == (0, "1\n[0, 1, 2, 3]\n"), done.stderr
    assert done.stderr.count("] speaking\n") == 6
    assert re.fullmatch(RAN, done.stderr.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print(1)", "compute(scheduler=...)"),
        pytest.param(
            "import dask; print(dask.delayed(abs)(-1).compute(scheduler='threads'))",
            "compute(scheduler=...)",
            marks=pytest.mark.long,
        ),
        (
            "import dask, distributed\n"
            "with distributed.Client(processes=False, dashboard_address=None):\n"
            "    print(dask.delayed(abs)(-1).compute())",
            "the program made a distributed.Client",
        ),
    ],
    ids=["no Dask", "threads", "distributed"],
)
def test_run_warns_if_no_job_ran_on_wukong(script, code, why):
    if "distributed" in code:
        pytest.importorskip("distributed")
    done = wukong("run", script(code))
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    first, last = done.stderr.splitlines()[-2:]
    assert first == "wukong: warning: no job ran on Wukong"
    assert last.startswith("  -> ") and why in last


def test_a_tasks_error_reaches_the_program(script):
    done = wukong(
        "run",
        script(
            """
            import dask
            try:
                dask.delayed(int)("x").compute()
            except ValueError as error:
                print("caught", error)
            """
        ),
    )
    assert done.stdout.startswith("caught invalid literal"), done.stderr


def test_an_error_of_wukong_is_one_message_with_the_line_that_met_it(script, here):
    path = script("import wukong\nwukong.Client(faas='lokal')\n")
    done = here("run", path)
    assert done.returncode == 1
    assert "wukong: PluginError: no faas plug-in is called 'lokal'" in done.stderr
    assert "did you mean 'local'?" in done.stderr
    assert f"in {path}, line 2: wukong.Client(faas='lokal')" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_is_not_there_is_wrong_usage(tmp_path, here):
    done = here("run", tmp_path / "nowhere.py")
    assert done.returncode == 2
    assert "there is no file" in done.stderr


def test_ctrl_c_ends_the_program_with_130_and_one_line(script):
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    path = script(
        f"""
        import socket, time, dask
        def long():
            socket.create_connection(("127.0.0.1", {listener.getsockname()[1]})).close()
            time.sleep(100)
        dask.delayed(long)().compute()
        """
    )
    with (
        listener,
        subprocess.Popen(
            [sys.executable, "-m", "wukong", "run", str(path)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            listener.accept()[0].close()  # the task is running
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.endswith("wukong: interrupted\n")
    assert "Traceback" not in errors


def test_a_report_that_cannot_be_written_is_refused_before_the_program_runs(script, here, tmp_path):
    for place, why in ((tmp_path / "none" / "r.html", "there is no folder"), (tmp_path, "it is a folder")):
        done = here("run", "--report", place, script("print('has run')"))
        assert (done.returncode, done.stdout) == (1, "") and why in done.stderr


def test_the_report_is_written_although_who_reads_the_output_has_left(script, here, tmp_path, monkeypatch):
    failing = script("import dask; dask.delayed(int)('x').compute()")
    report = tmp_path / "r.html"
    read, write = os.pipe()
    with open(write, "w") as left:
        monkeypatch.setattr(sys, "stdout", left)
        print("more", file=left)
        os.close(read)
        assert here("run", "--report", report, failing).returncode == 1
    assert "int-" in report.read_text()


def test_no_advice_names_a_failed_task_that_went_with_its_client(script, here):
    done = here("run", script("import dask; dask.delayed(int)('x').compute()"))
    assert "raised by task int-" in done.stderr and "debug" not in done.stderr
    code = "import dask, wukong, _thread; dask.delayed(lambda: _thread.allocate_lock())().compute()"
    done = here("run", script(code))
    assert done.returncode == 1 and "debug" not in done.stderr
