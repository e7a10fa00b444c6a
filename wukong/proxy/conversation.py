"""One connection to the proxy: a greeting and then messages, one after the other; or one HTTP request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from wukong.proxy import protocol, web
from wukong.proxy.dispatcher import Dispatcher
from wukong.proxy.memory_budget import MemoryBudget
from wukong.proxy.protocol import HEAD, HELLO, MAGIC, VERSION, ProtocolError, Talk

__all__ = ["Conversation"]

_HEADER_WEIGHT = 8
"""How many bytes of memory a header takes once it is read, for each of its own bytes."""
_LINGER_S = 2.0
_PIECE_BYTES = 65_536


class ConversationHost(Protocol):
    """What holds conversations, and decides which it begins."""

    def stopping(self) -> str:
        """Return why it takes no more messages; empty: it takes them."""

    def trouble(self) -> str:
        """Return why it begins no conversation; empty: it begins one."""

    def page(self, head: bytes) -> bytes:
        """Return the answer to an HTTP request."""


class Conversation:
    """See the module's docstring.

    Args:
        reader, writer: the connection.
        key: the deployment's.
        dispatcher: has invocations made. memory_budget: what messages take their room from.

    Attributes:
        known: the other side has shown that it has the key.
        resting: no part of a message has come in: if the connection is closed now, nobody loses anything.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: ConversationHost,
        *,
        key: bytes,
        dispatcher: Dispatcher,
        memory_budget: MemoryBudget,
    ) -> None:
        self._reader, self._writer, self._host, self._key = reader, writer, host, key
        self._dispatcher, self._memory_budget = dispatcher, memory_budget
        self._limits, self._counters = dispatcher.limits, dispatcher.counters
        self.known = False
        self.resting = True

    async def run(self) -> None:
        """Serve until the other side hangs up, breaks the rules, or there is nothing to serve it with."""
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                start = await self._reader.readexactly(len(MAGIC))
                if start in web.METHODS:
                    await self._serve_http(start)
                    return
                talk = await self._greet(start)
                if talk is None:
                    return
            while await self._message(talk):
                pass
        except (asyncio.IncompleteReadError, TimeoutError, OSError):
            return  # it has hung up, or takes too long
        except ProtocolError:
            self._counters.forged += 1  # whoever it is, there is nothing to be said to it
        finally:
            self._writer.close()

    def hang_up(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    # --- greetings

    async def _serve_http(self, start: bytes) -> None:
        head = start
        while b"\r\n\r\n" not in head:
            piece = await self._reader.read(web.MOST_BYTES)
            head += piece
            if not piece or len(head) > web.MOST_BYTES:
                return
        self._writer.write(self._host.page(head))
        await self._leave()

    async def _greet(self, start: bytes) -> Talk | None:
        heard = start + await self._reader.readexactly(HELLO.size - len(MAGIC))
        version, _ = protocol.read_hello(heard)
        trouble = self._host.trouble()
        if version != VERSION:
            trouble = f"it speaks version {VERSION} of the protocol, and the sender version {version}"
        told: Mapping[str, Any] = {"error": trouble} if trouble else self._limits.announced().plain()
        greeting, key = protocol.answer(self._key, heard, os.urandom(protocol.NONCE_BYTES), told)
        self._writer.write(greeting)
        if trouble:
            self._counters.turned_away += 1
            await self._leave()
            return None
        talk = Talk(key, b"<")
        text_bytes, body_bytes, digest = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        if text_bytes > protocol.MOST_TEXT_BYTES or body_bytes:
            raise ProtocolError("a sender that has not shown that it has the key may not say that much")
        if talk.read(digest, await self._reader.readexactly(text_bytes)).get("type") != "auth":
            raise ProtocolError("the first frame is not the one that shows the key")
        self.known = True
        return talk

    # --- messages

    async def _message(self, talk: Talk) -> bool:
        """Serve one message; return whether there may be another."""
        async with asyncio.timeout(self._limits.idle_s):
            start = await self._reader.readexactly(1)
        self.resting = False
        end = time.monotonic() + self._limits.message_s
        async with asyncio.timeout(self._limits.handshake_s):
            text_bytes, body_bytes, digest = HEAD.unpack(start + await self._reader.readexactly(HEAD.size - 1))
        size = text_bytes + body_bytes
        if size > self._limits.message_bytes:
            limit = self._limits.message_bytes
            return await self._refuse(talk, size, f"a message of {size:,} bytes; it takes {limit:,}")
        if trouble := self._host.stopping():
            self._counters.turned_away += 1
            return await self._refuse(talk, size, trouble)
        taken = min(body_bytes + _HEADER_WEIGHT * text_bytes, self._limits.memory_bytes)
        if size <= protocol.MOST_TEXT_BYTES:
            taken = 0  # a sender that only asks whether the proxy is there does not wait in line
        elif not await self._memory_budget.take(taken, min(self._limits.wait_s, end - time.monotonic())):
            self._counters.busy += 1
            return await self._refuse(
                talk, size, f"it is busy: no room for {size:,} bytes in {self._limits.wait_s:g} s"
            )
        lent = _Lent(self._memory_budget, taken)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic()):
                text = await self._reader.readexactly(text_bytes)
                body = await self._reader.readexactly(body_bytes)
            header = talk.read(digest, text, body)
            del text
            self._counters.messages += 1
            self._counters.received_bytes += size
            answer = await self._answer(header, body, end, lent)
        finally:
            lent.give_back()
        await self._send(talk.frame(answer))
        self.resting = True
        return not self._host.stopping()

    async def _answer(self, header: Mapping[str, Any], body: bytes, end: float, lent: _Lent) -> Mapping[str, Any]:
        match header.get("type"):
            case "ping":
                return {"type": "pong"}
            case "invoke":
                faas, calls = protocol.read_invoke(header, body)
                if len(calls) > self._limits.calls:
                    raise ProtocolError("more invocations than were announced")
                release = lent.lend()
                return protocol.made(await self._dispatcher.take(faas, calls, end - time.monotonic(), release))
            case other:
                raise ProtocolError(f"there are no messages of type {other!r}")

    async def _refuse(self, talk: Talk, size: int, why: str) -> bool:
        """Say why a message is not read; then hang up, but only once the other side has had time to read that."""
        self._writer.writelines(talk.frame({"type": "error", "error": why}))
        await self._leave(size)
        return False

    async def _send(self, buffers: Sequence[bytes]) -> None:
        self._writer.writelines(buffers)
        async with asyncio.timeout(self._limits.handshake_s):
            await self._writer.drain()

    async def _leave(self, size: int = 0) -> None:
        """Give the other side time to read what was said: read what it still sends, for a while, and drop it."""
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_LINGER_S):
                await self._writer.drain()
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                while await self._reader.read(_PIECE_BYTES):
                    pass


class _Lent:
    """Room that a message takes: given back once, when both its reader and its maker are done with it."""

    def __init__(self, memory_budget: MemoryBudget, size_bytes: int) -> None:
        self._memory_budget, self._size_bytes = memory_budget, size_bytes
        self._holders = 1

    def lend(self) -> Callable[[], None]:
        self._holders += 1
        return self.give_back

    def give_back(self) -> None:
        self._holders -= 1
        if not self._holders:
            self._memory_budget.give(self._size_bytes)
