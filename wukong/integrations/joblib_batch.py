"""What a function does with a batch of joblib's calls. It imports nothing of the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def run_batch(batch: Any, calls: Sequence[tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]]) -> Any:
    """Fill a `joblib.parallel.BatchedCalls` with its calls, which came apart from it, and run it."""
    batch.items = calls
    return batch()
