"""TCP's keepalive, as all connections here have it: even an idle connection breaks when its other end is gone."""

from __future__ import annotations

import socket

__all__ = ["OPTIONS", "keep_alive"]

_VALUES = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 20_000}

OPTIONS = {getattr(socket, name): value for name, value in _VALUES.items() if hasattr(socket, name)}
"""The first probe after 30 idle seconds, well before NAT and firewalls forget; broken within 50 s.

What is sent and not acknowledged by the other end's system breaks the connection after 20 s, however long an answer may
take: the proxy's may take a minute.
"""


def keep_alive(connected: socket.socket) -> None:
    """Have the system probe now and then whether the other end is still there."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in OPTIONS.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
