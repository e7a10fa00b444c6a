"""What is installed from the wheel works without the checkout and without the extras for development."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.xdist_group("packaging")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [built] = folder.glob("wukong_serverless-*.whl")
    return built


def test_the_wheel_has_the_package_whole_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packaged = {name for name in names if ".dist-info/" not in name}
    tracked = {str(path.relative_to(ROOT)) for path in (ROOT / "wukong").rglob("*.py")}
    tracked |= {str(path.relative_to(ROOT)) for path in (ROOT / "wukong" / "new_plugin").rglob("*.txt")}
    tracked |= {f"wukong/report/page.{kind}" for kind in ("html", "css", "js")}
    tracked |= {str(path.relative_to(ROOT / "executor")) for path in (ROOT / "executor").rglob("*.py")}
    assert packaged == tracked | {"wukong/py.typed", "wukong/wukong.yaml", "wukong_executor/Dockerfile"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel and what that requires, without any extra."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder / "bin" / "python")
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, str(wheel)]
    # What this environment was made from is in uv's cache: no network is needed, unless there is no such cache.
    if subprocess.run([*install, "--offline"], capture_output=True, check=False).returncode != 0:
        subprocess.run(install, check=True)
    return folder


@pytest.fixture
def run(environment, tmp_path):
    """Run a program of the environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_"))}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [environment / "bin" / program, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=280, check=False
        )

    return run


def test_an_installed_wheel_works_with_nothing_but_what_it_requires(environment, run):
    program = (
        "import sys, wukong, dask; assert 'numpy' not in sys.modules; client = wukong.Client();"
        "print(dask.delayed(sum)([dask.delayed(pow)(n, 2) for n in range(5)]).compute(scheduler=client.get));"
        "client.close(); print(wukong.__file__)"
    )
    done = run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    answer, where = done.stdout.splitlines()
    assert answer == "30"
    assert Path(where).is_relative_to(environment)
    doctor = run("wukong", "doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_an_executor_imports_dask_only_if_its_tasks_do(run):
    done = run("python", "-c", "import sys, wukong.backends.entry; assert 'dask' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_a_command_that_lacks_a_library_says_what_to_install(run):
    commands = ["store up", "store status", "store down", "deploy --yes", "status", "logs", "destroy --yes"]
    program = f"from wukong import cli; print(*[cli.main(each.split()) for each in {commands}])"
    done = run("python", "-c", program)
    assert done.stdout.split() == ["1"] * len(commands)
    told = done.stderr.splitlines()
    assert len(told) == 2 * len(commands)
    for what, hint in zip(told[::2], told[1::2], strict=True):
        assert "is not installed" in what
        assert hint.startswith("  -> pip install 'wukong-serverless[")


WITHOUT_REDIS = """
import sys
for name in ("redis", "hiredis", "cryptography"):
    sys.modules[name] = None
from wukong import cli
nowhere = ["--region", "us-east-1", "--endpoint-url", "http://127.0.0.1:9"]
print([cli.main([*command, *nowhere]) for command in (["deploy", "--yes"], ["status"], ["destroy", "--yes"])])
"""


def test_deploying_needs_nothing_of_redis():
    """Who has the extra `aws` and no other gets as far as AWS."""
    account = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_REDIS],
        env={**os.environ, **account},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.stdout == "[1, 1, 1]\n", done.stderr
    assert done.stderr.count("Could not connect to the endpoint URL") == 3
