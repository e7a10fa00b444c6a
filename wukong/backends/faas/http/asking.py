"""Questions to the servers at all URLs at once."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from wukong.backends.faas.http.endpoint import HttpEndpoint, ServerAnswer, refused, unreachable
from wukong.backends.faas.http.wire import BACKEND, Verb
from wukong.backends.http_connections import pause_s
from wukong.errors import BackendError, Throttled

_AT_ONCE = 16

logger = logging.getLogger("wukong")


def ask_all(
    endpoints: Sequence[HttpEndpoint], verb: Verb, told: Mapping[str, Any], timeout_s: float
) -> list[tuple[HttpEndpoint, ServerAnswer | Exception]]:
    """Ask all, and return what each has answered, or what went wrong there."""

    def ask(endpoint: HttpEndpoint) -> ServerAnswer | Exception:
        try:
            named = {"server": endpoint.server, "after": endpoint.after} if verb == "state" else {}
            return endpoint.ask(verb, {**told, **named}, timeout_s)
        except (OSError, http.client.HTTPException, BackendError) as error:
            return error

    if len(endpoints) == 1:
        return [(endpoints[0], ask(endpoints[0]))]
    with ThreadPoolExecutor(min(_AT_ONCE, len(endpoints)), thread_name_prefix="wukong-ask") as threads:
        return list(zip(endpoints, threads.map(ask, endpoints), strict=True))


def descriptions(
    endpoints: Sequence[HttpEndpoint], question: Mapping[str, Any], timeout_s: float, patience_s: float
) -> list[tuple[HttpEndpoint, Mapping[str, Any]]]:
    """Return what the server at each URL says of itself. Those that are away are left out, unless all are.

    Raises `BackendError`, and `Throttled` if nobody has answered for `patience_s`.
    """
    give_up_at, tries, random = time.monotonic() + patience_s, 0, Random()
    while True:
        told, troubles = [], []
        for endpoint, answer in ask_all(endpoints, "describe", question, timeout_s):
            if isinstance(answer, ServerAnswer) and answer.status == 200 and "limits" in answer.told:
                if endpoint.after is None:  # what failed before this client came is others' affair
                    endpoint.after = int(answer.told["last"])
                told.append((endpoint, answer.told))
            else:
                troubles.append(_trouble(endpoint.url, answer))
        for trouble in troubles:
            if not isinstance(trouble, Throttled):
                raise trouble
            if told:
                logger.warning("%s: a server is away, and is not asked about itself: %s", BACKEND, trouble.message)
        if told:
            return told
        tries += 1
        pause = pause_s(tries, random)
        if time.monotonic() + pause > give_up_at:
            raise troubles[0]
        time.sleep(pause)


def _trouble(url: str, answer: ServerAnswer | Exception) -> BackendError:
    if isinstance(answer, ServerAnswer):
        return refused(url, answer)
    if isinstance(answer, BackendError):
        return answer
    trouble = unreachable(url, answer)
    trouble.__cause__ = answer
    return trouble


def in_words(answer: ServerAnswer | Exception) -> str:
    """Return what went wrong, in one line, for a log."""
    if isinstance(answer, ServerAnswer):
        return f"it answers {answer.status} {answer.told.get('error') or answer.text}"
    return f"{type(answer).__name__}: {answer}"
