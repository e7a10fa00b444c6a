"""The JSON event in which an invocation's payload travels to a function, and back out of it there.

    {"wukong": 1, "id": "<job>/<invocation>", "payload": "<base64>"}
    {"wukong": 1, "describe": ["numpy", ...]}    has the function describe itself, see `..description`

Lambda takes only JSON, so bytes go as base64 and grow by a third. Imported inside functions at every cold start:
nothing heavy may be imported here.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from wukong.backends.faas import Invocation
from wukong.errors import BackendError

EVENT_BYTES = 1_048_576
"""Lambda's limit of an asynchronous event, bytes of JSON."""
REQUEST_BYTES = 6_291_456
"""Lambda's limit of a synchronous request and of its answer, bytes of JSON."""

FORMAT = 1
_FRAME = b'{"wukong":%d,"id":%s,"payload":"%s"}'
_ID_BYTES = 512
_ROOM_BYTES = len(_FRAME % (FORMAT, b"", b"")) + _ID_BYTES


def pack(invocation: Invocation) -> bytes:
    """Return the event of one invocation. A long id is shortened, as it serves reports and logs only."""
    name = json.dumps(invocation.id)
    if len(name) > _ID_BYTES:
        begin = invocation.id[: _ID_BYTES // 2 - 5]  # at most two bytes a letter: a quote or a backslash
        name = json.dumps("".join(each if " " <= each <= "~" else "?" for each in begin) + "...")
    return _FRAME % (FORMAT, name.encode(), b64encode(invocation.payload))


def unpack(event: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the invocation's id and its payload. Raises `BackendError` if the event is not Wukong's."""
    spoken = event.get("wukong") if isinstance(event, Mapping) else None
    if spoken is None:
        keys = f"with the keys {', '.join(map(repr, list(event)[:8]))}" if isinstance(event, Mapping) else ""
        raise BackendError(
            f"this event is not one of Wukong's: {type(event).__name__} {keys}".rstrip(),
            hint="invoke this function through a Wukong client, and attach no other source of events to it",
        )
    if spoken != FORMAT:
        raise BackendError(
            f"this event has format {spoken!r}; the Wukong deployed here reads format {FORMAT}",
            hint="client and function run different versions of Wukong: wukong deploy",
        )
    try:
        return str(event["id"]), b64decode(event["payload"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise BackendError(f"this event is damaged: {type(error).__name__}: {error}") from error


def ask(modules: Sequence[str]) -> bytes:
    """Return the event that asks a function to describe itself, and which of these modules it lacks."""
    return json.dumps({"wukong": FORMAT, "describe": list(modules)}).encode()


def asked(event: Mapping[str, Any]) -> list[str] | None:
    """Return the modules that an event asks about; None: it is not such an event."""
    if not isinstance(event, Mapping) or "wukong" not in event or "describe" not in event:
        return None
    return [str(module) for module in event["describe"]]


def payload_room(limit_bytes: int) -> int:
    """Return the size in bytes of the largest payload whose event takes at most `limit_bytes`, whatever its id."""
    return max(0, (limit_bytes - _ROOM_BYTES) // 4 * 3)


def event_bytes(payload_bytes: int) -> int:
    """Return the most bytes that the event of a payload of this size takes, whatever its id."""
    return _ROOM_BYTES + -(-payload_bytes // 3) * 4
