"""What makes the invocations: threads of the proxy's own process, or worker processes with threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence

from wukong.core.payload import Address
from wukong.proxy import protocol
from wukong.proxy.invoker import InvokerThreads, pieces
from wukong.proxy.protocol import Call
from wukong.proxy.worker import HEAD, framed

__all__ = ["Processes", "Threads", "Workers"]

THREADS = 4
_AGAIN_S = 1.0
_END_S = 5.0

logger = logging.getLogger(__name__)


class Workers(ABC):
    """Makes invocations, on one event loop.

    Attributes:
        count: how many processes make invocations. running: how many of them run now. restarts: how many died and were
            replaced.
    """

    count = 1
    running = 1
    restarts = 0

    @abstractmethod
    async def start(self) -> None:
        """Be ready."""

    @abstractmethod
    async def stop(self) -> None:
        """End all. What is still being made is answered as refused, or not at all."""

    @abstractmethod
    async def _piece(self, faas: Address, calls: Sequence[Call]) -> list[str | None]: ...

    async def make(self, faas: Address, calls: Sequence[Call]) -> list[str | None]:
        """Make invocations, shared out; return for each None if it was accepted, or why it was refused."""
        shares = [calls[piece] for piece in pieces(len(calls), self.count * THREADS)]
        answers = await asyncio.gather(*(self._piece(faas, share) for share in shares))
        return [refusal for answer in answers for refusal in answer]


class Threads(Workers):
    """Threads of this process."""

    def __init__(self) -> None:
        self._invokers = InvokerThreads(THREADS)

    async def start(self) -> None:
        """Nothing has to be started."""

    async def _piece(self, faas: Address, calls: Sequence[Call]) -> list[str | None]:
        return await asyncio.get_running_loop().run_in_executor(self._invokers.pool, self._invokers.make, faas, calls)

    async def stop(self) -> None:
        """End the threads, and close what is open."""
        self._invokers.stop()


class Processes(Workers):
    """Worker processes. If one dies, its pieces are refused, and another takes its place."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.running = 0
        self._workers: list[_Worker] = []
        self._turn = itertools.count()
        self._keeping: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all of them."""
        self._workers = [_Worker() for _ in range(self.count)]
        for worker in self._workers:
            await worker.start()
        self.running = self.count
        self._keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]

    async def _keep(self, worker: _Worker) -> None:
        while True:
            code = await worker.serve()
            self.running -= 1
            logger.warning("a worker process of the proxy has died (exit status %s); another takes its place", code)
            while True:
                await asyncio.sleep(_AGAIN_S)
                try:
                    await worker.start()
                    break
                except OSError:
                    logger.exception("no worker process can be started")
            self.restarts += 1
            self.running += 1

    async def _piece(self, faas: Address, calls: Sequence[Call]) -> list[str | None]:
        turn = next(self._turn)
        order = [self._workers[(turn + at) % self.count] for at in range(self.count)]
        worker = min(order, key=lambda each: (not each.alive, each.under_way))
        return await worker.make(faas, calls)

    async def stop(self) -> None:
        """End all of them."""
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        self.running = 0


class _Worker:
    """One worker process, and the connection to it."""

    def __init__(self) -> None:
        self.alive = False
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[list[str | None]]] = {}
        self._sizes: dict[int, int] = {}

    @property
    def under_way(self) -> int:
        return sum(self._sizes.values())

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "wukong.proxy.worker", str(theirs.fileno()), str(THREADS)),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            except BaseException:
                ours.close()
                raise
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self.alive = True

    async def serve(self) -> int:
        """Read answers until the worker hangs up; return its exit status. What it was making counts as refused."""
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                text_bytes, body_bytes = HEAD.unpack(await self._reader.readexactly(HEAD.size))
                told = json.loads(await self._reader.readexactly(text_bytes + body_bytes))
                number = told["id"]
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(protocol.read_made(told, self._sizes[number]))
        self.alive = False
        self._writer.close()
        code = await self._ended()
        for number, unanswered in self._asked.items():
            if not unanswered.done():
                unanswered.set_result([f"the proxy's worker process died (exit status {code})"] * self._sizes[number])
        return code

    async def make(self, faas: Address, calls: Sequence[Call]) -> list[str | None]:
        if not self.alive:
            return ["no worker process of the proxy runs"] * len(calls)
        number = next(self._numbers)
        answer: asyncio.Future[list[str | None]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._sizes[number] = len(calls)
        try:
            header = {"id": number, **protocol.invoke(faas, calls)}
            self._writer.write(framed(header, [payload for _, payload in calls]))
            return await answer
        finally:
            del self._asked[number], self._sizes[number]

    async def _ended(self) -> int:
        try:
            async with asyncio.timeout(_END_S):  # `wait_for` of Python 3.11 may swallow a cancellation
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    async def stop(self) -> None:
        self._writer.close()
        await self._ended()
