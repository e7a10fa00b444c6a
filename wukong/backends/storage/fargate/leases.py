"""How clients enter and leave a node: leases, which say who uses it, and the directory, which says where all nodes are.

    wukong-store:leases      sorted set: client -> until when, by the node's own clock
    wukong-store:closing     exists once the last client has left and is about to stop the node

Entering and leaving are atomic (Lua). If one client leaves while another enters, either the first is told that it is
not the last, or the second that the node is about to end. So no node is stopped under a client. A client that dies
without leaving is forgotten when its lease has run out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping

import redis

from wukong.backends.storage.fargate.account import NodeKeys
from wukong.backends.storage.fargate.definition import PORT
from wukong.backends.storage.fargate.node import Node
from wukong.backends.storage.fargate.options import FargateOptions
from wukong.backends.storage.fargate.script import PASSWORD_VARIABLE
from wukong.backends.storage.fargate.shards import DIRECTORY, Place, access_to, packed
from wukong.backends.storage.redis.address import Endpoint
from wukong.backends.storage.redis.advice import said
from wukong.backends.storage.redis.request import RedisRequest
from wukong.backends.storage.redis.server import RedisNode

__all__ = ["LEASES", "LEASE_S", "Leases", "endpoint_of"]

LEASE_S = 60.0
"""A client that has not renewed its lease for this long no longer counts as using the node."""

LEASES, _CLOSING = b"wukong-store:leases", b"wukong-store:closing"
_CLOSING_MS = 120_000
_GLANCE_S = 2.0
_ENTER = b"""
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return 1
"""
_PUBLISH = b"""
for at = 1, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[at])
  if not known or tonumber(known:match('^%d+')) < tonumber(ARGV[at + 1]:match('^%d+')) then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  end
end
return 1
"""
_LEAVE = b"""
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) > 0 then return 0 end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
"""


class Leases:
    """One client's access to its nodes. Safe in several threads.

    Every method raises `StoreUnavailable` if the node cannot be reached, and `StoreError` if it does not let this
    client in.

    Args:
        options: of the store.
        keys: the nodes' password and certificate.
        client: the id of this client.
    """

    def __init__(self, options: FargateOptions, keys: NodeKeys, client: str) -> None:
        self._options, self._keys, self._client = options, keys, client
        self._lock = threading.Lock()
        self._servers: dict[str, RedisNode] = {}

    def ping(self, node: Node) -> None:
        """Return when the node has answered. This does not count as use of it, see `script`."""
        self._ask(node, b"PING")

    def enter(self, node: Node) -> bool:
        """Take or renew this client's lease; return False if the node is about to be stopped."""
        lease_ms = int(LEASE_S * 1000)
        return self._ask(node, b"EVAL", _ENTER, 2, LEASES, _CLOSING, self._client, lease_ms) == 1

    def leave(self, node: Node) -> bool:
        """Give up the lease. True: nobody else has one, the node admits nobody now, and this client has to stop it."""
        return self._ask(node, b"EVAL", _LEAVE, 2, LEASES, _CLOSING, self._client, _CLOSING_MS) == 1

    def reopen(self, node: Node) -> None:
        """Let others in again: the node is not stopped after all."""
        self._ask(node, b"DEL", _CLOSING)

    def publish(self, node: Node, places: Mapping[str, Place]) -> None:
        """Write the addresses of these into the node's directory, unless it knows newer ones."""
        entries = [word for slot, place in places.items() for word in (slot, packed(place))]
        self._ask(node, b"EVAL", _PUBLISH, 1, DIRECTORY, *entries)

    def memory(self, node: Node) -> tuple[int, int]:
        """Return how many bytes a node uses, and how many it may use. This does not count as use of it."""
        server = self._opened(node, _GLANCE_S)
        request = RedisRequest()
        request.add(b"INFO", b"memory")
        try:
            (reply,) = server.ask(request)
            if isinstance(reply, redis.ResponseError):
                raise server.failure(reply) from reply
        finally:
            server.close()
        info = said(reply)
        return int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            servers = list(self._servers.values())
            self._servers.clear()
        for server in servers:
            server.close()

    def _ask(self, node: Node, *command: bytes | str | int) -> object:
        server = self._server(node)
        request = RedisRequest()
        request.add(*command)
        (reply,) = server.ask(request)
        if isinstance(reply, redis.ResponseError):
            raise server.failure(reply) from reply
        return reply

    def _server(self, node: Node) -> RedisNode:
        with self._lock:
            if node.task not in self._servers:
                self._servers[node.task] = self._opened(node)
            return self._servers[node.task]

    def _opened(self, node: Node, limit_s: float = math.inf) -> RedisNode:
        options, keys = self._options, self._keys
        access = access_to(
            node.slot,
            node.generation,
            keys.password,
            PASSWORD_VARIABLE,
            keys.ca_data,
            min(limit_s, options.connect_timeout_s),
            min(limit_s, options.timeout_s),
        )
        return RedisNode(Endpoint.parse(endpoint_of(node, public=options.public)), access)


def endpoint_of(node: Node, *, public: bool) -> str:
    """Return ``"host:port"`` of a node whose address is known."""
    address = node.public_address if public else node.address
    assert address is not None, f"{node.slot} has no address yet"
    return f"{address}:{PORT}"
