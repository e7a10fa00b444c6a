"""Accepting invocations at the caller's end, the same for the client and for executors inside a worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from wukong.backends.faas import Invocation, Limits
from wukong.backends.faas.emulator.board import Board
from wukong.backends.faas.emulator.faults import FaultScript
from wukong.backends.faas.emulator.wire import Message
from wukong.errors import BackendError, PayloadTooLarge, Throttled

_ATTEMPTS = 6
_BACKOFF_S = 0.002
_FRAME_BYTES = 1_048_576
_TOLD_S = 60.0
_told_until_s = 0.0

logger = logging.getLogger(__name__)


def submit(
    invocations: Sequence[Invocation],
    limits: Limits,
    faults: FaultScript | None,
    board: Board,
    send: Callable[[Message], None],
) -> None:
    """Send invocations to the host as the platform's API would accept them: within the limits, when not throttled.

    Raises `PayloadTooLarge` before any is sent, `Throttled` if one was refused six times; those before it are sent.
    """
    limit = limits.payload_bytes
    if limit is not None:
        for invocation in invocations:
            if len(invocation.payload) > limit:
                raise PayloadTooLarge(
                    f"the payload of invocation {invocation.id} has {len(invocation.payload):,} bytes, "
                    f"the limit is {limit:,}",
                    backend="faas: local",
                    hint="put large values into the store, or raise payload_bytes",
                )
    for invocation in invocations:
        if not 0 <= invocation.size < max(1, len(limits.sizes)):
            raise BackendError(
                f"invocation {invocation.id} is for functions of size {invocation.size}, and there are "
                f"{max(1, len(limits.sizes))} sizes",
                backend="faas: local",
            )
    throttling = faults is not None and faults.throttle > 0
    frame: list[tuple[str, bytes, int]] = []
    taken: list[str] = []
    size_bytes = 0
    for invocation in invocations:
        if throttling and faults is not None and not _accepted(faults, board):
            if frame:
                send(("invoke", frame))
            error = Throttled(
                f"invocation {invocation.id} was refused {_ATTEMPTS} times",
                backend="faas: local",
                hint="the fault script throttles; a lower faults.throttle lets more through",
            )
            error.taken = frozenset(taken)
            raise error
        taken.append(str(invocation.id))
        frame.append((str(invocation.id), invocation.payload, invocation.size))
        size_bytes += len(invocation.payload)
        if size_bytes >= _FRAME_BYTES:
            send(("invoke", frame))
            frame, size_bytes = [], 0
    if frame:
        send(("invoke", frame))


def _tell() -> None:
    """Log now and then that the script of faults throttles, while it does."""
    global _told_until_s
    if time.monotonic() >= _told_until_s:
        _told_until_s = time.monotonic() + _TOLD_S
        logger.warning("faas: local: throttled by the script of faults, and tried again")


def _accepted(faults: FaultScript, board: Board) -> bool:
    for attempt in range(_ATTEMPTS):
        if not faults.throttled(board.next_attempt()):
            return True
        _tell()
        time.sleep(_BACKOFF_S * 2**attempt)
    return False
