"""Running the command `wukong`: as a process of its own, or in this one."""

import os
import subprocess
import sys
import textwrap

import pytest

from wukong import cli


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


@pytest.fixture(name="here")
def run_here(capsys, monkeypatch):
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


@pytest.fixture(name="script")
def write_script(tmp_path):
    def write(code: str, name: str = "script.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(code))
        return path

    return write
