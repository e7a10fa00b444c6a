"""What the tests of the embedded store share."""

from pathlib import Path

import pytest

from wukong.backends.storage import local_directory


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two directories that stand for shared memory and disk, of this test only."""
    shared, disk = tmp_path / "shared", tmp_path / "disk"
    shared.mkdir()
    disk.mkdir()
    monkeypatch.setattr(local_directory, "SHARED_MEMORY", str(shared))
    monkeypatch.setattr(local_directory.tempfile, "tempdir", str(disk))
    return shared, disk
