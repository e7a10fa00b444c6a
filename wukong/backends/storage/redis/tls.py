"""TLS to Redis servers, and how to tell a server that speaks it from one that does not.

No server says so itself. A plain port does not answer a client with TLS; a TLS port hangs up on a client without, like
a server that has just died. So after such a failure the port is tried the other way.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from redis.connection import SSLConnection

from wukong.backends.storage.redis.address import BACKEND
from wukong.errors import ConfigError

__all__ = ["NoTls", "Tls", "TlsConnection", "Verify", "speaks_tls"]

Verify: TypeAlias = Literal["full", "ca", "none"]

_PROBE_S = 1.0


@dataclass(frozen=True, slots=True)
class Tls:
    """How TLS is spoken.

    Attributes:
        ca_data: PEM of the authorities to trust besides the system's.
        cert_file: path of the client's certificate, if the server wants one.
        key_file: path of its key.
        verify: ``full``: certificate and host name; ``ca``: the certificate only; ``none``: nothing.

    Raises `ConfigError` if a certificate cannot be used.
    """

    ca_data: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: Verify = "full"

    def __post_init__(self) -> None:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if self.ca_data is not None:
                context.load_verify_locations(cadata=self.ca_data)
            if self.cert_file is not None or self.key_file is not None:
                context.load_cert_chain(self.cert_file or "", self.key_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the certificates given for Redis cannot be used: {error}", backend=BACKEND) from error

    def options(self) -> dict[str, Any]:
        """Return these as redis-py calls them."""
        return {
            "ssl_ca_data": self.ca_data,
            "ssl_certfile": self.cert_file,
            "ssl_keyfile": self.key_file,
            "ssl_cert_reqs": "none" if self.verify == "none" else "required",
            "ssl_check_hostname": self.verify == "full",
        }


class NoTls(OSError):
    """The server answers, but without TLS."""


class TlsConnection(SSLConnection):
    """A connection whose TLS handshake counts into the time for connecting."""

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        sock.settimeout(self.socket_connect_timeout)
        try:
            wrapped: ssl.SSLSocket = super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            if _speaks_plainly(self.host, self.port):
                raise NoTls from error
            raise
        wrapped.settimeout(self.socket_timeout)
        return wrapped


def speaks_tls(host: str, port: int) -> bool:
    """Return whether the server there answers only clients with TLS. Sends it no secret."""
    if _speaks_plainly(host, port):
        return False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), _PROBE_S) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _speaks_plainly(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _PROBE_S) as plain:
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False
