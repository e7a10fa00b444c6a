import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from wukong import Client, cli
from wukong.client.total import accounts, counting

EVERY_COMMAND = ["run", "plan", "plugins", "config", "doctor", "report"]
EVERY_COMMAND += [
    "deploy",
    "status",
    "logs",
    "destroy",
    "debug",
    "jobs",
    "cancel",
    "clean",
    "kept",
    "key",
    "proxy",
    "store",
    "emulate",
    "new-plugin",
    "completion",
]


def wukong(*arguments, cwd=None, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wukong", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture
def here(capsys, monkeypatch):
    """The same, in this process, for commands that need none of their own."""

    def run(*arguments, **environment) -> subprocess.CompletedProcess[str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", sys.argv)
        monkeypatch.setattr(sys, "path", [*sys.path])  # `run` puts the program's folder in the place of the first one
        try:
            code = cli.main(list(map(str, arguments)))
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def script(tmp_path):
    def write(code: str, name: str = "script.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(code))
        return path

    return write


def subcommands() -> dict[str, argparse.ArgumentParser]:
    [action] = [each for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return action.choices


def test_the_commands_are_these():
    assert list(subcommands()) == EVERY_COMMAND


def test_a_command_line_is_read_without_what_only_some_commands_need():
    heavy = "dask", "rich", "lmdb", "cloudpickle", "wukong.client", "wukong.core", "wukong.backends"
    found = f"import sys, wukong.cli; print([each for each in {heavy} if each in sys.modules])"
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_command_and_every_option_has_help():
    top = cli.parser()
    [action] = [each for each in top._actions if isinstance(each, argparse._SubParsersAction)]
    listed = {each.dest: each.help for each in action._choices_actions}
    for name, command in subcommands().items():
        assert listed.get(name), f"'wukong --help' says nothing about {name}"
        assert command.description, f"'wukong {name} --help' says nothing"
        for option in command._actions:
            assert option.help, f"'wukong {name} --help' says nothing about {option.dest}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plugin"], ["usage: wukong [", "wukong: error: there is no command 'plugin'; did you mean 'plugins'?"]),
        (["store", "dwon"], ["usage: wukong store [", "there is no command 'dwon'; did you mean 'down'?"]),
        (["config", "--jsn"], ["usage: wukong config [", "unrecognized arguments: --jsn; did you mean --json?"]),
        (["store", "up", "--nodse=3"], ["usage: wukong store up [", "--nodse=3; did you mean --nodes?"]),
        (["run", "--fass", "local", "x.py"], ["usage: wukong run [", "--fass; did you mean --faas?"]),
        (["logs", "--of", "functon"], ["usage: wukong logs [", "invalid choice: 'functon'; did you mean 'functions'?"]),
        (["emulate", "lamda"], ["usage: wukong emulate [", "did you mean 'lambda'?"]),
        (["proxy", "--port", "many"], ["usage: wukong proxy [", "argument --port: invalid int value: 'many'"]),
        (["plugins", "42"], ["usage: wukong plugins [", "unrecognized arguments: 42"]),
    ],
    ids=lambda each: "-".join(each) if isinstance(each[0], str) else None,
)
def test_wrong_usage_shows_the_usage_of_its_own_command_and_what_was_meant(arguments, says, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    told = capsys.readouterr().err
    assert exit.value.code == 2
    assert all(each in told for each in says), told


def test_every_listing_and_every_status_has_json():
    with_json = {path for path, command in every_command() if "--json" in command._option_string_actions}
    assert with_json >= {"plugins", "config", "doctor", "status", "logs", "store status"}


def every_command(above: argparse.ArgumentParser | None = None, path: str = "") -> list:
    found = []
    for action in (above or cli.parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                found += [(f"{path} {name}".strip(), command), *every_command(command, f"{path} {name}")]
    return found


def test_listings_in_json_are_one_document_each(capsys):
    assert cli.main(["plugins", "--json"]) == 0
    plugins = json.loads(capsys.readouterr().out)["plugins"]
    assert ("storage", "redis", True) in [(each["family"], each["name"], each["ok"]) for each in plugins]
    assert cli.main(["config", "--json", "--set", "retries=2", "--storage", "redis://:hunter2@h:1"]) == 0
    settings = {each.pop("key"): each for each in json.loads(capsys.readouterr().out)["settings"]}
    assert settings["retries"] == {"value": 2, "set_by": "command line"}
    assert settings["timeout_s"] == {"value": None, "set_by": "default"}
    assert settings["storage.url"]["value"] == "redis://***@h:1"
    assert cli.main(["doctor", "--json", "--storage", "lokal"]) == 1
    checked = json.loads(capsys.readouterr().out)
    assert checked["ok"] is False
    assert [each["state"] for each in checked["checks"]].count("failed") == 1
    assert checked["checks"][-1]["advice"].startswith("did you mean 'local'?")


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


def test_completion_in_bash_knows_commands_options_and_what_those_take(here):
    ask = (
        'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _wukong; echo "${COMPREPLY[*]}"; }; '
        "ask wukong st; ask wukong store --verbose d; ask wukong store up --no; ask wukong config --storage mem; "
        "ask wukong run --set retr; ask wukong logs --of f; ask wukong emulate l; ask wukong plugins --j"
    )
    done = subprocess.run(
        ["bash", "-c", here("completion", "bash").stdout + ask], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *("status store", "down", "--nodes", "memcached"),
        *("retries=", "functions", "lambda", "--json"),
    ]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells_has_every_command_and_option(shell, here):
    told = here("completion", shell).stdout
    for path, command in every_command():
        assert path.split()[-1] in told
        for option in command._option_string_actions:
            assert option.lstrip("-") in told, f"{shell}: {path} {option}"


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


@pytest.mark.parametrize("url", ["nonsense", "http://host:99999", "http://", "ftp://host"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--endpoint-url"],
        ["logs", "--endpoint-url"],
        ["store", "status", "--endpoint-url"],
        ["doctor", "--faas", "aws-lambda", "--set", "faas.endpoint_url="],
    ],
    ids=" ".join,
)
def test_an_endpoint_that_is_none_is_told_in_one_line(arguments, url, capsys, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    *given, last = arguments
    code = cli.main([*given, last + url] if last.endswith("=") else [*arguments, url])
    told = "".join(capsys.readouterr())
    assert code == 1
    assert "the configured endpoint of AWS is none: " in told and "write http://host:port" in told, told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--faas", "lokal"], "no faas plug-in is called 'lokal'"),
        (["--set", "retires=2"], "did you mean 'retries'?"),
        (["--set", "retries"], "write --set key=value"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message(script, here, arguments, message):
    done = here("run", *arguments, script("print('ran')"))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
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


def test_settings_on_the_command_line_reach_the_configuration(here):
    done = here("config", "--faas", "redis://h:1", "--set", "faas.password=hunter2", "--set", "fan-out=eager")
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}
    assert rows["faas"].split() == ["redis", "command", "line"]
    assert rows["faas.url"].split() == ["redis://h:1", "command", "line"]
    assert rows["faas.password"].split() == ["***", "command", "line"]
    assert rows["fan_out"].split() == ["eager", "command", "line"]
    assert rows["storage"].split() == ["local", "default"]


def test_config_names_the_variable_a_setting_is_from(here):
    assert "WUKONG_RETRIES" in here("config", WUKONG_RETRIES="3").stdout


def test_plugins_lists_the_built_in_ones(here):
    done = here("plugins")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    listed = [row for row in rows if row[1] == "local"]
    assert [row[0] for row in listed] == ["faas", "storage"]
    assert all(row[2] == "wukong-serverless" and row[-1] == "ok" for row in listed)
    assert done.returncode == 0


def test_doctor_runs_a_job_and_finds_all_well(here):
    done = here("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a job on faas local, storage local" in done.stdout
    assert "failed" not in done.stdout


def test_doctor_fails_with_advice_if_a_backend_does_not_start(here):
    done = here("doctor", "--storage", "lokal")
    assert done.returncode == 1
    last = done.stdout.splitlines()[-2:]
    assert last[0].startswith("failed  a job on faas local, storage lokal: no storage plug-in is called 'lokal'")
    assert last[1].startswith("        -> did you mean 'local'?")


def test_doctor_fails_with_advice_if_a_setting_is_wrong(here):
    done = here("doctor", WUKONG_RETRIES="many")
    assert done.returncode == 1
    assert "failed  settings: 'retries' (set by WUKONG_RETRIES)" in done.stdout


def test_a_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen([sys.executable, "-m", "wukong", "config"], stdout=write, stderr=subprocess.PIPE) as process:
        os.close(write)
        _, errors = process.communicate(timeout=60)
    assert errors == b""


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


def test_version_is_that_of_the_distribution(here):
    from importlib.metadata import version

    assert here("--version").stdout == f"wukong {version('wukong-serverless')}\n"
