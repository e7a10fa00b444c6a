"""Waiting for futures in asyncio's programs; no thread waits meanwhile. Imported only if a program does so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress

from wukong.client.futures import Future, FutureState

in_thread = asyncio.to_thread


class Waker:
    """Wakes the coroutine that waits here. May be called from any thread, and after the loop has ended."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def __call__(self, _: FutureState | None = None) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when it was called. Raises TimeoutError."""
        await asyncio.wait_for(self._event.wait(), timeout_s)


async def settled(futures: Iterable[Future], timeout_s: float | None = None) -> None:
    """Return when none of them is pending any more, or when the time is over."""
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    for future in futures:
        if not future.done():
            waker = Waker()
            future._state.when_done(waker)
            with suppress(TimeoutError):
                await waker.wait(None if until_s is None else max(0.0, until_s - time.monotonic()))
