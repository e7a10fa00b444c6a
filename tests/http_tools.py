"""Executor servers (`wukong-executor serve`) as processes of their own on loopback, for tests."""

import os
import signal
import subprocess
import sys

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
            process.stdout.close()

    @property
    def urls(self):
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def start(self, at):
        """Start one anew, at its old port."""
        self.processes[at].stdout.close()
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
