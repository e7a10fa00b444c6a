"""Redis on AWS Fargate: `Fargate`, the store ``fargate``, for the client; `shards.FargateShards` for functions.

Functions import no more than `shards`; so what the client needs is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wukong.backends.storage.fargate.store import Fargate

__all__ = ["Fargate"]


def __getattr__(name: str) -> Any:
    if name == "Fargate":
        from wukong.backends.storage.fargate.store import Fargate

        return Fargate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
