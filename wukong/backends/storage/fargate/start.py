"""One attempt to bring nodes up: adopt, start, wait until they serve; or undo what was done so far."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence

from wukong.backends.storage import Tell
from wukong.backends.storage.fargate.account import SetUp
from wukong.backends.storage.fargate.node import Node, index_of, is_over, slot_name, story_of
from wukong.backends.storage.fargate.options import BACKEND, Shape
from wukong.backends.storage.fargate.pacing import at_once, pauses
from wukong.backends.storage.fargate.resources import PASSWORD
from wukong.backends.storage.fargate.shards import is_stranger
from wukong.backends.storage.fargate.view import NodesView
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["Start"]

logger = logging.getLogger(__name__)

_WHAT = "Redis nodes on AWS Fargate"
_TRIES = 3
"""How often a node that ECS calls healthy is asked before it counts as out of reach."""


class Start:
    """One `Nodes.up`, whose arguments it has.

    Args:
        nodes: the store's, looked at.

    Attributes:
        id: the mark of the tasks that it starts.
        ours: the nodes that it has started, by task.
        entered: nodes on which it has taken a lease, by task.
    """

    def __init__(self, nodes: NodesView, tell: Tell, use: bool, holding: Sequence[Node]) -> None:
        self._nodes, self._tell, self._use = nodes, tell, use
        self._account, self._options = nodes.account, nodes.options
        self.id = uuid.uuid4().hex
        self.ours: dict[str, Node] = {}
        self.entered: dict[str, Node] = {}
        self._ready = {node.task for node in holding}
        self._tries: dict[str, int] = {}
        tell("looking for nodes on AWS Fargate", 0, 1)
        self._live = nodes.live()
        self._wanted = [slot_name(index) for index in range(len(holding) or self._options.nodes or _count(self._live))]

    @property
    def adopted(self) -> list[Node]:
        """The nodes that run, wanted or not."""
        return [node for node in self._live.values() if node.task not in self.ours]

    def run(self, shape: Shape, interrupted: Callable[[], None]) -> list[Node]:
        """Wait until all nodes serve; return them by slot. `interrupted` raises if that is not wanted any more."""
        end = time.monotonic() + self._options.start_timeout_s
        setup: SetUp | None = None
        if self._options.client_cidr is not None and self._live:
            self._account.admit()
        for pause_s in pauses():
            missing = [slot for slot in self._wanted if slot not in self._live]
            if missing:
                self._tell(f"setting up {self._options.name} on AWS", 0, len(self._wanted))
                setup = setup or self._account.prepare(shape)
                logger.info("%s are started in %s", ", ".join(missing), setup.place.why)
                self._start(missing, setup)
            self._nodes.open_leases(shape)
            self._greet()
            ready = [node for slot in self._wanted if (node := self._live.get(slot)) and node.task in self._ready]
            self._tell(_WHAT, len(ready), len(self._wanted))
            interrupted()
            if len(ready) == len(self._wanted):
                return ready
            if time.monotonic() > end:
                raise self._late()
            self._nodes.pause(pause_s)
            self._look()
        raise AssertionError("pauses do not end")

    def abandon(self) -> None:
        """Stop what was started, even if AWS's answer was lost, unless others use it by now."""
        kept = set(self.entered)
        for node in self._nodes.last(self.entered.values()):
            if node.task in self.ours or not node.keep:
                kept.discard(node.task)
                self._stop(node.task)
            else:
                self._nodes.leases.reopen(node)
        tasks = set(self.ours)
        try:
            tasks |= {str(task["taskArn"]) for task in self._account.tasks(started_by=self.id)}
            kept |= self._used_by_others(tasks - set(self.entered))
        except StoreError as error:
            logger.warning("which nodes were started, and who uses them, cannot be asked for: %s", error)
        for task in tasks - set(self.entered) - kept:
            self._stop(task)
        if kept:
            logger.info("%d nodes stay: others use them, or they cannot be reached", len(kept))

    def _used_by_others(self, tasks: Collection[str]) -> set[str]:
        """Return which of these, that this start has no lease on, others use. The rest admits nobody any more."""
        used: set[str] = set()

        def ask(node: Node) -> None:
            try:
                if not self._nodes.leases.leave(node):
                    used.add(node.task)
            except StoreError as error:  # what does not serve is used by nobody
                logger.info("%s does not say who uses it: %s", node.slot, error)

        if tasks and self._nodes.knows_leases:
            nodes = map(self._nodes.node, self._account.described(list(tasks)))
            at_once(ask, [node for node in nodes if node is not None and self._has_address(node)])
        return used

    def _stop(self, task: str) -> None:
        try:
            self._account.stop(task, "the start of these nodes has failed")
        except StoreError as error:
            logger.error("%s could not be stopped, and ends when it is idle: %s", task, error)

    def _start(self, slots: Sequence[str], setup: SetUp) -> None:
        """Start these. If another client did so at the same moment, keep the node that ECS made first."""
        generation = self._nodes.next_generation()

        def start(slot: str) -> None:
            task = self._account.run(setup, slot, generation, self.id, keep=self._options.keep)
            node = self._nodes.node(task)
            assert node is not None, "a task has the tags that it was started with"
            self.ours[node.task] = node

        at_once(start, slots)
        listed = self._nodes.live()
        for node in self.ours.values():
            other = listed.get(node.slot)
            if other is None:  # AWS does not list it yet
                self._live[node.slot] = node
            elif other.task == node.task or other.task in self.ours:
                self._live[node.slot] = other
            else:
                self._account.stop(node.task, "another client has started the same node")
                self._live[node.slot] = other
        self.ours = {task: node for task, node in self.ours.items() if self._live[node.slot].task == task}

    def _greet(self) -> None:
        """Take a lease on each node that can be reached by now, unless it is about to be stopped."""
        wanted = [self._live[slot] for slot in self._wanted]
        at_once(self._greet_one, [node for node in wanted if node.task not in self._ready and self._has_address(node)])

    def _has_address(self, node: Node) -> bool:
        """Return whether the node runs, at a known address."""
        address = node.public_address if self._options.public else node.address
        return node.state == "RUNNING" and address is not None

    def _greet_one(self, node: Node) -> None:
        leases = self._nodes.leases
        try:
            if not self._use:
                leases.ping(node)
            elif not leases.enter(node):
                return
            else:
                self.entered[node.task] = node
        except StoreUnavailable as error:
            if node.health != "HEALTHY":
                return
            self._tries[node.task] = self._tries.get(node.task, 0) + 1
            if self._use and self._tries[node.task] >= _TRIES:
                raise self._nodes.out_of_reach(node) from error
            if self._use:
                return
        except StoreError as error:
            if not is_stranger(error):
                raise
            raise StoreError(
                f"{node.slot} does not take the password that the secret {self._options.name}/{PASSWORD} has",
                backend=BACKEND,
                hint="the secret was made anew after the node was started: 'wukong store down' stops all nodes",
            ) from error
        if self._options.keep and not node.keep:
            self._account.keep(node.task)
        self._ready.add(node.task)

    def _look(self) -> None:
        """Look at the nodes again. If one has ended, it counts as missing if others had started it; else raise."""
        nodes = list(self._live.values())
        tasks = {str(task["taskArn"]): task for task in self._account.described([node.task for node in nodes])}
        for node in nodes:
            task = tasks.get(node.task)
            if task is not None and task.get("healthStatus") == "UNHEALTHY" and node.task not in self._ready:
                self._account.stop(node.task, "its health check fails")
                task = {**task, "desiredStatus": "STOPPED", "stoppedReason": "its health check fails"}
            if task is not None and not is_over(task):
                self._live[node.slot] = self._nodes.node(task) or node
                continue
            if task is None and node.task in self.ours:  # AWS does not describe it yet
                continue
            if node.task in self.ours:
                story, hint = story_of(task or {})
                raise StoreError(f"{node.slot} ended before it served: {story}", backend=BACKEND, hint=hint)
            del self._live[node.slot]
            self._ready.discard(node.task)
            self.entered.pop(node.task, None)

    def _late(self) -> StoreUnavailable:
        states = [
            f"{slot} is {self._live[slot].state if slot in self._live else 'not there'}"
            for slot in self._wanted
            if slot not in self._live or self._live[slot].task not in self._ready
        ]
        some = ", ".join(states[:5]) + (f" and {len(states) - 5} more" if len(states) > 5 else "")
        served = f"{len(self._wanted) - len(states)} of {len(self._wanted)}"
        return StoreUnavailable(
            f"{served} {_WHAT} serve after {self._options.start_timeout_s:g} s: {some}",
            backend=BACKEND,
            hint=f"what they wrote is in the log group {self._account.resources.log_group}; {self._nodes.way()}",
        )


def _count(live: Mapping[str, Node]) -> int:
    """Return how many nodes there are meant to be: the highest running slot plus one; one if none runs."""
    return 1 + max((index_of(slot) or 0 for slot in live), default=0)
