"""Has invocations made; one that was accepted before, or is being made right now, is not made a second time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wukong.core.payload import Address
from wukong.proxy.duplicate_cache import DuplicateCache, Key, keyed
from wukong.proxy.limits import ProxyLimits
from wukong.proxy.protocol import Call
from wukong.proxy.workers import Workers

__all__ = ["Counters", "Dispatcher"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """What a proxy has done since it started.

    Attributes:
        messages: messages that were read. received_bytes: their size.
        accepted: invocations that the platform has accepted. refused: those that it has not. duplicates: those that
            were asked for again and not made again.
        late: messages that were answered before all of their invocations were made.
        busy: messages that were refused for want of memory.
        forged: conversations that ended because of a wrong key, or a frame that was not right.
        turned_away: conversations that were refused: too many, of another version, or while stopping.
    """

    messages: int = 0
    received_bytes: int = 0
    accepted: int = 0
    refused: int = 0
    duplicates: int = 0
    late: int = 0
    busy: int = 0
    forged: int = 0
    turned_away: int = 0


@dataclass(slots=True)
class Dispatcher:
    """See the module's docstring. On one event loop.

    Args:
        workers: what makes the invocations.
        limits: how much is remembered.
        targets: which FaaS backends may be opened.

    Attributes:
        under_way: messages of which something is being made.
    """

    workers: Workers
    limits: ProxyLimits
    targets: frozenset[str]
    counters: Counters = field(default_factory=Counters)
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _duplicates: DuplicateCache = field(init=False)
    _making: dict[Key, asyncio.Future[str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._duplicates = DuplicateCache(self.limits.remembered, self.limits.remember_s)

    async def take(
        self, faas: Address, calls: Sequence[Call], timeout_s: float, done: Callable[[], None]
    ) -> list[str | None]:
        """Have invocations made; return for each None if the platform has accepted it, or why it has not.

        What is not accepted after `timeout_s` counts as refused; the platform may still accept it later. `done` is
        called once, when nothing of the message is kept any more.
        """
        target = faas[0]
        if target not in self.targets:
            done()
            self.counters.refused += len(calls)
            return [f"the proxy does not open {target!r}: no plug-in installed with it names that"] * len(calls)
        key = keyed(faas)
        mine: list[tuple[Key, Call]] = []
        answers: list[asyncio.Future[str | None] | None] = []
        for call in calls:
            name = key(call)
            if name in self._duplicates:
                answers.append(None)
            elif name in self._making:
                answers.append(self._making[name])
            else:
                answer = self._making[name] = asyncio.get_running_loop().create_future()
                answers.append(answer)
                mine.append((name, call))
        self.counters.duplicates += len(calls) - len(mine)
        waits: set[asyncio.Future[str | None]] = {each for each in answers if each is not None}
        if mine:
            task = asyncio.create_task(self._make(faas, mine))
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)
            task.add_done_callback(lambda _task: done())
        else:
            done()
        if waits:
            await asyncio.wait(waits, timeout=timeout_s)
        late = f"the platform has not accepted it within {self.limits.message_s:g} s"
        self.counters.late += any(not each.done() for each in waits)
        return [None if each is None else each.result() if each.done() else late for each in answers]

    async def _make(self, faas: Address, mine: Sequence[tuple[Key, Call]]) -> None:
        refusals: list[str | None] = ["the proxy has failed"] * len(mine)
        try:
            refusals = await self.workers.make(faas, [call for _, call in mine])
        except Exception:
            logger.exception("the proxy has failed to make %d invocations", len(mine))
        finally:
            for (name, _), refusal in zip(mine, refusals, strict=True):
                if refusal is None:
                    self._duplicates.add(name)
                answer = self._making.pop(name)
                if not answer.done():
                    answer.set_result(refusal)
            self.counters.accepted += refusals.count(None)
            self.counters.refused += len(refusals) - refusals.count(None)
