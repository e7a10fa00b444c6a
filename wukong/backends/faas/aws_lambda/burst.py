"""A burst of invocations, from one thread, over many keep-alive connections at once.

    queued --request on a free connection--> under way --202--> accepted
      ^                                          |
      |   a function that throttles rests; what met a passing fault waits, with jitter
      `------------------------------------------'--anything final--> the error, at once

Threads do not make this quicker: a call costs this process some 40 us of Python and Lambda some 10 ms, so one thread
that has many calls under way keeps a core busy. It gives up when nothing at all has been accepted for `patience_s`. A
call whose answer did not come is made again; Lambda may then run it twice, which "at least once" allows.
"""

from __future__ import annotations

import heapq
import http.client
import itertools
import logging
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NoReturn

from wukong.backends.faas import Invocation
from wukong.backends.faas.aws_lambda.answers import BACKEND, Answer, error_of, read
from wukong.backends.faas.aws_lambda.event import pack
from wukong.backends.faas.aws_lambda.invoker import Invoker, Lane
from wukong.backends.http_connections import alive, read_response
from wukong.errors import BackendError, Throttled

logger = logging.getLogger(__name__)

_SKEW_S = 120.0
_TOLD_S = 60.0
_LOOK_S = 0.002
"""The interval between two looks whether a connection is open, while some are being opened."""


@dataclass(slots=True)
class _Call:
    invocation: Invocation
    tries: int = 0
    skewed: bool = False


@dataclass(slots=True, eq=False)
class _Line:
    """A connection in use by a burst; `answered` is how many responses it has brought in this burst."""

    connection: socket.socket
    reused: bool
    answered: int = 0
    call: _Call | None = None
    lane: Lane | None = None
    sent_at: float = 0.0


