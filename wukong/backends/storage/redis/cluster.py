"""A Redis Cluster as its clients see it: who holds which slot, requests that go to the right server, redirections.

    key -> slot       CRC16 of the text in braces, modulo 16,384
    slot -> server    what `CLUSTER SLOTS` says; asked again when a server redirects, turns replica, or is gone
    MOVED             the slot has another server: the map is old
    ASK               this key has left with its slot's migration: this command alone goes to the other server

Every command has the keys of one slot. Commands for one server travel together; several servers are asked at the same
time. A command that is redirected is sent again, which is no harm: all of them may be repeated.
"""

from __future__ import annotations

import time
from binascii import crc_hqx
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import redis
from redis.exceptions import AskError, MovedError

from wukong.backends.storage import Blob
from wukong.backends.storage.at_once import CallsAtOnce
from wukong.backends.storage.redis.access import RedisAccess
from wukong.backends.storage.redis.address import BACKEND, Endpoint
from wukong.backends.storage.redis.errors import is_replica, translated
from wukong.backends.storage.redis.reply import Values
from wukong.backends.storage.redis.request import RedisRequest
from wukong.backends.storage.redis.server import RedisNode
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["ClusterRequest", "RedisCluster", "slot_of"]

_SLOTS = 16_384
_MOST_HOPS = 8
_ASKED_AGAIN_S = 0.05

_Verb: TypeAlias = Callable[[RedisNode, RedisRequest], list[Any]]


def slot_of(name: bytes) -> int:
    """Return the slot of a name on the server: of the text in its first braces, or of all of it if there is none."""
    start = name.find(b"{")
    end = name.find(b"}", start + 1) if start >= 0 else -1
    return crc_hqx(name[start + 1 : end] if end > start + 1 else name, 0) % _SLOTS


@dataclass(frozen=True, slots=True)
class _Command:
    """A command for one slot; `blob`: it is a `SET` of `words[0]`, with a time to live of `words[1]` milliseconds."""

    slot: int
    words: tuple[Any, ...]
    blob: Blob | None = None

    def pack(self, request: RedisRequest) -> None:
        if self.blob is None:
            request.add(*self.words)
        else:
            key, ttl_ms = self.words
            request.add_set(key, self.blob, ttl_ms)


class ClusterRequest:
    """Commands on their way to a cluster. As `RedisRequest`, but unpacked: a command may be sent several times."""

    __slots__ = ("commands",)

    def __init__(self) -> None:
        self.commands: list[_Command] = []

    @property
    def n_commands(self) -> int:
        """How many commands there are."""
        return len(self.commands)

    def add(self, *words: Any) -> None:
        """Add a command whose first key decides on the server."""
        key = words[3 if words[0] == b"EVALSHA" else 1]
        self.commands.append(_Command(slot_of(key), words))

    def add_set(self, key: bytes, blob: Blob, ttl_ms: int | None) -> None:
        """Add a `SET`."""
        self.commands.append(_Command(slot_of(key), (key, ttl_ms), blob))


