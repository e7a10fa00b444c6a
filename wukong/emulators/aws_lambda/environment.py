"""One execution environment: a process, its state, and what happens to it. Its `EnvironmentOwner` is told.

    starting --next--> idle (frozen) --event--> busy --response--> finishing --next--> idle or busy again
        |                  |                      |                     |
        +------------------+-------- dies ------- dead -----------------+

It is frozen when it has asked for the next event and there is none. Its concurrency is given back with the response.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Protocol

from wukong.emulators.aws_lambda.functions import Version
from wukong.emulators.aws_lambda.invocation import AttemptOutcome, LambdaInvocation, Reason, error, exit_text
from wukong.emulators.aws_lambda.ledger import ServiceLedger
from wukong.emulators.aws_lambda.logs import LogBook, Stream
from wukong.emulators.aws_lambda.runtime import CREDENTIALS, RuntimeConnection
from wukong.emulators.aws_lambda.script import ServiceScript
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.spawner import Process, Spawner
from wukong.emulators.aws_lambda.variables import CREDENTIALS_VARIABLE, TOKEN, TOKEN_VARIABLE, access_key, secret_key

State = Literal["starting", "restarting", "idle", "busy", "finishing", "dead"]
"""``restarting``: it is initialised a second time, within an invocation, after the first time has failed."""
_DURING_S = 0.002
_BACKLOG = 16


class EnvironmentOwner(Protocol):
    """Whoever has an environment, gives it events and hears what becomes of it."""

    def moved(self, before: State, after: State) -> None:
        """An environment has changed its state."""

    def free(self, environment: ExecutionEnvironment) -> None:
        """An environment can take an event."""

    def finished(self, invocation: LambdaInvocation) -> None:
        """An invocation is over."""

    def failed_to_start(self, environment: ExecutionEnvironment) -> None:
        """An environment could not be initialised."""

    def ended(self, environment: ExecutionEnvironment) -> None:
        """An environment is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentHost:
    """What all environments of one service are made with.

    Attributes:
        folder: that of the service's files.
        python: the interpreter that they run.
        needed: folders that they need besides their code, for Python and its packages.
        ledger, logs: where their attempts and their output are noted.
        script: delays their cold starts.
        variables: returns a version's environment variables.
        spawner_of: returns the spawner of a version's environments.
    """

    settings: ServiceSettings
    loop: asyncio.AbstractEventLoop
    folder: Path
    python: str
    needed: Sequence[str]
    ledger: ServiceLedger
    logs: LogBook
    script: ServiceScript
    variables: Callable[[Version], dict[str, str]]
    spawner_of: Callable[[Version], Spawner]


