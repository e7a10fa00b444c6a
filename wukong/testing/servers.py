"""Real store servers for tests: a `redis-server` or a `memcached` process on a free port of the loopback interface.

    with RedisServer("--maxmemory", "64mb") as server:
        store = RedisStore(endpoints=[f"127.0.0.1:{server.port}"])

They keep nothing on disk. They can be killed and started again at the same address, and stopped without being ended
(`freeze`). If the process that started them dies, the kernel kills them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["MemcachedServer", "RedisClusterServers", "RedisServer", "ServerProcess", "free_port"]

_PATIENCE_S = 20.0
_PR_SET_PDEATHSIG = 1


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """One server process. Subclasses say how to start it, and how to ask whether it serves."""

    program = ""

    def __init__(self, *arguments: str, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.arguments = arguments
        self.host = host
        self._port = port
        self._folder: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port: the same each time the server is started."""
        if self._port is None:
            self._port = free_port(self.host)
        return self._port

    @property
    def endpoint(self) -> str:
        """``"host:port"``."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> ServerProcess:
        """Start the process and wait until it serves. Raises RuntimeError with its output if it does not."""
        found = shutil.which(self.program)
        if found is None:
            raise RuntimeError(f"{self.program} is not installed (Debian: apt-get install {self.program})")
        fixed = self._port is not None
        for attempt in range(5):  # somebody else may take a free port meanwhile
            self._folder = self._folder or tempfile.mkdtemp(prefix=f"{self.program}-")
            with Path(self._folder, "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [found, *self._command()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._folder,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            end = time.monotonic() + _PATIENCE_S
            while self._process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    if self._serves():
                        return self
                time.sleep(0.005)
            output = Path(self._folder, "log").read_text(errors="replace")
            self.kill()
            if not fixed and attempt < 4:
                self._port = None
        raise RuntimeError(f"{self.program} does not serve at {self.host}:{self._port}:\n{output[-2_000:]}")

    def stop(self) -> None:
        """End the process and remove its folder. Stopping twice is no error."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        """Kill the process at once: what it had in memory is lost. `start` starts it again at the same address."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process (SIGSTOP): connections stay open, and once this has returned nothing is answered."""
        self._signal(signal.SIGCONT)  # a stop is reported once only: let a process that is frozen already stop anew
        self._signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)  # until then some of its threads still run

    def thaw(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server does not run"
        self._process.send_signal(number)

    def __enter__(self) -> Any:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self) -> Sequence[str]:
        raise NotImplementedError

    def _serves(self) -> bool:
        raise NotImplementedError


class RedisServer(ServerProcess):
    """A `redis-server` without persistence.

    Args:
        arguments: further command line arguments, as ``"--maxmemory", "64mb"``.
        host: a loopback address.
        port: None: a free one.
        password: what clients have to give.
        unix_socket: serve at `socket_path` as well.
        tls: files of a server certificate, its key and the authority's certificate; it then speaks TLS only.
    """

    program = "redis-server"

    def __init__(
        self,
        *arguments: str,
        host: str = "127.0.0.1",
        port: int | None = None,
        password: str | None = None,
        unix_socket: bool = False,
        tls: tuple[Path, Path, Path] | None = None,
    ) -> None:
        super().__init__(*arguments, host=host, port=port)
        self.password = password
        self.tls = tls
        self._unix_socket = unix_socket

    @property
    def socket_path(self) -> str:
        """The path of the unix socket."""
        assert self._folder is not None, "the server does not run"
        return f"{self._folder}/redis.sock"

    def told(self, *command: object) -> str:
        """Return the server's answer to a command. Raises RuntimeError if it refuses it."""
        words = [str(word).encode() for word in command]
        with (
            socket.create_connection((self.host, self.port), _PATIENCE_S) as connection,
            connection.makefile("rb") as answer,
        ):
            if self.password is not None:
                connection.sendall(_packed([b"AUTH", self.password.encode()]))
                answer.readline()
            connection.sendall(_packed(words))
            head = answer.readline()
            if head.startswith(b"-"):
                raise RuntimeError(f"{self.endpoint} refuses {command[0]}: {head.decode().strip()}")
            if not head.startswith(b"$"):
                return head[1:].decode().strip()
            return answer.read(int(head[1:])).decode()

    def _command(self) -> Sequence[str]:
        command = ["--bind", self.host, "--save", "", "--appendonly", "no", "--daemonize", "no"]
        if self.tls is None:
            command += ["--port", str(self.port)]
        else:
            certificate, key, authority = map(str, self.tls)
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", certificate]
            command += ["--tls-key-file", key, "--tls-ca-cert-file", authority, "--tls-auth-clients", "no"]
        if self.password is not None:
            command += ["--requirepass", self.password]
        if self._unix_socket:
            command += ["--unixsocket", self.socket_path]
        return [*command, *self.arguments]

    def _serves(self) -> bool:
        if self.tls is not None:
            socket.create_connection((self.host, self.port), 1.0).close()
            return True
        with socket.create_connection((self.host, self.port), 1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))


