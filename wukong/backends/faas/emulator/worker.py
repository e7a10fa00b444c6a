"""Inside a worker: the loop that runs the function, and the backend as an executor sees it from there.

A worker is forked from the host and serves one invocation after the other. Its main thread reads from the host and
calls the function; any thread may send (output, further invocations). The host never waits for a worker, so a send
returns as soon as the kernel has taken it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace

from wukong.backends.faas import FaaS, Invocation, Limits
from wukong.backends.faas.emulator import output
from wukong.backends.faas.emulator.board import Board
from wukong.backends.faas.emulator.children import die_with
from wukong.backends.faas.emulator.listener import Guest
from wukong.backends.faas.emulator.settings import EmulatorSettings
from wukong.backends.faas.emulator.submit import submit
from wukong.backends.faas.emulator.wire import HostConnection, Message
from wukong.backends.spec import PluginSpec
from wukong.core import task_context
from wukong.core.task_context import task as current_task
from wukong.errors import BackendError

LATENCY_S = 0.0002

_inside: Worker | None = None


class Worker:
    """One function environment.

    Attributes:
        invocation: id of what is running now. memory_bytes: its memory; None: no limit.
    """

    def __init__(
        self,
        connection: HostConnection,
        board: Board,
        index: int,
        function: Callable[[bytes], None],
        settings: EmulatorSettings,
    ) -> None:
        self.connection = connection
        self.board = board
        self.settings = settings
        self.invocation = ""
        self.memory_bytes = settings.limits.memory_bytes
        self._index = index
        self._function = function
        self._cold = True
        self._output = output.Output(self._emit, settings.log_level)

    def _emit(self, stream: str, text: str, logger: str, level: int) -> None:
        task = current_task()
        task = None if task is None else str(task)  # `marshal` does not take a subclass of str
        try:
            self.connection.send(("output", self.invocation, task, stream, text, logger, level))
        except OSError:
            return  # the host is gone, so nobody would read this

    def announce(self, task: str | None) -> None:
        """Record the current task on the board."""
        self.board.announce(self._index, task)

    def wait(self, waiting: bool) -> None:
        """Record on the board whether the executor waits for the store, or for others."""
        self.board.wait(self._index, waiting)

    def use_cores(self, more: int) -> int:
        """Record how many cores the executor uses besides its own. Return how many it may use beyond those."""
        most = min(255, self.settings.most_cores - self.settings.limits.cores)
        self.board.use(self._index, more)
        return min(self.board.idle(), most - more)

    def serve(self) -> None:
        """Run what the host sends, until it hangs up."""
        try:
            while True:
                for message in self.connection.read():
                    self.connection.send(self._run(message))
        except (EOFError, OSError):
            return

    def _run(self, message: Message) -> Message:
        _, self.invocation, payload, self.memory_bytes, level, environment, crash, at_task = message
        if environment is not None:
            os.environ.update(environment)
        self._output.set_level(level)
        faults = self.settings.faults
        if self._cold and faults is not None and faults.cold_start_s:
            time.sleep(faults.cold_start_s)
        self._cold = False
        if crash == "before":
            _die()
        if crash == "during":
            task_context.set_task_hook(_dies_at(at_task))
        error = None
        try:
            self._function(payload)
        except BaseException as raised:  # a function's exit is no reason for its container to end
            error = _told(raised)
        if crash:
            _die()
        self._output.finish()
        return "done", error


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dies_at(at_task: int) -> Callable[[], None]:
    started = 0

    def hook() -> None:
        nonlocal started
        started += 1
        if started >= at_task:
            _die()

    return hook


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text[:500]}{where}"


def run(
    connection: HostConnection,
    board: Board,
    index: int,
    function: Callable[[bytes], None],
    settings: EmulatorSettings,
    host: int,
) -> None:
    """Run a worker, right after the fork, until the host hangs up."""
    global _inside
    die_with(host)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.enable()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # siblings would draw the same numbers; `random` reseeds itself
    worker = Worker(connection, board, index, function, settings)
    _inside = worker
    task_context.set_announcer(worker.announce)
    task_context.set_waiting(worker.wait)
    if settings.most_cores > settings.limits.cores:
        task_context.set_use_cores(worker.use_cores)
    os.register_at_fork(after_in_child=_leave)
    worker.serve()


def _leave() -> None:
    """A task has forked this process: the line to the host is the parent's alone."""
    global _inside
    if _inside is not None:
        _inside.connection.sock.close()
        _inside = None
        task_context.set_announcer(None)
        task_context.set_waiting(None)
        task_context.set_use_cores(None)
        output.leave_alone()


class AttachedEmulator(FaaS):
    """The emulator as seen by an executor that runs in one of its workers, or by a guest (`listener`)."""

    latency_s = LATENCY_S
    billed = False

    def __init__(self, inside: Worker | Guest) -> None:
        self._inside = inside

    @property
    def limits(self) -> Limits:  # type: ignore[override]
        """The limits, with the memory of what is running now."""
        limits = self._inside.settings.limits
        if not limits.sizes or not isinstance(self._inside, Worker):
            return limits
        return replace(limits, memory_bytes=self._inside.memory_bytes)

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        """Start invocations; return when the host's end of the socket has taken them. See `FaaS.invoke`.

        Raises BackendError if the host is gone.
        """
        at = self._inside
        try:
            submit(invocations, self.limits, at.settings.faults, at.board, at.connection.send)
        except OSError as error:
            raise BackendError("the emulator's host process is gone", backend="faas: local") from error

    def spec(self) -> PluginSpec:
        """Return how an executor opens this backend."""
        return spec(self._inside.settings)

    def free_slots(self) -> int:
        """Return how many more invocations would start at once: one read of shared memory."""
        return self._inside.board.free()

    def cancel(self, prefix: str) -> None:
        """Stop invocations by the prefix of their ids, this one too if it matches. Returns at once."""
        if isinstance(self._inside, Worker):  # a guest only invokes
            self._inside.connection.send(("cancel", prefix, 0))

    def close(self) -> None:
        """Hang up if this is a guest. A worker's line to its host outlives its executors."""
        if isinstance(self._inside, Guest):
            self._inside.close()


def attach(*, socket_name: str | None = None) -> AttachedEmulator:
    """Open the backend: inside a worker over its own connection to the host, elsewhere through its listener.

    Raises BackendError if this is no worker, and no listener's name is given or nobody listens there.
    """
    if _inside is not None:
        return AttachedEmulator(_inside)
    if socket_name is None:
        raise BackendError(
            f"process {os.getpid()} is not a function of the emulator, and was not given the name of its socket",
            backend="faas: local",
            hint="open it as its spec says",
        )
    return AttachedEmulator(Guest(socket_name))


TARGET = f"{__name__}:{attach.__name__}"


def spec(settings: EmulatorSettings) -> PluginSpec:
    """Return how an emulator with these settings is opened."""
    return PluginSpec(TARGET, {"socket_name": settings.socket_name})
