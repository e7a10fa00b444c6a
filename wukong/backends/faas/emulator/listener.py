"""How a process that is not one of its workers invokes on the emulator: through a Unix socket of the host's.

The client makes the socket and hands it to the host. So a guest that has its name can connect from the start, and waits
until the host is there. On Linux the name is abstract, random and in no folder; elsewhere it is a socket in a folder of
its own. Only processes of the same user are let in. A guest gets the settings and the board, and can only invoke.

Both ends are the same interpreter on the same machine, as everywhere in the emulator (`wire`).
"""

from __future__ import annotations

import errno
import marshal
import os
import secrets
import selectors
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from wukong.backends.faas.emulator.board import Board
from wukong.backends.faas.emulator.settings import EmulatorSettings
from wukong.backends.faas.emulator.wire import HEADER, Channel, HostConnection, pack
from wukong.errors import BackendError

_BACKLOG = 64
_LINGERS_S, _LOOK_S = 10.0, 0.005
_WELCOME_BYTES = 65_536
_CREDENTIALS = struct.Struct("3i")
_ABSTRACT = sys.platform.startswith("linux")


def named() -> str:
    """Return a name that guests can find a listener by."""
    if _ABSTRACT:
        return f"@wukong-{secrets.token_hex(16)}"
    return str(Path(tempfile.mkdtemp(prefix="wukong-")) / "listener")


def opened(name: str) -> socket.socket:
    """Return a listening socket of this name, from `named`. Replaces the socket of a host that is dead.

    The workers of that host have inherited its socket, and the name is taken until the last of them has died as well.
    """
    until_s = time.monotonic() + _LINGERS_S
    while True:
        listener = socket.socket(socket.AF_UNIX)
        try:
            if not _ABSTRACT:
                Path(name).unlink(missing_ok=True)
            listener.bind(_place(name))
            listener.listen(_BACKLOG)
            return listener
        except BaseException as error:
            listener.close()
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if not taken or time.monotonic() > until_s:
                raise
        time.sleep(_LOOK_S)


def remove(name: str) -> None:
    """Remove what a listener has left on disk. Removing twice is no error."""
    if not name.startswith("@"):
        shutil.rmtree(Path(name).parent, ignore_errors=True)


class Listener:
    """The host's end.

    Args:
        listener: from `opened`.
        selector: the host's; what it finds is called with the events.
        board, settings: what guests are given.
        submit: takes what they invoke.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        board: Board,
        settings: EmulatorSettings,
        submit: Callable[[Sequence[tuple[str, bytes, int]]], None],
    ) -> None:
        self._listener, self._selector, self._submit = listener, selector, submit
        self._board = board
        self._welcome = b"".join(pack(("settings", settings.plain())))
        self._guests: set[socket.socket] = set()
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._let_in)

    def leave(self) -> None:
        """Close all of this in a process that was just forked from the host."""
        for each in (self._listener, *self._guests):
            each.close()

    def _let_in(self, _events: int) -> None:
        try:
            guest, _ = self._listener.accept()
        except OSError:
            return  # it has gone again, or no descriptors are left: it, or another guest, tries again
        try:
            if not _ours(guest):
                raise PermissionError
            socket.send_fds(guest, [self._welcome], [self._board.descriptor])  # fits into any socket's buffer
        except OSError:
            guest.close()
            return
        channel = Channel(guest)
        self._guests.add(guest)
        self._selector.register(guest, selectors.EVENT_READ, lambda _events: self._hear(channel))

    def _hear(self, channel: Channel) -> None:
        try:
            for message in channel.read():
                if message[0] == "invoke":
                    self._submit(message[1])
        except BlockingIOError:
            return
        except (EOFError, ValueError, TypeError, OverflowError, MemoryError):  # it has hung up, or speaks nonsense
            self._selector.unregister(channel.sock)
            self._guests.discard(channel.sock)
            channel.sock.close()


class Guest:
    """The other end, in any process of the same user.

    Args:
        name: from `named`.
        timeout_s: how long the emulator may take to let it in, seconds.

    Attributes:
        connection, board, settings: as a worker of the emulator has them.

    Raises `BackendError` if there is no such emulator any more.
    """

    def __init__(self, name: str, timeout_s: float = 30.0) -> None:
        line = socket.socket(socket.AF_UNIX)
        descriptors: list[int] = []
        try:
            line.settimeout(timeout_s)
            line.connect(_place(name))
            data, descriptors, _, _ = socket.recv_fds(line, _WELCOME_BYTES, 1)
            while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[0]:
                more = line.recv(_WELCOME_BYTES)
                if not more:
                    raise ConnectionResetError("it has hung up")
                data += more
            self.settings = EmulatorSettings.of(marshal.loads(data[HEADER.size :])[1])
            self.board = Board(descriptors.pop())
        except OSError as error:
            line.close()
            for descriptor in descriptors:
                os.close(descriptor)
            raise BackendError(
                f"the emulator {name} cannot be reached: {error}",
                backend="faas: local",
                hint="it ends with its client, and is there for processes of the same user on the same machine",
            ) from error
        self.connection = HostConnection(line)

    def close(self) -> None:
        """Hang up. Closing twice is no error."""
        self.connection.sock.close()
        self.board.close()


def _place(name: str) -> str:
    return f"\0{name[1:]}" if name.startswith("@") else name


def _ours(guest: socket.socket) -> bool:
    """Return whether the peer is of the same user. The folder protects a socket that is in one."""
    if not _ABSTRACT:
        return True
    told = guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(told)[1] == os.getuid())
