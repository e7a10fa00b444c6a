"""The event loop of those processes that serve many connections."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["factory"]


def factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a loop of uvloop's, if that is installed; None: asyncio's own will do."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
