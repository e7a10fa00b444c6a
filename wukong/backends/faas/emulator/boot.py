"""The entry point of the host in its own interpreter."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

from wukong.backends.faas.emulator import ahead as told_ahead
from wukong.backends.faas.emulator.board import Board
from wukong.backends.faas.emulator.host import Host, Stop
from wukong.backends.faas.emulator.pool import freeze
from wukong.backends.faas.emulator.settings import EmulatorSettings
from wukong.backends.faas.emulator.wire import Channel, Message


def _resolve(function: str) -> Callable[[bytes], None]:
    module, _, attribute = function.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not callable(found):
        raise TypeError(f"{function} is not callable")
    return found  # type: ignore[no-any-return]


def main(socket_descriptor: int, board_descriptor: int, door_descriptor: int, client_pid: int) -> NoReturn:
    """Run the host until this process ends. The client's first message holds the settings."""
    told_ahead.off()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
    os.set_inheritable(socket_descriptor, False)
    os.set_inheritable(board_descriptor, False)
    os.set_inheritable(door_descriptor, False)
    sock = socket.socket(fileno=socket_descriptor)
    channel = Channel(sock)
    host = None
    status = 0
    try:
        sock.setblocking(True)
        messages: list[Message] = []
        while not messages:
            messages = channel.read()
        settings = EmulatorSettings.of(messages[0][1])
        function = _resolve(settings.function)
        freeze()
        gc.disable()
        sock.setblocking(False)
        listener = socket.socket(fileno=door_descriptor)
        ahead = getattr(sys.modules.get(function.__module__), "AHEAD", ())
        host = Host(channel, Board(board_descriptor), settings, function, listener, ahead)
        for message in messages[1:]:
            host.accept(message)
        host.run(client_pid)
    except (Stop, EOFError):
        status = 0
    except BaseException:
        status = 1
        sock.setblocking(True)
        channel.send(("fatal", traceback.format_exc()))
    finally:
        if host is not None:
            host.stop()
        os._exit(status)
