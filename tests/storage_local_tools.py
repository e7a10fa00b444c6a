"""What the tests of the embedded store share."""

from pathlib import Path

import pytest

from wukong.backends.storage import local_directory


def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Make two directories stand for shared memory and disk."""
    shared, disk = folder / "shared", folder / "disk"
    shared.mkdir()
    disk.mkdir()
    monkeypatch.setattr(local_directory, "SHARED_MEMORY", str(shared))
    monkeypatch.setattr(local_directory.tempfile, "tempdir", str(disk))
    return shared, disk
