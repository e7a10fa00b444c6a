"""What a future's task really runs: the user's function, its exception kept as a value.

A job ends with its first failing task. The tasks of `Client.submit` and `map` are independent of each other, so one
that fails must not end the others: its exception becomes its value, and the client turns that back.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Raised:
    """The value of a call that raised."""

    error: BaseException
    traceback: str


def call(func: Callable[..., Any], retries: int, kwargs: dict[str, Any], *args: Any) -> Any:
    """Return ``func(*args, **kwargs)``, or a `Raised` where it raises more than `retries` times."""
    while True:
        try:
            return func(*args, **kwargs)
        except Exception as error:
            if retries <= 0:
                return Raised(error, traceback.format_exc())
            retries -= 1
