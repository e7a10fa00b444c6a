"""The nodes of one store: start, adopt, replace and leave them, or take them all down.

Clients find a node by its tags: its store, its slot, its generation, its shape. Nothing is kept on this machine. If two
clients start the same slot at once, the node that ECS made first gets it, and the client that started another one stops
that one again.

Who stops a node? The last client that leaves it, unless a client that used it or started it said ``keep``. A client
that leaves while others use the node stops nothing. An `up` that fails stops what it has started, unless another client
uses it already. All other nodes end themselves when they are idle.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wukong.backends.storage import Tell
from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.calls import FargateRefused
from wukong.backends.storage.fargate.finding import Find, found
from wukong.backends.storage.fargate.leases import Leases
from wukong.backends.storage.fargate.node import Node, index_of, is_over
from wukong.backends.storage.fargate.options import BACKEND, FargateOptions, Shape
from wukong.backends.storage.fargate.start import Start, at_once, pauses
from wukong.core.interrupts import heeded
from wukong.errors import ConfigError, StoreError, StoreUnavailable

__all__ = ["Node", "Nodes", "Removed", "TakenDown"]

logger = logging.getLogger(__name__)

_STOP_S = 180.0
_DOWN = "the store is taken down"


class TakenDown(StoreError):
    """Somebody has stopped all nodes on purpose, so they must not be started again."""


@dataclass(frozen=True, slots=True)
class Removed:
    """The result of `Nodes.down`.

    Attributes:
        stopped: the nodes that ran.
        removed: resources that were made for them and are gone: ``"role wukong-store"``, ...
        left: resources that are still there, because others have made them or run something in them.
    """

    stopped: tuple[Node, ...]
    removed: tuple[str, ...]
    left: tuple[str, ...]


class Nodes:
    """The nodes of one store, as one client sees them.

    Args:
        options: of the store.
        account: that they run in.
        find: finds a node's addresses.

    All methods raise `StoreError` if AWS refuses something or nodes do not come up, `StoreUnavailable` for what may
    pass, and `ConfigError`.
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

    # --- up

    def up(self, tell: Tell, *, use: bool = False, holding: Sequence[Node] = ()) -> list[Node]:
        """Adopt the nodes that run, start those that are missing, wait until all serve; return them by slot.

        If it raises, an interrupt included, it has stopped what it had started.

        Args:
            tell: takes the number of nodes that serve.
            use: hold a lease on each node, as a client that is about to use them; this client has to reach them then.
                Otherwise it is enough that ECS calls them healthy; nodes beyond the wanted number are then stopped,
                unless clients use them or they are out of reach.
            holding: nodes that this client uses already. As many are wanted, and this call releases none.
        """
        start = Start(self, tell, use, holding)
        with heeded() as interrupted:
            try:
                nodes = start.run(self._agreed(start), interrupted)
            except BaseException:
                start.abandon()
                raise
        if not use:
            self._trim(len(nodes))
        return nodes

    def cancel(self) -> None:
        """Make an `up` in another thread stop what it has started, and raise an error soon."""
        self._cancelled.set()

    def pause(self, pause_s: float) -> None:
        """Wait. Raises `StoreError` when `cancel` is called."""
        if self._cancelled.wait(pause_s):
            raise StoreError("the store is being closed", backend=BACKEND)

    def _agreed(self, start: Start) -> Shape:
        """Return the wanted shape of nodes. Raises `ConfigError` if running nodes have another one."""
        for node in start.adopted:
            there = Shape.of(node.shape)
            if there is None:
                raise StoreError(
                    f"{node.slot} of {self.options.name} was started by another version of Wukong",
                    backend=BACKEND,
                    hint="'wukong store down' stops all nodes; or use another name",
                )
            self._shape = self._shape or self.options.shape(there)
            if there != self._shape:
                pairs = zip(there.tag.split(), self._shape.tag.split(), strict=True)
                unlike = ", ".join(f"{has}, and {want} is asked for" for has, want in pairs if has != want)
                raise ConfigError(
                    f"{node.slot} of {self.options.name} runs with {unlike}",
                    backend=BACKEND,
                    hint="leave these options out to take the nodes as they are, run 'wukong store down' first, or use "
                    "another name",
                )
        self._shape = self._shape or self.options.shape(None)
        return self._shape

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

    # --- leaving

    def leave(self, nodes: Sequence[Node]) -> list[Node]:
        """Stop using these nodes, and stop those that nobody else uses, unless they are to be kept.

        Returns the nodes that stay. A node that cannot be reached is one of them: it ends when it is idle.
        """
        last = self.last(nodes)
        now = {node.task: node for node in map(self.node, self.account.described([each.task for each in last])) if node}
        unwanted = [node for node in last if not self.options.keep and not now.get(node.task, node).keep]
        for node in last:
            if node not in unwanted:
                self.leases.reopen(node)
        self._stop(unwanted, "nobody uses this node any more")
        return [node for node in nodes if node not in unwanted]

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

    def _trim(self, count: int) -> None:
        extra = [node for node in self.status() if (index_of(node.slot) or 0) >= count]
        unused = self.last(extra)
        self._stop(unused, "fewer nodes are wanted")
        stay = [node.slot for node in extra if node not in unused]
        if stay:
            logger.warning("%s stay: clients use them, or they cannot be reached from here", ", ".join(stay))

    def _stop(self, nodes: Sequence[Node], reason: str) -> None:
        """Stop all of these; raise the first error when all have been tried."""
        errors: list[StoreError] = []
        for node in nodes:
            try:
                self.account.stop(node.task, reason)
            except StoreError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    # --- down

    def down(self, tell: Tell) -> Removed:
        """Stop all nodes, whoever uses them, and remove everything that was made for them here."""
        nodes = self.status()
        running = self.account.tasks()
        for n, task in enumerate(running):
            tell("stopping nodes", n, len(running))
            self.account.stop(str(task["taskArn"]), _DOWN)
        ending = [str(task["taskArn"]) for task in [*running, *self.account.tasks(status="STOPPED")]]
        end = time.monotonic() + _STOP_S
        for pause_s in pauses():
            told = self.account.described(ending)
            ending = [str(task["taskArn"]) for task in told if task.get("lastStatus") not in ("STOPPED", "DELETED")]
            if not ending:
                break
            tell("nodes have still to end", 0, len(ending))
            if time.monotonic() > end:
                raise StoreUnavailable(
                    f"{len(ending)} nodes have not ended within {_STOP_S:g} s",
                    backend=BACKEND,
                    hint="try again in a minute",
                )
            self.pause(pause_s)
        tell("removing what was made for nodes", 0, 1)
        removed, left = self.account.remove()
        tell("removing what was made for nodes", 1, 1)
        return Removed(tuple(nodes), tuple(removed), tuple(left))

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

    def over(self, nodes: Sequence[Node]) -> list[Node]:
        """Return which of these have ended. Stops a node whose health check fails; that one counts as ended.

        Raises `TakenDown` if somebody has stopped them with `down`.
        """
        try:
            tasks = {str(task["taskArn"]): task for task in self.account.described([node.task for node in nodes])}
        except FargateRefused as error:
            if not error.missing:
                raise
            raise self.taken_down() from error
        if any(task.get("stoppedReason") == _DOWN for task in tasks.values()):
            raise self.taken_down()
        lost = []
        for node in nodes:
            task = tasks.get(node.task)
            if task is None or is_over(task):
                lost.append(node)
            elif task.get("healthStatus") == "UNHEALTHY":
                self.account.stop(node.task, "its health check fails")
                lost.append(node)
        return lost

    def taken_down(self) -> TakenDown:
        """Return the error for a client that goes on using the store."""
        return TakenDown(
            f"the store {self.options.name} was taken down while this client used it",
            backend=BACKEND,
            hint="a new client starts nodes anew",
        )

    def node(self, task: Mapping[str, Any]) -> Node | None:
        """Return the node that a task runs; None if it runs no node."""
        node = Node.of(task, *self._find(self.account, task))
        if node is not None:
            self._newest = max(self._newest, node.generation)
        return node

    def next_generation(self) -> int:
        """Return a generation newer than all nodes seen so far: from the Unix time, as nobody keeps a count."""
        return max(int(time.time()), self._newest + 1)

    def close(self) -> None:
        """Close all connections."""
        if self._leases is not None:
            self._leases.close()
        self.account.close()
