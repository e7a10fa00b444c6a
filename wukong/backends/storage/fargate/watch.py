"""The client's thread that watches its nodes: it renews leases, and replaces lost nodes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from wukong.backends.storage.fargate.leases import LEASE_S
from wukong.backends.storage.fargate.nodes import Node, Nodes, TakenDown
from wukong.backends.storage.fargate.pacing import at_once
from wukong.core.interrupts import start_thread
from wukong.errors import StoreUnavailable, WukongError

__all__ = ["NodeWatch"]

logger = logging.getLogger(__name__)

_ALARM_S = 30.0
_ALARM_EVERY_S = 0.5
_MOST_PAUSE_S = 60.0


class NodeWatch:
    """Watches nodes from `start` to `stop`.

    It logs failures and retries, less and less often. Users of the store get their own errors.

    Args:
        nodes: of the store.
        mine: the nodes that this client uses, by slot.
        follow: makes this client use these nodes; called before they appear in `mine`.
        publish: tells all nodes where these are; called when one was replaced, and now and then.
    """

    def __init__(
        self,
        nodes: Nodes,
        mine: Sequence[Node],
        follow: Callable[[Sequence[Node]], None],
        publish: Callable[[Sequence[Node]], None],
    ) -> None:
        self._nodes, self._follow, self._publish = nodes, follow, publish
        self._mine = list(mine)
        self._alarm = threading.Event()
        self._stopped = threading.Event()
        self._given_up = False
        idle_s = nodes.shape.idle_s if nodes.shape is not None else LEASE_S
        self._renew_s = min(LEASE_S, idle_s) / 3  # an open client keeps its nodes from ending as idle ones
        self._every_s = min(nodes.options.watch_s, self._renew_s)
        self._thread = threading.Thread(target=self._run, name="wukong-fargate-watch", daemon=True)

    @property
    def mine(self) -> list[Node]:
        """The nodes, as they are now."""
        return list(self._mine)

    def start(self) -> None:
        """Begin."""
        start_thread(self._thread)

    def alarm(self, slot: str) -> None:
        """Look at once after a node did not answer, and often for a while, as AWS takes a moment to notice a death.

        Raises `TakenDown` if there is nothing to wait for.
        """
        if self._given_up:
            raise self._nodes.taken_down()
        logger.debug("%s does not answer", slot)
        self._alarm.set()

    def stop(self) -> None:
        """End, and stop nodes that are being started. Afterwards `mine` are the nodes that this client still uses."""
        self._stopped.set()
        self._alarm.set()
        self._nodes.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        close_until_s = renewed_s = time.monotonic()
        failures = 0
        while True:
            close = time.monotonic() < close_until_s
            pause_s = min(self._every_s, _ALARM_EVERY_S) if close else self._every_s
            if self._alarm.wait(min(_MOST_PAUSE_S, pause_s * 2**failures)):
                close_until_s = time.monotonic() + _ALARM_S
            self._stopped.wait(min(pause_s, _ALARM_EVERY_S))  # callers report a dead node again and again
            self._alarm.clear()
            if self._stopped.is_set():
                return
            try:
                if self._nodes.over(self._mine):
                    self._replace()
                elif time.monotonic() - renewed_s > self._renew_s:
                    renewed_s = time.monotonic()
                    at_once(self._renew, self._mine)
                    self._publish(self._mine)
                failures = 0
            except TakenDown as error:
                logger.error("%s", error)
                self._given_up = True
                return
            except WukongError as error:
                if self._stopped.is_set():
                    return
                failures = min(failures + 1, 8)
                logger.warning("the nodes of the store cannot be looked after now: %s", error)

    def _replace(self) -> None:
        before = {node.task for node in self._mine}
        nodes = self._nodes.up(_silent, use=True, holding=self._mine)
        self._follow(nodes)
        self._mine = nodes
        new = [node.slot for node in self._mine if node.task not in before]
        logger.warning("replaced, and what they held is computed again: %s", ", ".join(new))
        self._publish(self._mine)

    def _renew(self, node: Node) -> None:
        try:
            self._nodes.leases.enter(node)
        except StoreUnavailable:
            self.alarm(node.slot)


def _silent(what: str, done: int, of: int) -> None:
    """Nobody watches."""
