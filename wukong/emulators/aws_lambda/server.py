"""The service as a whole: to open, serve and close it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wukong.backends import event_loop
from wukong.core.scratch import discard, scratch
from wukong.emulators.aws_lambda.api import Api, ApiConnection
from wukong.emulators.aws_lambda.control import Control
from wukong.emulators.aws_lambda.environment import EnvironmentHost
from wukong.emulators.aws_lambda.events import EventQueue, EventQueues
from wukong.emulators.aws_lambda.functions import Functions, Version
from wukong.emulators.aws_lambda.ledger import ServiceLedger
from wukong.emulators.aws_lambda.logs import LogBook
from wukong.emulators.aws_lambda.package import runtime
from wukong.emulators.aws_lambda.recursion import ALLOW
from wukong.emulators.aws_lambda.refusal import Refusal
from wukong.emulators.aws_lambda.scaling import Scaler
from wukong.emulators.aws_lambda.script import ServiceScript
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.snapshots import Snapshots
from wukong.emulators.aws_lambda.spawner import Spawner
from wukong.emulators.aws_lambda.status import StatusPages
from wukong.emulators.aws_lambda.surroundings import Surroundings
from wukong.emulators.aws_lambda.variables import variables
from wukong.errors import BackendError, ConfigError

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
_MEMORY_PERIOD_S = 0.05
_BACKLOG = 4_096
_DESCRIPTORS = 65_536


class EmulatedLambda:
    """One Lambda service, on the running event loop.

    async with EmulatedLambda(ServiceSettings()) as service:
        ... service.url ...
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.url = ""
        self._spawners: dict[Version | None, Spawner] = {}
        self._server: asyncio.Server | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self.lost = asyncio.Event()

    async def __aenter__(self) -> EmulatedLambda:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Listen. Raises `BackendError` if the address is taken, `ConfigError` if a part is not installed."""
        settings = self.settings
        for needed in ("awslambdaric", "boto3"):
            if find_spec(needed) is None:
                raise ConfigError(
                    f"{needed} is not installed, in which functions run",
                    hint="pip install 'wukong-serverless[emulate]'",
                )
        loop = asyncio.get_running_loop()
        sock = _listen(settings.host, settings.port)
        try:
            folder = Path(scratch("wukong-service-"))
            try:
                await self._open(loop, sock, folder)
            except BaseException:
                for spawner in self._spawners.values():
                    spawner.close()
                discard(str(folder))
                raise
        except BaseException:
            sock.close()
            raise

    async def _open(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, folder: Path) -> None:
        settings = self.settings
        host, port = sock.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._spawners[None] = Spawner(loop, sys.executable, {}, folder=folder, on_lost=self.lost.set)
        files = folder / "runtime"
        functions = Functions(settings)
        ledger, logs, script = ServiceLedger(settings.kept), LogBook(settings.kept), ServiceScript(settings.script())
        self._host = EnvironmentHost(
            settings=settings,
            loop=loop,
            folder=folder,
            python=sys.executable if settings.site_packages else runtime(files),
            needed=[sys.prefix, sys.base_prefix, str(files), *filter(os.path.isabs, sys.path)],
            ledger=ledger,
            logs=logs,
            script=script,
            variables=partial(variables, settings, self.url, files),
            spawner_of=self._spawner_of,
        )
        self._scaler = Scaler(functions, self._host)
        queues = EventQueues(partial(EventQueue, settings, loop, ledger, script, self._scaler), self._scaler)
        self._snapshots = Snapshots(self._host, lambda version: functions.has(version) or self._lives(version))
        self._control = Control(settings, loop, folder / "code", functions, self._scaler, queues, self._snapshots)
        api = Api(
            settings,
            loop,
            functions=functions,
            ledger=ledger,
            script=script,
            scaler=self._scaler,
            queues=queues,
            control=self._control,
            status=StatusPages(functions, ledger, logs, script, self._scaler, queues),
            surroundings=Surroundings(settings, functions, logs),
        )
        self._server = await loop.create_server(lambda: ApiConnection(api), sock=sock, backlog=_BACKLOG)
        self._every(min(_SWEEP_S, settings.idle_s / 2 or _SWEEP_S), self._sweep)
        if settings.enforce_memory:
            self._every(_MEMORY_PERIOD_S, self._scaler.check_memory)

    async def close(self) -> None:
        """Kill every environment, remove every file. Closing twice is no error."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for timer in self._timers:
            timer.cancel()
        self._scaler.close()
        for spawner in self._spawners.values():
            spawner.close()
        loop, ended = asyncio.get_running_loop(), [*self._spawners.values(), *self._snapshots.close()]
        await asyncio.gather(*(loop.run_in_executor(None, each.wait) for each in ended))

    async def create_function(self, arguments: Mapping[str, Any]) -> None:
        """Create a function. `arguments`: those of boto3's ``create_function``, with ``Code={"ZipFile": bytes}``.

        It may invoke itself, as those that ``wukong deploy`` makes.

        Raises `BackendError` if AWS or this service would refuse it.
        """
        code = {"ZipFile": base64.b64encode(arguments["Code"]["ZipFile"]).decode()}
        try:
            version = await self._control.create({**arguments, "Code": code})
        except Refusal as refusal:
            raise BackendError(f"the function {arguments['FunctionName']!r} is refused: {refusal}") from refusal
        version.function.recursive_loop = ALLOW

    def _lives(self, version: Version) -> bool:
        return any(fleet.version is version for fleet in self._scaler.fleets)

    def _spawner_of(self, version: Version) -> Spawner:
        if version.snapped:
            return self._snapshots.spawner_of(version)
        if self.settings.start == "fresh":
            return self._spawners[None]
        spawner = self._spawners.get(version)
        if spawner is None:
            host = self._host
            environment = {**host.variables(version), "AWS_LAMBDA_LOG_STREAM_NAME": "template"}
            module = version.handler.rpartition(".")[0].replace("/", ".")
            preload = (str(version.code.folder), module)
            spawner = self._spawners[version] = Spawner(host.loop, host.python, environment, preload=preload)
        return spawner

    def _sweep(self) -> None:
        self._scaler.sweep(self.settings.idle_s)
        self._control.sweep()
        self._snapshots.sweep()
        living = {fleet.version for fleet in self._scaler.fleets}
        for version in [each for each in self._spawners if each is not None and each not in living]:
            spawner = self._spawners.pop(version)
            spawner.close()
            self._host.loop.run_in_executor(None, spawner.wait)

    def _every(self, period_s: float, act: Callable[[], None]) -> None:
        index = len(self._timers)

        def again() -> None:
            try:
                act()
            except Exception:
                logger.exception("the service's housekeeping has failed")
            self._timers[index] = self._host.loop.call_later(period_s, again)

        self._timers.append(self._host.loop.call_later(period_s, again))


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise BackendError(
            f"the Lambda service cannot listen on {host}:{port}: {error.strerror}",
            hint="give another port, or 0 for any",
        ) from error
    return sock


