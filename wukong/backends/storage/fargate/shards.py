"""Redis nodes as one store, which follows them when they move. Functions open it, and the client uses it too.

Keys are spread over *slots*, ``node-0``, ``node-1``, ...; each slot has one node at a time. If a node is lost, one of a
newer *generation* replaces it, at another address and without the values. The client writes the *directory*, with the
generation and the address of each slot, to every node. A user of the store that cannot reach a slot reads the directory
from the other nodes, and follows the newest entry. So executors need no permission to ask AWS.

AWS uses addresses again. So clients log in as ``slot.generation``, a user that only that node knows: another server at
the same address is not mistaken for it.
"""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import redis

from wukong.backends.environment import variable
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Store
from wukong.backends.storage.layers.layer import Layer
from wukong.backends.storage.redis.access import Prompt, RedisAccess
from wukong.backends.storage.redis.address import Endpoint
from wukong.backends.storage.redis.request import RedisRequest
from wukong.backends.storage.redis.server import RedisNode
from wukong.backends.storage.redis.shard import RedisShard
from wukong.backends.storage.redis.spread import spread
from wukong.backends.storage.redis.tls import Tls, TlsConnection
from wukong.errors import StoreError, StoreUnavailable

__all__ = ["DIRECTORY", "FargateShards", "Place", "access_to", "is_stranger", "packed"]

logger = logging.getLogger(__name__)
T = TypeVar("T")

Place: TypeAlias = tuple[int, str]
"""The place of a slot: the node's generation, and ``"host:port"``."""

DIRECTORY = b"wukong-store:directory"
"""The key of the directory on every node, a hash: slot -> generation, a space, ``host:port``."""

_BACKEND = "storage: fargate"
_PREFIX = b"wukong:"
_SLICE_S = 5.0
_LOOK_EVERY_S = 0.5
_LOOK_TIMEOUT_S = 3.0
_MOST_ASKED = 3
_now_s: Callable[[], float] = time.monotonic


def access_to(
    slot: str,
    generation: int,
    password: str | None,
    password_variable: str,
    ca_data: str | None,
    connect_timeout_s: float,
    timeout_s: float,
) -> RedisAccess:
    """Return the access to one node. With TLS the node has to show `ca_data` and no other certificate."""
    tls = None if ca_data is None else Tls(ca_data, verify="ca")
    return _Access(f"{slot}.{generation}", password, password_variable, 0, tls, connect_timeout_s, timeout_s)


class _Access(RedisAccess):
    """Access to a server with exactly the known certificate. It names no host, so an authority could prove nothing."""

    def pool(self, endpoint: Endpoint, *, watch: bool = False) -> redis.ConnectionPool:
        pool = super().pool(endpoint, watch=watch)
        if self.tls is not None:
            pool.connection_class = _Connection
        return pool


class _Connection(Prompt, TlsConnection):
    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        wrapped = super()._wrap_socket_with_ssl(sock)
        if wrapped.getpeercert(binary_form=True) != ssl.PEM_cert_to_DER_cert(str(self.ca_data).strip()):
            wrapped.close()
            error = ssl.SSLCertVerificationError("another certificate than the nodes'")
            error.verify_message = "it shows another certificate than this store's nodes do"
            raise error
        return wrapped


def packed(place: Place) -> bytes:
    """Return a place in the directory's form."""
    return b"%d %b" % (place[0], place[1].encode())


