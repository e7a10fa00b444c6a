import argparse
import json
import os
import subprocess
import sys

import pytest
from cli_tools import run_here, write_script  # noqa: F401

from wukong import cli

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


def subcommands() -> dict[str, argparse.ArgumentParser]:
    [action] = [each for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return action.choices


def test_the_commands_are_these():
    assert list(subcommands()) == EVERY_COMMAND


def test_a_command_line_is_read_without_what_only_some_commands_need():
    heavy = "dask", "rich", "lmdb", "cloudpickle", "wukong.client", "wukong.core.walk", "wukong.backends"
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


def test_a_closed_output_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as the interpreter has it after 'wukong config >&-'
    assert cli.main(["config"]) == 0


def test_version_is_that_of_the_distribution(here):
    from importlib.metadata import version

    assert here("--version").stdout == f"wukong {version('wukong-serverless')}\n"
