"""Every program in `examples/` runs as a script, finds its own answer right, and notices when it is wrong."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

SMALL = {
    "gemm.py": ["--size", "120", "--chunk", "40"],
    "single_node.py": ["--size", "1000"],
    "svc_prediction.py": ["--samples", "400", "--chunks", "4"],
    "svd_compressed.py": ["--size", "400", "--chunk", "100", "--rank", "3"],
    "three_nodes_fan_in.py": ["--size", "1000"],
    "tree_reduction.py": ["--size", "37", "--delay-ms", "1"],
    "tsqr.py": ["--rows", "800", "--columns", "20", "--chunk", "100"],
}

# Where this test found wukong, so that the scripts use the same one: a checkout or an installed wheel.
WUKONG = Path(next(iter(find_spec("wukong").submodule_search_locations))).parent

# A client whose results are all slightly off: what an example must not let pass.
CORRUPTED = """
import sys, runpy, dask, numpy, wukong

def spoil(value):
    if isinstance(value, dict):
        return {key: spoil(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(spoil(item) for item in value)
    if isinstance(value, numpy.ndarray) and value.dtype.kind == "f":
        return value * 1.01
    return value + 1

class Job:
    def summary(self):
        return ""

class Client:
    last_job = Job()
    def __init__(self, faas, storage):
        assert (faas, storage) == (None, None)
    def get(self, dsk, keys, **kwargs):
        return spoil(dask.get(dsk, keys, **kwargs))
    def __enter__(self):
        dask.config.set(scheduler=self.get)
        return self
    def __exit__(self, *exc):
        dask.config.set(scheduler=None)

wukong.Client = Client
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

scripts = pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.name)


def run(script: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    assert script.name in SMALL, f"list arguments for a small run of {script.name} in {Path(__file__).name}"
    path = os.pathsep.join(filter(None, [str(WUKONG), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, *prefix, str(script), *SMALL[script.name]],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.usefixtures("on_every_store")
@scripts
def test_example_runs_and_finds_its_answer_right(script: Path) -> None:
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2, "it says what it did and sums the job up"
    assert "Traceback" not in done.stderr


@scripts
def test_example_fails_clearly_on_a_wrong_answer(script: Path) -> None:
    done = run(script, "-c", CORRUPTED)
    assert done.returncode != 0
    assert done.stderr.startswith("wrong answer: "), done.stderr


def test_no_small_size_is_listed_for_an_example_that_is_gone() -> None:
    assert {script.name for script in EXAMPLES.glob("*.py")} == set(SMALL)
