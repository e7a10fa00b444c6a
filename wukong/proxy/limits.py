"""What a proxy takes on at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from wukong.errors import ConfigError
from wukong.proxy.protocol import Announced

__all__ = ["ProxyLimits"]

_MIB = 1_048_576


@dataclass(frozen=True, slots=True)
class ProxyLimits:
    """A proxy's limits. Sizes in bytes, times in seconds. Raises `ConfigError` for limits that cannot be.

    Attributes:
        message_bytes: one message, header and payloads.
        calls: invocations in one message.
        connections: conversations at once. HTTP requests and greetings come on top, `STRANGERS` at most.
        memory_bytes: messages that are being received or made, over all conversations. When it is used up nothing more
            is read, so that the senders wait.
        wait_s: how long a message may find no room before it is refused.
        message_s: from a message's first byte to its answer; what is not accepted by then is answered as refused.
        idle_s: how long nothing may come in a conversation before it ends.
        handshake_s: for greeting and the first frame, for an HTTP request, and for taking an answer.
        remembered: how many accepted invocations are remembered, the latest ones; they are not made again.
        remember_s: how long they are remembered.
    """

    message_bytes: int = 8 * _MIB
    calls: int = 10_000
    connections: int = 512
    memory_bytes: int = 256 * _MIB
    wait_s: float = 10.0
    message_s: float = 40.0
    idle_s: float = 300.0
    handshake_s: float = 5.0
    remembered: int = 100_000
    remember_s: float = 600.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise ConfigError(f"the proxy's {each.name} is {value!r}; it is more than 0")
        if self.memory_bytes < self.message_bytes:
            raise ConfigError(
                f"the proxy's memory_bytes, {self.memory_bytes:,}, does not hold one message of {self.message_bytes:,}"
            )

    def announced(self) -> Announced:
        """Return what senders are told."""
        return Announced(self.message_bytes, self.calls, self.message_s, self.idle_s)


STRANGERS = 64
"""How many connections at once may not have shown yet that they have the key, HTTP requests among them."""
