"""TCP's keepalive, as all connections here have it: even an idle connection breaks when its other end is gone."""

from __future__ import annotations

import socket

__all__ = ["OPTIONS", "keep_alive"]

_SECONDS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

OPTIONS = {getattr(socket, name): value for name, value in _SECONDS.items() if hasattr(socket, name)}
"""The first probe after 30 idle seconds, well before NAT and firewalls forget; broken within 50 s."""


def keep_alive(connected: socket.socket) -> None:
    """Have the system probe now and then whether the other end is still there."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in OPTIONS.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
