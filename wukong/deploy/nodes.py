"""The nodes of a store on Fargate. They belong to no stack: clients start and stop them.

They run in resources of the deployment, so they are stopped before these are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cached_property

from wukong.backends.storage.fargate import nodes_of
from wukong.backends.storage.fargate.node import Node
from wukong.backends.storage.fargate.options import FargateOptions as StoreOptions
from wukong.deploy.account import DeployAccount
from wukong.deploy.finding import Finding

Progress = Callable[[str], None]


class StoreNodes:
    """The nodes of the store of this name."""

    def __init__(self, account: DeployAccount, name: str) -> None:
        self._options = StoreOptions(
            name=name, region=account.region, profile=account.profile, endpoint_url=account.endpoint_url
        )

    @cached_property
    def found(self) -> list[Node]:
        """The nodes that run, as of the first look."""
        with closing(nodes_of(self._options)) as nodes:
            return nodes.status()

    def stop(self, progress: Progress) -> None:
        """Stop all nodes, and remove what clients have made for them."""
        if self.found:
            progress(f"stopping {counted(self.found)} of the store on Fargate, and waiting until they have ended")
        with closing(nodes_of(self._options)) as nodes:
            done = nodes.down(lambda *_: None)
        if done.stopped:
            progress(f"{counted(done.stopped)} stopped")

    def findings(self) -> Iterator[Finding]:
        """Yield a finding if nodes run and would be stopped."""
        if self.found:
            yield Finding(
                f"{counted(self.found)} of the store on Fargate would be stopped, with all that is in there",
                "let jobs end first",
                fatal=False,
            )


def counted(nodes: Sequence[Node]) -> str:
    """Return the number of nodes, in words."""
    return f"{len(nodes):,} node{'' if len(nodes) == 1 else 's'}"
