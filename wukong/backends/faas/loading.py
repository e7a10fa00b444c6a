"""FaaS backends loaded by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from wukong.backends.faas import FaaS
from wukong.backends.loading import load, register

register("faas", FaaS)


def load_faas(spec: str | Mapping[str, Any] | FaaS, options: Mapping[str, Any] | None = None) -> FaaS:
    """Return the FaaS backend that `spec` names.

    Args:
        spec: a plug-in's name; a URL, whose scheme is the name and which becomes the option ``url``; a mapping of
            ``name`` (or ``url``) and options; or a backend, which is returned as it is.
        options: further keyword arguments for the plug-in, on top of those in a mapping.

    Raises `PluginError`; and whatever `WukongError` the plug-in itself raises.
    """
    return cast("FaaS", load("faas", spec, options or {}))
