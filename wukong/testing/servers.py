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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["MemcachedServer", "RedisServer", "ServerProcess", "free_port"]

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
        command = ["-l", self.host, "-p", str(self.port), "-U", "0", "-m", str(self.memory_mb), "-u", "nobody"]
        return [*command, *self.arguments]

    def _serves(self) -> bool:
        with socket.create_connection((self.host, self.port), 1.0) as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(64).startswith(b"VERSION")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
