"""The store `redis`: one or many Redis or Valkey servers, over which keys, values and their chunks are spread.

    RedisStore = Chunked(Sharded([RedisShard(RedisNode(h1)), RedisShard(RedisNode(h2)), ...]))
    RedisStore = Chunked(RedisShard(RedisCluster([h1, h2, ...])))       of a Redis Cluster

Servers that stand alone know nothing of each other, and no client asks them where a key is. The servers of a cluster
(Redis Cluster, Valkey, ElastiCache Serverless) tell which of them holds what. A server that is named alone is asked
whether it is one of a cluster when a client starts.

Stored values are signed. So somebody who can write to these servers could replace values, but no executor would
unpickle them. Passwords keep others out all the same. They never travel in a payload: functions find them in their
environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from wukong.backends.environment import variable
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store, Tell
from wukong.backends.storage.addresses import above_zero, certificates
from wukong.backends.storage.layers.layer import Layer
from wukong.backends.storage.redis.access import RedisAccess
from wukong.backends.storage.redis.address import BACKEND, Address, Endpoint, distinct
from wukong.backends.storage.redis.cluster import RedisCluster
from wukong.backends.storage.redis.server import RedisNode
from wukong.backends.storage.redis.shard import RedisShard
from wukong.backends.storage.redis.spread import chunked, spread
from wukong.backends.storage.redis.tls import Tls, Verify
from wukong.backends.storage.silence import ANSWER_S
from wukong.errors import ConfigError, StoreUnavailable

__all__ = ["RedisStore", "RedissStore"]

T = TypeVar("T")


class RedisStore(Layer):
    """The store `redis`. It connects with its first call.

    Args:
        url: ``redis://user:password@host:6379,host2:6379/0``, ``rediss://...`` for TLS, ``unix:///a.sock,/b.sock``.
        endpoints: instead of a URL: ``"host:port"``, ``"host"``, or the path of a socket.
        username: None: from the environment; the default user if the environment has none.
        password: None: from the environment; no password if the environment has none.
        username_variable: the environment variable that holds the username.
        password_variable: the environment variable that holds the password, here and in functions.
        db: number of the database, the same on all servers; a cluster has only 0.
        cluster: the servers are some of one Redis Cluster. None: as the URL says; without, a server that is named alone
            is asked when the store is started, and several are none.
        tls: speak TLS. None: as the URL says; without, no TLS.
        ca_file: PEM file of the authorities to trust besides the system's. Functions need no such file.
        ca_data: the same as text.
        cert_file: the client's certificate, if the servers want one; functions need it at the same path.
        key_file: its key; likewise.
        verify: what to verify of a server's certificate: ``full``: all; ``ca``: not its host name; ``none``: nothing.
        connect_timeout_s: how long connecting may take.
        timeout_s: how long a server may be silent while a large value moves.
        answer_timeout_s: how long a server may take to answer a small operation.
        prefix: what all keys on the servers begin with.
        chunk_bytes: larger values are stored in chunks of this size. None: with several servers, values of more than
            4 MiB are stored in chunks of 2 MiB; with one, values of more than 256 MiB in chunks of 64 MiB.

    Raises `ConfigError` for invalid options.
    """

    _tls_unless_said = False

    def __init__(
        self,
        url: str | None = None,
        *,
        endpoints: Sequence[str] | None = None,
        username: str | None = None,
        password: str | None = None,
        username_variable: str = "WUKONG_REDIS_USERNAME",
        password_variable: str = "WUKONG_REDIS_PASSWORD",
        db: int | None = None,
        cluster: bool | None = None,
        tls: bool | None = None,
        ca_file: str | None = None,
        ca_data: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        verify: Verify = "full",
        connect_timeout_s: float = 5.0,
        timeout_s: float = 30.0,
        answer_timeout_s: float = ANSWER_S,
        prefix: str = "wukong:",
        chunk_bytes: int | None = None,
    ) -> None:
        address = _address(url, endpoints)
        secure = _agreed("tls", address.tls, tls)
        if secure is None:
            secure = self._tls_unless_said
        if secure and any(endpoint.path for endpoint in address.endpoints):
            raise _wrong("tls is for servers with a host name, not for unix sockets")
        if not secure and (ca_file or ca_data or cert_file or key_file or verify != "full"):
            raise _wrong("certificates are for TLS, which is not on", "tls=True, or a URL that begins with rediss://")
        above_zero(BACKEND, connect_timeout_s=connect_timeout_s, timeout_s=timeout_s, answer_timeout_s=answer_timeout_s)
        if chunk_bytes is not None and chunk_bytes < 1:
            raise _wrong(f"chunk_bytes is {chunk_bytes}; it is a size from 1 up")
        database = _agreed("db", address.db, db) or 0
        if database < 0:
            raise _wrong(f"db is {database}; it is a number from 0 up")
        self._endpoints, self._prefix, self._chunk_bytes = address.endpoints, prefix, chunk_bytes
        clustered = _agreed("cluster", address.cluster, cluster)
        self._may_be_cluster = clustered is None and len(address.endpoints) == 1 and not address.endpoints[0].path
        ca_data = certificates(ca_file, BACKEND) if ca_file is not None else ca_data
        self._secrets = {
            username_variable: _agreed("username", address.username, username) or variable(username_variable),
            password_variable: _agreed("password", address.password, password) or variable(password_variable),
        }
        self._access = RedisAccess(
            self._secrets[username_variable],
            self._secrets[password_variable],
            password_variable,
            database,
            Tls(ca_data, cert_file, key_file, verify) if secure else None,
            connect_timeout_s,
            timeout_s,
            answer_timeout_s,
        )
        self._options = {
            "endpoints": [endpoint.name for endpoint in address.endpoints],
            "username_variable": username_variable,
            "password_variable": password_variable,
            "db": database,
            "cluster": clustered or False,
            "tls": secure,
            "ca_data": ca_data,
            "cert_file": cert_file,
            "key_file": key_file,
            "verify": verify,
            "connect_timeout_s": connect_timeout_s,
            "timeout_s": timeout_s,
            "answer_timeout_s": answer_timeout_s,
            "prefix": prefix,
            "chunk_bytes": chunk_bytes,
        }
        super().__init__(self._composed(clustered or False))

    def _composed(self, clustered: bool) -> Store:
        """Return the servers as one store. Raises `ConfigError` for what a cluster has not."""
        prefix, spec = self._prefix.encode(), self.spec()
        if not clustered:
            self._shards = [RedisShard(RedisNode(each, self._access), prefix, spec) for each in self._endpoints]
            return spread(self._shards, [endpoint.name for endpoint in self._endpoints], self._chunk_bytes)
        if self._access.db:
            raise _wrong(f"db is {self._access.db}, and a Redis Cluster has only the database 0")
        if b"{" in prefix:
            raise _wrong("the prefix has a brace, which would put all keys on one server of the cluster")
        self._shards = [RedisShard(RedisCluster(self._endpoints, self._access), prefix, spec)]
        return chunked(self._shards[0], self._chunk_bytes, several=True)

    def start(self, tell: Tell) -> None:
        """See `Store.start`. Finds out whether a server that is named alone is one of a cluster."""
        self._recognize()

    def _recognize(self) -> None:
        if self._may_be_cluster:
            self._may_be_cluster = False
            with suppress(StoreUnavailable):  # nothing is lost: its first call says so again, when the store is used
                if self._shards[0].is_in_cluster():
                    self.inner.close()
                    self._options["cluster"] = True
                    self.inner = self._composed(True)
                    self.capabilities = self.inner.capabilities

    @classmethod
    def visited(cls, **options: Any) -> Sequence[Store]:
        """See `Store.visited`."""
        store = cls(**options)
        store._recognize()
        return [store]

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        return PluginSpec(f"{__name__}:{type(self).__name__}", dict(self._options))

    def environment(self) -> Mapping[str, str]:
        """See `Store.environment`: username and password, as far as there are any."""
        return {name: value for name, value in self._secrets.items() if value is not None}

    def advice(self) -> Sequence[str]:
        """See `Store.advice`. Asks every server."""
        self._recognize()
        return [line for shard in self._shards for line in shard.advice()]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(each.name for each in self._endpoints)})"


class RedissStore(RedisStore):
    """The store `rediss`: `redis` over TLS, if nothing else is said."""

    _tls_unless_said = True


def _address(url: str | None, endpoints: Sequence[str] | None) -> Address:
    if (url is None) == (endpoints is None):
        raise _wrong(
            "the servers are named by a url or as endpoints, one of the two",
            'redis://host1:6379,host2:6379, or {"name": "redis", "endpoints": ["host1:6379", "host2:6379"]}',
        )
    return (
        Address(distinct([Endpoint.parse(each) for each in endpoints]))
        if endpoints is not None
        else Address.parse(url or "")
    )


def _agreed(name: str, of_url: T | None, option: T | None) -> T | None:
    """Return the value from the URL or from the option. Raises `ConfigError` if they contradict each other."""
    if of_url is not None and option is not None and of_url != option:
        raise _wrong(f"the option {name} says another thing than the url")
    return option if of_url is None else of_url


def _wrong(what: str, hint: str | None = None) -> ConfigError:
    return ConfigError(what, backend=BACKEND, hint=hint)
