"""Connections to one memcached server, through pymemcache: kept for the next call, for threads and across forks.

This differs from pymemcache's client in three ways:

- Commands that the server answers with one line each go out back to back, and large values without a copy
  (`MemcachedConnection.ask`). pymemcache's `cas` and `add` take one round trip for each key; its `set_many` takes one
  flag for all values, and makes two copies of each.
- It tries every address that a name resolves to. pymemcache tries only the first ("localhost" is often ``::1`` first).
- It reads up to 64 KiB at a time, and a large value straight into its final memory. pymemcache reads 4 KiB at a time.
  That doubles the rate for large values.

For that, it uses or replaces three private methods of pymemcache's: `_misc_cmd`, `_connect`, `_extract_value`.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

from pymemcache.client.base import Client
from pymemcache.exceptions import (
    MemcacheError,
    MemcacheServerError,
    MemcacheUnexpectedCloseError,
    MemcacheUnknownCommandError,
    MemcacheUnknownError,
)

from wukong.backends.keepalive import keep_alive
from wukong.backends.storage.silence import ANSWER_S, has_rested, longest_s, still_trusted
from wukong.core.storage import Buffer, blob_size
from wukong.core.time_left import time_left_s
from wukong.errors import StoreError, StoreFull, StoreUnavailable

__all__ = ["BACKEND", "Busy", "Command", "MemcachedConnection", "MemcachedPool", "storing"]

BACKEND = "storage: memcached"

T = TypeVar("T")

_RECEIVE_BYTES = 65_536
_BATCH = 1_024
_BATCH_BYTES = 4 << 20
_APART_BYTES = 256 << 10
"""Smaller values are copied into one buffer: that takes less time than sending them separately."""

_MOST_VIEWS = 512  # Linux takes 1,024 in one call

_MOST_IDLE = 8

_ANSWERS = {b"ST", b"NO", b"EX", b"DE", b"TO", b"HD", b"EN", b"NF", b"OK"}
"""How answers may begin: STORED, NOT_STORED, NOT_FOUND, EXISTS, DELETED, TOUCHED, and those of meta commands."""

Command: TypeAlias = bytes | tuple[Buffer, ...]
"""A command that the server answers with one line; a tuple if it contains values that are not copied."""

_CLOSED = (MemcacheUnexpectedCloseError, ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Busy(MemcacheError):  # type: ignore[misc]
    """The server serves only one client at a time with this, and is busy with another."""


class MemcachedConnection(Client):  # type: ignore[misc]  # pymemcache is not annotated
    """One connection to one server. For one thread at a time; opened by the first command.

    Args:
        server: host and port.
        timeout_s: how long a piece may take on its way, `connect_timeout_s` a connection, `answer_timeout_s` an answer
            of which nothing has come; seconds.
        tls: None: without.

    Attributes:
        moved_s: when a piece of a large value last moved over it, by `time.monotonic`; None: none has.
        used_s: when it was used last, Unix time.
    """

    def __init__(
        self,
        server: tuple[str, int],
        timeout_s: float,
        connect_timeout_s: float,
        answer_timeout_s: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._answer_timeout_s = answer_timeout_s
        self.moved_s: float | None = None
        self.used_s = 0.0
        super().__init__(
            server,
            timeout=timeout_s,
            connect_timeout=connect_timeout_s,
            no_delay=True,
            default_noreply=False,
            tls_context=tls,
        )

    def ask(self, commands: Iterable[Command]) -> list[bytes]:
        """Send commands, each of which the server answers with one line; return the lines.

        Some 1,000 commands, or 4 MiB, share a round trip. More must not, as a server that cannot send its answers
        stops reading. Raises what pymemcache raises, for the first answer that is an error.
        """
        lines: list[bytes] = []
        for batch in _batches(commands):
            if any(isinstance(command, tuple) for command in batch):
                if self.sock is not None and has_rested(self.used_s):
                    self.version()
                self._open().sendall_of(_pieces(batch))
                batch = [b""] * len(batch)  # nothing more to send, and an answer to each
            lines += self._misc_cmd(batch, b"", False)
        if any(line[:2] not in _ANSWERS for line in lines):
            raise MemcacheUnknownError(next(line for line in lines if line[:2] not in _ANSWERS)[:100])
        return lines

    def found(self, keys: Sequence[bytes]) -> dict[bytes, Buffer]:
        """Return the values of those of these keys that exist."""
        values: dict[bytes, Buffer] = {}
        for start in range(0, len(keys), _BATCH):
            values.update(self.get_many(keys[start : start + _BATCH]))
        return values

    def versions(self, keys: Sequence[bytes]) -> dict[bytes, tuple[bytes, bytes]]:
        """Return the values of those of these keys that exist, each with its version (``cas unique``)."""
        values: dict[bytes, tuple[bytes, bytes]] = {}
        for start in range(0, len(keys), _BATCH):
            values.update(self.gets_many(keys[start : start + _BATCH]))
        return values

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Yield the names of all items on the server, each with the bytes it takes.

        Raises `Busy` if the server is just listing them for somebody else, MemcacheError if it does not list them.
        """
        wide = self._open()
        wide.sendall(b"lru_crawler metadump all\r\n")
        rest = b""
        while True:
            *lines, rest = (rest + self._more(wide)).split(b"\n")
            for line in lines:
                if line.startswith(b"key="):
                    fields = dict(word.partition(b"=")[::2] for word in line.split())
                    yield unquote_to_bytes(fields[b"key"]), int(fields.get(b"size", 0))
                elif line.startswith(b"END"):
                    return
                elif line.startswith(b"BUSY"):
                    raise Busy(line.strip())
                else:
                    raise MemcacheUnknownError(line[:100].strip())

    def _more(self, wide: _Wide) -> bytes:
        received = wide.recv(_RECEIVE_BYTES)
        if not received:
            raise MemcacheUnexpectedCloseError
        return received

    def _extract_value(self, expect_cas: bool, line: bytes, buf: bytes, *keys: Any) -> tuple[bytes, Any, bytes]:
        """Read the value that `line` announces; return its key, the value, and the bytes received of the next line."""
        _, _, _, size, *version = line.split()
        size_bytes = int(size)
        if version or size_bytes < _RECEIVE_BYTES:
            answer: tuple[bytes, Any, bytes] = super()._extract_value(expect_cas, line, buf, *keys)
            return answer
        value = bytearray(size_bytes)
        value[: len(buf)] = buf  # with its line it is more than is read at a time: there is none of the next one
        self.sock.fill(memoryview(value)[len(buf) :])
        # The end of a value is as that of an empty one.
        name, _, rest = super()._extract_value(expect_cas, line[: -len(size)] + b"0", b"", *keys)
        return name, value, rest

    def _open(self) -> _Wide:
        if self.sock is None:
            self._connect()
        wide: _Wide = self.sock
        return wide

    def _connect(self) -> None:
        self.close()
        limit_s = longest_s(self.connect_timeout, self.connect_timeout)
        connected = socket.create_connection(self.server, limit_s)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(connected)
            if self.tls_context is not None:
                connected = self.tls_context.wrap_socket(connected, server_hostname=self.server[0])
        except BaseException:
            connected.close()
            raise
        self.sock: Any = _Wide(connected, self._answer_timeout_s, self.timeout, self._moved)

    def _moved(self) -> None:
        self.moved_s = time.monotonic()


