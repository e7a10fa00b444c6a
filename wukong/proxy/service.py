"""The proxy as a whole: it listens, holds conversations, has invocations made, and stops in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict

from wukong.errors import BackendError
from wukong.proxy import web
from wukong.proxy.backend_cache import admitted
from wukong.proxy.conversation import Conversation
from wukong.proxy.dispatcher import Dispatcher
from wukong.proxy.limits import STRANGERS, ProxyLimits
from wukong.proxy.memory_budget import MemoryBudget
from wukong.proxy.workers import Processes, Threads, Workers

__all__ = ["ProxyService"]

_BACKLOG = 1_024
_BUFFER_BYTES = 16_384
"""How many bytes of a message that has no room yet are read ahead, for each connection; twice that is held."""

logger = logging.getLogger(__name__)


class ProxyService:
    """One fan-out proxy, on the running event loop.

    Args:
        key: the deployment's, 16 to 64 bytes.
        host, port: where to listen; port 0: any free one.
        workers: how many processes make invocations; 1: this one only.
        limits: what it takes on at most.

    Attributes:
        address: ``"host:port"`` after `open`.
        finished: it has stopped, and has made all that it had accepted.
    """

    def __init__(
        self, key: bytes, *, host: str = "127.0.0.1", port: int = 0, workers: int = 1, limits: ProxyLimits | None = None
    ) -> None:
        self.key = key
        self.limits = limits or ProxyLimits()
        self.address = ""
        self.finished = False
        self.memory_budget = MemoryBudget(self.limits.memory_bytes)
        self.workers: Workers = Threads() if workers == 1 else Processes(workers)
        self.dispatcher = Dispatcher(self.workers, self.limits, admitted())
        self.counters = self.dispatcher.counters
        self._where = host, port
        self._conversations: dict[Conversation, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self._began = time.monotonic()
        self._stopping = False

    async def open(self) -> None:
        """Start the workers and listen. Raises `BackendError` if the address is taken."""
        listener = _listening(*self._where)
        try:
            await self.workers.start()
            self._server = await asyncio.start_server(self._serve, sock=listener, limit=_BUFFER_BYTES, backlog=_BACKLOG)
        except BaseException:
            listener.close()
            raise
        host, port = listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self) -> None:
        """Take nothing more on, and finish what was accepted. Health checks hear of it meanwhile; then `end` it."""
        self._stopping = True
        for conversation in list(self._conversations):
            if conversation.known and conversation.resting:
                conversation.hang_up()
        while busy := self._busy():
            await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
        self.finished = True

    async def end(self) -> None:
        """End at once. What is being made goes on, as far as it has left this process."""
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for conversation, task in list(self._conversations.items()):
            conversation.hang_up()
            task.cancel()
        await asyncio.gather(*self._conversations.values(), return_exceptions=True)
        await self.workers.stop()

    def _busy(self) -> set[asyncio.Task[None]]:
        talking = {task for each, task in self._conversations.items() if each.known and not each.resting}
        return talking | self.dispatcher.under_way

    # --- what conversations ask

    def stopping(self) -> str:
        """Return why it takes no more messages; empty: it takes them."""
        return "it is stopping" if self._stopping else ""

    def trouble(self) -> str:
        """Return why it begins no conversation; empty: it begins one."""
        known = sum(each.known for each in self._conversations)
        if known >= self.limits.connections:
            return f"it is busy: {known} conversations, and it holds {self.limits.connections}"
        return self.stopping()

    def page(self, head: bytes) -> bytes:
        """Return the answer to an HTTP request."""
        return web.page(head, self._health(), self.totals(), self._gauges())

    def totals(self) -> Mapping[str, float]:
        """Return what it has done since it started."""
        return {**asdict(self.counters), "worker_restarts": self.workers.restarts}

    def _health(self) -> str:
        if self._stopping:
            return "stopping"
        return "ok" if self.workers.running else "no worker runs"

    def _gauges(self) -> Mapping[str, float]:
        return {
            "connections": len(self._conversations),
            "messages_under_way": len(self.dispatcher.under_way),
            "memory_bytes": self.memory_budget.size_bytes - self.memory_budget.free_bytes,
            "workers": self.workers.running,
            "uptime_seconds": round(time.monotonic() - self._began, 3),
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation(
            reader, writer, self, key=self.key, dispatcher=self.dispatcher, memory_budget=self.memory_budget
        )
        strangers = sum(not each.known for each in self._conversations)
        if strangers >= STRANGERS:
            self.counters.turned_away += 1
            conversation.hang_up()
            return
        task = asyncio.current_task()
        assert task is not None
        self._conversations[conversation] = task
        try:
            await conversation.run()
        except asyncio.CancelledError:
            return  # by `end`; to raise it further would have the event loop's streams report an error
        except Exception:
            logger.exception("a conversation has failed")
        finally:
            del self._conversations[conversation]
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise BackendError(f"the proxy cannot listen on {host}: {error.strerror}") from error
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(place)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        taken = error.errno == errno.EADDRINUSE
        raise BackendError(
            f"the proxy cannot listen on {host}:{port}: {error.strerror}",
            hint="something listens there, another proxy perhaps: give another port, or 0 for any" if taken else None,
        ) from error
    return sock
