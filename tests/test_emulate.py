"""`wukong emulate lambda`, as somebody offline uses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest

ANSWER = """
import wukong, operator
with wukong.Client(progress=False) as client:
    print(client.get({"a": (operator.add, 20, 22)}, "a"), type(client.faas).__name__)
"""


def variables(output: IO[str]) -> Iterator[tuple[str, str]]:
    """What the lines beginning with ``export`` set."""
    for line in output:
        if line.startswith("export "):
            for pair in line.split()[1:]:
                name, _, value = pair.partition("=")
                yield name, value
        if "WUKONG_FAAS" in line:
            return


def test_a_program_runs_on_it_with_the_printed_variables_and_ctrl_c_ends_it() -> None:
    command = [sys.executable, "-m", "wukong", "emulate", "lambda", "--port", "0", "--name", "mine"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert service.stdout is not None and service.stderr is not None
    try:
        told = dict(variables(service.stdout))
        assert told["WUKONG_FAAS__FUNCTION"] == "mine"
        done = subprocess.run(
            [sys.executable, "-c", ANSWER],
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.stdout.split() == ["42", "AwsLambda"], done.stderr
    finally:
        service.send_signal(signal.SIGINT)
        _, complaints = service.communicate(timeout=20)
    assert service.returncode == 0, complaints
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--set", "nonsense=1"], "no setting 'nonsense'"), (["--set", "host=0.0.0.0"], "loopback")],
)
def test_a_mistake_is_told_before_anything_starts(arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "wukong", "emulate", "lambda", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
