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
    assert packaged == tracked | {"wukong/py.typed", "wukong/wukong.yaml", "wukong/executor/Dockerfile"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_an_installed_wheel_works_with_nothing_but_what_it_requires(wheel, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), str(wheel)]
    # What this environment was made from is in uv's cache: no network is needed, unless there is no such cache.
    if subprocess.run([*install, "--offline"], capture_output=True, check=False).returncode != 0:
        subprocess.run(install, check=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = (
        "import sys, wukong, dask; assert 'numpy' not in sys.modules; client = wukong.Client();"
        "print(dask.delayed(sum)([dask.delayed(pow)(n, 2) for n in range(5)]).compute(scheduler=client.get));"
        "client.close(); print(wukong.__file__)"
    )
    done = subprocess.run(
        [python, "-c", program], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    answer, where = done.stdout.splitlines()
    assert answer == "30"
    assert Path(where).is_relative_to(environment)
    doctor = subprocess.run(
        [environment / "bin" / "wukong", "doctor"],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
