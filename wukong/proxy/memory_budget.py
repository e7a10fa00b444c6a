"""The memory that messages take, shared out first come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["MemoryBudget"]


class MemoryBudget:
    """A budget of bytes, on one event loop.

    Attributes:
        size_bytes: in all. free_bytes: of these, not taken.
    """

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = self.free_bytes = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int, wait_s: float) -> bool:
        """Take n bytes, at most the budget's `size_bytes`; False: they were not free within `wait_s` seconds."""
        if not self._waiting and size_bytes <= self.free_bytes:
            self.free_bytes -= size_bytes
            return True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = size_bytes, turn
        self._waiting.append(entry)
        try:
            await asyncio.wait([turn], timeout=wait_s)
        except asyncio.CancelledError:
            if turn.done():
                self.give(size_bytes)
            else:
                self._leave(entry)
            raise
        if not turn.done():
            self._leave(entry)
        return turn.done()

    def give(self, size_bytes: int) -> None:
        """Give n bytes back."""
        self.free_bytes += size_bytes
        self._serve()

    def _leave(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        self._waiting.remove(entry)
        self._serve()  # it may have been first, and in the way of smaller ones

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            size_bytes, turn = self._waiting.popleft()
            self.free_bytes -= size_bytes
            turn.set_result(None)
