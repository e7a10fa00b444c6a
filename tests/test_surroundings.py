"""A job in places that are not a developer's machine: few resources, odd users, odd paths."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import os, sys, time
import wukong
if len(sys.argv) > 1:
    os.setuid(int(sys.argv[1]))
with wukong.Client(progress=False) as client:
    print(sum(client.gather(client.map(lambda n: (time.sleep(0.1), n)[1], range(40)))))
"""


def ran(directory: Path, limits: str = ":", arguments: str = "", **variables: str) -> str:
    """Run a job in a shell; return what it printed, on both streams."""
    script = directory / "mön program.py"
    script.write_text(JOB, encoding="utf-8")
    command = f"{limits} && exec {sys.executable} {shlex.quote(str(script))} {arguments}"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "LC_ALL")}
    environment |= {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), **variables}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, cwd=directory)
    return done.stdout + done.stderr


def test_few_descriptors_no_home_the_locale_c_and_paths_beyond_ascii(tmp_path: Path) -> None:
    place = tmp_path / "with a space, ünïcode"
    place.mkdir()
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TMPDIR": str(place)}
    assert ran(place, "ulimit -n 64", **plain) == "780\n"


def test_little_address_space_and_a_home_that_is_not_there(tmp_path: Path) -> None:
    assert ran(tmp_path, "ulimit -v 4000000", HOME="/proc/nowhere") == "780\n"


REACHED = all(folder.stat().st_mode & 1 for folder in Path(sys.executable).resolve().parents)


@pytest.mark.skipif(os.getuid() != 0 or not REACHED, reason="needs root, and an interpreter that others may run")
def test_a_user_without_a_name_and_with_few_processes(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o777)
    assert ran(tmp_path, "ulimit -u 60", "54321", TMPDIR=str(tmp_path / "tmp"), HOME="/usr") == "780\n"


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/pids/tasks", os.W_OK), reason="needs root and control groups of v1")
def test_a_control_group_of_few_processes(tmp_path: Path) -> None:
    group = Path(f"/sys/fs/cgroup/pids/wukong-test-{os.getpid()}")
    group.mkdir()
    try:
        (group / "pids.max").write_text("40")
        assert ran(tmp_path, f"echo $$ > {group}/tasks") == "780\n"
    finally:
        group.rmdir()