class FargateShards(Layer):
    """The store over the nodes at these places. It connects with its first call.

    Args:
        slots: a ``[slot, generation, "host:port"]`` for each.
        ca_data: the nodes' certificate, if they speak TLS.
        password_variable: the environment variable that holds their password.
        connect_timeout_s, timeout_s, chunk_bytes: as of the store `redis`.
        recovery_s: how long replacing a node may take. In a function this counts only if there are other nodes, which
            tell it of the new one; a function learns of a new single node only when the client invokes anew.
        password: the nodes' password; only the client gives it, functions have the variable.
        lost: called with every slot that did not answer; only the client gives it. May raise an error that replaces
            the original one.
    """

    def __init__(
        self,
        *,
        slots: Sequence[Sequence[Any]],
        ca_data: str | None = None,
        password_variable: str = "WUKONG_REDIS_PASSWORD",
        connect_timeout_s: float = 5.0,
        timeout_s: float = 10.0,
        recovery_s: float = 120.0,
        chunk_bytes: int | None = None,
        password: str | None = None,
        lost: Callable[[str], None] | None = None,
    ) -> None:
        password = password or variable(password_variable)

        def open_node(slot: str, place: Place, limit_s: float | None = None) -> RedisNode:
            timeouts = [each if limit_s is None else min(each, limit_s) for each in (connect_timeout_s, timeout_s)]
            access = access_to(slot, place[0], password, password_variable, ca_data, *timeouts)
            return RedisNode(Endpoint.parse(place[1]), access)

        options = {
            "slots": [list(each) for each in slots],
            "ca_data": ca_data,
            "password_variable": password_variable,
            "connect_timeout_s": connect_timeout_s,
            "timeout_s": timeout_s,
            "recovery_s": recovery_s,
            "chunk_bytes": chunk_bytes,
        }
        self._options = options
        patience_s = recovery_s if lost is not None or len(slots) > 1 else 0.0
        self._nodes = _Nodes({str(slot): (int(generation), str(at)) for slot, generation, at in slots}, open_node)
        shards = [_Shard(slot, self._nodes, self.spec, patience_s, lost) for slot in self._nodes.places]
        super().__init__(spread(shards, list(self._nodes.places), chunk_bytes))

    @property
    def places(self) -> dict[str, Place]:
        """The place of every slot, as far as it is known here."""
        return dict(self._nodes.places)

    def move(self, places: Mapping[str, Place]) -> None:
        """Use those of these places that are newer than the known ones."""
        self._nodes.move(places)

    def spec(self) -> PluginSpec:
        """See `Store.spec`. Contains the present places."""
        slots = [[slot, *place] for slot, place in self._nodes.places.items()]
        return PluginSpec(f"{__name__}:FargateShards", {**self._options, "slots": slots})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{slot}: {at}' for slot, (_, at) in self._nodes.places.items())})"


_Open: TypeAlias = Callable[..., RedisNode]


class _Nodes:
    """The places of the slots, and a Redis store for each; shared by the shards of one process."""

    def __init__(self, places: dict[str, Place], open_node: _Open) -> None:
        self.places = places
        self._open = open_node
        self._lock = threading.Lock()
        self._stores: dict[str, tuple[int, RedisShard]] = {}
        self._looked_s = -_LOOK_EVERY_S

    def store(self, slot: str, spec: PluginSpec | None = None) -> tuple[int, RedisShard]:
        """Return the generation of the slot's node, and a store on that node."""
        found = self._stores.get(slot)
        place = self.places[slot]
        if found is None or found[0] != place[0]:  # a dropped store closes when its last call has returned
            server = self._open(slot, place)
            found = self._stores[slot] = place[0], RedisShard(server, _PREFIX, spec or PluginSpec(""))
        return found

    def move(self, places: Mapping[str, Place]) -> None:
        """Take over newer places."""
        with self._lock:
            for slot, place in places.items():
                if slot in self.places and place[0] > self.places[slot][0]:
                    logger.info("%s has moved to %s", slot, place[1])
                    self.places[slot] = place

    def look(self, slot: str, generation: int) -> bool:
        """Ask other nodes for the place of `slot`; return whether a newer one than `generation` is known now."""
        if self.places[slot][0] > generation:
            return True
        with self._lock:
            soon = _now_s() - self._looked_s < _LOOK_EVERY_S
            if not soon:
                self._looked_s = _now_s()
        if not soon:
            others = [other for other in self.places if other != slot]
            for other in random.sample(others, min(_MOST_ASKED, len(others))):
                self.move(self._read(other))
                if self.places[slot][0] > generation:
                    break
        return self.places[slot][0] > generation

    def _read(self, slot: str) -> Mapping[str, Place]:
        """Return the directory of the node at `slot`; empty if it has none, or does not answer."""
        server = self._open(slot, self.places[slot], _LOOK_TIMEOUT_S)
        request = RedisRequest()
        request.add(b"HGETALL", DIRECTORY)
        try:
            (words,) = server.ask(request)
            if isinstance(words, Exception):
                raise server.failure(words) from words
            told = [str(word, "ascii") for word in words]
            places = [each.split(" ", 1) for each in told[1::2]]
            return {
                slot: (int(generation), Endpoint.parse(at).name)
                for slot, (generation, at) in zip(told[::2], places, strict=True)
            }
        except (StoreError, ValueError, LookupError) as error:
            logger.info("%s does not say where the others are: %s", slot, error)
            return {}
        finally:
            server.close()

    def close(self, slot: str) -> None:
        found = self._stores.pop(slot, None)
        if found is not None:
            found[1].close()


