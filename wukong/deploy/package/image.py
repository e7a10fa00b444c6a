"""The folder from which an image is built, for packages that are too large for a zip. Docker does the rest:

folder = context(Path("wukong-image"), requirements=Path("requirements.txt"))
docker build --platform linux/arm64 --provenance=false --build-arg PYTHON=3.13 -t wukong wukong-image
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import wukong_executor
from wukong.deploy.package import bytecode
from wukong.deploy.package.build import HERE, add_wukong, checked
from wukong.deploy.package.requirements import SCIENTIFIC, own_requirements, pins, stated

DOCKERFILE = Path(wukong_executor.__file__).with_name("Dockerfile")
PLATFORMS = {"arm64": "linux/arm64", "x86_64": "linux/amd64"}


def context(
    folder: Path,
    *,
    requirements: Path | None = None,
    architecture: str = "x86_64",
    python: str = HERE,
    extras: Sequence[str] = ("redis",),
    packages: Sequence[str] = SCIENTIFIC,
) -> Path:
    """Make a folder with the whole content of the image, and return it. Docker adds only the base image.

    Args:
        folder: a new one, or one from an earlier call, whose files are then written anew.
        requirements: the user's requirements file.
        architecture: ``x86_64`` or ``arm64``.
        python: the function's Python; ``--build-arg PYTHON=`` must say the same.
        extras: of Wukong's extras, those that functions need.
        packages: further packages; in the versions of this environment if it has them.

    Raises `ConfigError` for invalid arguments.
    """
    checked(python, architecture, requirements)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(DOCKERFILE, folder / "Dockerfile")
    shutil.copyfile(bytecode.__file__, folder / "bytecode.py")
    wanted = sorted({*own_requirements(extras, python, architecture), *packages})
    theirs = [] if requirements is None else stated(requirements)
    (folder / "requirements.txt").write_text("\n".join([*wanted, *theirs, ""]), "utf-8")
    (folder / "constraints.txt").write_text("\n".join([*pins(requirements), ""]), "utf-8")
    shutil.rmtree(folder / "own", ignore_errors=True)
    add_wukong(folder / "own")
    return folder


def command(folder: Path, tag: str, *, architecture: str = "x86_64", python: str = HERE) -> list[str]:
    """Return the command line that builds the image."""
    return [
        *("docker", "build", "--platform", PLATFORMS[architecture], "--provenance=false"),
        *("--build-arg", f"PYTHON={python}", "--tag", tag, str(folder)),
    ]
