"""Which installed packages modules belong to, and in which versions, as their installers have noted it."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version


@cache
def _owners() -> dict[str, list[str]]:
    return {module: sorted(set(names)) for module, names in packages_distributions().items()}


@cache
def requirements(module: str) -> tuple[str, ...]:
    """Return ``name==version`` of each package that a module is of; several share a namespace, and Python's has none.

    It is what was installed when this process asked first: modules that it has imported do not change afterwards.
    """
    found = []
    for name in _owners().get(module.partition(".")[0], ()):
        try:
            found.append(f"{name}=={version(name)}")
        except PackageNotFoundError:  # it was removed a moment ago
            continue
    return tuple(found)


def versions(module: str) -> tuple[str, ...]:
    """Return `requirements`; of a module that no installer knows, the ``__version__`` that it says it has, if any."""
    top = module.partition(".")[0]
    said = getattr(sys.modules.get(top), "__version__", None)
    return requirements(top) or ((f"{top}=={said}",) if isinstance(said, str) else ())