class _Wide:
    """A socket as pymemcache uses it, which is read in larger pieces than it asks for.

    Args:
        connected: the socket.
        answer_s, most_s: how long the answer to a small operation may take, and how long any piece may take to move.
        moved: called when a piece of a large value has moved.
    """

    def __init__(self, connected: socket.socket, answer_s: float, most_s: float, moved: Callable[[], None]) -> None:
        self._socket = connected
        self._answer_s, self._most_s, self._moved = answer_s, most_s, moved
        self._before_bytes = 0  # of the command that is being sent
        self.close = connected.close

    def sendall(self, data: Buffer) -> None:
        """Send a command, or several; the time for the answer begins now."""
        self._wait(longest_s(self._answer_s, self._most_s, self._before_bytes + len(data)))
        self._before_bytes = 0
        self._socket.sendall(data)

    def sendall_of(self, pieces: Iterable[Buffer]) -> None:
        """Send pieces in order, without a copy: the beginning of a command whose end goes to `sendall`."""
        if isinstance(self._socket, ssl.SSLSocket):  # it has no sendmsg
            for piece in pieces:
                self.sendall(piece)
            return
        views = [memoryview(piece).cast("B") for piece in pieces]
        while views:
            self._wait_for_a_piece()
            n_bytes = self._socket.sendmsg(views[:_MOST_VIEWS])
            while views and n_bytes >= len(views[0]):
                n_bytes -= len(views.pop(0))
            if n_bytes:
                views[0] = views[0][n_bytes:]
            self._before_bytes += n_bytes
            self._moved()

    def fill(self, room: memoryview) -> None:
        """Read until it is full."""
        while room:
            self._wait_for_a_piece()
            n_bytes = self._socket.recv_into(room)
            if not n_bytes:
                raise MemcacheUnexpectedCloseError
            room = room[n_bytes:]
            self._moved()

    def _wait_for_a_piece(self) -> None:
        left_s = time_left_s(moving=True)
        if left_s <= 0:
            raise TimeoutError("the time for this is over")
        self._wait(min(self._most_s, left_s))

    def _wait(self, limit_s: float) -> None:
        if self._socket.gettimeout() != limit_s:
            self._socket.settimeout(limit_s)

    def recv(self, size_bytes: int) -> bytes:
        return self._socket.recv(max(size_bytes, _RECEIVE_BYTES))


