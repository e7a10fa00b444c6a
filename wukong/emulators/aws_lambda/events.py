"""Asynchronous events: queued, started, retried, given up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from wukong.emulators.aws_lambda.functions import Function
from wukong.emulators.aws_lambda.invocation import AttemptOutcome, LambdaInvocation
from wukong.emulators.aws_lambda.ledger import ServiceLedger
from wukong.emulators.aws_lambda.names import LATEST
from wukong.emulators.aws_lambda.refusal import Refusal
from wukong.emulators.aws_lambda.scaling import Scaler
from wukong.emulators.aws_lambda.script import ServiceScript
from wukong.emulators.aws_lambda.settings import ServiceSettings

_MOST_THROTTLE_DELAY_S = 300.0
_ROOM_DELAY_S = 0.05

RETRIES_EXHAUSTED = "RetriesExhausted"
EVENT_AGE_EXCEEDED = "EventAgeExceeded"


class EventQueue:
    """The events of one function.

    Attributes:
        backlog: events that found no room, in their order.
        resting: how many wait for their next attempt.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        loop: asyncio.AbstractEventLoop,
        ledger: ServiceLedger,
        script: ServiceScript,
        scaler: Scaler,
        function: Function,
    ) -> None:
        self._settings, self._loop, self._ledger, self._script = settings, loop, ledger, script
        self._scaler = scaler
        self._function = function
        self.backlog: deque[LambdaInvocation] = deque()
        self.resting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._delay_s = settings.throttle_delay_s
        self._closed = False

    def put(self, invocation: LambdaInvocation) -> None:
        """Take an event; start it if there is room."""
        self.backlog.append(invocation)
        if len(self.backlog) == 1:
            self.drain()

    def drain(self) -> None:
        """Start what is queued, as far as there is room."""
        while self.backlog and not self._closed:
            invocation = self.backlog[0]
            if self._too_old(invocation, 0.0):
                self.backlog.popleft()
                self._ledger.gave_up(invocation, None, EVENT_AGE_EXCEEDED)
                continue
            if invocation.version.number == LATEST:
                invocation.version = self._function.latest()
            try:
                self._scaler.admit(invocation)
            except Refusal:
                self._rest()
                return
            self.backlog.popleft()
            self._delay_s = self._settings.throttle_delay_s

    def room(self) -> None:
        """There may be room now. A queue that rests after it was throttled goes on resting."""
        if self.backlog and not self._settings.throttle_delay_s:
            self.drain()

    def _rest(self) -> None:
        if self._timer is None:
            self._ledger.counts["throttled_events"] += 1
            self._timer = self._loop.call_later(self._delay_s or _ROOM_DELAY_S, self._rested)
            self._delay_s = min(2 * self._delay_s, _MOST_THROTTLE_DELAY_S)

    def _rested(self) -> None:
        self._timer = None
        self.drain()

    def answer(self, invocation: LambdaInvocation, outcome: AttemptOutcome) -> None:
        """An attempt has ended: the event is done, retried, or given up."""
        if outcome.reason is None or self._closed:
            return
        delays_s = self._settings.retry_delays_s
        retries = min(len(delays_s), int(self._configured(invocation, "MaximumRetryAttempts", len(delays_s))))
        if invocation.attempt >= retries:
            self._ledger.gave_up(invocation, outcome, RETRIES_EXHAUSTED)
            return
        delay_s = delays_s[invocation.attempt]
        if self._too_old(invocation, delay_s):
            self._ledger.gave_up(invocation, outcome, EVENT_AGE_EXCEEDED)
            return
        self._ledger.counts["retries"] += 1
        self.resting += 1
        self._loop.call_later(delay_s, partial(self._again, invocation))

    def _again(self, invocation: LambdaInvocation) -> None:
        self.resting -= 1
        invocation.attempt += 1
        invocation.fault = self._script.retry_fault(invocation.number, invocation.attempt)
        self.put(invocation)

    def _too_old(self, invocation: LambdaInvocation, delay_s: float) -> bool:
        age_s = self._configured(invocation, "MaximumEventAgeInSeconds", self._settings.event_age_s)
        return time.monotonic() + delay_s - invocation.accepted_s > age_s

    def _configured(self, invocation: LambdaInvocation, name: str, default: float) -> float:
        """Return the event invoke configuration of the qualifier that the event was sent to."""
        configured = self._function.event_settings.get(invocation.qualifier or LATEST)
        return default if configured is None else float(configured.get(name, default))

    def close(self) -> None:
        """Drop all events: the function is gone."""
        self._closed = True
        self.backlog.clear()
        if self._timer is not None:
            self._timer.cancel()


class EventQueues:
    """The queues of all functions; they hear of the scaler when there may be room. `make` makes one."""

    def __init__(self, make: Callable[[Function], EventQueue], scaler: Scaler) -> None:
        self._make = make
        self._queues: dict[Function, EventQueue] = {}
        scaler.on_room = self._room

    def of(self, function: Function) -> EventQueue:
        """Return a function's queue."""
        queue = self._queues.get(function)
        if queue is None:
            queue = self._queues[function] = self._make(function)
        return queue

    def close(self, function: Function) -> None:
        """Drop all events of a function that is deleted."""
        self.of(function).close()
        del self._queues[function]

    def _room(self) -> None:
        for queue in list(self._queues.values()):
            queue.room()
