"""The sender's side of the fan-out proxy. A proxy that is of no use costs little time, and is never an error."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence

from wukong.backends.entry import KEY_VARIABLE
from wukong.backends.environment import variable
from wukong.core.payload import Address, Relayed
from wukong.errors import AuthenticationError, ConfigError
from wukong.proxy import protocol
from wukong.proxy.connection import ProxyConnection, ProxyRefused
from wukong.proxy.protocol import Announced, Call, ProtocolError

__all__ = ["Proxy", "place"]

_MOST_IDLE = 4
_CALL_BYTES = 32
"""What a call takes in a header besides its label, at most, in bytes."""


class Proxy:
    """A fan-out proxy, as senders use it (`wukong.core.payload.ProxyPort`). Any number of threads may use one.

    Connections are kept. One that has rested for a while is tried before it is used: a frozen function thaws with
    connections that are long gone. Asking a second time is safe, because the proxy knows what it has made.

    Args:
        address: ``"host:port"``.
        key: the deployment's; None: from the environment, as functions have it.
        connect_s: how long connecting and greeting may take, seconds.
        answer_s: how long to wait for an answer at most, seconds; less if the proxy promises less.
        rest_s: for how long a proxy that was of no use is left alone, seconds.

    Raises `ConfigError` for an invalid address, `AuthenticationError` if there is no key.
    """

    def __init__(
        self,
        address: str,
        *,
        key: bytes | None = None,
        connect_s: float = 3.0,
        answer_s: float = 60.0,
        rest_s: float = 5.0,
    ) -> None:
        self._place = place(address)
        self.address = address
        self._key = _key() if key is None else key
        self._connect_s, self._answer_s, self._rest_s = connect_s, answer_s, rest_s
        self._lock = threading.Lock()
        self._idle: list[ProxyConnection] = []
        self._owner = os.getpid()
        self._rests_until = 0.0
        self._trouble = ""
        self._closed = False

    def invoke(self, faas: Address, calls: Sequence[Call]) -> Relayed:
        """Have these invocations made; return which of them the platform has accepted. No proxy's failure raises."""
        with self._lock:
            if self._closed:
                return Relayed(frozenset(), "the connection to the proxy has been closed")
            if time.monotonic() < self._rests_until:
                return Relayed(frozenset(), self._trouble)
        accepted: set[str] = set()
        why = ""
        left = list(calls)
        try:
            while left:
                batch, refusals = self._asked(faas, left)
                accepted.update(label for (label, _), refusal in zip(batch, refusals, strict=True) if refusal is None)
                why = why or next((refusal for refusal in refusals if refusal is not None), "")
                del left[: len(batch)]
        except (OSError, ProtocolError) as error:
            why = f"the proxy at {self.address} is of no use: {_words(error)}"
            with self._lock:
                self._rests_until, self._trouble = time.monotonic() + self._rest_s, why
        return Relayed(frozenset(accepted), why)

    def close(self) -> None:
        """Hang up. Closing twice is no error."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _asked(self, faas: Address, calls: Sequence[Call]) -> tuple[Sequence[Call], list[str | None]]:
        """Send as many of the calls as fit into a message; return them, and for each None or why it was refused."""
        connection = self._rested()
        if connection is not None:
            try:
                return self._ask(connection, faas, calls)
            except (ProxyRefused, TimeoutError):
                raise
            except (OSError, ProtocolError):
                pass  # the proxy has let go of it, or is another one now: once more, on a new one
        return self._ask(ProxyConnection(self._place, self._key, self._connect_s), faas, calls)

    def _ask(
        self, connection: ProxyConnection, faas: Address, calls: Sequence[Call]
    ) -> tuple[Sequence[Call], list[str | None]]:
        batch = _batch(calls, faas, connection.announced)
        if not batch:
            self._keep(connection)
            return calls[:1], [f"a payload of {len(calls[0][1]):,} bytes is more than the proxy takes"]
        try:
            told = connection.ask(protocol.invoke(faas, batch), [payload for _, payload in batch], self._answer_s)
            refusals = protocol.read_made(told, len(batch))
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return batch, refusals

    def _rested(self) -> ProxyConnection | None:
        """Return a connection that is open already, and answers; None: there is none."""
        while True:
            with self._lock:
                if self._owner != os.getpid():  # forked: they are the parent's
                    self._owner, self._idle = os.getpid(), []
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.alive():
                return connection
            connection.close()

    def _keep(self, connection: ProxyConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _MOST_IDLE:
                self._idle.append(connection)
                return
        connection.close()


def place(address: str) -> tuple[str, int]:
    """Return host and port of ``"host:port"``, ``"[::1]:port"`` among them. Raises `ConfigError`."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{address!r} is no address of a proxy", hint='give "host:port", as "127.0.0.1:8989"')
    return host, int(port)


def _batch(calls: Sequence[Call], faas: Address, announced: Announced) -> Sequence[Call]:
    """Return the first calls, as many as fit into one message; none: the first one is too large."""
    room_bytes = announced.message_bytes - len(json.dumps(protocol.invoke(faas, ())))
    count = 0
    for label, payload in calls[: announced.calls]:
        room_bytes -= len(payload) + len(json.dumps(label)) + _CALL_BYTES
        if room_bytes < 0:
            break
        count += 1
    return calls[:count]


def _words(error: Exception) -> str:
    text = error.message if isinstance(error, ProtocolError) else (getattr(error, "strerror", None) or str(error))
    return " ".join(str(text or type(error).__name__).split())


def _key() -> bytes:
    text = variable(KEY_VARIABLE)
    if text is None:
        raise AuthenticationError(
            f"there is no deployment key to talk to the proxy with (environment variable {KEY_VARIABLE})",
            hint="deploy the function with Wukong, or start it through a Wukong client",
        )
    return bytes.fromhex(text)
