"""Folders for temporary files: those of dead processes are swept, those of living ones are not."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from wukong.core import scratch


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary files are; folders there count as old at once."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "_YOUNG_S", -1.0)
    monkeypatch.setattr(scratch, "_swept", set())
    monkeypatch.setattr(scratch, "_held", {})
    return tmp_path


def dead_processes(place):
    """A folder that a process which was killed has left, with a file in it."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            folder = scratch.scratch("wukong-x-")
            Path(folder, "file").write_bytes(b"1")
            os.write(write, folder.encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)  # so that a child which fails ends the read
    try:
        folder = os.read(read, 4_096).decode()
        assert folder, "the child has failed"
        assert Path(folder, "file").exists()
        scratch._sweep(str(place), "wukong-x-")
        assert Path(folder, "file").exists(), "it is held"
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Path(folder)


def test_what_a_killed_process_left_is_swept_by_the_next_one_and_nothing_else(place, monkeypatch):
    left = dead_processes(place)
    other = place / "another-program"
    other.mkdir()
    mine = scratch.scratch("wukong-x-")
    assert not left.exists()
    assert other.exists() and os.path.isdir(mine)
    monkeypatch.setattr(scratch, "_swept", set())
    second = scratch.scratch("wukong-x-")
    assert os.path.isdir(mine), "one of this process's own"
    for folder in (mine, second):
        scratch.discard(folder)
    assert sorted(place.iterdir()) == [other]


def test_a_folder_that_was_made_just_now_is_not_swept(place, monkeypatch):
    monkeypatch.setattr(scratch, "_YOUNG_S", 60.0)
    young, old = (place / f"wukong-x-{name}" for name in ("young", "old"))
    for folder in (young, old):
        folder.mkdir()
    os.utime(old, (0, time.time() - 100.0))
    scratch.scratch("wukong-x-")
    assert young.exists() and not old.exists()
