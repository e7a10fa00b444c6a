"""Processes as the service sees them. A `template` forks them, so the service's loop never waits for a fork.

spawner = Spawner(loop, python, folder)          # fresh interpreters
process = spawner.spawn(argv, environment, cwd, on_output, on_end)
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wukong.backends.faas.emulator.process import kill_group, memory_bytes
from wukong.emulators.aws_lambda import template

_READ_BYTES = 65_536
_PATIENCE_S = 60.0


class Process:
    """One process and the group that it leads. A `kill` before its id is known takes effect later.

    Attributes:
        pid: None until it has been forked.
        ended: the process and everything it started are gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        output: int,
        on_output: Callable[[bytes], None],
        on_end: Callable[[int], None],
    ) -> None:
        self.pid: int | None = None
        self.ended = False
        self._loop = loop
        self._output: int | None = output
        self._on_output = on_output
        self._on_end = on_end
        self._doomed = False
        os.set_blocking(output, False)
        loop.add_reader(output, self.drain)

    def drain(self) -> None:
        """Hand on what it has written by now."""
        while self._output is not None:
            try:
                data = os.read(self._output, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close()
                return
            self._on_output(data)
            if len(data) < _READ_BYTES:
                return

    def kill(self) -> None:
        """Kill the group. Its end is reported like any other."""
        self._doomed = True
        if self.pid is not None and not self.ended:
            kill_group(self.pid)

    def freeze(self) -> None:
        """Suspend the group."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the group go on."""
        self._signal(signal.SIGCONT)

    def memory_bytes(self) -> int:
        """Return its memory now: anonymous and resident."""
        return 0 if self.pid is None or self.ended else memory_bytes(self.pid)

    def peak_bytes(self) -> int:
        """Return the most memory that was resident at any time; 0 if that is not known."""
        try:
            with open(f"/proc/{self.pid}/status", "rb") as file:
                _, _, rest = file.read().partition(b"VmHWM:")
            return int(rest.split(maxsplit=1)[0]) * 1024
        except (OSError, IndexError, ValueError):
            return 0

    def forked(self, pid: int) -> None:
        """Take its process id."""
        self.pid = pid
        if self._doomed:
            self.kill()

    def end(self, status: int) -> None:
        """Report its end. `status`: as from `os.waitpid`."""
        self.ended = True
        self.drain()
        self._close()
        self._on_end(status)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None and not self.ended:
            try:
                os.killpg(self.pid, number)
            except OSError:
                return  # it is just dying: its end will be reported

    def _close(self) -> None:
        if self._output is not None:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = None


class Spawner:
    """A template and the processes that it forked.

    Args:
        folder: removed when the service and all processes are gone; None: no folder.
        preload: task root and module that the template imports first, for processes forked without an exec; they
            take `environment` from it.
        snapshot: task root and handler of a function that the template initialises, to be a snapshot of it.
        on_news: called with what a snapshot tells of itself: see `frozen`.
        on_lost: called if the template itself dies.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        python: str,
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        preload: tuple[str, str] | None = None,
        snapshot: tuple[str, str] | None = None,
        on_news: Callable[[Mapping[str, Any]], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._on_lost, self._on_news = on_lost, on_news
        self._processes: dict[int, Process] = {}
        self._serial = 0
        self._text = b""
        self._unsent: deque[tuple[bytes, int]] = deque()
        arguments: tuple[str, ...] = preload or ()
        if snapshot is not None:
            arguments = snapshot[0], "", snapshot[1]
        self._sock, theirs = socket.socketpair()
        with theirs:
            command = [
                python,
                "-P",
                str(template.__file__),
                str(theirs.fileno()),
                "" if folder is None else str(folder),
            ]
            self._template = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C must reach only the service
            )
        self._sock.setblocking(False)
        loop.add_reader(self._sock.fileno(), self._read)

    def spawn(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        cwd: str,
        on_output: Callable[[bytes], None],
        on_end: Callable[[int], None],
        *,
        tmp_bytes: int | None = None,
        needed: Sequence[str] = (),
    ) -> Process:
        """Ask the template to start a process; return at once. `tmp_bytes`, `needed`: see `confine`."""
        self._serial += 1
        order = {
            "serial": self._serial,
            "argv": list(argv),
            "environment": dict(environment),
            "cwd": cwd,
            "tmp_bytes": tmp_bytes,
            "needed": list(needed),
        }
        reading, writing = os.pipe()
        process = self._processes[self._serial] = Process(self._loop, reading, on_output, on_end)
        self._unsent.append((json.dumps(order).encode() + b"\n", writing))
        if len(self._unsent) == 1:
            self._send()
        return process

    def _send(self) -> None:
        while self._unsent:
            data, descriptor = self._unsent[0]
            try:
                sent = socket.send_fds(self._sock, [data], [descriptor] if descriptor >= 0 else [])
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._send)
                return
            except OSError:
                break  # the template is gone; the next read notices
            if descriptor >= 0:
                os.close(descriptor)
            self._unsent[0] = (data[sent:], -1)
            if sent == len(data):
                self._unsent.popleft()
        self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "serial" not in message:
                assert self._on_news is not None
                self._on_news(message)
            elif "pid" in message:
                self._processes[message["serial"]].forked(message["pid"])
            else:
                self._processes.pop(message["serial"]).end(message["status"])

    def _lost(self) -> None:
        self._hang_up()
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.end(signal.SIGKILL)
        if self._on_lost is not None:
            self._on_lost()

    def _hang_up(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
        for _, descriptor in self._unsent:
            if descriptor >= 0:
                os.close(descriptor)
        self._unsent.clear()

    def close(self) -> None:
        """Kill everything, without further reports. Closing twice is no error."""
        self._hang_up()
        for process in self._processes.values():
            process.ended = True
            process._close()
        self._processes.clear()

    def kill(self) -> None:
        """Kill the template, and with it all processes; `on_lost` is called."""
        self._template.kill()

    def wait(self) -> None:
        """Wait until the template, and with it all processes, are gone; kill it if it does not go."""
        try:
            self._template.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._template.kill()
            self._template.wait()
