"""What all bursts of one client share: functions, connections, the signing key, threads that open connections."""

from __future__ import annotations

import itertools
import os
import random
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote

from wukong.backends.aws_signing import Signer
from wukong.backends.faas.aws_lambda.answers import BACKEND, Answer, Target
from wukong.backends.http_connections import EndpointConnections, pause_s
from wukong.errors import BackendError

_OPENING_AT_ONCE = 32


@dataclass(slots=True)
class Lane:
    """One of the functions to invoke. If Lambda throttles it, all bursts of this client let it rest.

    Attributes:
        target: what errors call it. path, query: where its invocations are posted to.
        rest_until: until when it rests, by the monotonic clock, seconds.
        refusals: how often in a row it was throttled. refusal: the last such answer.
        told_until: until when that is not logged again.
    """

    target: Target
    path: str
    query: str
    rest_until: float = 0.0
    refusals: int = 0
    refusal: Answer | None = None
    told_until: float = 0.0

    @classmethod
    def of(cls, target: Target, prefix: str) -> Lane:
        """Return the lane of a function; `prefix` is the endpoint's path."""
        path = f"{prefix}/2015-03-31/functions/{quote(target.function, safe='')}/invocations"
        return cls(target, path, f"Qualifier={quote(target.qualifier, safe='')}" if target.qualifier else "")


class Invoker:
    """See the module's docstring. Safe in several threads; `wukong.backends.faas.aws_lambda.burst.Burst` sends by it.

    Args:
        lanes: the functions; each burst takes turns.
        signer, connections: how requests are made and where they go.
        at_once: calls that one burst has under way at most, each on a connection of its own.
        timeout_s: a call that is not answered after this time is made again, seconds.
        patience_s: give up when no call has been accepted for this long, seconds.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        signer: Signer,
        connections: EndpointConnections,
        at_once: int,
        timeout_s: float,
        patience_s: float,
    ) -> None:
        self.lanes, self.signer, self.connections = list(lanes), signer, connections
        self.at_once, self.timeout_s, self.patience_s = at_once, timeout_s, patience_s
        self.random = random.Random()
        self.turns = itertools.count(self.random.randrange(len(self.lanes)))
        self._openers: tuple[int, ThreadPoolExecutor] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def open_later(self) -> Future[socket.socket]:
        """Have another thread open a connection: connecting is mostly waiting.

        Raises BackendError once this is closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("this backend has been closed", backend=BACKEND)
            if self._openers is None or self._openers[0] != os.getpid():
                threads = ThreadPoolExecutor(_OPENING_AT_ONCE, thread_name_prefix="wukong-connect")
                self._openers = os.getpid(), threads
            return self._openers[1].submit(self.connections.open)

    def pause_s(self, tries: int) -> float:
        """Return how long to wait after this many failures, seconds: exponential, with jitter."""
        return pause_s(tries, self.random)

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.connections.close()
        with self._lock:
            self._closed = True
            if self._openers is not None:
                self._openers[1].shutdown(wait=False)
