"""What a function does with one task of Cubed's. It imports nothing of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def run_task(function: Callable[..., Any], item: Any, config: Any, *_: None) -> None:
    """Run one task; what is left of the arguments are the operations that it needs."""
    function(item, config=config)


def run_measured(function: Callable[..., Any], item: Any, config: Any, *_: None) -> dict[str, Any]:
    """Run one task; return what Cubed measures of it: times and peak memory."""
    from cubed.runtime.utils import execute_with_stats

    measured: dict[str, Any] = execute_with_stats(function, item, config=config)[1]
    return measured


def ended(*_: Any) -> None:
    """Stand for the end of an operation, whose tasks it takes."""
