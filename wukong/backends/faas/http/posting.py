"""Invocations posted at once, from a few threads, to whichever server has room.

    queued --post--> 202: taken
      ^         `--> 429, 503, no answer: that URL rests, with jitter; another one, or the same later
      `--------------'    anything else: the error, at once

It gives up when nothing at all has been taken for `patience_s`. An invocation whose answer did not come is posted again
under the same `call`, which a server runs once.
"""

from __future__ import annotations

import http.client
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from wukong.backends.faas import Invocation
from wukong.backends.faas.http.endpoint import PASSING, HttpEndpoint, ServerAnswer, refused, unreachable
from wukong.backends.faas.http.wire import Posted
from wukong.backends.http_connections import pause_s
from wukong.core.interrupts import start_thread
from wukong.errors import BackendError, Throttled

_LONGEST_S = 1.0
"""How long one pause is at most, before it is looked again which URL has room."""


@dataclass(slots=True)
class Posting:
    """One call of `invoke`.

    Args:
        endpoints: where the invocations may go.
        invocations: what is to be posted.
        post: posts one and returns the answer. Raises OSError and `http.client.HTTPException`.
        wait: whether answers end only when the invocations have.
        at_once: how many threads post.
        patience_s: give up when nothing has been taken for this long.
    """

    endpoints: Sequence[HttpEndpoint]
    invocations: Sequence[Invocation]
    post: Callable[[HttpEndpoint, Posted], ServerAnswer]
    wait: bool
    at_once: int
    patience_s: float
    left: deque[Invocation] = field(default_factory=deque)
    random: Random = field(default_factory=Random)
    progress_at: float = field(default_factory=time.monotonic)
    error: BaseException | None = None
    taken: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Post all; return when all have been taken. Raises `Throttled`, `PayloadTooLarge`, `BackendError`."""
        self.left.extend(self.invocations)
        more = min(self.at_once, len(self.left)) - 1
        threads = [threading.Thread(target=self._work, name="wukong-post", daemon=True) for _ in range(more)]
        try:
            for thread in threads:
                start_thread(thread)
            self._work()
            for thread in threads:
                thread.join()
        except BaseException as error:  # Ctrl-C: the threads go on with no further invocation
            self.error = error
        if self.error is not None:
            if isinstance(self.error, Throttled):
                self.error.taken = frozenset(self.taken)
            raise self.error

    def _work(self) -> None:
        try:
            while self.left and self.error is None:
                try:
                    invocation = self.left.popleft()
                except IndexError:
                    return
                self._deliver(Posted(invocation, secrets.token_hex(8), self.wait))
        except BaseException as error:
            self.error = self.error or error

    def _deliver(self, posted: Posted) -> None:
        while self.error is None:
            endpoint = self._chosen()
            if (left_s := endpoint.rest_until - time.monotonic()) > 0:
                time.sleep(min(left_s, _LONGEST_S))
                continue
            wait_s, sent_at = 0.0, time.monotonic()
            try:
                answer = self.post(endpoint, posted)
            except (OSError, http.client.HTTPException) as error:
                trouble = unreachable(endpoint.url, error)
                trouble.__cause__ = error
                if not isinstance(trouble, Throttled):
                    raise trouble from error
            else:
                if answer.status == 202 and "server" in answer.told:
                    self.progress_at, endpoint.refusals = time.monotonic(), 0
                    self.taken.add(posted.invocation.id)
                    return
                trouble, wait_s = refused(endpoint.url, answer), answer.wait_s
                if answer.status not in PASSING:
                    raise trouble
            self._rest(endpoint, sent_at, wait_s, trouble)

    def _chosen(self) -> HttpEndpoint:
        """Return the URL to try next: one that does not rest, at best one of which it is known that it has room."""
        now = time.monotonic()
        ready = [each for each in self.endpoints if each.rest_until <= now]
        if not ready:
            return min(self.endpoints, key=lambda each: each.rest_until)
        return self.random.choice([each for each in ready if each.free() != 0] or ready)

    def _rest(self, endpoint: HttpEndpoint, sent_at: float, wait_s: float, trouble: BackendError) -> None:
        """Let a URL rest; give up if nothing has been taken anywhere for too long."""
        if sent_at >= endpoint.rest_until:  # else it was under way already when the URL was sent to rest
            endpoint.refusals += 1
            endpoint.rest_until = time.monotonic() + max(wait_s, pause_s(endpoint.refusals, self.random))
        first = min(each.rest_until for each in self.endpoints)
        if first > self.progress_at + self.patience_s:
            raise trouble
