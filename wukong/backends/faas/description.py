"""What a function is made of, told on request, and how that differs from what the client has.

    {"python": "3.13.1", "packages": {"dask": "2026.8.0", ...}, "missing": ["numpy"], "architecture": "arm64"}

Both sides answer with the same `describe`, so what is compared was asked in the same way.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wukong.errors import BackendError

_NEEDED = {"Python": 2, "wukong": 3, "dask": 2, "cloudpickle": 1}
"""By package: how many leading parts of the version must be the same."""
_SHARED = {"numpy": 1, "pandas": 1}
"""The same, for packages that both sides have: their pickles name modules that come and go between versions."""


def describe(modules: Sequence[str]) -> dict[str, Any]:
    """Return what this Python is made of, as plain data. No module is imported, only the parents of submodules."""
    from importlib.metadata import PackageNotFoundError, version

    from wukong import __version__

    packages = {"wukong": __version__}
    for package in ("dask", "cloudpickle", *_SHARED):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": packages,
        "missing": [module for module in modules if not _importable(module)],
        "architecture": platform.machine(),
    }


def differences(client: Mapping[str, Any], function: Mapping[str, Any]) -> Iterator[str]:
    """Yield, in words, each difference that makes code or values of one side fail on the other."""
    for name, parts in (_NEEDED | _SHARED).items():
        here, there = _version(client, name), _version(function, name)
        if there is None:
            if name in _NEEDED:
                yield f"{name} is not installed on the function; the client has {here}"
        elif here is not None and here.split(".")[:parts] != there.split(".")[:parts]:
            yield f"{name} is {there} on the function and {here} on the client"


def refuse_misfit(there: Mapping[str, Any], where: str, backend: str, redeploy: str, add: str) -> None:
    """Raise `BackendError` if a function's description does not fit this client, or misses a module.

    Args:
        there: what `describe` has answered on the function.
        where: the function's name and place, for the error.
        backend: the plug-in's name.
        redeploy, add: what to do about other versions, and about packages that are missing.
    """
    unlike = list(differences(describe(()), there))
    if unlike:
        text = f"client and function do not fit: {'; '.join(unlike)} [{where}]"
        raise BackendError(text, backend=backend, hint=redeploy)
    if there["missing"]:
        names = sorted({module.partition(".")[0] for module in there["missing"]})
        text = f"the job needs {', '.join(map(_package, names))}, which the function does not have [{where}]"
        raise BackendError(text, backend=backend, hint=add)


def _package(module: str) -> str:
    """Return the line of a requirements file for a module, in the client's version; the bare name if unclear."""
    from wukong.core.packages import requirements

    found = requirements(module)
    return found[0] if len(found) == 1 else module


def _version(description: Mapping[str, Any], name: str) -> str | None:
    found = description["python"] if name == "Python" else description["packages"].get(name)
    return None if found is None else str(found)


def _importable(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent that is not there, or a module without a spec, which is loaded
        import sys

        return module in sys.modules
