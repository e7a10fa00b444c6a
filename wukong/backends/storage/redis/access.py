"""How Redis servers are connected to: credentials, TLS, time limits, and redis-py's pools made of these."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.connection import AbstractConnection, Connection, UnixDomainSocketConnection

from wukong.backends import keepalive
from wukong.backends.storage.redis.address import Endpoint
from wukong.backends.storage.redis.tls import Tls, TlsConnection
from wukong.backends.storage.silence import ANSWER_S, longest_s

__all__ = ["Prompt", "RedisAccess"]

_ANY_NUMBER = 2**31


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """The credentials and settings of all connections to a store's servers.

    Attributes:
        username: None: the default user.
        password: None: the server asks for none. Never shown.
        password_variable: the environment variable that can hold the password; for error messages.
        db: number of the database.
        tls: None: connections are without TLS.
        connect_timeout_s: how long connecting may take.
        timeout_s: how long a server may be silent while a large value moves, and how long it may take to read 4 MiB.
        answer_timeout_s: how long a server may take to answer a small operation; at most `timeout_s`.
    """

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    password_variable: str = ""
    db: int = 0
    tls: Tls | None = None
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0
    answer_timeout_s: float = ANSWER_S

    def longest_s(self, size_bytes: int = 0) -> float:
        """Return how long to wait for the answer to a request of this size: see `wukong.backends.storage.silence`."""
        return longest_s(self.answer_timeout_s, self.timeout_s, size_bytes)

    def pool(self, endpoint: Endpoint, *, watch: bool = False) -> redis.ConnectionPool:
        """Return a pool of connections to one server; `watch`: the server can tell them of writes to keys."""
        where: dict[str, Any] = {"path": endpoint.path}
        kind: Any = _PathConnection
        if endpoint.path is None:
            where = {"host": endpoint.host, "port": endpoint.port}
            where |= {"socket_keepalive": True, "socket_keepalive_options": keepalive.OPTIONS}
            kind = _HostConnection
            if self.tls is not None:
                where |= self.tls.options()
                kind = _SecureConnection
        return redis.ConnectionPool(
            connection_class=kind,
            max_connections=_ANY_NUMBER,
            username=self.username,
            password=self.password,
            db=self.db,
            socket_connect_timeout=self.connect_timeout_s,
            socket_timeout=min(self.answer_timeout_s, self.timeout_s),
            protocol=3 if watch else 2,
            redis_connect_func=_greet_as_watcher if watch else _greet,
            **where,
            **_SILENT,
        )


def _at_most(limit_s: float | None) -> float:
    assert limit_s is not None
    return longest_s(limit_s, limit_s)


class Prompt(AbstractConnection):
    """A connection that opens and logs in within the time that its caller waits."""

    @property
    def socket_timeout(self) -> float:
        return _at_most(self._socket_timeout)

    @socket_timeout.setter
    def socket_timeout(self, value: float) -> None:
        self._socket_timeout = value

    @property
    def socket_connect_timeout(self) -> float:
        return _at_most(self._socket_connect_timeout)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float) -> None:
        self._socket_connect_timeout = value


class _HostConnection(Prompt, Connection):
    pass


class _PathConnection(Prompt, UnixDomainSocketConnection):
    pass


class _SecureConnection(Prompt, TlsConnection):
    pass


def _greet(connection: Any) -> None:
    """Log in, and wait for an answer, whatever it is.

    A server that has too many clients, or refuses this one, says so at once. The wait also reads the session tickets of
    TLS 1.3, which the pool would take for the rest of another reply.
    """
    connection.on_connect()
    if connection.username is None and connection.password is None:
        connection.send_command("PING")
        connection.read_response()


def _greet_as_watcher(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("CLIENT", "TRACKING", "ON", "OPTIN")
    connection.read_response()


def _names_no_library() -> dict[str, Any]:
    """Options that spare a new connection two round trips in which redis-py tells its version."""
    if "driver_info" in inspect.signature(AbstractConnection.__init__).parameters:
        return {"driver_info": None}
    return {"lib_name": None, "lib_version": None}


def _no_maintenance() -> dict[str, Any]:
    """Options that spare a new connection asking for news of maintenance, which newer versions of redis-py do."""
    try:
        from redis.maint_notifications import MaintNotificationsConfig
    except ImportError:
        return {}
    return {"maint_notifications_config": MaintNotificationsConfig(enabled=False)}


_SILENT = _names_no_library() | _no_maintenance()
