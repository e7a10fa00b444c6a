"""Loopback addresses: each stand-in on a machine has a block of them, and each of its tasks one address."""

from __future__ import annotations

import errno
import socket
import sys
from collections import deque

__all__ = ["Block"]

_CLAIM_PORT = 61_117
"""The port of the socket that claims a block, at its first address. It is no ephemeral port."""
_BLOCKS = 256


class Block:
    """The addresses 127.0.n.2 to 127.0.n.254, for the first n that no other stand-in on this machine has.

    Raises RuntimeError if the machine has no such addresses.
    """

    def __init__(self) -> None:
        self._claim, n = _claimed()
        self._free = deque(f"127.0.{n}.{last}" for last in range(2, 255))

    def take(self) -> str:
        """Return an address: an unused one, else the one that was given back first."""
        for _ in range(len(self._free)):
            address = self._free.popleft()
            if _is_here(address):
                return address
            self._free.append(address)
        raise RuntimeError(_none_here("no loopback address is free"))

    def give_back(self, address: str) -> None:
        """Take an address back."""
        self._free.append(address)

    def close(self) -> None:
        """Give the block back to other stand-ins."""
        self._claim.close()


def _claimed() -> tuple[socket.socket, int]:
    if not _is_here("127.0.0.2"):
        raise RuntimeError(_none_here("this machine has no address 127.0.0.2"))
    for n in range(_BLOCKS):
        claim = socket.socket()
        try:
            claim.bind((f"127.0.{n}.1", _CLAIM_PORT))
            claim.listen(1)
        except OSError as error:
            claim.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise RuntimeError(_none_here(f"this machine has no address 127.0.{n}.1")) from error
        else:
            return claim, n
    raise RuntimeError(f"{_BLOCKS} stand-ins for ECS run on this machine, and no further one finds addresses")


def _is_here(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def _none_here(what: str) -> str:
    if sys.platform == "darwin":
        return f"{what}: macOS has only 127.0.0.1 unless told: sudo ifconfig lo0 alias 127.0.0.2 (and .3, .4, ...)"
    return f"{what}: a stand-in for ECS gives each task a loopback address of its own (127.0.0.2, 127.0.0.3, ...)"
