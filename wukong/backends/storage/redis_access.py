"""How Redis servers are connected to: credentials, TLS, time limits, and redis-py's pools made of these."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.connection import AbstractConnection, Connection, UnixDomainSocketConnection

from wukong.backends.storage.redis_address import Endpoint
from wukong.backends.storage.redis_tls import Tls, TlsConnection

__all__ = ["Access"]

_ANY_NUMBER = 2**31


@dataclass(frozen=True, slots=True)
class Access:
    """As whom, and how, all servers of a store are connected to.

    Attributes:
        username: None: the default user.
        password: None: the server asks for none. Never shown.
        password_variable: where a user who has forgotten it may put it; for error messages.
        db: number of the database.
        tls: None: TLS is not spoken.
        connect_timeout_s: how long connecting may take.
        timeout_s: how long a server may be silent, and how long taking 4 MiB from here may take it.
    """

    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    password_variable: str = ""
    db: int = 0
    tls: Tls | None = None
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0

    def pool(self, endpoint: Endpoint, *, watch: bool = False) -> redis.ConnectionPool:
        """Return a pool of connections to one server; `watch`: of such as may be told of keys that are written to."""
        where: dict[str, Any] = {"path": endpoint.path}
        kind: Any = UnixDomainSocketConnection
        if endpoint.path is None:
            where = {"host": endpoint.host, "port": endpoint.port, "socket_keepalive": True}
            kind = Connection
            if self.tls is not None:
                where |= self.tls.options()
                kind = TlsConnection
        return redis.ConnectionPool(
            connection_class=kind,
            max_connections=_ANY_NUMBER,
            username=self.username,
            password=self.password,
            db=self.db,
            socket_connect_timeout=self.connect_timeout_s,
            socket_timeout=self.timeout_s,
            protocol=3 if watch else 2,
            redis_connect_func=_greet_as_watcher if watch else _greet,
            **where,
            **_SILENT,
        )


def _greet(connection: Any) -> None:
    """Log in, and wait for an answer, whatever it is.

    A server that has too many clients, or none it wants, says so at once. And the session tickets of TLS 1.3 are out of
    the way, which the pool would take for the rest of somebody's reply.
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
