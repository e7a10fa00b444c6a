"""Making invocations: each piece of a message in a thread, through the plug-in that its address names."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from wukong.backends.faas import FaaS, Invocation
from wukong.core.payload import Address
from wukong.errors import PayloadTooLarge, Retryable, WukongError
from wukong.proxy.backend_cache import BackendCache
from wukong.proxy.protocol import Call

__all__ = ["InvokerThreads", "pieces"]

_PIECE_CALLS = 64
_MOST_WORDS = 300


def pieces(n_calls: int, threads: int) -> list[slice]:
    """Return how a message is shared out: into at most `threads` pieces, each large enough to be worth it."""
    count = max(1, min(threads, -(-n_calls // _PIECE_CALLS)))
    bounds = [n_calls * at // count for at in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(bounds) if start < end]


class InvokerThreads:
    """A few threads that make invocations. What they have open stays open.

    Attributes:
        pool: the threads.
    """

    def __init__(self, count: int) -> None:
        self._own = threading.local()
        self._backends: list[BackendCache] = []
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="wukong-proxy", initializer=self._begin)

    def _begin(self) -> None:
        self._own.backends = BackendCache()
        self._backends.append(self._own.backends)

    def make(self, faas: Address, calls: Sequence[Call]) -> list[str | None]:
        """Make these invocations, in one of the threads; return for each None (accepted), or why it was refused.

        If the platform has refused some of them, nobody knows which it had accepted before: all count as refused, and
        their sender makes them again. (At least once: rule 2 makes that harmless.)
        """
        backends: BackendCache = self._own.backends
        try:
            return _make(backends.get(faas), [Invocation(label, payload) for label, payload in calls])
        except Exception as error:  # a plug-in may raise anything; the sender is told, and makes them itself
            if not isinstance(error, Retryable):
                backends.drop(faas)
            return [_words(error)] * len(calls)

    def stop(self) -> None:
        """End the threads, and close all that they have open."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for each in self._backends:
            each.close()


def _make(opened: FaaS, invocations: Sequence[Invocation]) -> list[str | None]:
    try:
        opened.invoke(invocations)
    except PayloadTooLarge as error:  # before any was started: the others can be made
        if len(invocations) == 1:
            return [_words(error)]
        return [refusal for each in invocations for refusal in _make(opened, [each])]
    return [None] * len(invocations)


def _words(error: Exception) -> str:
    text = error.message if isinstance(error, WukongError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_MOST_WORDS]