class RedisCluster:
    """All servers of one cluster, as far as they hold keys. Safe for threads and across forks.

    Args:
        seeds: servers of the cluster, or a name that leads to some; the others are learned from them.
        access: to all of them.
    """

    def __init__(self, seeds: Sequence[Endpoint], access: RedisAccess) -> None:
        self.name = ", ".join(seed.name for seed in seeds)
        self._access = access
        self._nodes: dict[str, RedisNode] = {}
        self._seeds = [self._node(seed) for seed in seeds]
        self._owners: Sequence[RedisNode | None] = ()
        self._calls = CallsAtOnce()

    # --- what `RedisNode` offers, too

    def request(self) -> ClusterRequest:
        """Return an empty request."""
        return ClusterRequest()

    def ask(self, request: Any) -> list[Any]:
        """See `RedisNode.ask`."""
        return self._routed(request.commands, RedisNode.ask)

    def ask_values(self, request: Any) -> list[Values]:
        """See `RedisNode.ask_values`."""
        return self._routed(request.commands, RedisNode.ask_values)

    def servers(self) -> Sequence[RedisNode]:
        """Return the servers that hold the keys. Raises as `ask`."""
        owners = self._owners or self._look()
        return list(dict.fromkeys(owner for owner in owners if owner is not None))

    def watch(self, key: bytes, timeout_s: float) -> bytes | None:
        """See `RedisNode.watch`. A key whose slot moves meanwhile is watched at its new server."""
        end_s = time.monotonic() + timeout_s
        slot = slot_of(key)
        while True:
            owner = self._owner(slot)
            try:
                return owner.watch(key, max(0.0, end_s - time.monotonic()))
            except StoreError as error:
                if _is_ask(error.__cause__):
                    value = self._value_on_the_move(key)
                    if value is not None or time.monotonic() >= end_s:
                        return value
                    time.sleep(_ASKED_AGAIN_S)
                    continue
                moved = isinstance(error.__cause__, MovedError)
                if not moved and not isinstance(error, StoreUnavailable):
                    raise
                if self._look()[slot] is owner and not moved:
                    raise

    def failure(self, error: Exception) -> StoreError:
        """Return the error to raise for one of redis-py's that a server of the cluster has answered."""
        if isinstance(error, AskError):
            return StoreUnavailable(
                f"the Redis Cluster {self.name} redirects again and again: {error}",
                backend=BACKEND,
                hint="do its servers agree on who holds which slot? `redis-cli --cluster check` tells",
            )
        return translated(error, Endpoint(self.name), self._access)

    def close(self) -> None:
        """Close all connections. One that is wanted afterwards is made anew."""
        self._calls.close()
        for node in list(self._nodes.values()):
            node.close()

    # --- routing

    def _routed(self, commands: Sequence[_Command], verb: _Verb) -> list[Any]:
        """Send each command to its server; follow redirections; return the replies in order."""
        replies: list[Any] = [None] * len(commands)
        todo: Sequence[int] = range(len(commands))
        elsewhere: dict[int, RedisNode] = {}
        for _ in range(_MOST_HOPS):
            shares: dict[tuple[RedisNode, bool], list[int]] = {}
            for n in todo:
                asked = elsewhere.get(n)
                where = (self._owner(commands[n].slot), False) if asked is None else (asked, True)
                shares.setdefault(where, []).append(n)
            elsewhere = {}
            calls = [(_answers, (*where, [commands[n] for n in share], verb)) for where, share in shares.items()]
            again: list[int] = []
            lost: list[tuple[RedisNode, int, StoreUnavailable]] = []
            stale = False
            for ((owner, _), share), answers in zip(shares.items(), self._calls.make(calls), strict=True):
                if isinstance(answers, StoreUnavailable):
                    lost.append((owner, commands[share[0]].slot, answers))
                    again += share
                    continue
                for n, reply in zip(share, answers, strict=True):
                    replies[n] = reply
                    if not isinstance(reply, redis.ResponseError):
                        continue
                    if _is_ask(reply):
                        elsewhere[n] = self._node(_named(reply.host, reply.port, owner))
                    elif isinstance(reply, MovedError) or is_replica(reply):
                        stale = True
                    else:
                        continue
                    again.append(n)
            if not again:
                break
            if stale or lost:
                owners = self._look()
                for owner, slot, error in lost:
                    if owners[slot] is owner:  # nobody has taken over yet
                        raise error
            todo = again
        return replies

    def _owner(self, slot: int) -> RedisNode:
        owners = self._owners or self._look()
        owner = owners[slot]
        if owner is None:
            owner = self._look()[slot]
        if owner is None:
            raise StoreUnavailable(
                f"the Redis Cluster {self.name} has no server for the slot {slot} now",
                backend=BACKEND,
                hint="a server is gone that has no replica, or its replica has not taken over yet",
            )
        return owner

    def _look(self) -> Sequence[RedisNode | None]:
        """Ask for the map of slots, one server after the other until one answers; return and keep it."""
        failures = []
        for node in self._known():
            request = node.request()
            request.add(b"CLUSTER", b"SLOTS")
            try:
                [reply] = node.ask(request)
            except StoreUnavailable as error:
                failures.append(error)
                continue
            if isinstance(reply, redis.ResponseError):
                if "cluster support disabled" in str(reply):
                    raise StoreError(
                        f"the Redis server {node.name} is not part of a Redis Cluster",
                        backend=BACKEND,
                        hint="leave out cluster=true: Wukong spreads keys over servers that stand alone by itself",
                    ) from reply
                raise node.failure(reply) from reply
            owners: list[RedisNode | None] = [None] * _SLOTS
            for first, last, (host, port, *_), *_replicas in reply:
                owners[first : last + 1] = [self._node(_named(host, port, node))] * (last + 1 - first)
            self._owners = owners
            return owners
        raise failures[0]

    def _known(self) -> Iterator[RedisNode]:
        """The servers to ask for the map: first those that hold slots, as far as is known."""
        yield from dict.fromkeys([*(each for each in self._owners if each is not None), *self._seeds])

    def _node(self, endpoint: Endpoint) -> RedisNode:
        return self._nodes.get(endpoint.name) or self._nodes.setdefault(
            endpoint.name, RedisNode(endpoint, self._access)
        )

    def _value_on_the_move(self, key: bytes) -> bytes | None:
        request = self.request()
        request.add(b"MGET", key)
        [reply] = self.ask(request)
        if isinstance(reply, redis.ResponseError):
            raise self.failure(reply) from reply
        value: bytes | None = reply[0]
        return value


def _is_ask(error: object) -> TypeGuard[AskError]:
    return isinstance(error, AskError) and not isinstance(error, MovedError)  # redis-py derives one from the other


def _answers(node: RedisNode, asking: bool, commands: Sequence[_Command], verb: _Verb) -> list[Any] | StoreUnavailable:
    """Send commands to one server; `asking`: it has only begun to take over their slots."""
    request = node.request()
    for command in commands:
        if asking:
            request.add(b"ASKING")
        command.pack(request)
    try:
        return node.ask(request)[1::2] if asking else verb(node, request)
    except StoreUnavailable as error:
        return error


def _named(host: bytes | str | None, port: int, teller: RedisNode) -> Endpoint:
    """Return the address that a server told; without a host it means its own."""
    name = host.decode() if isinstance(host, bytes) else host
    if not name or name == "?":
        name = teller.host
    return Endpoint.parse(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
