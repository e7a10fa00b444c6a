"""Executor servers (`wukong-executor serve`) on loopback, for tests: as processes of their own, or in this one."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

from wukong_executor.serve.places import Places
from wukong_executor.serve.server import ExecutorServer

KEY = "cd" * 32
CONFORM = "wukong.testing.faas_functions:conform"


class ExecutorServers:
    """Some servers, each on a free port. They can be killed, told to end, and started again where they were."""

    def __init__(self, count, *arguments, variables=None):
        self.arguments, self.variables = arguments, {"WUKONG_DEPLOYMENT_KEY": KEY, **(variables or {})}
        self.ports = [0] * count
        self.processes = [None] * count

    def __enter__(self):
        self.processes = [self._begun(at) for at in range(len(self.ports))]
        for at in range(len(self.ports)):
            self._await(at)
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    @property
    def urls(self):
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def start(self, at):
        """Start one anew, at its old port."""
        self.processes[at] = self._begun(at)
        self._await(at)

    def signal(self, at, number=signal.SIGKILL):
        self.processes[at].send_signal(number)

    def wait(self, at):
        """Return the exit code of one that ends."""
        return self.processes[at].wait(30)

    def _begun(self, at):
        command = [sys.executable, "-m", "wukong_executor", "serve", "--host", "127.0.0.1"]
        return subprocess.Popen(
            [*command, "--port", str(self.ports[at]), *self.arguments],
            env={**os.environ, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _await(self, at):
        told = self.processes[at].stdout.readline()
        assert "executor server at 127.0.0.1:" in told, told
        self.ports[at] = int(told.partition("127.0.0.1:")[2].partition(",")[0])
        threading.Thread(target=_drained, args=(self.processes[at].stdout,), daemon=True).start()


def _drained(stream):
    """Read what tasks print until the server ends, so that it never waits for a reader."""
    with stream:
        for _ in stream:
            pass


@contextmanager
def serving(places=2, queue=0, tls=None):
    """An executor server in this process; its places are processes of their own."""
    running = ExecutorServer(("127.0.0.1", 0), bytes.fromhex(KEY), Places(CONFORM, places, queue, None, None), 100_000)
    if tls is not None:
        running.socket = tls.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()
        running.places.close()


def url(running):
    """The URL of a server in this process."""
    return f"http://127.0.0.1:{running.server_port}"
