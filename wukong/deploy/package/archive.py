"""A folder of packages, and its zip: made small, checked against Lambda's limits, the same bytes each time."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wukong.errors import BackendError

ZIPPED_BYTES = 52_428_800
"""Lambda's limit of a package that is uploaded directly; by way of S3 there is none."""
UNZIPPED_BYTES = 262_144_000
"""Lambda's limit of a package's content."""

_DATE = (1980, 1, 1, 0, 0, 0)
_METADATA = frozenset({"METADATA", "entry_points.txt", "top_level.txt"})
_FOR_COMPILERS = frozenset({".c", ".cc", ".cpp", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx"})
_OF_TESTS = (
    re.compile(rb"^[ \t]*(?:from|import)[ \t]+(\.*)((?:\w+\.)*tests)\b", re.MULTILINE),
    re.compile(rb"^[ \t]*from[ \t]+(\.*)((?:\w+(?:\.\w+)*)?)[ \t]+import[ \t]+(?:\w+,[ \t]*)*tests\b", re.MULTILINE),
)
_LARGEST = 8


def prune(folder: Path) -> None:
    """Remove what no function needs: scripts, tests, sources in C, bytecode, and all of a distribution's records but
    its name, version and entry points. Tests that other modules import stay."""
    for name in ("bin", "__pycache__", ".lock"):
        _remove(folder / name)
    for info in folder.glob("*.dist-info"):
        for path in info.iterdir():
            if path.name not in _METADATA:
                _remove(path)
    imported = _imported_tests(folder)
    for parent, folders, files in os.walk(folder):
        for name in list(folders):
            path = Path(parent, name)
            unused = name == "tests" and parent != str(folder) and path not in imported
            if name == "__pycache__" or unused:
                shutil.rmtree(path)
                folders.remove(name)
        for name in files:
            if os.path.splitext(name)[1] in _FOR_COMPILERS:
                os.unlink(os.path.join(parent, name))


def _imported_tests(folder: Path) -> set[Path]:
    """Return the folders called tests that modules outside of such folders import; astropy has some."""
    found = set()
    for source in folder.rglob("*.py"):
        if "tests" in source.relative_to(folder).parts:
            continue
        text = source.read_bytes()
        for n, pattern in enumerate(_OF_TESTS):
            for dots, dotted in pattern.findall(text) if b"tests" in text else ():
                base = source.parents[len(dots) - 1] if dots else folder
                parts = [part for part in dotted.decode().split(".") if part]
                found.add(base.joinpath(*parts, *(["tests"] if n else [])))
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each entry of a folder, with everything below it."""
    found: dict[str, int] = {}
    for path in _files(folder):
        top = path.relative_to(folder).parts[0]
        found[top] = found.get(top, 0) + path.stat().st_size
    return found


def check_unzipped(content: Mapping[str, int]) -> None:
    """Raise `BackendError` if a package's content is larger than Lambda takes. `content`: as from `sizes`."""
    total = sum(content.values())
    if total > UNZIPPED_BYTES:
        raise BackendError(
            f"the package's content has {_mb(total)}; Lambda takes {_mb(UNZIPPED_BYTES)}. {_largest(content.items())}",
            hint="deploy an image, which may have 10 GB, or leave packages out of the requirements",
        )


def check_zipped(package: Path) -> None:
    """Raise `BackendError` if a zip is too large to be uploaded directly."""
    total = package.stat().st_size
    if total > ZIPPED_BYTES:
        with zipfile.ZipFile(package) as archive:
            packed: dict[str, int] = {}
            for member in archive.infolist():
                top = member.filename.partition("/")[0]
                packed[top] = packed.get(top, 0) + member.compress_size
        raise BackendError(
            f"the package {package} has {_mb(total)}; {_mb(ZIPPED_BYTES)} can be uploaded directly. "
            f"{_largest(packed.items())}",
            hint="upload it by way of S3, deploy an image, or leave packages out of the requirements",
        )


def pack(folder: Path, package: Path) -> None:
    """Zip a folder. The same content gives the same bytes, whenever and wherever it was made."""
    with zipfile.ZipFile(package, "w") as archive:
        for path in _files(folder):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _DATE)
            member.create_system = 3  # Unix, on any system: otherwise the permissions mean nothing
            member.external_attr = (0o100755 if ".so" in path.suffixes else 0o100644) << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, path.read_bytes())


def put(package: Path, target: Path) -> None:
    """Write a file atomically: as a whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    os.close(descriptor)
    try:
        shutil.copyfile(package, beside)
        os.chmod(beside, 0o644)
        os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.is_file())


def _largest(content: Iterable[tuple[str, int]]) -> str:
    largest = sorted(content, key=lambda item: -item[1])[:_LARGEST]
    return f"The largest parts: {', '.join(f'{name} {_mb(size)}' for name, size in largest)}"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1_048_576:.1f} MB"
