"""`wukong emulate lambda`, as somebody offline uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from waiting import gone, wait

from wukong import cli
from wukong.backends.faas.aws_lambda.output import parsed
from wukong.testing.servers import RedisServer

# Its tasks print, log, and leave a process behind.
PROGRAM = """
import logging, os, subprocess, wukong
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")

def speak(x):
    print("hello from afar")
    logging.getLogger("mine").warning("careful")
    return os.getpid(), subprocess.Popen(["sleep", "600"]).pid, os.environ.get("TMPDIR", "own")

with wukong.Client(progress=False) as client:
    pids = client.get({"speaker": (speak, 1)}, "speaker")
    print(type(client.faas).__name__, client.last_job.id, *pids)
"""
JOB = "3f9c2a71b0d4/0.1"


Completed = subprocess.CompletedProcess[str]


def run(*command: str, **variables: str) -> Completed:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Completed]:
    """Run a command here, which costs less than an interpreter."""

    def command(*arguments: str, **variables: str) -> Completed:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return subprocess.CompletedProcess(arguments, cli.main([*arguments]), *capsys.readouterr())

    return command


@contextmanager
def emulated(*arguments: str, ended_by: signal.Signals, **variables: str) -> Iterator[dict[str, str]]:
    """Run the service; give the variables that it prints. A signal ends it, without a complaint."""
    command = [sys.executable, "-m", "wukong", "emulate", "lambda", "--port", "0", *arguments]
    environment = {**os.environ, **variables}
    service = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert service.stdout is not None
    told: dict[str, str] = {}
    try:
        while "WUKONG_FAAS__FUNCTION" not in told and (line := service.stdout.readline()):
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                told[name] = value
        yield told
    finally:
        service.send_signal(ended_by)
        _, complaints = service.communicate(timeout=60)
    assert (service.returncode, complaints) == (0, "")


@pytest.mark.parametrize(
    "ended_by",
    [signal.SIGINT, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGTERM, signal.SIGHUP))],
)
def test_a_program_runs_on_it_with_the_printed_variables_and_a_signal_ends_it_with_all_its_processes(
    ended_by: signal.Signals, command: Callable[..., Completed]
) -> None:
    with emulated("--name", "mine", ended_by=ended_by) as variables:
        assert variables["WUKONG_FAAS__FUNCTION"] == "mine"
        done = run("-c", PROGRAM, **variables)
        backend, job, *pids, tmp = done.stdout.split()
        assert backend == "AwsLambda", done.stderr
        assert tmp == "own" or "CI" not in os.environ  # /tmp, if the system allows it
        assert "[speaker] hello from afar\n" in done.stderr
        assert "WARNING mine [speaker] careful\n" in done.stderr
        if ended_by == signal.SIGINT:
            logs = command("logs", "--job", job, **variables)
            assert f"[stdout]\t{job}/0\tspeaker\thello from afar" in logs.stdout, logs.stderr
            nothing = command("logs", "--job", "ffffffffffff", **variables)
            assert (nothing.returncode, nothing.stdout) == (1, "") and "nothing of the job" in nothing.stderr
            status = command("status", "--json", **variables)
            told = json.loads(status.stdout)
            assert (told["deployed"], told["ok"], told["functions"][0]["name"]) == (False, True, "mine"), status.stderr
    for pid in map(int, pids):
        wait(lambda pid=pid: gone(pid), f"process {pid} ends")


def test_behind_a_proxy_the_service_is_asked_directly(command: Callable[..., Completed]) -> None:
    nowhere = {"http_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "example.org"}
    with emulated(ended_by=signal.SIGTERM, **nowhere) as variables:
        assert (variables["NO_PROXY"], variables["no_proxy"]) == ("127.0.0.1", "127.0.0.1,example.org")
        status = command("status", **{**nowhere, **variables})
        assert "Active" in status.stdout, status.stderr


def test_a_password_of_the_store_reaches_its_functions_whenever_it_was_set() -> None:
    with RedisServer(password="tiger") as server, emulated(ended_by=signal.SIGTERM) as variables:
        store = {"WUKONG_STORAGE": f"redis://{server.endpoint}", "WUKONG_REDIS_PASSWORD": "tiger"}
        done = run("-c", PROGRAM, **variables, **store)
        assert done.stdout.startswith("AwsLambda "), done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "nonsense=1"], "no setting 'nonsense'"),
        (["--set", "concurency=1"], "did you mean 'concurrency'?"),
        (["--set", "host=0.0.0.0"], "loopback"),
        (["--port", "65536"], "--port 65536 is no port"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["emulate", "lambda", "--port", "0", *arguments]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told


@pytest.mark.parametrize("library", ["awslambdaric", "boto3"])
def test_without_its_extra_it_does_not_start_and_names_it(library: str) -> None:
    hidden = f"import sys; sys.modules[{library!r}] = None; from wukong.cli import main; sys.exit(main())"
    done = run("-c", hidden, "emulate", "lambda", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{library} is not installed" in done.stderr
    assert "pip install 'wukong-serverless[emulate]'" in done.stderr


def test_output_of_tasks_is_found_among_the_platforms_lines_with_stream_level_and_logger() -> None:
    lines = [
        ("a", "START RequestId: 1"),
        ("a", f"[stdout]\t{JOB}\t('x', 0)\thello\n"),
        ("b", f"[stderr]\t{JOB}\t-\toops"),
        ("a", f"[ERROR]\t2026-11-21T00:00:00.000Z\t1\t{JOB}\tx\tmy.logger\tfirst\n"),
        ("b", "somebody else's line"),
        ("a", "second\n"),
        ("a", "END RequestId: 1"),
        ("a", "not of the record"),
        ("a", json.dumps({"level": "DEBUG", "message": "m", "wukong_invocation": JOB, "wukong_task": "y"})),
    ]
    found = parsed([{"message": text, "logStreamName": stream} for stream, text in lines])
    assert [(each.task, each.stream, each.text, each.logger, each.level) for each in found] == [
        ("('x', 0)", "stdout", "hello\n", "", 0),
        (None, "stderr", "oops\n", "", 0),
        ("x", "log", "first\nsecond", "my.logger", 40),
        ("y", "log", "m", "", 10),
    ]
    assert {each.invocation for each in found} == {JOB}
