"""The nodes of one store: start, adopt, replace and leave them, or take them all down.

How they are found is in `view`. If two clients start the same slot at once, the node that ECS made first gets it, and
the client that started another one stops that one again.

Who stops a node? The last client that leaves it, unless a client that used it or started it said ``keep``. A client
that leaves while others use the node stops nothing. An `up` that fails stops what it has started, unless another client
uses it already. All other nodes end themselves when they are idle.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wukong.backends.storage import Tell
from wukong.backends.storage.fargate.calls import FargateRefused
from wukong.backends.storage.fargate.node import Node, index_of, is_over
from wukong.backends.storage.fargate.options import BACKEND, Shape
from wukong.backends.storage.fargate.pacing import pauses
from wukong.backends.storage.fargate.start import Start
from wukong.backends.storage.fargate.view import NodesView
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


class Nodes(NodesView):
    """The nodes of one store, as one client brings them up, leaves them and takes them down.

    All methods raise `StoreError` if AWS refuses something or nodes do not come up, `StoreUnavailable` for what may
    pass, and `ConfigError`.
    """

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
        with heeded() as interrupted:
            return self._down(tell, interrupted)

    def _down(self, tell: Tell, interrupted: Callable[[], None]) -> Removed:
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
            interrupted()
        tell("removing what was made for nodes", 0, 1)
        removed, left = self.account.remove()
        tell("removing what was made for nodes", 1, 1)
        return Removed(tuple(nodes), tuple(removed), tuple(left))

    # --- replacing

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
