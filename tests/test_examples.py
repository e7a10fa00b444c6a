"""Every program in `examples/` runs as a script, finds its own answer right, and notices when it is wrong."""

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import dask
import numpy as np
import pytest

import wukong
from wukong.integrations.joblib import WukongBackend

EXAMPLES = Path(__file__).parent.parent / "examples"

SMALL = {
    "gemm.py": ["--size", "120", "--chunk", "40"],
    "scikit_learn_search.py": ["--samples", "200", "--folds", "2", "--trees", "2"],
    "single_node.py": ["--size", "1000"],
    "svc_prediction.py": ["--samples", "400", "--chunks", "4"],
    "svd_compressed.py": ["--size", "400", "--chunk", "100", "--rank", "3"],
    "three_nodes_fan_in.py": ["--size", "1000"],
    "tree_reduction.py": ["--size", "37", "--delay-ms", "1"],
    "tsqr.py": ["--rows", "800", "--columns", "20", "--chunk", "100"],
}

# Where this test found wukong, so that the scripts use the same one: a checkout or an installed wheel.
WUKONG = Path(next(iter(find_spec("wukong").submodule_search_locations))).parent


def spoil(value: Any) -> Any:
    """Return the value slightly off."""
    if isinstance(value, dict):
        return {key: spoil(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(spoil(item) for item in value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value * 1.01
    return value if value is None else value + 1


class Spoiling:
    """A client whose results are what an example must not let pass."""

    def __init__(self, faas: object, storage: object) -> None:
        assert (faas, storage) == (None, None)
        self.last_job = SimpleNamespace(summary=str)
        self._scheduler = dask.config.set(scheduler=self.get)

    def get(self, dsk: Any, keys: Any, **kwargs: Any) -> Any:
        return spoil(dask.get(dsk, keys, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._scheduler.__exit__(*exc)


scripts = pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.name)


def run(script: Path) -> subprocess.CompletedProcess[str]:
    assert script.name in SMALL, f"list arguments for a small run of {script.name} in {Path(__file__).name}"
    path = os.pathsep.join(filter(None, [str(WUKONG), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, str(script), *SMALL[script.name]],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )


def is_right(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2, "it says what it did and sums the job up"
    assert "Traceback" not in done.stderr


@scripts
def test_example_runs_and_finds_its_answer_right(
    script: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert script.name in SMALL, f"list arguments for a small run of {script.name} in {Path(__file__).name}"
    monkeypatch.setattr(sys, "argv", [str(script), *SMALL[script.name]])
    runpy.run_path(str(script), run_name="__main__")
    is_right(subprocess.CompletedProcess(script, 0, *capfd.readouterr()))


@pytest.mark.long  # of test_lambda_end_to_end, one runs on Redis
@pytest.mark.parametrize("store", ["redis", "memcached"])
@pytest.mark.parametrize("script", sorted(SMALL))
def test_example_runs_on_every_store(
    script: str, store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WUKONG_STORAGE", request.getfixturevalue(f"{store}_url"))
    is_right(run(EXAMPLES / script))


@scripts
def test_example_fails_clearly_on_a_wrong_answer(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "joblib" in script.read_text():
        right = WukongBackend.retrieve_result_callback
        monkeypatch.setattr(WukongBackend, "retrieve_result_callback", lambda self, out: spoil(right(self, out)))
    else:
        monkeypatch.setattr(wukong, "Client", Spoiling)
    monkeypatch.setattr(sys, "argv", [str(script), *SMALL[script.name]])
    with pytest.raises(SystemExit, match=r"^wrong answer: "):
        runpy.run_path(str(script), run_name="__main__")


def test_no_small_size_is_listed_for_an_example_that_is_gone() -> None:
    assert {script.name for script in EXAMPLES.glob("*.py")} == set(SMALL)
