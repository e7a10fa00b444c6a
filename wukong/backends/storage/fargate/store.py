"""The store `fargate`: Redis servers as AWS Fargate tasks, which it starts, finds, watches and stops.

    Fargate = the client's:  Nodes (AWS) + Watch (a thread) + FargateShards (Redis)
    functions open:          FargateShards alone, and never ask AWS

Only the client makes a `Fargate`. It has no nodes before `start`; mere use starts none.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NoReturn

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Rent, Store, Tell
from wukong.backends.storage.fargate.account import FargateAccount, NodeKeys
from wukong.backends.storage.fargate.finding import Find, found
from wukong.backends.storage.fargate.leases import endpoint_of
from wukong.backends.storage.fargate.nodes import Node, Nodes
from wukong.backends.storage.fargate.options import BACKEND, FargateOptions
from wukong.backends.storage.fargate.pacing import at_once
from wukong.backends.storage.fargate.price import rent
from wukong.backends.storage.fargate.script import PASSWORD_VARIABLE
from wukong.backends.storage.fargate.shards import FargateShards, Place
from wukong.backends.storage.fargate.watch import NodeWatch
from wukong.backends.storage.layers.layer import Layer
from wukong.backends.storage.redis.shard import RedisShard
from wukong.errors import ConfigError, StoreError, StoreUnavailable

__all__ = ["Fargate"]

logger = logging.getLogger(__name__)


class Fargate(Layer):
    """The store `fargate`. All arguments are keywords; see `wukong.backends.storage.fargate.options.FargateOptions`.

    One differs: ``name`` there is ``deployment`` here.

    Args:
        find: finds a node's addresses; only for stand-ins of AWS.
        options: see above.

    Raises `ConfigError` for invalid options.
    """

    def __init__(self, *, find: Find = found, **options: Any) -> None:
        super().__init__(_NotStarted())
        self.options = FargateOptions.of(options)
        self.nodes = Nodes(self.options, FargateAccount(self.options), find)
        self.capabilities = replace(
            RedisShard.capabilities, max_value_bytes=None, takes=False, recovery_s=self.options.recovery_s
        )  # until it is known how many nodes there are
        self._lock = threading.Lock()
        self._shards: FargateShards | None = None
        self._watch: NodeWatch | None = None
        self._keys: NodeKeys | None = None

    def start(self, tell: Tell) -> None:
        """Bring the nodes up: adopt those that run, start the others. See `Store.start`."""
        with self._lock:
            if self._watch is not None:
                return
            mine = self.nodes.up(tell, use=True)
            with ExitStack() as undo:
                undo.callback(self.nodes.leave, mine)
                shape = self.nodes.shape
                assert shape is not None
                keys = self.nodes.account.keys(shape)
                watch = NodeWatch(self.nodes, mine, self._follow, self._publish)
                opening = self._opening(mine, keys, public=self.options.public)
                shards = FargateShards(**opening, password=keys.password, lost=watch.alarm)
                undo.callback(shards.close)
                self._publish(mine)
                undo.pop_all()
            self.inner, self.capabilities = shards, shards.capabilities
            self._shards, self._watch, self._keys = shards, watch, keys
            watch.start()

    def spec(self) -> PluginSpec:
        """See `Store.spec`. Functions open the nodes at their present addresses."""
        watch, keys = self._started()
        opening = self._opening(watch.mine, keys, public=self._functions_come_from_outside())
        return PluginSpec(f"{FargateShards.__module__}:FargateShards", opening)

    def _functions_come_from_outside(self) -> bool:
        """Whether functions run on the client's machine, as with the emulator."""
        return self.options.public and not self.nodes.account.functions_are_there()

    def environment(self) -> Mapping[str, str]:
        """See `Store.environment`: the nodes' password."""
        return {PASSWORD_VARIABLE: self._started()[1].password}

    def rent(self) -> Rent | None:
        """See `Store.rent`."""
        shape = self.nodes.shape
        if self._watch is None or shape is None:
            return None
        options = self.options
        return rent(len(self._watch.mine), shape, options.vcpu_hour_usd, options.gb_hour_usd)

    def advice(self) -> Sequence[str]:
        """See `Store.advice`. Starts nothing, and says nothing about nodes that do not run."""
        if self._shards is not None:
            return self._shards.advice()
        try:
            return self._outlook()
        except ConfigError as error:
            return [f"{error.message} -> {error.hint}"]

    def _outlook(self) -> list[str]:
        """Return what would prevent the start or adoption of nodes."""
        nodes, name = self.nodes.status(), self.options.name
        if not nodes:
            place = self.nodes.account.place
            return [f"no node of {name} runs yet, they would be in {place.why} -> nothing to do: a client starts them"]
        lines = [
            f"{node.slot} of {name} fails its health check -> a client replaces it"
            for node in nodes
            if node.health == "UNHEALTHY"
        ]
        for node in nodes:
            if node.state == "RUNNING" and node.address is not None:
                try:
                    self.nodes.memory(node)
                except StoreUnavailable:
                    error = self.nodes.out_of_reach(node)
                    return [*lines, f"{error.message} -> {error.hint}"]
        return lines

    def close(self) -> None:
        """Leave the nodes, and stop those that nobody else uses, unless they are to be kept."""
        with self._lock:
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.stop()
                self.inner, shards = _NotStarted(), self._shards
                assert shards is not None
                self._shards = None
                try:
                    stay = self.nodes.leave(watch.mine)
                finally:
                    shards.close()
                logger.info("%d nodes are stopped, %d stay", len(watch.mine) - len(stay), len(stay))
            self.nodes.close()

    def _started(self) -> tuple[NodeWatch, NodeKeys]:
        if self._watch is None or self._keys is None:
            _not_started()
        return self._watch, self._keys

    def _opening(self, nodes: Sequence[Node], keys: NodeKeys, *, public: bool) -> dict[str, Any]:
        options = self.options
        return {
            "slots": [[slot, *place] for slot, place in _places(nodes, public=public).items()],
            "ca_data": keys.ca_data,
            "connect_timeout_s": options.connect_timeout_s,
            "timeout_s": options.timeout_s,
            "recovery_s": options.recovery_s,
            "chunk_bytes": options.chunk_bytes,
        }

    def _follow(self, nodes: Sequence[Node]) -> None:
        assert self._shards is not None
        self._shards.move(_places(nodes, public=self.options.public))

    def _publish(self, nodes: Sequence[Node]) -> None:
        """Write the directory to all nodes. A node that cannot be reached is replaced, or gets it later."""
        places = _places(nodes, public=self._functions_come_from_outside())

        def tell(node: Node) -> None:
            try:
                self.nodes.leases.publish(node, places)
            except StoreUnavailable as error:
                logger.info("%s does not hear where the others are: %s", node.slot, error)

        at_once(tell, nodes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options.name})"


def _signature() -> inspect.Signature:
    """Return the plug-in's signature: the fields of `FargateOptions`, one of them under another name."""
    hints = inspect.get_annotations(FargateOptions, eval_str=True)
    parameters = [
        inspect.Parameter(
            "deployment" if each.name == "name" else each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=hints[each.name],
        )
        for each in dataclasses.fields(FargateOptions)
    ]
    return inspect.Signature(parameters)


Fargate.__signature__ = _signature()  # type: ignore[attr-defined]


def _places(nodes: Sequence[Node], *, public: bool) -> dict[str, Place]:
    return {node.slot: (node.generation, endpoint_of(node, public=public)) for node in nodes}


def _not_started() -> NoReturn:
    raise StoreError(
        "the store on Fargate has no nodes: it was not started, or is closed",
        backend=BACKEND,
        hint="a client starts it; whoever uses it by themselves calls start() first, and close() in the end",
    )


class _NotStarted(Store):
    """The store inside while there are no nodes."""

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        _not_started()

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        _not_started()

    def delete(self, keys: Sequence[bytes]) -> None:
        _not_started()

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        _not_started()

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        _not_started()

    def spec(self) -> PluginSpec:
        _not_started()
