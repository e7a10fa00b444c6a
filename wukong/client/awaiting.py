"""Waiting for futures in asyncio's programs; no thread waits meanwhile. Imported only if a program does so."""

from __future__ import annotations

import asyncio
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


async def settled(futures: Iterable[Future]) -> None:
    """Return when none of them is pending any more."""
    for future in futures:
        if not future.done():
            waker = Waker()
            future._state.when_done(waker)
            await waker.wait()
