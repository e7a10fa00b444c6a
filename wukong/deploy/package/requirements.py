"""The content of a package besides Wukong itself: its own requirements and the user's, with versions.

Versions are those of the environment that deploys, because pickles of code and values travel between client and
function. A version that the user's requirements file states wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from wukong.errors import BackendError, ConfigError
from wukong.options import suggestion

OWN = "wukong-serverless"
SCIENTIFIC = ("dask[array,dataframe]", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy")
"""The further packages of images."""

_COMMENT = re.compile(r"(^|\s+)#.*$")
_INCLUDE = re.compile(r"(?:-r\s*|--requirement(?:\s+|=))(.+)")
_FOR_PEOPLE = frozenset({"rich"})  # shows progress on a terminal: nobody watches a function


def own_distribution() -> Distribution:
    """Return Wukong's distribution as it is installed here; an editable installation counts too."""
    try:
        return distribution(OWN)
    except PackageNotFoundError as error:
        raise BackendError(
            "Wukong runs from a folder that is not installed, so what it requires is not known",
            hint="pip install -e . in the checkout",
        ) from error


def own_requirements(extras: Iterable[str], python: str, architecture: str) -> list[str]:
    """Return Wukong's requirements with these extras on Linux, without markers. Raises `ConfigError` for a wrong extra.

    Args:
        extras: as in ``wukong-serverless[redis]``.
        python: minor version, as ``"3.13"``.
        architecture: ``x86_64`` or ``arm64``.
    """
    own = own_distribution()
    known = own.metadata.get_all("Provides-Extra") or []
    for extra in extras:
        if extra not in known:
            raise ConfigError(f"Wukong has no extra {extra!r}", hint=suggestion(extra, known))
    target = {
        "implementation_name": "cpython",
        "implementation_version": f"{python}.0",
        "os_name": "posix",
        "platform_machine": "aarch64" if architecture == "arm64" else "x86_64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    held = []
    for requirement in map(Requirement, own.requires or ()):  # extras that include others list all requirements there
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**target, "extra": extra}) for extra in ("", *extras)):
            requirement.marker = None
            held.append(requirement)
    return sorted({str(each) for each in held if canonicalize_name(each.name) not in _FOR_PEOPLE})


def pins(requirements: Path | None = None) -> list[str]:
    """Return ``name==version`` of everything that is installed here, except packages that the user's file decides."""
    decided = {OWN, *(() if requirements is None else _decided(stated(requirements)))}
    found: dict[str, str] = {}
    for each in distributions():
        name = canonicalize_name(each.metadata["Name"] or "")
        # A local version is a checkout or the user's own build, which no index has.
        if name and name not in decided and "+" not in each.version and each.read_text("direct_url.json") is None:
            found.setdefault(name, each.version)  # the first on the path is the one that is imported
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def stated(requirements: Path) -> list[str]:
    """Return the lines of a requirements file, without comments, with those of the files that it includes."""
    return list(_lines(requirements.resolve(), set()))


def _lines(path: Path, seen: set[Path]) -> Iterator[str]:
    if path in seen:
        return
    seen.add(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the requirements file {path} cannot be read: {error}") from error
    for line in text.replace("\\\n", " ").splitlines():
        line = _COMMENT.sub("", line).strip()
        included = _INCLUDE.match(line)
        if included:
            yield from _lines((path.parent / included[1]).resolve(), seen)
        elif line:
            yield line


def _decided(lines: Iterable[str]) -> Iterator[str]:
    """Yield the names of packages for which a version or a URL is stated."""
    for line in lines:
        try:
            requirement = Requirement(line.partition(" --")[0])
        except InvalidRequirement:  # an option, a path, a URL: the installer will judge
            continue
        if requirement.specifier or requirement.url:
            yield canonicalize_name(requirement.name)
