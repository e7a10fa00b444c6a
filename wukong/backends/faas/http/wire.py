"""What client, executors and servers of `faas: http` say to each other. No I/O here, and nothing is pickled.

    POST .../            an invocation: the size of its head, the head (JSON), the payload
                         202 {"server", "free"}; 429 or 503 {"server", "free", "error"} to be tried again
    POST .../describe    {"modules", "variables": {name: digest}}      200 versions, places, limits, what is missing
    POST .../state       {"ids", "jobs", "server", "after"}            200 which ids it has, what has failed since then
    POST .../cancel      {"prefix"}                                    200
    GET  .../health      200 or 503, for the platform; the only request that needs no signature

A request is signed by a BLAKE2b, keyed with the deployment's key, over what it asks for, when, and its body; the key is
never sent. A server takes a signature for `SKEW_S`, so one that somebody has copied makes an invocation again at most,
which changes nothing. Nothing is encrypted: that is TLS's affair. Only the last word of a path counts, because gateways
put something in front.

An invocation that is posted again because its answer did not come has the same `call`: a server runs it once.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Literal, TypeAlias

from wukong.backends.faas import Invocation
from wukong.errors import BackendError

BACKEND = "faas: http"
FORMAT = 1
SIGNATURE_HEADER = "X-Wukong-Signature"
SKEW_S = 300.0
"""By how much the clocks of both sides may differ, and how long a signature is good, seconds."""
SERVER_VARIABLE = "WUKONG_DEPLOYMENT_SERVER"
"""Set in the processes of a server, and nowhere else."""
HEAD_ROOM_BYTES = 65_536
"""What an invocation's id and the rest of its head may take besides the payload."""

Verb: TypeAlias = Literal["invoke", "describe", "state", "cancel"]
VERBS: Mapping[str, Verb] = {"describe": "describe", "state": "state", "cancel": "cancel"}
"""By the last word of a path; every other path is an invocation's."""

_HEAD = struct.Struct(">4sI")
_MAGIC = b"WKH1"
_PERSON = b"wukong-http"


@dataclass(frozen=True, slots=True)
class Posted:
    """An invocation as it is posted.

    Attributes:
        call: names this posting; the same if it is repeated.
        wait: the answer ends only when the invocation has ended.
    """

    invocation: Invocation
    call: str
    wait: bool = False


def pack(posted: Posted) -> bytes:
    """Return the body of an invocation's request."""
    head = json.dumps({"id": posted.invocation.id, "call": posted.call, "wait": posted.wait}).encode()
    return b"".join((_HEAD.pack(_MAGIC, len(head)), head, posted.invocation.payload))


def unpack(body: bytes) -> Posted:
    """Return what `pack` packed. Raises `BackendError` if it makes no sense."""
    try:
        magic, size = _HEAD.unpack_from(body)
        if magic != _MAGIC:
            raise ValueError("it is another format")
        head = json.loads(body[_HEAD.size : _HEAD.size + size])
        return Posted(Invocation(str(head["id"]), body[_HEAD.size + size :]), str(head["call"]), bool(head["wait"]))
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise BackendError(f"this is no invocation: {error}", backend=BACKEND, hint=_VERSIONS) from error


_VERSIONS = "client and server run different versions of Wukong: put the same one into both"


def signature(key: bytes, verb: Verb, body: bytes, at_s: int) -> str:
    """Return the header that signs a request made at this Unix time."""
    return f"{FORMAT};{at_s};{_digest(key, verb, body, at_s)}"


def refusal(key: bytes, verb: Verb, body: bytes, header: str | None, now_s: float) -> str | None:
    """Return why a request is not taken; None: it is signed with this key, and not too long ago."""
    if header is None:
        return f"the request is not signed (header {SIGNATURE_HEADER})"
    number, _, rest = header.partition(";")
    at, _, digest = rest.partition(";")
    if number != str(FORMAT) or not at.isdecimal():
        return f"the request is signed in another format than this version's ({FORMAT})"
    if not compare_digest(_digest(key, verb, body, int(at)).encode(), digest.encode()):
        return "the request is signed with another deployment's key"
    if abs(now_s - int(at)) > SKEW_S:
        return f"the request was signed {now_s - int(at):+.0f} s ago; the clocks may differ by {SKEW_S:.0f} s"
    return None


def value_digest(key: bytes, name: str, value: str) -> str:
    """Return what tells whether both sides have the same value of a variable, and does not tell the value."""
    return blake2b(f"{name}={value}".encode(), key=key, digest_size=16, person=_PERSON).hexdigest()


def _digest(key: bytes, verb: Verb, body: bytes, at_s: int) -> str:
    digest = blake2b(f"{verb} {at_s}\n".encode(), key=key, digest_size=32, person=_PERSON)
    digest.update(body)
    return digest.hexdigest()


def plain(body: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one if this is none, as the web page of a gateway."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
