"""The process's environment as plug-ins may see it: secrets that must not travel in payloads.

What a store returns from `wukong.backends.storage.Store.environment` is what it reads here wherever it is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

KEY_VARIABLE = "WUKONG_DEPLOYMENT_KEY"
"""Holds, in every function, the deployment's key: hex digits."""


def variable(name: str) -> str | None:
    """Return the value of an environment variable; None if it is not set, or empty."""
    return os.environ.get(name) or None


def provide(variables: Mapping[str, str]) -> None:
    """Set environment variables of this process, as a platform does for a function before it starts."""
    os.environ.update(variables)


def keep(beginnings: tuple[str, ...]) -> None:
    """Delete the environment variables of this process whose names begin with none of these."""
    for name in [name for name in os.environ if not name.startswith(beginnings)]:
        del os.environ[name]
