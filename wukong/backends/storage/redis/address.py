"""The addresses of Redis servers and the credentials for them: URLs, lists of endpoints.

    redis://user:password@host1:6379,host2:6379/0      one database number for all
    redis://host:6379?cluster=true                     a Redis Cluster, of which some servers are named
    rediss://...                                       the same over TLS
    unix:///run/a.sock,/run/b.sock?db=0                unix://user:password@/run/a.sock

A URL can hold a password, so errors here repeat only its hosts, and not even these if it is unclear what is host and
what is password.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from wukong.backends.storage.addresses import host_and_port
from wukong.errors import ConfigError

BACKEND = "storage: redis"
DEFAULT_PORT = 6379

_SCHEMES = ("redis", "rediss", "unix")
_FORMS = "forms: redis://user:password@host1:6379,host2:6379/0, rediss://host:6379, unix:///run/redis.sock"
_ENCODE = "write the characters / ? # @ , : and % of a username or password as %2F %3F %23 %40 %2C %3A %25"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server's address.

    Attributes:
        name: the server's name, the same on every machine: ``"host:port"``, or the path of its socket.
        host: None for a unix socket.
        port: TCP port.
        path: of a unix socket; else None.
    """

    name: str
    host: str | None = None
    port: int = DEFAULT_PORT
    path: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether only users of this machine can reach it."""
        return self.path is not None or self.host in ("localhost", "::1") or (self.host or "").startswith("127.")

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``"host"``, ``"host:port"``, ``"[ipv6]:port"`` or ``"/path.sock"``. Raises `ConfigError`."""
        text = text.strip()
        if text.startswith("/"):
            return cls(text, path=text)
        found = host_and_port(text, DEFAULT_PORT)
        if found is None:
            shown = "***" if "@" in text else repr(text)
            raise ConfigError(
                f"{shown} is not the address of a Redis server",
                backend=BACKEND,
                hint='an endpoint is "host", "host:6379", "[::1]:6379" or "/path/of.sock"; credentials are options',
            )
        host, port = found
        return cls(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host, port)


@dataclass(frozen=True, slots=True)
class Address:
    """The contents of a URL.

    Attributes:
        endpoints: one or more servers, none twice.
        tls: whether they speak TLS; None: a list of endpoints does not say.
        username: None: not said.
        password: None: not said. Never shown.
        db: number of the database; None: not said.
        cluster: whether they are a Redis Cluster; None: not said.
    """

    endpoints: tuple[Endpoint, ...]
    tls: bool | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int | None = None
    cluster: bool | None = None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read a URL. Raises `ConfigError`, which shows no password."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _SCHEMES:
            raise _unreadable("it begins with none of redis://, rediss://, unix://")
        rest, _, query = rest.partition("?")
        db, cluster = _queried(query)
        if scheme == "unix":
            login, at, paths = rest.rpartition("@")
            hosts = paths.split(",")
            if not all(path.startswith("/") for path in hosts):
                raise _unreadable("a unix socket has an absolute path")
        else:
            netloc, _, path = rest.partition("/")
            if "@" in path or "#" in rest:
                raise _unreadable("a username or password has characters that have to be encoded", _ENCODE)
            login, at, names = netloc.rpartition("@")
            hosts = names.split(",")
            if path:
                if db is not None or not path.isdecimal():
                    raise _unreadable("its path is not the number of one database")
                db = int(path)
        if any(char in login for char in "@,/"):
            raise _unreadable("a username or password has characters that have to be encoded", _ENCODE)
        username, _, password = login.partition(":") if at else ("", "", "")
        try:
            endpoints = [Endpoint.parse(text) for text in hosts]
        except ConfigError:
            if at:
                raise
            raise _unreadable("what follows its :// is no list of hosts and ports") from None
        user, secret = unquote(username) or None, unquote(password) or None
        return cls(distinct(endpoints), scheme == "rediss", user, secret, db, cluster)


def distinct(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """Return the endpoints. Raises `ConfigError` if there is none, or one twice."""
    if not endpoints:
        raise ConfigError("no Redis server is named", backend=BACKEND, hint="give one endpoint at least")
    for n, endpoint in enumerate(endpoints):
        if endpoint in endpoints[:n]:
            raise ConfigError(
                f"the Redis server {endpoint.name} is named twice", backend=BACKEND, hint="a shard is named once"
            )
    return tuple(endpoints)


def _queried(query: str) -> tuple[int | None, bool | None]:
    """Return what follows a URL's ?: the number of the database, and whether it is a cluster."""
    found: dict[str, int] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "db" and value.isdecimal():
            found[name] = int(value)
        elif name == "cluster" and value in ("true", "false"):
            found[name] = value == "true"
        else:
            raise _unreadable(
                "all that may follow its ? is db=<number> and cluster=true",
                'options go into a mapping: {"name": "redis", "endpoints": [...], "timeout_s": 10}',
            )
    cluster = found.get("cluster")
    return found.get("db"), None if cluster is None else bool(cluster)


def _unreadable(why: str, hint: str = _FORMS) -> ConfigError:
    return ConfigError(f"the URL of the Redis servers cannot be read: {why}", backend=BACKEND, hint=hint)