@dataclass(slots=True)
class Burst:
    """One call of `invoke`: these invocations, by what an `Invoker` has.

    Attributes:
        queued: calls to be made as soon as a connection is free. waiting: those that rest, by when that is over.
        busy: connections with a call under way, in the order of sending. idle: free ones. opening: those to come.
        order: tells apart what rests until the same moment.
        progress_at: when a call was accepted last. open_after: no connection is opened before this. Both by the
            monotonic clock, seconds.
        failed_opens: how many connections in a row could not be opened.
        trouble: the last thing that went wrong; raised if nothing is accepted for too long.
        taken: the ids of the invocations that were accepted.
    """

    invoker: Invoker
    invocations: Sequence[Invocation]
    queued: deque[_Call] = field(default_factory=deque)
    waiting: list[tuple[float, int, _Call]] = field(default_factory=list)
    busy: dict[_Line, None] = field(default_factory=dict)
    idle: list[_Line] = field(default_factory=list)
    opening: set[Future[socket.socket]] = field(default_factory=set)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    order: itertools.count[int] = field(default_factory=itertools.count)
    progress_at: float = field(default_factory=time.monotonic)
    open_after: float = 0.0
    failed_opens: int = 0
    trouble: BackendError | None = None
    taken: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Send all; return when all have been accepted. Raises `Throttled`, `PayloadTooLarge`, `BackendError`."""
        self.queued.extend(_Call(invocation) for invocation in self.invocations)
        try:
            while self.queued or self.waiting or self.busy:
                now = time.monotonic()
                while self.waiting and self.waiting[0][0] <= now:
                    self.queued.append(heapq.heappop(self.waiting)[2])
                self._connect(now)
                self._dispatch(now)
                self._collect(now)
        except Throttled as error:
            error.taken = frozenset(self.taken)
            raise
        finally:
            self._leave()

    # --- connections

    def _connect(self, now: float) -> None:
        """Get a connection for each call that is left, if possible; take over those that are open by now."""
        for future in [future for future in self.opening if future.done()]:
            self.opening.discard(future)
            try:
                self._use(future.result(), reused=False)
                self.failed_opens = 0
            except OSError as error:
                self._unreachable(error, now)
        # Opening takes 1 ms of work, over TLS; waiting for the answer on another connection takes 10 to 50 ms.
        wanted = min(self.invoker.at_once, len(self.queued) + len(self.busy))
        while len(self.idle) + len(self.busy) < wanted:
            connection = self.invoker.connections.take()
            if connection is None:
                break
            self._use(connection, reused=True)
        have = len(self.idle) + len(self.busy) + len(self.opening)
        if have < wanted and now >= self.open_after:
            if have == 0 and wanted == 1:
                try:
                    self._use(self.invoker.connections.open(), reused=False)
                    self.failed_opens = 0
                except OSError as error:
                    self._unreachable(error, now)
            else:
                self.opening.update(self.invoker.open_later() for _ in range(wanted - have))

    def _use(self, connection: socket.socket, *, reused: bool) -> None:
        line = _Line(connection, reused)
        self.selector.register(connection, selectors.EVENT_READ, line)
        self.idle.append(line)

    def _drop(self, line: _Line) -> None:
        self.selector.unregister(line.connection)
        line.connection.close()

    def _unreachable(self, error: OSError, now: float) -> None:
        """A connection could not be opened: try again in a while, unless that cannot help."""
        endpoint = self.invoker.lanes[0].target.endpoint_url
        hint = "check endpoint_url and region; a function inside a VPC needs a NAT gateway or an endpoint for Lambda"
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = "if a proxy or an emulator has authorities of its own, name them in AWS_CA_BUNDLE"
        self.trouble = BackendError(f"{endpoint} cannot be reached: {error}", backend=BACKEND, hint=hint)
        self.trouble.__cause__ = error
        known = isinstance(error, ssl.SSLCertVerificationError) or (
            isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
        )
        if now >= self.open_after:  # of several that fail together the first one counts
            self.failed_opens += 1
            self.open_after = now + self.invoker.pause_s(self.failed_opens)
        if known or (self.open_after > self.progress_at + self.invoker.patience_s and not (self.idle or self.busy)):
            raise self.trouble

    # --- requests

    def _dispatch(self, now: float) -> None:
        while self.queued and self.idle:
            lane = self._lane(now)
            if lane is None:
                self._rest()
                return
            line = self.idle.pop()
            line.call, line.lane = self.queued.popleft(), lane
            self.busy[line] = None
            request = self.invoker.signer.request(lane.path, lane.query, pack(line.call.invocation))
            try:
                line.connection.sendall(request)
                line.sent_at = time.monotonic()
            except OSError as error:
                self._broken(line, error)

    def _lane(self, now: float) -> Lane | None:
        """Return whose turn it is among the functions that do not rest."""
        lanes = self.invoker.lanes
        first = next(self.invoker.turns)
        for at in range(first, first + len(lanes)):
            if lanes[at % len(lanes)].rest_until <= now:
                return lanes[at % len(lanes)]
        return None

    def _rest(self) -> None:
        """Give up if all functions rest for longer than `patience_s`."""
        lane = min(self.invoker.lanes, key=lambda each: each.rest_until)
        if lane.rest_until > self.progress_at + self.invoker.patience_s:
            assert lane.refusal is not None
            raise error_of(lane.refusal, lane.target)

    # --- answers

    def _collect(self, now: float) -> None:
        """Wait for the next answers, and handle them."""
        pause_s = self._pause_s(now)
        if not self.selector.get_map():
            if self.opening:
                wait(self.opening, pause_s, FIRST_COMPLETED)
            else:
                time.sleep(pause_s)
            return
        for key, _ in self.selector.select(pause_s):
            line: _Line = key.data
            if line.call is not None:
                self._answer(line)
            elif not alive(line.connection):
                self.idle.remove(line)
                self._drop(line)
        now = time.monotonic()
        for line in list(self.busy):
            if now - line.sent_at < self.invoker.timeout_s:
                break  # they are in the order in which they were sent
            self._broken(line, TimeoutError(f"no answer within {self.invoker.timeout_s:g} s"))

    def _pause_s(self, now: float) -> float:
        """Return how long to wait for an answer before something else is due, seconds."""
        until = [now + self.invoker.timeout_s]
        if self.waiting:
            until.append(self.waiting[0][0])
        if self.busy:
            until.append(next(iter(self.busy)).sent_at + self.invoker.timeout_s)
        if self.queued and self.idle:
            until.append(min(lane.rest_until for lane in self.invoker.lanes))
        if self.queued and not self.idle and self.open_after > now:
            until.append(self.open_after)
        if self.opening and self.selector.get_map():
            until.append(now + _LOOK_S)
        return max(0.0, min(until) - now)

    def _answer(self, line: _Line) -> None:
        try:
            response = read_response(line.connection)
        except (OSError, http.client.HTTPException) as error:
            self._broken(line, error)
            return
        if response is None:
            return
        status, headers, body, again = response
        call, lane = line.call, line.lane
        assert call is not None
        assert lane is not None
        line.call, line.answered = None, line.answered + 1
        del self.busy[line]
        if again:
            self.idle.append(line)
        else:
            self._drop(line)
        if status == 202:
            self.progress_at, lane.refusals = time.monotonic(), 0
            self.taken.add(call.invocation.id)
            return
        self._refused(call, lane, line.sent_at, read(status, headers, body))

    def _refused(self, call: _Call, lane: Lane, sent_at: float, answer: Answer) -> None:
        now = time.monotonic()
        match answer.verdict:
            case "accepted":
                self.progress_at = now
                self.taken.add(call.invocation.id)
            case "throttled":
                lane.refusal = answer
                if now >= lane.told_until:
                    logger.warning(
                        "throttled, and tried again until it is accepted: %s", error_of(answer, lane.target).message
                    )
                    lane.told_until = now + _TOLD_S
                if sent_at >= lane.rest_until:  # else it was under way already when the function was sent to rest
                    lane.refusals += 1
                    lane.rest_until = now + max(answer.wait_s, self.invoker.pause_s(lane.refusals))
                else:
                    lane.rest_until = max(lane.rest_until, now + answer.wait_s)
                self.queued.appendleft(call)
            case "again":
                self.trouble = error_of(answer, lane.target)
                self._later(call, answer.wait_s)
            case "skewed" if not call.skewed and self._clock_was_wrong(answer):
                call.skewed = True
                self.queued.appendleft(call)
            case _:
                raise error_of(answer, lane.target)

    def _clock_was_wrong(self, answer: Answer) -> bool:
        """Return whether the server's clock differs from what we took for it; sign by the server's from now on."""
        signer = self.invoker.signer
        try:
            server_time = parsedate_to_datetime(answer.date or "").timestamp()
        except ValueError:
            return False
        if max(abs(server_time - signer.now), abs(server_time - time.time())) < _SKEW_S:
            return False
        signer.set_clock(server_time)
        return True

    def _broken(self, line: _Line, error: Exception) -> None:
        """The connection failed under a call, or its answer did not come."""
        call, lane = line.call, line.lane
        assert call is not None
        assert lane is not None
        del self.busy[line]
        self._drop(line)
        if (line.reused or line.answered) and isinstance(error, (ConnectionError, ssl.SSLError)):
            self.queued.appendleft(call)  # it was being closed while it was idle; a new one has no such excuse
            return
        self.trouble = BackendError(
            f"no answer from AWS Lambda: {type(error).__name__}: {error} [{lane.target}]",
            backend=BACKEND,
            hint="check the network, and the option timeout_s",
        )
        self.trouble.__cause__ = error
        self._later(call, 0.0)

    def _later(self, call: _Call, wait_s: float) -> None:
        """Make a call again after a pause; give up if the pause would end after `patience_s`."""
        call.tries += 1
        due = time.monotonic() + max(wait_s, self.invoker.pause_s(call.tries))
        if due > self.progress_at + self.invoker.patience_s:
            self._give_up()
        heapq.heappush(self.waiting, (due, next(self.order), call))

    def _give_up(self) -> NoReturn:
        assert self.trouble is not None
        raise self.trouble

    def _leave(self) -> None:
        """Keep the connections on which nothing is outstanding."""
        for line in self.idle:
            self.selector.unregister(line.connection)
            self.invoker.connections.give(line.connection)
        for line in self.busy:
            self._drop(line)
        for future in self.opening:
            if not future.cancel():
                future.add_done_callback(self._keep)
        self.selector.close()

    def _keep(self, future: Future[socket.socket]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.invoker.connections.give(future.result())