class _ClusterMember(RedisServer):
    """A server that others of a cluster reach at a second port, another one if its first is another one."""

    _ports = (0, 0)

    @property
    def bus_port(self) -> int:
        if self._ports[0] != self.port:
            self._ports = self.port, free_port(self.host)
        return self._ports[1]

    def _command(self) -> Sequence[str]:
        return [*super()._command(), "--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]


class RedisClusterServers:
    """A Redis Cluster: masters, and a replica of each, which takes over if its master is killed.

    Args:
        masters: number of masters.
        replicas: whether each has a replica.
        arguments: further command line arguments of each server.
        timeout_s: after which servers take one of them for dead.

    Attributes:
        masters: the masters at first, each with an equal share of the slots.
        replicas: their replicas, in the same order.
    """

    def __init__(self, masters: int = 3, *arguments: str, replicas: bool = True, timeout_s: float = 1.0) -> None:
        def server() -> _ClusterMember:
            limit = ("--cluster-node-timeout", str(int(1_000 * timeout_s)))
            return _ClusterMember(
                *limit, "--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0", *arguments
            )

        self.masters = [server() for _ in range(masters)]
        self.replicas = [server() for _ in range(masters if replicas else 0)]

    @property
    def endpoints(self) -> list[str]:
        """``"host:port"`` of each server, masters first."""
        return [each.endpoint for each in (*self.masters, *self.replicas)]

    def __enter__(self) -> RedisClusterServers:
        try:
            for each in (*self.masters, *self.replicas):
                each.start()
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.masters, *self.replicas):
            each.stop()

    def _join(self) -> None:
        """Make one cluster of the servers, and wait until all know it."""
        first, servers = self.masters[0], (*self.masters, *self.replicas)
        size = -(-16_384 // len(self.masters))
        for n, each in enumerate(self.masters):
            each.told("CLUSTER", "ADDSLOTSRANGE", n * size, min(16_384, (n + 1) * size) - 1)
            each.told("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for each in servers[1:]:
            each.told("CLUSTER", "MEET", first.host, first.port, first.bus_port)
        _wait(lambda: all(f"cluster_known_nodes:{len(servers)}" in each.told("CLUSTER", "INFO") for each in servers))
        for master, replica in zip(self.masters, self.replicas, strict=bool(self.replicas)):
            replica.told("CLUSTER", "REPLICATE", master.told("CLUSTER", "MYID"))
        _wait(lambda: all("cluster_state:ok" in each.told("CLUSTER", "INFO") for each in servers))
        _wait(lambda: all("master_link_status:up" in each.told("INFO", "replication") for each in self.replicas))


def _wait(true: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise RuntimeError("the servers have not become one cluster")
        time.sleep(0.02)


class MemcachedServer(ServerProcess):
    """A `memcached`.

    Args:
        arguments: further command line arguments, as ``"-M"`` (refuse rather than evict).
        memory_mb: what it may use for items, MiB.
        host: a loopback address.
        port: None: a free one.
    """

    program = "memcached"

    def __init__(
        self, *arguments: str, memory_mb: int = 1_024, host: str = "127.0.0.1", port: int | None = None
    ) -> None:
        super().__init__(*arguments, host=host, port=port)
        self.memory_mb = memory_mb

    def _command(self) -> Sequence[str]:
        command = ["-l", self.host, "-p", str(self.port), "-U", "0", "-m", str(self.memory_mb)]
        if os.getuid() == 0:  # of another user, it would not die with its parent: the kernel forgets that then
            command += ["-u", "root"]
        return [*command, *self.arguments]

    def _serves(self) -> bool:
        with socket.create_connection((self.host, self.port), 1.0) as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(64).startswith(b"VERSION")


def _packed(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
