"""The invocations that were accepted lately, so that none is made a second time."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeAlias

from wukong.core.payload import Address
from wukong.proxy.protocol import Call

__all__ = ["DuplicateCache", "Key", "keyed"]

Key: TypeAlias = tuple[str, bytes]


def keyed(faas: Address) -> Callable[[Call], Key]:
    """Return a function from a call on `faas` to the invocation's identity: its label, and a digest of its payload.

    If the client makes an invocation *again*, after a loss, its payload differs: the order in it says how often it was
    made before, and when. That is another invocation here, and is made; a message sent twice has the same.
    """
    target, options = faas
    start = blake2b(json.dumps([target, dict(options)], sort_keys=True).encode(), digest_size=16)

    def key(call: Call) -> Key:
        digest = start.copy()
        digest.update(call[1])
        return call[0], digest.digest()

    return key


class DuplicateCache:
    """The last `most` keys, each for `remember_s` seconds."""

    def __init__(self, most: int, remember_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._remember_s, self._clock = most, remember_s, clock
        self._until: OrderedDict[Key, float] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        until = self._until.get(key)
        return until is not None and self._clock() < until

    def __len__(self) -> int:
        return len(self._until)

    def add(self, key: Key) -> None:
        """Remember a key from now on; forget the oldest if there are too many."""
        now = self._clock()
        self._until.pop(key, None)
        self._until[key] = now + self._remember_s
        while len(self._until) > self._most or next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
