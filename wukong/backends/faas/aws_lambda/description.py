"""What a function is made of, told on request, and how that differs from what the client has.

    {"wukong": 1, "describe": ["numpy", ...]}
      -> {"python": "3.13.1", "packages": {"dask": "2026.8.0", ...}, "missing": ["numpy"], "architecture": "arm64"}

Both sides answer with the same `describe`, so what is compared was asked in the same way.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wukong.backends.faas.aws_lambda.event import FORMAT

_NEEDED = {"Python": 2, "wukong": 3, "dask": 2, "cloudpickle": 1}
"""By package: how many leading parts of the version must be the same."""
_SHARED = {"numpy": 1, "pandas": 1}
"""The same, for packages that both sides have: their pickles name modules that come and go between versions."""


def ask(modules: Sequence[str]) -> bytes:
    """Return the event that asks a function to describe itself, and which of these modules it lacks."""
    return json.dumps({"wukong": FORMAT, "describe": list(modules)}).encode()


def asked(event: Mapping[str, Any]) -> list[str] | None:
    """Return the modules that an event asks about; None: it is not such an event."""
    if not isinstance(event, Mapping) or "wukong" not in event or "describe" not in event:
        return None
    return [str(module) for module in event["describe"]]


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