async def serve(
    settings: ServiceSettings,
    ready: Callable[[str], None],
    functions: Iterable[Mapping[str, Any]] = (),
    ended: asyncio.Event | None = None,
) -> None:
    """Run a service until SIGINT, SIGTERM or SIGHUP, or until `ended` is set. With `nohup`, SIGHUP stays ignored.

    Args:
        ready: called with its URL once it listens and has the `functions`.
        functions: the first functions; see `EmulatedLambda.create_function`.

    Raises `BackendError` if the process that starts environments is lost.
    """
    loop = asyncio.get_running_loop()
    over = ended or asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        loop.add_signal_handler(number, over.set)
    async with EmulatedLambda(settings) as service:
        for function in functions:
            await service.create_function(function)
        ready(service.url)
        waits = [asyncio.ensure_future(event.wait()) for event in (over, service.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if service.lost.is_set():
            raise BackendError("the process that starts environments has died", hint="start the service again")


def run(settings: ServiceSettings, ready: Callable[[str], None], functions: Iterable[Mapping[str, Any]] = ()) -> None:
    """Run a service in this process until Ctrl-C or SIGTERM: what ``wukong emulate lambda`` does. See `serve`."""
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
        runner.run(serve(settings, ready, functions))


def _raise_descriptor_limit() -> None:
    """An environment takes four descriptors here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _announce(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> None:
    """Run a service for a parent process: read settings from stdin, as one line of JSON, and print its URL.

    The service ends when stdin ends, however the parent has ended.
    """
    settings = ServiceSettings.of(json.loads(sys.stdin.readline()))

    async def until_eof() -> None:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), over.set)
        await serve(settings, _announce, ended=over)

    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
        runner.run(until_eof())


if __name__ == "__main__":
    main()
