"""Stores loaded by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from wukong.backends.loading import chosen, load, opened, register
from wukong.backends.storage import Store

register("storage", Store)


def load_storage(spec: str | Mapping[str, Any] | Store, options: Mapping[str, Any] | None = None) -> Store:
    """Return the intermediate store that `spec` names. As `wukong.backends.faas.loading.load_faas`."""
    return cast("Store", load("storage", spec, options or {}))


def visit_storage(spec: str | Mapping[str, Any]) -> tuple[type[Store], Sequence[Store]]:
    """Return the plug-in's class and the stores that `spec` means for a command that lists and cleans up.

    Raises as `load_storage`.
    """
    cls, given = chosen("storage", spec, {})
    return cls, opened("storage", spec, lambda: cls.visited(**given))
