"""The client's line to the emulator's host process, and that process's life.

The host is started in the background, fresh: this interpreter, in a session of its own so that only the client gets
Ctrl-C. A host that dies is started again, as a platform mends itself. The new host is told what the first one was told;
it gets the same board, the same name to listen at, and those of the client's invocations that had not begun.
Invocations that ran are reported as failed. Queued invocations that executors had made are lost, and `known` says so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from wukong.backends import machine
from wukong.backends.faas import Failure, TaskOutput, task_output
from wukong.backends.faas.emulator import ahead, listener
from wukong.backends.faas.emulator.board import Board, create
from wukong.backends.faas.emulator.process import end_group
from wukong.backends.faas.emulator.settings import EmulatorSettings
from wukong.backends.faas.emulator.wire import HostConnection, Message
from wukong.errors import BackendError

BACKEND = "faas: local"
_BOOT = (
    "import json, sys; "
    "sys.path[:] = json.loads(sys.argv[1]); "
    "from wukong.backends.faas.emulator.boot import main; "
    "main(*map(int, sys.argv[2:]))"
)
_CLOSE_S = 1.0
_STOP_S = 8.0
_MOST_DEATHS, _DEATHS_S = 10, 60.0
"""A host that has died this often within this time is not started again: that is no accident."""

logger = logging.getLogger(__name__)


class Link:
    """The host's process and the line to it. Its reading thread holds this, never the `LocalFaaS`.

    Attributes:
        board: the shared memory.
        connection, process: the present line and host.
        failed: set as soon as `take_failures` has something to return.
        ready: set while the host serves; stays set once there will be no host any more.
        dead: why there will be no host any more; None: there is one, or will be.
        callback: called with what tasks print, in the reading thread.
        ended: called there with the id of each invocation that has ended without a failure, if the host tells.
        answers: where answers of the host go, by token.
        thread: the reading one.
    """

    def __init__(self, settings: EmulatorSettings, blas_threads: int) -> None:
        self.failed = threading.Event()
        self.ready = threading.Event()
        self.dead: str | None = None
        self.callback: Callable[[TaskOutput], None] = task_output.show
        self.ended: Callable[[str], None] = lambda invocation: None
        self.answers: dict[int, queue.SimpleQueue[Sequence[str]]] = {}
        self._settings = settings
        self._failures: deque[Failure] = deque()
        self._told: list[Message] = []
        self._waiting: dict[str, tuple[str, bytes, int]] = {}
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._served = self._closing = False
        # A finalizer, which the collector may run at any line, closes: reentrant.
        self._changed = threading.Condition(threading.RLock())
        self._environment = _environment(blas_threads)
        # The same names must mean the same modules there as here, this package above all.
        self._places = [os.path.abspath(place) if place else os.getcwd() for place in sys.path]
        self._places.append(str(Path(__file__).resolve().parents[4]))
        self.board = Board(create(2 * settings.max_slots + 16))
        self.board.publish(settings.slots, settings.slots)
        try:
            self._start()
        except BaseException:
            self.board.close()
            raise
        self.thread = threading.Thread(target=self._read, name="wukong-local-faas", daemon=True)
        self.thread.start()
        ahead.watch(self, self._expects)

    # --- talking

    def _expects(self, modules: Sequence[str]) -> None:
        """Have the host import modules ahead."""
        self.tell(("ahead", list(modules)))

    def send(self, message: Message, timeout_s: float) -> None:
        """Send to the host; if it has just died, to the next one. Raises OSError if there is none in time."""
        until_s = time.monotonic() + timeout_s
        while True:
            connection = self.connection
            try:
                connection.send(message)
                return
            except OSError:
                if not self._another(connection, until_s - time.monotonic()):
                    raise

    def _another(self, connection: HostConnection, timeout_s: float) -> bool:
        """Wait until there is another connection than this; return whether there is."""

        def decided() -> bool:
            return self.connection is not connection or self.dead is not None or self._closing

        with self._changed:
            self._changed.wait_for(decided, max(0.0, timeout_s))
            return self.connection is not connection and self.dead is None and not self._closing

    def invoke(self, message: Message, timeout_s: float) -> None:
        """Send invocations. A new host gets those again that have not begun. Raises OSError as `send` does."""
        with self._changed:
            self._waiting.update({each[0]: each for each in message[1]})
            connection = self.connection
        try:
            connection.send(message)
        except OSError:
            if not self._another(connection, timeout_s):
                raise  # else it was sent again

    def forget(self, prefix: str) -> None:
        """Forget the invocations whose ids begin with `prefix`: they are not wanted any more."""
        with self._changed:
            for invocation in [each for each in self._waiting if each.startswith(prefix)]:
                del self._waiting[invocation]

    def tell(self, message: Message) -> None:
        """Tell the host something that every later one has to know as well."""
        with self._changed:
            self._told.append(message)
            connection = self.connection
        with contextlib.suppress(OSError):  # the next one is told
            connection.send(message)

    def take_failures(self) -> list[Failure]:
        """Return and forget what has failed."""
        self.failed.clear()  # before taking: what comes in between is taken now or announced again
        taken = []
        while self._failures:
            taken.append(self._failures.popleft())
        return taken

    def _read(self) -> None:
        while True:
            try:
                while True:
                    for message in self.connection.read():
                        self._receive(message)
            except (EOFError, OSError):
                if not self._ended():
                    return

    def _receive(self, message: Message) -> None:
        match message:
            case ("output", invocation, task, stream, text, name, level):
                try:
                    self.callback(TaskOutput(invocation, task, stream, text, name, level))
                except Exception:
                    logger.exception("a subscriber to the output of tasks failed")
            case ("failed", invocation, reason, detail, task):
                self._failures.append(Failure(invocation, reason, detail, task))
                self.failed.set()
            case ("ended", invocation):
                self.ended(invocation)
            case ("begun", invocation):
                with self._changed:
                    self._waiting.pop(invocation, None)
            case ("answer", token, answer):
                if token in self.answers:
                    self.answers[token].put(answer)
            case ("ready", _):
                self._served = True
                self.ready.set()
            case ("fatal", story):
                logger.error("the emulator's host process failed:\n%s", story)
                if not self._served:
                    self.dead = f"the emulator's host process failed: {story.strip().rpartition(chr(10))[2]}"

    # --- its life

    def _start(self) -> None:
        """Start a host, and tell it everything that its predecessor was told. Raises BackendError."""
        ours, theirs, listening = *socket.socketpair(), listener.opened(self._settings.socket_name)
        with theirs, listening:
            descriptors = theirs.fileno(), self.board.descriptor, listening.fileno()
            arguments = [json.dumps(self._places), *map(str, descriptors), str(os.getpid())]
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT, *arguments],
                    stdin=subprocess.DEVNULL,
                    env=self._environment,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                listener.remove(self._settings.socket_name)
                if not isinstance(error, OSError):
                    raise
                raise BackendError(
                    f"the emulator's host process cannot be started with {sys.executable!r}: {error}", backend=BACKEND
                ) from error
        self.connection = HostConnection(ours, shielded=True)
        with contextlib.suppress(OSError):  # it is gone already, as the reading thread will find
            for message in [("settings", self._settings.plain()), *self._told]:
                self.connection.send(message)
            if self._waiting:
                self.connection.send(("invoke", list(self._waiting.values())))

    def _ended(self) -> bool:
        """After the host has hung up, report what ran and start another. Returns whether there is one."""
        with self._changed:
            if not self._closing:
                self._bury()
            if self._closing or self.dead is not None:
                self.ready.set()
            self._changed.notify_all()
            going_on = not self._closing and self.dead is None
        for answers in list(self.answers.values()):
            answers.put(())  # it has nothing left
        return going_on

    def _bury(self) -> None:
        code = self._code()
        died = f"the emulator's host process {self.process.pid} died (exit status {code})"
        self.connection.sock.close()
        self._deaths.append(time.monotonic())
        often = len(self._deaths) == _MOST_DEATHS and self._deaths[-1] - self._deaths[0] < _DEATHS_S
        if self.dead is None and (often or not self._served):
            self.dead = f"{died}, as {_MOST_DEATHS - 1} had within {_DEATHS_S:g} s" if often else died
        for invocation, task in self.board.running():  # the workers die with their host
            self._failures.append(Failure(invocation, "crash", self.dead or died, task))
        self.board.clear()
        if self.dead is None:
            logger.warning("%s, and is started again", died)
            self.ready.clear()
            try:
                self._start()
            except (BackendError, OSError) as error:
                self.dead = f"{died}, and no other can be started: {error}"
        if self.dead is not None:
            for pid in self.board.take_workers():
                end_group(pid)
        self.failed.set()

    def _code(self) -> int | None:
        try:
            return self.process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # it does not serve
            return None

    def close(self, owner: int) -> None:
        """End the host and with it all workers, at once unless somebody needs a few seconds to clean up."""
        ahead.unwatch(self)
        if os.getpid() != owner:
            self.connection.sock.close()  # a forked child: the host is the parent's
            return
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_WR)
        if threading.current_thread() is not self.thread:
            self.thread.join(_STOP_S)  # the host's end closes when it exits
        try:
            self.process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.sock.close()
        self.board.close()
        listener.remove(self._settings.socket_name)


def _environment(blas_threads: int) -> dict[str, str]:
    """Return the host's environment."""
    environment = dict(os.environ)
    environment.setdefault("PYTHONHASHSEED", "0")  # all executors must agree on the hashes of strings
    if environment["PYTHONHASHSEED"] == "random":
        environment["PYTHONHASHSEED"] = "0"
    # A resource tracker, like joblib's, warns when it deletes what tasks have left: not of interest here.
    quiet = (environment.get("PYTHONWARNINGS", ""), "ignore:resource_tracker:UserWarning")
    environment["PYTHONWARNINGS"] = ",".join(filter(None, quiet))
    return environment | machine.thread_variables(blas_threads, environment.get)
