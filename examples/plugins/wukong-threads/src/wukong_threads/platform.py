"""The platform: a queue of invocations, threads that take them from it, and the process that each thread drives.

If a worker dies or is killed, only the invocation it was running is lost, and reported: its thread starts another
worker for the next one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe

from wukong.backends.faas import Failure, Invocation
from wukong.errors import BackendError

from wukong_threads.gauge import Gauge
from wukong_threads.worker import BACKEND

_PROGRAM = "from wukong_threads.worker import main; main()"
_JOIN_S = 5.0


class Platform:
    """See the module's docstring. Threads and processes are started when there is work for them."""

    def __init__(self, function: str, slots: int, time_s: float | None) -> None:
        self._function, self._slots, self._time_s = function, slots, time_s
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open as long as this is
        self.gauge = Gauge(self._file.fileno())
        self.gauge.write(slots)
        self._changed = threading.Condition()
        self._queue: deque[Invocation] = deque()
        self._running: dict[str, list[_Worker]] = {}
        self._held: Counter[str] = Counter()
        self._busy = 0
        self._threads: list[threading.Thread] = []
        self._failures: list[Failure] = []
        self._environment: dict[str, str] = {}
        self._closed = False

    def accept(self, invocations: Sequence[Invocation]) -> None:
        """Put invocations into the queue. Raises `BackendError` if there is no queue any more."""
        with self._changed:
            if self._closed:
                raise BackendError("this backend has been closed", backend=BACKEND)
            self._queue.extend(invocations)
            self._held.update(each.id for each in invocations)
            wanted = min(self._slots, self._busy + len(self._queue))
            while len(self._threads) < wanted:
                name = f"wukong-threads-{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
                self._threads[-1].start()
            self._tell_free()
            self._changed.notify_all()

    def configure(self, environment: Mapping[str, str]) -> None:
        """Set the variables of every invocation from now on."""
        with self._changed:
            self._environment.update(environment)

    def take_failures(self) -> list[Failure]:
        """Return what has failed since the last call."""
        with self._changed:
            failures, self._failures = self._failures, []
        return failures

    def known(self, ids: Sequence[str]) -> list[str]:
        """Return which of these are queued or running."""
        with self._changed:
            return [each for each in ids if self._held[each] > 0]

    def cancel(self, prefix: str) -> None:
        """Drop what is queued and kill what runs; that is no failure."""
        with self._changed:
            dropped = [each for each in self._queue if each.id.startswith(prefix)]
            self._held.subtract(each.id for each in dropped)
            self._queue = deque(each for each in self._queue if not each.id.startswith(prefix))
            for invocation, workers in self._running.items():
                if invocation.startswith(prefix):
                    for worker in workers:
                        worker.cancelled = True
                        worker.process.kill()
            self._tell_free()

    def close(self) -> None:
        """End all threads and processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.cancel("")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def _tell_free(self) -> None:
        self.gauge.write(max(0, self._slots - self._busy - len(self._queue)))

    def _next(self) -> tuple[Invocation, dict[str, str]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if self._closed:
                return None
            self._busy += 1
            return self._queue.popleft(), dict(self._environment)

    def _serve(self) -> None:
        """Be one thread: take invocations from the queue and drive a worker."""
        worker: _Worker | None = None
        while (taken := self._next()) is not None:
            invocation, environment = taken
            if worker is None or worker.process.poll() is not None:
                worker, failure = self._start(invocation)
            else:
                failure = None
            if worker is not None:
                failure = self._run(worker, invocation, environment)
            with self._changed:
                if failure is not None:
                    self._failures.append(failure)
                self._held.subtract([invocation.id])
                self._busy -= 1
                self._tell_free()
        if worker is not None:
            worker.end()

    def _start(self, invocation: Invocation) -> tuple[_Worker | None, Failure | None]:
        try:
            return _Worker(self._function, self.gauge.descriptor), None
        except (OSError, EOFError) as error:
            return None, Failure(invocation.id, "start", f"no worker for {self._function}: {error or 'it died'}")

    def _run(self, worker: _Worker, invocation: Invocation, environment: dict[str, str]) -> Failure | None:
        with self._changed:
            self._running.setdefault(invocation.id, []).append(worker)
            if self._closed:
                worker.process.kill()
        try:
            return self._drive(worker, invocation, environment)
        finally:
            with self._changed:
                self._running[invocation.id].remove(worker)
                if not self._running[invocation.id]:
                    del self._running[invocation.id]

    def _drive(self, worker: _Worker, invocation: Invocation, environment: dict[str, str]) -> Failure | None:
        """Have the worker run one invocation, and do what it asks for meanwhile."""
        line, late = worker.line, False
        end_s = None if self._time_s is None else time.monotonic() + self._time_s
        try:
            line.send((invocation.payload, environment))
            while True:
                left_s = None if end_s is None or late else max(0.0, end_s - time.monotonic())
                if not line.poll(left_s):
                    late = True
                    worker.process.kill()  # what it had asked for before is still read
                    continue
                match line.recv():
                    case ("invoke", calls):
                        self.accept([Invocation(*call) for call in calls])
                    case ("cancel", prefix):
                        self.cancel(prefix)
                    case ("done", None):
                        return None
                    case ("done", error):
                        return Failure(invocation.id, "error", error)
        except (EOFError, OSError, BackendError):
            code = worker.process.wait() if worker.process.poll() is None else worker.process.returncode
        worker.line.close()
        if worker.cancelled or self._closed:
            return None
        if late:
            return Failure(invocation.id, "timeout", f"over the time limit of {self._time_s:g} s")
        return Failure(invocation.id, "crash", f"signal {-code}" if code < 0 else f"exit code {code}")


class _Worker:
    """One process, and the line to it. Raises EOFError if it dies before it is ready."""

    def __init__(self, function: str, gauge: int) -> None:
        self.cancelled = False
        self.line, theirs = Pipe()
        paths = [path or os.getcwd() for path in sys.path]  # the same names mean the same modules there as here
        arguments = json.dumps({"line": theirs.fileno(), "gauge": gauge, "function": function})
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, arguments],
                stdin=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
                pass_fds=(theirs.fileno(), gauge),
                start_new_session=True,  # Ctrl-C is the client's alone
            )
        self.line.recv()

    def end(self) -> None:
        """Let the process end."""
        self.line.close()  # it reads that there is nothing more to come
        try:
            self.process.wait(_JOIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
