"""The proxy's process: from the start to an orderly end, by a signal or with the process that started it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable

from wukong.backends import event_loop
from wukong.proxy.service import ProxyService

__all__ = ["run"]

_LOOK_S = 0.5
_DESCRIPTORS = 65_536


def run(
    service: Callable[[], ProxyService], ready: Callable[[ProxyService], None], parent: int | None = None
) -> ProxyService:
    """Serve until SIGTERM or Ctrl-C, or until the process `parent` has ended; return what has served.

    It finishes what it has accepted; a second signal ends it at once. `ready` is called when it listens. Raises
    `BackendError` if it cannot.
    """
    _raise_descriptor_limit()
    with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
        return runner.run(_serve(service, ready, parent))


async def _serve(
    make: Callable[[], ProxyService], ready: Callable[[ProxyService], None], parent: int | None
) -> ProxyService:
    loop = asyncio.get_running_loop()
    over, at_once = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        (at_once if over.is_set() else over).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    service = make()
    watching = None if parent is None else asyncio.create_task(_outlived(parent, over))
    await service.open()
    try:
        ready(service)
        await over.wait()
        stopping, cut = asyncio.create_task(service.stop()), asyncio.create_task(at_once.wait())
        await asyncio.wait([stopping, cut], return_when=asyncio.FIRST_COMPLETED)
        for task in (stopping, cut, watching):
            if task is not None:
                task.cancel()
        if stopping.done():
            stopping.result()
    finally:
        await service.end()
    return service


async def _outlived(parent: int, over: asyncio.Event) -> None:
    """Set `over` when the process that started this one has ended."""
    while os.getppid() == parent:
        await asyncio.sleep(_LOOK_S)
    over.set()


def _raise_descriptor_limit() -> None:
    """Raise the limit of open files: each conversation takes one, and worker processes, which inherit it, hundreds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
