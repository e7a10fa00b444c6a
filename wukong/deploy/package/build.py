"""The deployment package: Wukong, its requirements, and the user's requirements, as one zip for AWS Lambda.

    requirements -> installer -> folder -> archive.prune -> bytecode -> archive.pack -> package.zip

boto3 and awslambdaric are left out, because Lambda's runtime has them; boto3 goes in if the user requires another one.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import wukong
import wukong_executor
from wukong.deploy.package import archive, bytecode
from wukong.deploy.package.installer import install
from wukong.deploy.package.requirements import own_distribution, own_requirements, pins
from wukong.errors import BackendError, ConfigError

HANDLER = "wukong_executor.handler.handler"
"""The handler that Lambda calls."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ARCHITECTURES = ("x86_64", "arm64")
TASK_ROOT = "/var/task"
"""The folder in which Lambda unpacks the package."""
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"

_DATA = frozenset({".py", ".yaml", ".typed"})
_LEFT_OUT = frozenset(
    {
        *(
            "wukong/__main__.py",
            "wukong/cleaning.py",
            "wukong/cli.py",
            "wukong/completion.py",
            "wukong/doctor.py",
            "wukong/kept.py",
        ),
        *("wukong/debug.py", "wukong/emulate.py", "wukong/key.py", "wukong/new_plugin", "wukong/store.py"),
        *("wukong/deploy", "wukong/emulators", "wukong/report", "wukong/testing"),
    }
)


def build(
    target: Path,
    *,
    requirements: Path | None = None,
    architecture: str = "x86_64",
    python: str = HERE,
    extras: Sequence[str] = ("redis",),
    direct: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Build the zip `target` and return it. The same environment gives the same bytes, at any time.

    Args:
        target: the zip to write; it is replaced by a complete one, or left as it was.
        requirements: the user's requirements file, as for pip.
        architecture: ``x86_64`` or ``arm64``.
        python: the function's Python, from 3.11 to 3.14. Pickled code runs only on the Python that it comes from.
        extras: of Wukong's extras, those that functions need: the clients of the stores in use.
        direct: it will be uploaded directly, not by way of S3, and may have 50 MB.
        progress: takes a line of text for each step.

    Raises `ConfigError` for invalid arguments, `BackendError` if packages cannot be installed, or are too large.
    """
    checked(python, architecture, requirements)
    tell = progress or _nobody
    with tempfile.TemporaryDirectory(prefix="wukong-package-") as scratch:
        folder = Path(scratch, "package")
        folder.mkdir()
        tell(f"installing packages for Python {python} on {architecture}")
        wanted = own_requirements(extras, python, architecture)
        install(folder, wanted, pins(requirements), python=python, architecture=architecture, requirements=requirements)
        add_wukong(folder)
        archive.prune(folder)
        _compile(folder, python, tell)
        content = archive.sizes(folder)
        archive.check_unzipped(content)
        tell(f"packing {sum(content.values()) / 1_048_576:.1f} MB")
        packed = Path(scratch, target.name)
        archive.pack(folder, packed)
        if direct:
            archive.check_zipped(packed)
        archive.put(packed, target)
    tell(f"{target} has {target.stat().st_size / 1_048_576:.1f} MB")
    return target


def checked(python: str, architecture: str, requirements: Path | None) -> None:
    """Raise `ConfigError` for an invalid Python, architecture or requirements file."""
    if python not in PYTHONS:
        raise ConfigError(f"functions cannot have Python {python!r}", hint=f"one of {', '.join(PYTHONS)}")
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"there is no architecture {architecture!r}", hint=f"one of {', '.join(ARCHITECTURES)}")
    if requirements is not None and not requirements.is_file():
        raise ConfigError(f"there is no requirements file {requirements}")


def add_wukong(folder: Path) -> None:
    """Copy Wukong as it runs here, with its metadata: from an installation, an editable one, or a checkout.

    Modules that only operate or test it are left out. The client goes in, because functions import modules of the
    user's that import it.
    """
    for package in (wukong, wukong_executor):
        [source] = map(Path, package.__path__)
        for path in sorted(source.rglob("*")):
            inside = path.relative_to(source.parent)
            if path.suffix in _DATA and path.is_file() and _LEFT_OUT.isdisjoint(map(str, (inside, *inside.parents))):
                copy = folder / inside
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    own = own_distribution()
    info = folder / f"wukong_serverless-{own.version}.dist-info"
    info.mkdir(parents=True)
    for name in ("METADATA", "entry_points.txt"):
        text = own.read_text(name)
        if text is not None:
            (info / name).write_text(text, "utf-8")


def _compile(folder: Path, python: str, tell: Callable[[str], None]) -> None:
    found = bytecode.interpreter(python)
    if found is None:
        tell(f"no Python {python} is installed here, so nothing is compiled: every cold start will take longer")
        return
    tell("compiling")
    command = [found, "-I", str(bytecode.__file__), str(folder), TASK_ROOT]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise BackendError(f"the package cannot be compiled with {found}: {done.stderr.strip()[-500:]}")


def _nobody(_: str) -> None:
    return None
