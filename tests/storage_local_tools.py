"""What the tests of the embedded store share."""

import subprocess
import sys
from pathlib import Path

import pytest

from wukong.backends.storage.local import directory as local_directory


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two directories that stand for shared memory and disk, of this test only."""
    shared, disk = tmp_path / "shared", tmp_path / "disk"
    shared.mkdir()
    disk.mkdir()
    monkeypatch.setattr(local_directory, "SHARED_MEMORY", str(shared))
    monkeypatch.setattr(local_directory.tempfile, "tempdir", str(disk))
    monkeypatch.setattr(local_directory, "_TEMPORARY", ())  # other tests' stores are there
    return shared, disk


def own_a_store(code: str, places: tuple[Path, Path], before: str = "") -> subprocess.Popen:
    """Start a process that owns a store, does `code`; `before` comes first."""
    program = f"""
import os, sys, time, signal
from wukong.backends.storage.local import directory as local_directory
local_directory.SHARED_MEMORY = {str(places[0])!r}
local_directory.tempfile.tempdir = {str(places[1])!r}
local_directory._TEMPORARY = ()
from wukong.backends.storage.local import LocalStore
{before}
store = LocalStore()
store.put({{b"a": b"1", b"b": bytes(1 << 20)}})
{code}
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
