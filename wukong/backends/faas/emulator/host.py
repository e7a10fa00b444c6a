"""The platform: one single-threaded process that queues invocations and runs each in a forked worker.

Everything happens in one loop over one selector: messages from the client and from workers, deaths of children
(SIGCHLD through a pipe), the client's death, timers. Nothing in it waits for a peer, so a worker that sends while the
host has something to send to it never locks up.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from wukong.backends.faas.emulator import worker as inside
from wukong.backends.faas.emulator.board import Board
from wukong.backends.faas.emulator.faults import InvocationFault
from wukong.backends.faas.emulator.listener import Listener
from wukong.backends.faas.emulator.pool import WorkerPool, freeze
from wukong.backends.faas.emulator.preloading import Preloading
from wukong.backends.faas.emulator.process import Child, adopt_orphans, ended, memory_bytes, room
from wukong.backends.faas.emulator.settings import EmulatorSettings
from wukong.backends.faas.emulator.slots import SlotCount
from wukong.backends.faas.emulator.wire import Channel, HostConnection, Message

_MEMORY_PERIOD_S = 0.02
_LAST_WORDS_S = 2.0
_GIVEN_BACK_S = 0.01
_MOST_OUTPUT_BYTES = 64 * 1_048_576

Queued = tuple[str, bytes, int, InvocationFault | None, bool]
"""Id and payload of an invocation, its fault, and whether the client itself has made it."""


class Stop(BaseException):
    """The client has hung up or died."""


class Host:
    """See the module's docstring.

    `ahead` are modules that functions are going to need, none of which takes long. The host imports them one by one
    while nothing else happens; a function that comes before imports what is not there yet. The client may name more.
    """

    def __init__(
        self,
        client: Channel,
        board: Board,
        settings: EmulatorSettings,
        function: Callable[[bytes], None],
        listener: socket.socket,
        ahead: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._client_writing = False
        self._board = board
        self._settings = settings
        self._function = function
        self._level = settings.log_level
        limits = settings.limits
        most = min(settings.max_slots, limits.concurrency or settings.max_slots)
        self._slots = SlotCount(min(settings.slots, most), most, board.waits, board.uses, room)
        self._queue: deque[Queued] = deque()
        self._late: dict[int, Queued] = {}
        self._environment: dict[str, str] = {}
        self._configured = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._received = 0
        self._preloading = Preloading(ahead)
        self._cancels: dict[int, set[int]] = {}
        self._tells_ends = False
        self._memory_due_s = 0.0
        self._dropped = 0
        self._selector = selectors.DefaultSelector()
        self._pool = WorkerPool(self._selector, board, self._on_child)
        self._busy = self._pool.busy
        self._left_due_s = self._pool.kill_left_behind(time.monotonic())
        self._kept: list[int] = []
        self._listener = Listener(listener, self._selector, board, settings, self._submit)

    # The loop.

    def run(self, client_pid: int) -> NoReturn:
        """Serve until the client hangs up or dies; raises `Stop` then."""
        self._watch_children()
        self._watch_client(client_pid)
        self._publish()
        self._client.send(("ready", os.getpid()))
        self._keep_warm()
        while True:
            happened = self._selector.select(self._timeout_s())
            for key, events in happened:
                key.data(events)
            self._tick()
            if happened:
                self._preloading.disturbed()
            elif self._preloading.ahead and self._preloading.load_next():
                self._renew_workers()

    def _tick(self) -> None:
        self._pool.next_turn(time.monotonic())
        self._left_due_s = self._pool.kill_left_behind(time.monotonic())
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        now_s = time.monotonic()
        if self._settings.limits.memory_bytes is not None and self._busy and now_s >= self._memory_due_s:
            self._look_at_memory()
            self._memory_due_s = now_s + _MEMORY_PERIOD_S
        if now_s >= self._slots.due_s and self._slots.wants_look(self._in_use(), len(self._queue)):
            self._slots.judge(self._busy.values(), now_s)
        self._dispatch()
        self._keep_warm()
        self._pool.retire_idle(self._slots.base, now_s - self._settings.idle_s)
        self._publish()

    def _timeout_s(self) -> float | None:
        """Return how long the loop may wait for something to happen, seconds."""
        now_s = time.monotonic()
        due_s = []
        if self._preloading.ahead:
            due_s.append(now_s + self._preloading.pause_s)
        if self._pool.fork_wanted:
            due_s.append(self._pool.fork_from_s)
        if self._timers:
            due_s.append(self._timers[0][0])
        if self._left_due_s is not None:
            due_s.append(self._left_due_s)
        if self._busy:
            if self._settings.limits.memory_bytes is not None:
                due_s.append(self._memory_due_s)
            if self._slots.wants_look(self._in_use(), len(self._queue)):
                due_s.append(self._slots.due_s)
            elif self._queue and self._board.more():
                due_s.append(now_s + _GIVEN_BACK_S)
        oldest_s = self._pool.oldest_s(self._slots.base)
        if oldest_s is not None:
            due_s.append(oldest_s + self._settings.idle_s)
        return max(0.0, min(due_s) - now_s) if due_s else None

    def _at(self, when_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when_s, next(self._serial), act))

    def _in_use(self) -> int:
        """Return how many slots are in use: one for each core that executors use."""
        return len(self._busy) + self._board.more()

    def _publish(self) -> None:
        taken = len(self._busy) + len(self._queue) + len(self._late)
        self._board.publish(self._slots.count - taken, self._slots.count)

    # The client.

    def _watch_client(self, client_pid: int) -> None:
        self._selector.register(self._client.sock, selectors.EVENT_READ, self._on_client)
        if hasattr(os, "pidfd_open"):
            # A process which the client forked may hold its end of the socket open: then there is no end of file.
            try:
                descriptor = os.pidfd_open(client_pid)
            except OSError:
                raise Stop from None
            self._kept.append(descriptor)
            self._selector.register(descriptor, selectors.EVENT_READ, self._on_client_death)
        if os.getppid() != client_pid:
            raise Stop

    def _on_client_death(self, _events: int) -> None:
        raise Stop

    def _on_client(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._client.flush()
            self._watch_client_writes()
        if not events & selectors.EVENT_READ:
            return
        try:
            messages = self._client.read()
        except BlockingIOError:
            return
        except EOFError:
            self._hand_on_last_words()
            raise Stop from None
        for message in messages:
            self.accept(message)

    def _hand_on_last_words(self) -> None:
        """Send what tasks have said up to now: a client that closes has hung up its sending end only."""
        for child in list(self._pool.children.values()):
            for message in [] if child.hung_up else child.channel.read_all():
                if message[0] == "output":
                    self._pass_on(child, message)
        self._client.sock.settimeout(_LAST_WORDS_S)
        self._client.flush()

    def accept(self, message: Message) -> None:
        """Do what the client asks for."""
        match message[0]:
            case "invoke":
                self._submit(message[1], mine=True)
            case "cancel":
                self._cancel(message[1], message[2])
            case "ahead":
                self._preloading.expect(message[1])
            case "prepare":
                self._prepare(message[1])
            case "level":
                self._level = message[1]
            case "configure":
                self._environment.update(message[1])
                self._configured += 1
            case "known":
                self._hear_all()
                self._answer(message[2], self._still_here(message[1]))
            case "ends":
                self._tells_ends = True
            case "sync":
                self._hear_all()
                self._answer(message[1])

    def _hear_all(self) -> None:
        """Handle what workers have sent up to now."""
        for child in list(self._pool.children.values()):
            if not child.hung_up:
                self._receive(child, child.channel.read_all())

    def _still_here(self, invocations: Sequence[str]) -> list[str]:
        """Return which of these are queued or running."""
        here = {queued[0] for queued in itertools.chain(self._queue, self._late.values())}
        here.update(child.running for child in self._busy.values() if child.running is not None)
        return [invocation for invocation in invocations if invocation in here]

    def _answer(self, token: int, answer: Sequence[str] = ()) -> None:
        self._tell(("answer", token, answer))

    def _tell(self, message: Message) -> None:
        self._client.send(message)
        self._watch_client_writes()

    def _watch_client_writes(self) -> None:
        writing = self._client.unsent_bytes > 0
        if writing != self._client_writing:
            self._client_writing = writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            self._selector.modify(self._client.sock, events, self._on_client)

    def _prepare(self, modules: Sequence[str]) -> None:
        if self._preloading.load(modules):
            self._renew_workers()

    def _renew_workers(self) -> None:
        """Have workers, from the next one on, begin with what is imported here by now."""
        freeze()
        self._pool.renew()

    # Invocations.

    def _submit(self, invocations: Sequence[tuple[str, bytes, int]], *, mine: bool = False) -> None:
        script = self._settings.faults
        for invocation, payload, size in invocations:
            n, self._received = self._received, self._received + 1
            if script is None:
                self._queue.append((invocation, payload, size, None, mine))
                continue
            fault = script.fault(n)
            if not fault.lost:
                for _ in range(2 if fault.duplicate else 1):
                    self._deliver((invocation, payload, size, fault, mine), fault.delay_s)
        self._publish()
        self._dispatch()

    def _deliver(self, queued: Queued, delay_s: float) -> None:
        if delay_s:
            token = next(self._serial)
            self._late[token] = queued
            self._at(time.monotonic() + delay_s, partial(self._arrive, token))
        else:
            self._queue.append(queued)

    def _arrive(self, token: int) -> None:
        if token in self._late:
            self._queue.append(self._late.pop(token))

    def _dispatch(self) -> None:
        """Start what is queued, as far as there are slots."""
        while self._queue and self._in_use() < self._slots.count:
            child = self._take()
            if child is None:
                return
            self._assign(child, self._queue.popleft())

    def _assign(self, child: Child, queued: Queued) -> None:
        invocation, payload, size, fault, mine = queued
        now_s = time.monotonic()
        if not self._busy:
            self._slots.resume(now_s)
        child.running = invocation
        child.turn += 1
        limits = self._settings.limits
        child.limit_bytes = limits.sizes[size] if limits.sizes else limits.memory_bytes
        child.last_words = ""
        self._busy[child.pid] = child
        self._board.start(child.index, invocation)
        self._slots.begin(child, now_s)
        crash, at_task = (fault.crash, fault.at_task) if fault is not None else (None, 0)
        environment = None
        if child.configured != self._configured:
            child.configured, environment = self._configured, self._environment
        run = ("run", invocation, payload, child.limit_bytes, self._level, environment, crash, at_task)
        child.channel.send(run)
        self._watch_writes(child)
        if mine:
            self._tell(("begun", invocation))
        limit_s = limits.time_s
        if limit_s is not None:
            self._at(now_s + limit_s, partial(self._time_is_up, child, child.turn, limit_s))

    def _time_is_up(self, child: Child, turn: int, limit_s: float) -> None:
        if child.turn == turn and child.running is not None:
            self._kill(child, "timeout", f"still running at the limit of {limit_s:g} s")

    def _look_at_memory(self) -> None:
        for child in self._busy.values():
            used_bytes, most_bytes = memory_bytes(child.pid), child.limit_bytes
            if most_bytes is not None and used_bytes > most_bytes:
                self._kill(child, "memory", f"used {used_bytes:,} bytes, the limit is {most_bytes:,}")

    def _cancel(self, prefix: str, token: int) -> None:
        """Drop what is queued, kill what runs; acknowledge when the killed ones are gone."""
        self._queue = deque(queued for queued in self._queue if not queued[0].startswith(prefix))
        self._late = {token: queued for token, queued in self._late.items() if not queued[0].startswith(prefix)}
        doomed = set()
        for child in self._busy.values():
            if child.running is not None and child.running.startswith(prefix):
                self._kill(child, "cancel", "")
                doomed.add(child.pid)
        if token:
            self._cancels[token] = doomed
            self._acknowledge()

    def _acknowledge(self, gone: int = 0) -> None:
        for token, doomed in list(self._cancels.items()):
            doomed.discard(gone)
            if not doomed:
                del self._cancels[token]
                self._answer(token)

    def _fail(self, invocation: str, reason: str, detail: str, task: str | None = None) -> None:
        self._tell(("failed", invocation, reason, detail, task))

    # Workers.

    def _take(self) -> Child | None:
        """Return a worker to run something; None if one has to be forked first, in another turn of the loop."""
        try:
            return self._pool.take(self._be_worker)
        except OSError as error:
            if not self._pool.children:
                while self._queue:
                    self._fail(self._queue.popleft()[0], "start", f"no process could be forked: {error}")
            return None

    def _keep_warm(self) -> None:
        """Keep as many workers as cores; while there is work, as many as slots, so that free slots start at once."""
        with contextlib.suppress(OSError):
            self._pool.keep_warm(self._slots.count if self._busy else self._slots.base, self._be_worker)

    def _be_worker(self, line: socket.socket, index: int, host: int) -> None:
        self._client.sock.close()
        self._listener.leave()
        for descriptor in self._kept:
            os.close(descriptor)
        inside.run(HostConnection(line), self._board, index, self._function, self._settings, host)

    def _kill(self, child: Child, reason: str, detail: str) -> None:
        if child.doomed is None:
            child.doomed = (reason, detail)
            self._end(child)

    def _end(self, child: Child) -> None:
        self._at(self._pool.end(child), partial(self._pool.kill, child))

    def _watch_writes(self, child: Child) -> None:
        writing = child.channel.unsent_bytes > 0
        if writing != child.writing and not child.hung_up:
            child.writing = writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            data = self._selector.get_key(child.channel.sock).data
            self._selector.modify(child.channel.sock, events, data)

    def _on_child(self, child: Child, events: int) -> None:
        if child.hung_up:
            return
        if events & selectors.EVENT_WRITE:
            child.channel.flush()
            self._watch_writes(child)
        if not events & selectors.EVENT_READ:
            return
        try:
            messages = child.channel.read()
        except BlockingIOError:
            return
        except EOFError:
            self._pool.hang_up(child)
            self._end(child)  # it has ended or closed its line, which means the same
            return
        self._receive(child, messages)

    def _receive(self, child: Child, messages: Sequence[Message]) -> None:
        if child.doomed is not None and child.doomed[0] == "cancel":
            return
        for message in messages:
            match message[0]:
                case "invoke":
                    self._submit(message[1])
                case "done":
                    self._done(child, message[1])
                case "output":
                    self._pass_on(child, message)
                case "cancel":
                    self._cancel(message[1], 0)

    def _done(self, child: Child, error: str | None) -> None:
        if child.running is None:
            return
        if error is not None:
            self._fail(child.running, "error", error, self._board.task(child.index))
        elif self._tells_ends:
            self._tell(("ended", child.running))
        self._leave(child)
        if child.doomed is not None:
            return
        self._pool.rest(child)
        self._dispatch()

    def _leave(self, child: Child) -> None:
        child.running = None
        self._board.start(child.index, "")
        del self._busy[child.pid]
        if not self._busy:
            settle_s = self._slots.rest(time.monotonic())
            if self._slots.count != self._slots.base:
                self._at(settle_s, lambda: self._slots.settle(time.monotonic()))

    def _pass_on(self, child: Child, message: Message) -> None:
        if message[3] == "stderr":
            child.last_words = message[4].strip().rpartition("\n")[2][:500] or child.last_words
        if self._client.unsent_bytes > _MOST_OUTPUT_BYTES:
            self._dropped += 1
            return
        if self._dropped:
            text = f"{self._dropped} pieces of output were dropped: the client does not keep up\n"
            self._tell(("output", "", None, "stderr", text, "", 0))
            self._dropped = 0
        self._tell(message)

    def _watch_children(self) -> None:
        adopt_orphans()
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        self._kept += [reading, writing]
        self._selector.register(reading, selectors.EVENT_READ, lambda _events: self._on_sigchld(reading))
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _on_sigchld(self, reading: int) -> None:
        os.read(reading, 4096)
        for child, status in self._pool.dead(lambda child: self._receive(child, child.channel.read_all())):
            self._bury(child, status)

    def _bury(self, child: Child, status: int) -> None:
        if child.running is not None:
            reason, detail = child.doomed or ("crash", ended(status))
            if reason != "cancel":
                if child.last_words:
                    detail += f"; last words: {child.last_words}"
                self._fail(child.running, reason, detail, self._board.task(child.index))
            self._leave(child)
        self._pool.bury(child)
        self._acknowledge(child.pid)

    def stop(self) -> None:
        """End all workers and wait for their ends."""
        self._pool.stop()
