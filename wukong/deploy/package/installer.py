"""Packages for another Python on another machine, fetched as wheels by uv, or by pip.

Wheels only, because code that is compiled here may not run there. pip evaluates markers for its own machine and Python,
whatever platform it fetches for. So pip is not used if the function's differ.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from wukong.errors import BackendError

_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
_LAST_LINES = 15


def install(
    folder: Path,
    wanted: Sequence[str],
    pins: Sequence[str],
    *,
    python: str,
    architecture: str,
    requirements: Path | None = None,
) -> None:
    """Install into a folder. Raises `BackendError` with the installer's own words if that fails.

    Args:
        folder: to install into.
        wanted: requirements, without markers.
        pins: versions to choose for any package, as ``name==version``.
        python: minor version, as ``"3.13"``.
        architecture: ``x86_64`` or ``arm64``.
        requirements: a file of further requirements.
    """
    with tempfile.TemporaryDirectory() as scratch:
        ours, constraints = Path(scratch, "wukong.txt"), Path(scratch, "constraints.txt")
        ours.write_text("\n".join([*wanted, ""]), "utf-8")
        constraints.write_text("\n".join([*pins, ""]), "utf-8")
        command = [*installer(python, architecture), "--target", str(folder), "-r", str(ours), "-c", str(constraints)]
        if requirements is not None:
            command += ["-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        told = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-_LAST_LINES:])
        raise BackendError(
            f"the function's packages cannot be installed for Python {python} on {architecture}:\n{told}",
            hint="versions are those of this environment, but for packages whose version the requirements file states; "
            "what there is no wheel of needs an image",
        )


def installer(python: str, architecture: str) -> list[str]:
    """Return the installer's command line, without the packages. Raises `BackendError` if there is no installer."""
    machine = _MACHINES[architecture]
    uv = _uv()
    if uv is not None:
        return [
            *(uv, "pip", "install", "--quiet", "--no-progress", "--color", "never", "--no-compile-bytecode"),
            *("--python", sys.executable, "--only-binary", ":all:"),
            *("--python-platform", f"{machine}-{glibc(python)[0]}", "--python-version", python),
        ]
    here = f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine(), sys.platform
    if here != (python, machine, "linux"):
        raise BackendError(
            f"pip cannot install packages for Python {python} on {architecture} here ({', '.join(here)})",
            hint="uv can: pip install uv",
        )
    if find_spec("pip") is None:
        raise BackendError("there is neither uv nor pip to install packages with", hint="pip install uv")
    return [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--no-compile", "--only-binary", ":all:", "--implementation", "cp", "--python-version", python),
        *(word for tag in glibc(python) for word in ("--platform", f"{tag}_{machine}")),
    ]


def glibc(python: str) -> list[str]:
    """Return the platform tags that Lambda's runtime of this Python can load, the newest first.

    Up to Python 3.11 it is Amazon Linux 2 with glibc 2.26, from 3.12 on Amazon Linux 2023 with glibc 2.34.
    """
    newest = 34 if int(python.partition(".")[2]) >= 12 else 17
    return [*(f"manylinux_2_{minor}" for minor in range(newest, 16, -1)), "manylinux2014"]


def _uv() -> str | None:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")
