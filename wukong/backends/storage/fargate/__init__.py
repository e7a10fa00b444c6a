"""Redis on AWS Fargate: `Fargate`, the store ``fargate``, for the client; `shards.FargateShards` for functions.

Functions import only `shards`; so the client's parts are imported only when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wukong.errors import StoreError

if TYPE_CHECKING:
    from wukong.backends.storage.fargate.nodes import Nodes
    from wukong.backends.storage.fargate.options import FargateOptions
    from wukong.backends.storage.fargate.store import Fargate

__all__ = ["Fargate", "nodes_of"]


def nodes_of(options: FargateOptions) -> Nodes:
    """Return the nodes of a store, for commands. Raises `StoreError` if a package for that is not installed."""
    try:
        from wukong.backends.storage.fargate.account import FargateAccount
        from wukong.backends.storage.fargate.nodes import Nodes
    except ModuleNotFoundError as error:
        raise StoreError(
            f"{error.name} is needed for Redis on AWS Fargate, and is not installed",
            backend="storage: fargate",
            hint="pip install 'wukong-serverless[fargate]'",
        ) from error
    return Nodes(options, FargateAccount(options))


def __getattr__(name: str) -> Any:
    if name == "Fargate":
        from wukong.backends.storage.fargate.store import Fargate

        return Fargate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
