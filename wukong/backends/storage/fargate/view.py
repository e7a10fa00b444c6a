"""The nodes of one store, as one client sees and reaches them. What changes them is in `start` and `nodes`.

Clients find a node by its tags: its store, its slot, its generation, its shape. Nothing is kept on this machine. Of
several nodes of one slot, the one that ECS made first has it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.finding import Find, found
from wukong.backends.storage.fargate.leases import Leases
from wukong.backends.storage.fargate.node import Node, index_of, is_over
from wukong.backends.storage.fargate.options import BACKEND, FargateOptions, Shape
from wukong.backends.storage.fargate.pacing import at_once
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["NodesView"]

logger = logging.getLogger(__name__)


class NodesView:
    """See the module's docstring.

    Args:
        options: of the store.
        account: that they run in.
        find: finds a node's addresses.

    All methods raise `StoreError` if AWS refuses something, and `StoreUnavailable` for what may pass.
    """

    def __init__(self, options: FargateOptions, account: FargateAccount, find: Find = found) -> None:
        self.options, self.account, self._find = options, account, find
        self._client = uuid.uuid4().hex
        self._leases: Leases | None = None
        self._shape: Shape | None = None
        self._cancelled = threading.Event()
        self._newest = 0

    @property
    def shape(self) -> Shape | None:
        """The nodes' shape; known once they were brought up."""
        return self._shape

    @property
    def leases(self) -> Leases:
        """This client's access to nodes; there once they were brought up."""
        assert self._leases is not None, "the nodes have not been brought up"
        return self._leases

    @property
    def knows_leases(self) -> bool:
        """Whether `leases` is there."""
        return self._leases is not None

    # --- looking

    def status(self) -> list[Node]:
        """Return the nodes that run or are about to, by slot."""
        return sorted(self.live().values(), key=lambda node: index_of(node.slot) or 0)

    def live(self) -> dict[str, Node]:
        """Return the node of each slot: of several, the one that ECS made first."""
        live: dict[str, Node] = {}
        for task in self.account.tasks():
            node = self.node(task)
            if node is None or is_over(task):
                continue
            other = live.get(node.slot)
            if other is None or (node.since, node.task) < (other.since, other.task):
                live[node.slot] = node
        return live

    def memory(self, node: Node) -> tuple[int, int]:
        """Return how many bytes a node uses, and how many it may use. This does not count as use of the node.

        Raises `StoreUnavailable` if the node does not answer soon.
        """
        self.open_leases(Shape.of(node.shape) or Shape())
        return self.leases.memory(node)

    def node(self, task: Mapping[str, Any]) -> Node | None:
        """Return the node that a task runs; None if it runs no node."""
        node = Node.of(task, *self._find(self.account, task))
        if node is not None:
            self._newest = max(self._newest, node.generation)
        return node

    def next_generation(self) -> int:
        """Return a generation newer than all nodes seen so far: from the Unix time, as nobody keeps a count."""
        return max(int(time.time()), self._newest + 1)

    # --- reaching

    def open_leases(self, shape: Shape) -> None:
        """Find out once what a client needs to log in."""
        if self._leases is None:
            self._leases = Leases(self.options, self.account.keys(shape), self._client)

    def out_of_reach(self, node: Node) -> StoreUnavailable:
        """Return the error for a node that runs but does not answer this client."""
        address = node.public_address if self.options.public else node.address
        return StoreUnavailable(
            f"{node.slot} runs, and cannot be reached from here at {address}", backend=BACKEND, hint=self.way()
        )

    def way(self) -> str:
        """Return what to do to reach nodes."""
        if self.options.public:
            return f"client_cidr is {self.options.client_cidr}: does this machine come from there?"
        return (
            f"nodes have private addresses, and the security group {self.options.name}-store admits the functions: run "
            "the client inside the VPC (EC2, or over a VPN) and give its addresses as client_cidr; or give nodes "
            "public addresses: public=True and client_cidr='<yours>/32'"
        )

    def last(self, nodes: Iterable[Node]) -> list[Node]:
        """Give up the leases on these nodes; return the nodes without any lease. These admit nobody any more."""
        last: list[Node] = []

        def leave(node: Node) -> None:
            try:
                if self.leases.leave(node):
                    last.append(node)
            except StoreError as error:
                logger.warning("%s is left to its idle time: %s", node.slot, error)

        at_once(leave, list(nodes))
        return last

    def cancel(self) -> None:
        """Make an `up` in another thread stop what it has started, and raise an error soon."""
        self._cancelled.set()

    def pause(self, pause_s: float) -> None:
        """Wait. Raises `StoreError` when `cancel` is called."""
        if self._cancelled.wait(pause_s):
            raise StoreError("the store is being closed", backend=BACKEND)

    def close(self) -> None:
        """Close all connections."""
        if self._leases is not None:
            self._leases.close()
        self.account.close()
