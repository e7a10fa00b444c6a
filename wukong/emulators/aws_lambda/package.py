"""Deployment packages: check and unpack a zip, and lay out the Python that environments run."""

from __future__ import annotations

import base64
import binascii
import compileall
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from wukong.emulators.aws_lambda.refusal import invalid, request_too_large
from wukong.errors import ConfigError

ZIPPED_BYTES = 52_428_800
UNZIPPED_BYTES = 262_144_000
REQUEST_BYTES = 70_167_211
ROLE = "arn:aws:iam::123456789012:role/wukong"
"""A role's name, which every function has to have."""

_RUNTIME = ("awslambdaric", "simplejson", "snapshot-restore-py")
_ALONGSIDE = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")


@dataclass(frozen=True, slots=True)
class Code:
    """An unpacked deployment package: its folder, the zip's size in bytes and SHA-256 in base64."""

    folder: Path
    size_bytes: int
    sha256: str


def unpack(encoded: str, folder: Path, operation: str) -> Code:
    """Unpack a zip in base64 into a new folder. Raises `Refusal` if Lambda would not take it.

    Unpacking is slow: call it from a thread of its own.
    """
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise invalid("Could not unzip uploaded file. Please check your file, then try to upload again.") from None
    if len(data) > ZIPPED_BYTES:
        raise request_too_large(operation, REQUEST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > UNZIPPED_BYTES:
                raise invalid(f"Unzipped size must be smaller than {UNZIPPED_BYTES} bytes")
            folder.mkdir(parents=True)
            for member in members:
                path = Path(archive.extract(member, folder))
                mode = stat.S_IMODE(member.external_attr >> 16)
                path.chmod(((mode or 0o644) & 0o555 | 0o444) if path.is_file() else 0o755)
            for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
                path.chmod(0o555)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        raise invalid("Could not unzip uploaded file. Please check your file, then try to upload again.") from None
    return Code(folder, len(data), base64.b64encode(hashlib.sha256(data).digest()).decode())


def remove(folder: Path) -> None:
    """Remove unpacked code, which is read-only."""
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def runtime(folder: Path) -> str:
    """Lay out a Python with the standard library and the packages of Lambda's runtime; return the interpreter.

    Packages are links to the installed ones of this service. Raises `ConfigError` if one is missing.
    """
    found = [_installed(name) for name in _RUNTIME]
    found += [each for name in _ALONGSIDE if (each := _find(name)) is not None]
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for each in found:
        for top in _tops(each):
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(each.locate_file(top))).resolve())
    for name in ("awslambdaric", "simplejson", "snapshot_restore_py"):
        # Environments write no bytecode, as on Lambda, so compile it now: no start should pay for that.
        compileall.compile_dir((packages / name).resolve(), quiet=2, maxlevels=4)
    return str(folder / "bin" / "python")


def _tops(installed: Distribution) -> set[str]:
    """Return the folders and files in site-packages that belong to a distribution."""
    record = installed.read_text("RECORD") or ""
    return {re.split("[/,]", line, maxsplit=1)[0] for line in record.splitlines()} - {"..", "__pycache__", ""}


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _installed(name: str) -> Distribution:
    found = _find(name)
    if found is None:
        raise ConfigError(f"{name} is not installed", hint="pip install 'wukong-serverless[emulate]'")
    return found


def deployment_package(code: str | Mapping[str, str | bytes] | Path) -> bytes:
    """Return a zip with these files: a module ``function`` of this source, files by name, or all of a folder."""
    files: Mapping[str, str | bytes]
    if isinstance(code, Path):
        files = {str(path.relative_to(code)): path.read_bytes() for path in sorted(code.rglob("*")) if path.is_file()}
    else:
        files = {"function.py": code} if isinstance(code, str) else code
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()
