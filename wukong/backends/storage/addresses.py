"""How stores in a network read what their options have in common: an address, a file of certificates, times."""

from __future__ import annotations

from wukong.errors import ConfigError

__all__ = ["above_zero", "certificates", "host_and_port"]


def host_and_port(text: str, default_port: int) -> tuple[str, int] | None:
    """Return the parts of ``"host"``, ``"host:port"``, ``"[ipv6]"`` or ``"[ipv6]:port"``; None: it is none of these."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port_text = rest[1:] if rest.startswith(":") else rest and "?"
    else:
        host, _, port_text = text.partition(":")
        closed = "]"
    number = port_text.isdecimal() and len(port_text) <= 5
    port = default_port if not port_text else int(port_text) if number else 0
    if not host or not closed or any(c in "/@ " for c in host) or not 0 < port < 65_536:
        return None
    return host.lower(), port


def certificates(ca_file: str, backend: str) -> str:
    """Return the text of a file of certificates, which is in PEM form. Raises `ConfigError` if it cannot be read."""
    try:
        with open(ca_file, encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise ConfigError(f"ca_file cannot be read: {error}", backend=backend) from error


def above_zero(backend: str, **times_s: float) -> None:
    """Raise `ConfigError` for the first of these options that is no number of seconds above 0."""
    for name, time_s in times_s.items():
        if not time_s > 0:
            raise ConfigError(f"{name} is {time_s}; it is a number of seconds above 0", backend=backend)