class _Shard(Store):
    """The share of the keys at one slot, on whichever node has it."""

    def __init__(
        self,
        slot: str,
        nodes: _Nodes,
        spec: Callable[[], PluginSpec],
        recovery_s: float,
        lost: Callable[[str], None] | None,
    ) -> None:
        self._slot, self._nodes, self._spec, self._lost = slot, nodes, spec, lost
        self.capabilities = replace(RedisShard.capabilities, recovery_s=recovery_s)

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        return self._there(lambda store: store.get(keys))

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        self._there(lambda store: store.put(items, ttl_s))

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self._there(lambda store: store.delete(keys))

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`. Waits in slices, because the slot may move meanwhile."""
        until_s = _now_s() + timeout_s
        while True:
            value, over = self._wait(key, until_s - _now_s())
            if value is not None or over:
                return value

    def _wait(self, key: bytes, left_s: float) -> tuple[Buffer | None, bool]:
        slice_s = min(max(0.0, left_s), _SLICE_S)
        return self._there(lambda store: store.wait(key, slice_s)), left_s <= _SLICE_S

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        return self._there(lambda store: store.incr(arrivals, ttl_s))

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`."""
        return self._there(lambda store: store.scan(prefix))

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`."""
        self._there(lambda store: store.renew(prefix, ttl_s))

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`."""
        return self._there(lambda store: store.take(keys, begin, most_bytes))

    def advice(self) -> Sequence[str]:
        """See `Store.advice`."""
        return self._there(lambda store: store.advice())

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        return self._spec()

    def close(self) -> None:
        """See `Store.close`."""
        self._nodes.close(self._slot)

    def _there(self, verb: Callable[[RedisShard], T]) -> T:
        """Call `verb` on the slot's node. If it does not answer, or is another server, call it on the new node."""
        while True:
            generation, store = self._nodes.store(self._slot)
            try:
                return verb(store)
            except StoreError as error:
                stranger = is_stranger(error)
                if not stranger and not isinstance(error, StoreUnavailable):
                    raise
                if self._lost is not None:
                    self._lost(self._slot)
                if self._nodes.look(self._slot, generation):
                    continue
                if not stranger:
                    raise
                raise StoreUnavailable(
                    f"{self._slot} is not at {self._nodes.places[self._slot][1]} any more, or has another password",
                    backend=_BACKEND,
                    hint="the client replaces nodes that were lost; 'wukong store status' lists those there are",
                ) from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._slot})"


def is_stranger(error: StoreError) -> bool:
    """Return whether the server does not know the user that only the right node knows."""
    return isinstance(error.__cause__, redis.AuthenticationError)
