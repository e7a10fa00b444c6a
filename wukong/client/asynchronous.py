"""Clients of asyncio's programs: ``async with wukong.Client(asynchronous=True) as client``.

    submit, map, compute, persist    return at once; graphs are shipped in another thread
    futures                          ``await future``, or ``await future.result()``
    gather, scatter, cancel, retry, close, compute(sync=True), wait    are awaited

What would keep the loop from going on is done in threads. Other clients give awaitables too, if they are told
``asynchronous=True``, and their futures may be awaited.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Self

from wukong.client.scheduler import become_default
from wukong.client.session import Session


class Awaited(Session):
    """The part of a client that is awaited, if it is `asynchronous`."""

    def _done(self, function: Callable[..., Any], *args: Any, asynchronous: Any = None, **named: Any) -> Any:
        """Call `function`; or return an awaitable of that, which calls it in a thread."""
        if not (self.asynchronous if asynchronous is None else asynchronous):
            return function(*args, **named)
        from wukong.client.awaiting import in_thread

        return in_thread(function, *args, **named)

    def close(self, timeout: float | None = None) -> Any:
        """Stop what runs, delete what is kept, and close both backends. Futures without a value become cancelled."""
        return self._done(super().close, timeout)

    def __exit__(self, *_: object) -> None:
        super().close()

    async def __aenter__(self) -> Self:
        self._check_open()
        become_default(self)  # type: ignore[arg-type]  # the one kind of session that there is
        return self

    async def __aexit__(self, *_: object) -> None:
        from wukong.client.awaiting import in_thread

        await in_thread(super().close)

    def __await__(self) -> Generator[Any, None, Self]:
        """``client = await wukong.Client(asynchronous=True)``, as with `distributed`. There is nothing to wait for."""
        return self.__aenter__().__await__()
