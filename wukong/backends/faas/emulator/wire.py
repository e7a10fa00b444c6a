"""Framing between client, host and workers: plain tuples, one length in front of each.

Both ends are the same interpreter on the same machine, so `marshal` does: it is the fastest codec there is for tuples
of text, numbers and bytes, and it loads no code. Sockets are Unix stream sockets handed over by descriptor; nobody
else can connect to them.
"""

from __future__ import annotations

import marshal
import socket
import struct
from collections import deque
from collections.abc import Iterable
from threading import Lock, Thread, current_thread, main_thread
from typing import Any

from wukong.core.interrupts import start_thread

HEADER = struct.Struct("<Q")
_BUFFER_BYTES = 65_536
_SMALL_BYTES = 65_536
_WHOLE_BYTES = 16_384

Message = tuple[Any, ...]


def pack(message: Message) -> list[bytes]:
    """Return the frame of a message as buffers to send one after the other."""
    body = marshal.dumps(message)
    header = HEADER.pack(len(body))
    return [header + body] if len(body) < _SMALL_BYTES else [header, body]


class Reader:
    """Cuts what arrives at a socket into messages: one `recv` each time, large frames received in place."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0
        self._large: memoryview | None = None

    def read(self) -> list[Message]:
        """Receive once; return the messages that are whole by now. Raises EOFError at the end, BlockingIOError."""
        if self._large is not None:
            return self._read_large(self._large)
        try:
            received = self._sock.recv_into(self._view[self._filled :])
        except ConnectionError:
            received = 0
        if not received:
            raise EOFError
        filled, offset = self._filled + received, 0
        messages: list[Message] = []
        while filled - offset >= HEADER.size:
            start = offset + HEADER.size
            (length,) = HEADER.unpack_from(self._view, offset)
            if start + length <= filled:
                messages.append(marshal.loads(self._view[start : start + length]))
                offset = start + length
                continue
            if length + HEADER.size > _BUFFER_BYTES:
                self._large = memoryview(bytearray(length))
                self._large[: filled - start] = self._view[start:filled]
                self._filled = filled - start
                return messages
            break
        self._filled = filled - offset
        if offset and self._filled:
            self._view[: self._filled] = bytes(self._view[offset:filled])
        return messages

    def _read_large(self, large: memoryview) -> list[Message]:
        try:
            received = self._sock.recv_into(large[self._filled :])
        except ConnectionError:
            received = 0
        if not received:
            raise EOFError
        self._filled += received
        if self._filled < large.nbytes:
            return []
        self._large, self._filled = None, 0
        return [marshal.loads(large)]


class HostConnection:
    """The blocking end that a client or a worker holds: any thread may send, one thread reads.

    `shielded`: Ctrl-C may strike the main thread while it sends. What the kernel takes in one piece goes as a whole
    or not at all; a larger frame is sent by a thread of its own, which no signal's handler interrupts.
    """

    def __init__(self, sock: socket.socket, *, shielded: bool = False) -> None:
        sock.setblocking(True)
        self.sock = sock
        self._shielded = shielded
        self._reader = Reader(sock)
        self._lock = Lock()

    def send(self, message: Message) -> None:
        """Send a message; return when the kernel has taken all of it. Raises OSError when the other end is gone."""
        buffers = pack(message)
        whole = len(buffers) == 1 and len(buffers[0]) <= _WHOLE_BYTES
        if whole or not self._shielded or current_thread() is not main_thread():
            self._send(buffers)
            return
        raised: list[OSError] = []

        def send() -> None:
            try:
                self._send(buffers)
            except OSError as error:
                raised.append(error)

        sender = Thread(target=send, name="wukong-send", daemon=True)
        try:
            start_thread(sender)
        except RuntimeError:  # the system has no thread left: better without the shield than not at all
            send()
        else:
            sender.join()
        if raised:
            raise raised[0]

    def _send(self, buffers: Iterable[bytes]) -> None:
        with self._lock:
            for buffer in buffers:
                self.sock.sendall(buffer)

    def read(self) -> list[Message]:
        """Wait for something to arrive; return the messages that are whole by now. Raises EOFError at the end."""
        return self._reader.read()


class Channel:
    """The non-blocking end that the host holds: what the kernel does not take at once is kept and sent later."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._reader = Reader(sock)
        self._unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0

    def read(self) -> list[Message]:
        """Receive once, without waiting. Raises EOFError at the end, BlockingIOError if nothing is there."""
        return self._reader.read()

    def read_all(self) -> list[Message]:
        """Return all messages that have arrived by now, without waiting, up to the end of the stream."""
        messages: list[Message] = []
        try:
            while True:
                messages += self.read()
        except (BlockingIOError, EOFError):
            return messages

    def send(self, message: Message) -> None:
        """Send as much as the kernel takes; the rest goes with later calls of `flush`."""
        self._keep(pack(message))
        self.flush()

    def _keep(self, buffers: Iterable[bytes]) -> None:
        for buffer in buffers:
            self._unsent.append(memoryview(buffer))
            self.unsent_bytes += len(buffer)

    def flush(self) -> None:
        """Send what is kept, as far as the kernel takes it. A peer that is gone swallows everything."""
        while self._unsent:
            buffer = self._unsent[0]
            try:
                sent = self.sock.send(buffer)
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                self.unsent_bytes = 0
                return
            self.unsent_bytes -= sent
            if sent == buffer.nbytes:
                self._unsent.popleft()
            else:
                self._unsent[0] = buffer[sent:]