def storing(
    verb: bytes, key: bytes, exptime: int, parts: Sequence[Buffer], flags: int = 0, cas: bytes = b""
) -> Command:
    """Return a command that stores a value: ``set``, ``add``, or, with a version, ``cas``."""
    size_bytes = sum(map(blob_size, parts))
    head = b"%b %b %d %d %d%b\r\n" % (verb, key, flags, exptime, size_bytes, cas and b" " + cas)
    whole = (head, *parts, b"\r\n")
    return b"".join(whole) if size_bytes < _APART_BYTES else whole


class MemcachedPool:
    """The connections of this process to one server. For many threads.

    Args:
        host, port: the server.
        timeout_s: how long the server may be silent while a large value moves.
        answer_timeout_s: how long the server may take to answer a small command.
        connect_timeout_s: how long the server may take to accept a connection.
        tls: the settings of TLS; None: no TLS.

    Attributes:
        name: ``"host:port"``, as messages name the server.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        answer_timeout_s: float = ANSWER_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._open: Callable[[], MemcachedConnection] = lambda: MemcachedConnection(
            (host, port), timeout_s, connect_timeout_s, answer_timeout_s, tls
        )
        self._idle: deque[tuple[MemcachedConnection, int]] = deque()  # with the id of its process
        self._closed = False

    def call(self, work: Callable[[MemcachedConnection], T]) -> T:
        """Return the result of `work` on a connection.

        If the connection has died since it was last used, as all do when the server restarts, `work` runs again from
        its beginning on a new connection: it must allow that.

        Raises `StoreUnavailable`, `StoreFull` or `StoreError` for what went wrong; each names the server.
        """
        if self._closed:
            raise StoreError("the store has been closed", backend=BACKEND)
        began_s = time.monotonic()
        connection = self._idle_one()
        try:
            if connection is not None:
                try:
                    return self._use(connection, work)
                except (*_CLOSED, TimeoutError) as error:
                    self._drop_idle()  # they are as old, or older
                    if isinstance(error, TimeoutError):
                        raise
            connection = self._open()
            return self._use(connection, work)
        except (MemcacheError, OSError) as error:
            failure = self._failure(error, time.monotonic() - began_s)
            moved_s = None if connection is None else connection.moved_s
            if isinstance(failure, StoreUnavailable) and moved_s is not None and moved_s > began_s:
                failure.silent_s = time.monotonic() - moved_s
            raise failure from error

    def close(self) -> None:
        """Close idle connections, and refuse further work. Closing twice is no error."""
        self._closed = True
        self._drop_idle()

    def _use(self, connection: MemcachedConnection, work: Callable[[MemcachedConnection], T]) -> T:
        try:
            answer = work(connection)
        except BaseException:  # an answer may be on its way still
            connection.close()
            raise
        if self._closed or len(self._idle) >= _MOST_IDLE:
            connection.close()
        else:
            connection.used_s = time.time()
            self._idle.append((connection, os.getpid()))
        return answer

    def _idle_one(self) -> MemcachedConnection | None:
        """Return the idle connection used last; None if all are another process's or have been idle for long."""
        pid = os.getpid()
        while self._idle:
            try:
                connection, owner = self._idle.pop()
            except IndexError:  # another thread has the last one
                break
            if owner == pid and still_trusted(connection.used_s):
                return connection
            connection.close()  # in a forked process this closes its own copy, and the other keeps its connection
        return None

    def _drop_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop()[0].close()
            except IndexError:
                break

    def _failure(self, error: Exception, after_s: float) -> StoreError:
        """Return our error for what went wrong, and after how long."""
        server = f"memcached at {self.name}"
        hint: str | None
        said = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        if isinstance(error, _CLOSED) and not isinstance(error, ConnectionRefusedError):
            hint = "does the server run, and does it speak TLS as the options say?"
            return StoreUnavailable(f"{server} closed the connection", backend=BACKEND, hint=hint)
        if isinstance(error, Busy):
            return StoreUnavailable(f"{server} is listing its items for somebody else", backend=BACKEND)
        if isinstance(error, MemcacheUnknownCommandError):
            hint = "it refuses connections over its limit like this: start it with more, as -c 16384"
            return StoreUnavailable(f"{server} answers with an error only", backend=BACKEND, hint=hint)
        if isinstance(error, MemcacheServerError):
            if "out of memory" in said.lower():
                hint = "give it more memory (memcached -m), or add servers"
                return StoreFull(f"{server} has no room: {said}", backend=BACKEND, hint=hint)
            hint = "item_bytes must not be more than the server takes (memcached -I)" if "too large" in said else None
            return StoreError(f"{server} refused: {said}", backend=BACKEND, hint=hint)
        if isinstance(error, MemcacheError):
            return StoreError(f"{server} answered what it should not: {said}", backend=BACKEND)
        if isinstance(error, TimeoutError):
            hint = "is it overloaded, or does a firewall drop what is sent to it?"
            return StoreUnavailable(f"{server} did not answer within {after_s:.2g} s", backend=BACKEND, hint=hint)
        if isinstance(error, ssl.SSLError):
            hint = "ca_file or ca_data name the authority that signed its certificate; tls: false speaks without TLS"
            return StoreError(f"no TLS connection to {server}: {said}", backend=BACKEND, hint=hint)
        hint = "does the server run, and may this machine reach it?"
        return StoreUnavailable(f"{server} cannot be reached: {error}", backend=BACKEND, hint=hint)


def _batches(commands: Iterable[Command]) -> Iterator[list[Command]]:
    batch: list[Command] = []
    batch_bytes = 0
    for command in commands:
        size_bytes = blob_size(command)
        if len(batch) >= _BATCH or (batch and batch_bytes + size_bytes > _BATCH_BYTES):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(command)
        batch_bytes += size_bytes
    if batch:
        yield batch


def _pieces(commands: Iterable[Command]) -> Iterator[Buffer]:
    """Return the pieces to send, small ones joined."""
    small: list[Buffer] = []
    for command in commands:
        for piece in command if isinstance(command, tuple) else (command,):
            if blob_size(piece) < _APART_BYTES:
                small.append(piece)
                continue
            yield b"".join(small)
            yield piece
            small.clear()
    yield b"".join(small)
