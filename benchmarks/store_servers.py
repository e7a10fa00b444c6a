"""The stores that `stores.py` measures: servers of its own on free ports, and these servers' own counters.

    with Ground.of("redis-3") as ground:
        ground.storage      what `wukong.Client(storage=...)` takes
        ground.seen()       the servers' own counters, summed up

``redis-3`` is three Redis servers, ``memcached-2`` two memcached servers, and so on; ``local`` is the embedded store.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, fields
from typing import Any

from wukong.testing.servers import MemcachedServer, RedisServer, ServerProcess

MEMORY_MB = 8_192
_OWN_COMMANDS = frozenset({"info", "ping", "hello", "client|setinfo", "client|setname", "config|get", "auth", "select"})


@dataclass(slots=True)
class Seen:
    """What servers have seen so far.

    Attributes:
        commands: commands they were sent, one for each key of a memcached `get`, one for each Redis command, those
            that a Lua script calls included.
        requests: times they had something to read from a connection: about one for each small round trip, and many for
            a large value. None if the server does not tell.
        in_bytes, out_bytes: what came and went by the network, protocol included.
    """

    commands: int = 0
    requests: int | None = None
    in_bytes: int = 0
    out_bytes: int = 0

    def __add__(self, other: Seen) -> Seen:
        return self._with(other, 1)

    def __sub__(self, other: Seen) -> Seen:
        return self._with(other, -1)

    def _with(self, other: Seen, sign: int) -> Seen:
        figures = []
        for f in fields(Seen):
            mine, its = getattr(self, f.name), getattr(other, f.name)
            figures.append(None if mine is None and its is None else (mine or 0) + sign * (its or 0))
        return Seen(*figures)  # type: ignore[arg-type]


class Ground:
    """One kind of store, its servers running. Use as a context manager.

    Args:
        name: ``local``, ``redis-N`` or ``memcached-N``.
        memory_mb: what each memcached server may use.
    """

    def __init__(self, name: str, memory_mb: int = MEMORY_MB) -> None:
        self.name = name
        self.kind, _, number = name.partition("-")
        n = int(number or 1)
        self.servers: list[ServerProcess] = []
        if self.kind == "redis":
            self.servers = [RedisServer() for _ in range(n)]
        elif self.kind == "memcached":
            self.servers = [MemcachedServer(memory_mb=memory_mb // n) for _ in range(n)]
        elif name != "local":
            raise ValueError(f"{name!r} is not local, redis-N or memcached-N")

    @property
    def storage(self) -> str:
        """What `wukong.Client(storage=...)` takes."""
        if not self.servers:
            return "local"
        return f"{self.kind}://{','.join(server.endpoint for server in self.servers)}"

    @property
    def title(self) -> str:
        """The name for a table."""
        return self.name if not self.servers else f"{self.kind} x {len(self.servers)}"

    def seen(self) -> Seen:
        """Return the servers' counters; zeros for the embedded store."""
        total = Seen()
        for server in self.servers:
            total += _of_redis(server) if self.kind == "redis" else _of_memcached(server)
        return total

    def __enter__(self) -> Ground:
        try:
            for server in self.servers:
                server.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.stop()


def _of_redis(server: ServerProcess) -> Seen:
    import redis

    with contextlib.closing(redis.Redis(server.host, server.port)) as client:
        stats: dict[str, Any] = client.info("stats")
        commands: dict[str, Any] = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): row["calls"] for name, row in commands.items()}
    return Seen(
        sum(n for name, n in calls.items() if name not in _OWN_COMMANDS),
        stats["total_reads_processed"],
        stats["total_net_input_bytes"],
        stats["total_net_output_bytes"],
    )


def _of_memcached(server: ServerProcess) -> Seen:
    with socket.create_connection((server.host, server.port), 5.0) as connection:
        connection.sendall(b"stats\r\n")
        text = b""
        while not text.endswith(b"END\r\n"):
            text += connection.recv(65_536)
    stats = {line.split()[1]: line.split()[2] for line in text.decode().splitlines() if line.startswith("STAT ")}
    names = ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta", "delete_hits", "delete_misses")
    return Seen(
        sum(int(stats[name]) for name in names),
        None,
        int(stats["bytes_read"]),
        int(stats["bytes_written"]),
    )
