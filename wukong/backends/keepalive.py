"""TCP's keepalive, as all connections here have it: one whose other end is gone breaks, whether or not it is used."""

from __future__ import annotations

import socket

__all__ = ["OPTIONS", "keep_alive"]

_SECONDS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}

OPTIONS = {getattr(socket, name): value for name, value in _SECONDS.items() if hasattr(socket, name)}
"""The first look after 30 s of rest, well before NAT and firewalls forget; the end within 50 s."""


def keep_alive(connected: socket.socket) -> None:
    """Have the system look now and then whether the other end is still there."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in OPTIONS.items():
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