class ExecutionEnvironment:
    """See the module's docstring.

    Args:
        owner: told what becomes of it.
        bound: the invocation within which it is initialised a second time; the invocation's time runs already.
        stream: name of its log; None: a new one.

    Attributes:
        state: see above.
        invocations: how many it has been given.
        frozen: it is suspended.
        idle_since_s: since when it has been idle (monotonic, seconds).
    """

    def __init__(
        self,
        host: EnvironmentHost,
        owner: EnvironmentOwner,
        version: Version,
        *,
        bound: LambdaInvocation | None = None,
        stream: str | None = None,
    ) -> None:
        self.version = version
        self._host, self._owner = host, owner
        self.state: State = "starting" if bound is None else "restarting"
        self.invocations = 0
        self.frozen = False
        self.idle_since_s = 0.0
        self.invocation: LambdaInvocation | None = bound
        self._identity = secrets.token_hex(16)
        today = datetime.now(UTC)
        self.log = Stream(host.logs, version, stream or f"{today:%Y/%m/%d}/[{version.number}]{self._identity}")
        self._temporary = host.folder / "environments" / self._identity
        self._poll: RuntimeConnection | None = None
        self._process: Process | None = None
        self._server: asyncio.Server | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._doom: tuple[Reason, str] | None = None
        self._init_error: bytes | None = None
        self._began_s = time.monotonic()
        self._init_ms: float | None = None
        if bound is not None:
            self.log.start(bound.id)

    @property
    def pid(self) -> int | None:
        """Its process, once there is one."""
        return None if self._process is None else self._process.pid

    # Starting.

    async def start(self) -> None:
        """Open its Runtime API and start its process. If that fails it has ended."""
        try:
            address = await self._listen()
            self._temporary.mkdir(parents=True)
        except OSError as error:
            self.log.say(f"The service could not start an environment: {error}\n")
            self._ended(1 << 8)
            return
        self._began_s = time.monotonic()
        if self.state == "restarting":
            self._limit_time()
        else:
            self._after(self._host.settings.init_s, lambda: self._kill("start", "timeout"))
        self._process = self._host.spawner_of(self.version).spawn(
            [self._host.python, "-m", "awslambdaric", self.version.handler],
            {**self._host.variables(self.version), **self._own_variables(address)},
            str(self.version.code.folder),
            self.log.write,
            self._ended,
            tmp_bytes=self.version.tmp_mb * 1_048_576 if self._host.settings.own_tmp else None,
            needed=[str(self.version.code.folder), *self._host.needed],
        )
        if self._doom is not None:
            self._process.kill()

    async def _listen(self) -> str:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self._server = await self._host.loop.create_server(lambda: RuntimeConnection(self), sock=sock, backlog=_BACKLOG)
        return f"127.0.0.1:{sock.getsockname()[1]}"

    def _own_variables(self, address: str) -> dict[str, str]:
        told = {
            "AWS_LAMBDA_LOG_STREAM_NAME": self.log.name,
            "AWS_LAMBDA_RUNTIME_API": address,
            "TMPDIR": str(self._temporary),
        }
        return told | {CREDENTIALS_VARIABLE: f"http://{address}{CREDENTIALS}"} if self.version.snapped else told

    # Requests of its runtime.

    def next(self, poll: RuntimeConnection) -> None:
        """The runtime wants the next event; it is answered when there is one."""
        if self.state in ("dead", "idle", "busy") or self._doom is not None:
            poll.refuse(403, "InvalidStateTransition", "Transition not allowed: the environment is " + self.state)
            return
        self._poll = poll
        if self.state == "finishing":
            self._rest()
            return
        cold_start_s = self._host.script.cold_start_s()
        if cold_start_s:
            self._after(cold_start_s, self._initialised)
        else:
            self._initialised()

    def _initialised(self) -> None:
        if self.state == "restarting" and self.invocation is not None:
            self._deliver(self.invocation)
            return
        self._init_ms = (time.monotonic() - self._began_s) * 1_000
        self._rest()

    def _rest(self) -> None:
        self._cancel_timers()
        self._become("idle")
        self._owner.free(self)

    def respond(self, poll: RuntimeConnection, request_id: str, payload: bytes, content_type: str) -> None:
        """The function has returned."""
        invocation = self._answered(poll, request_id)
        if invocation is None:
            return
        limit_bytes = self._host.settings.response_bytes
        if len(payload) > limit_bytes and not invocation.event:
            poll.refuse(413, "RequestEntityTooLarge", f"Exceeded maximum allowed payload size ({limit_bytes} bytes).")
            message = f"Response payload size exceeded maximum allowed payload size ({limit_bytes} bytes)."
            self._finish(AttemptOutcome(error("Function.ResponseSizeTooLarge", message), "error"))
            return
        self._finish(AttemptOutcome(payload, None, content_type))
        poll.accept()

    def fail(self, poll: RuntimeConnection, request_id: str, payload: bytes) -> None:
        """The function has raised."""
        if self._answered(poll, request_id) is not None:
            self._finish(AttemptOutcome(payload, "error"))
            poll.accept()

    def _answered(self, poll: RuntimeConnection, request_id: str) -> LambdaInvocation | None:
        """Return the invocation that is answered; None: it is not the one that runs, or was to crash by now."""
        invocation = self.invocation
        if invocation is None or invocation.id != request_id or self.state != "busy":
            poll.refuse(400, "InvalidRequestID", "Invalid request ID")
            return None
        if invocation.fault.crash is not None:
            self._kill("crash", "")
            return None
        return invocation

    def fail_to_start(self, poll: RuntimeConnection, payload: bytes) -> None:
        """The function could not be initialised; the runtime is about to exit."""
        if self.state not in ("starting", "restarting"):
            poll.refuse(403, "InvalidStateTransition", "Transition not allowed: the environment is " + self.state)
            return
        self._init_error = payload
        poll.accept()

    def credentials(self, poll: RuntimeConnection, token: str) -> None:
        """See `RuntimeRequests.credentials`."""
        if token != TOKEN:
            poll.refuse(403, "AccessDenied", "This is not the token of the variable " + TOKEN_VARIABLE)
            return
        settings, until = self._host.settings, datetime.now(UTC) + timedelta(hours=6)
        poll.respond(
            200,
            {
                "AccessKeyId": access_key(settings),
                "SecretAccessKey": secret_key(settings),
                "Token": TOKEN,
                "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}",
            },
        )

    # Running.

    def deliver(self, invocation: LambdaInvocation) -> None:
        """Give it an event. It must be idle."""
        self.log.start(invocation.id)
        self._began_s = time.monotonic()
        self._limit_time()
        self._deliver(invocation)

    def _deliver(self, invocation: LambdaInvocation) -> None:
        poll, self._poll = self._poll, None
        assert poll is not None
        self.invocation = invocation
        self.invocations += 1
        self._become("busy")
        self._thaw()
        fault = invocation.fault
        if fault.crash == "before":
            self._kill("crash", "")
            return
        if fault.crash == "during":
            self._after(_DURING_S * fault.at_task, lambda: self._kill("crash", ""))
        deadline_ms = int((time.time() + self._limit_s() - (time.monotonic() - self._began_s)) * 1_000)
        poll.give(invocation, deadline_ms)

    def _limit_s(self) -> float:
        limit_s = self._host.settings.time_limit_s
        return self.version.timeout_s if limit_s is None else limit_s

    def _limit_time(self) -> None:
        self._after(self._limit_s(), lambda: self._kill("timeout", ""))

    def check_memory(self) -> None:
        """Kill it if it uses more than its function may."""
        limit_bytes = self.version.memory_mb * 1_048_576
        if self.state == "busy" and self._process is not None and self._process.memory_bytes() > limit_bytes:
            self._kill("memory", "")

    def _finish(self, outcome: AttemptOutcome, ended: str = "") -> None:
        """Finish the current invocation. `ended`: the type of error for its log, if the runtime has ended."""
        invocation, self.invocation = self.invocation, None
        assert invocation is not None
        duration_ms = (time.monotonic() - self._began_s) * 1_000
        peak_bytes = 0
        if self._process is not None:
            self._process.drain()
            peak_bytes = self._process.peak_bytes()
        cold, self._init_ms = self._init_ms, None
        status = ""
        if outcome.reason == "timeout":
            status = "Status: timeout"
        elif ended:
            status = f"Status: error\tError Type: {ended}"
        if outcome.reason == "memory":
            peak_bytes = self.version.memory_mb * 1_048_576
        tail, billed_ms = self.log.end(invocation.id, duration_ms, peak_bytes, cold, status)
        outcome = AttemptOutcome(outcome.payload, outcome.reason, outcome.content_type, tail)
        self._host.ledger.attempted(invocation, outcome, billed_ms, cold=self.invocations <= 1)
        if self.state == "busy":
            self._become("finishing")
        self._owner.finished(invocation)
        invocation.answer(outcome)

    # Freezing and dying.

    def freeze(self) -> None:
        """Suspend it until the next event."""
        self.idle_since_s = time.monotonic()
        if self._process is not None:
            self.frozen = True
            self._process.freeze()

    def _thaw(self) -> None:
        if self.frozen and self._process is not None:
            self.frozen = False
            self._process.thaw()

    def retire(self) -> None:
        """End it, because it is idle and not needed any more, or because it has to go in any case."""
        self._kill("crash", "")

    def _kill(self, reason: Reason, detail: str) -> None:
        if self._doom is None and self.state != "dead":
            self._doom = (reason, detail)
            if self._process is not None:
                self._process.kill()

    def _ended(self, status: int) -> None:
        state, process = self.state, self._process
        self._become("dead")
        self._cancel_timers()
        if self._server is not None:
            self._server.close()
        if self._poll is not None:
            self._poll.close()
        self._remove_temporary()
        reason, detail = self._doom or ("crash", "")
        if state in ("starting", "restarting"):
            self._init_failed(reason, detail, status)
        elif self.invocation is not None:
            outcome, kind = self._last_words(self.invocation, reason, status)
            self._finish(outcome, kind)
        self.log.finish()
        if process is not None:
            self._process = None
        self._owner.ended(self)

    def _last_words(self, invocation: LambdaInvocation, reason: Reason, status: int) -> tuple[AttemptOutcome, str]:
        if reason == "timeout":
            text = f"Task timed out after {self._limit_s():.2f} seconds"
            now = datetime.now(UTC)
            self.log.say(f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z {invocation.id} {text}\n\n")
            kind = "Sandbox.Timedout"
        else:
            kind = "Runtime.OutOfMemory" if reason == "memory" else "Runtime.ExitError"
            text = exit_text(status)
            self.log.say(f"RequestId: {invocation.id} Error: {text}\n{kind}\n")
        return AttemptOutcome(error(kind, f"RequestId: {invocation.id} Error: {text}"), reason), kind

    def _init_failed(self, reason: Reason, detail: str, status: int) -> None:
        took_ms = (time.monotonic() - self._began_s) * 1_000
        kind = "Runtime.Unknown" if self._init_error is not None else "Runtime.ExitError"
        failed = "timeout" if detail or reason == "timeout" else f"error\tError Type: {kind}"
        phase = "init" if self.invocation is None else "invoke"
        self.log.say(f"INIT_REPORT Init Duration: {took_ms:.2f} ms\tPhase: {phase}\tStatus: {failed}\n")
        if self.invocation is None:
            self._owner.failed_to_start(self)
        elif self._init_error is not None:
            self._finish(AttemptOutcome(self._init_error, "start"), kind)
        elif reason == "timeout":
            self._finish(*self._last_words(self.invocation, reason, status))
        else:
            outcome, kind = self._last_words(self.invocation, reason, status)
            self._finish(AttemptOutcome(outcome.payload, "start"), kind)

    def _remove_temporary(self) -> None:
        try:
            os.rmdir(self._temporary)
        except OSError:
            self._host.loop.run_in_executor(None, shutil.rmtree, self._temporary, True)

    # Small things.

    def _become(self, state: State) -> None:
        self._owner.moved(self.state, state)
        self.state = state

    def _after(self, delay_s: float, act: Callable[[], None]) -> None:
        self._timers.append(self._host.loop.call_later(delay_s, act))

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
