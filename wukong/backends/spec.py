"""How a plug-in is named inside an invocation's payload, so that a cold start scans no entry points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class PluginSpec:
    """How to open a plug-in elsewhere: call ``attribute`` of ``module`` with ``options`` as keyword arguments.

    Attributes:
        target: ``"module:attribute"``, importable wherever the function runs.
        options: plain data (text, numbers, booleans, None, and lists and string-keyed mappings of these).
    """

    target: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Any:
        """Import the target and call it. Raises ImportError or AttributeError if it is not there."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)(**self.options)
