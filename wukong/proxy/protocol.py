"""What proxy and sender say to each other: greetings, then frames. No I/O here, nothing is pickled, all is bounded.

    sender   magic, version, 16 random bytes                                     22 bytes
    proxy    magic, version, 16 random bytes, size of the text, proof, text      JSON: its limits, or {"error": why}
    sender   frame {"type": "auth"}
    then, as often as the sender likes, one after the other:
    sender   frame {"type": "invoke", "faas": [target, options], "calls": [[label, size], ...]}, body: the payloads
    proxy    frame {"type": "made", "accepted": n, "refused": [[index, reason], ...], "reasons": [text, ...]}
    sender   frame {"type": "ping"}                proxy    frame {"type": "pong"}
    proxy    frame {"type": "error", "error": why}, and it hangs up

A frame is the sizes of header and body, a digest, the header (JSON), the body. Each side derives the key of this one
conversation from both greetings and from the deployment's key, which is never sent. The digest is a BLAKE2b, keyed with
the conversation's key, over the direction, the frame's number in that direction, the sizes, the header and the body. So
nothing can be forged, altered, left out, put in another order or sent again, here or in another conversation. `proof`
is the same over the greetings: a sender knows who answers before it sends anything that matters. Nothing is
encrypted.

The greetings' first 22 bytes are the same in all versions; a proxy of another version answers with its own, and an
error in words.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Literal, TypeAlias

from wukong.core.payload import Address
from wukong.errors import WukongError

VERSION = 1
MAGIC = b"WKFP"
NONCE_BYTES = 16
HELLO = struct.Struct(">4sH16s")
ANSWER = struct.Struct(">I16s")
HEAD = struct.Struct(">II16s")
MOST_TEXT_BYTES = 4_096
"""The most bytes in the proxy's greeting, and in a frame of a sender that has not shown yet that it has the key."""
MOST_ANSWER_BYTES = 16_777_216
_PERSON = b"wukong-proxy"
_SIZES = struct.Struct(">cQII")

Direction: TypeAlias = Literal[b">", b"<"]
Call: TypeAlias = tuple[str, bytes]


class ProtocolError(WukongError):
    """The other side does not speak as agreed, or is not who it should be."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What a proxy says of itself. Sizes in bytes, times in seconds.

    Attributes:
        message_bytes: header and body of one message together, at most.
        calls: invocations in one message, at most.
        message_s: it answers a message within this time after that has come in.
        idle_s: how long nothing may come before it hangs up.
    """

    message_bytes: int
    calls: int
    message_s: float
    idle_s: float

    def plain(self) -> dict[str, Any]:
        """Return the limits as plain data."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Announced:
        """Return the limits that `plain` names; anything else in it is ignored. Raises `ProtocolError`."""
        found = {each.name: plain.get(each.name) for each in fields(cls)}
        if not all(isinstance(value, int | float) and value > 0 for value in found.values()):
            raise ProtocolError(f"the limits {dict(plain)!r} make no sense")
        return cls(**found)  # type: ignore[arg-type]


def hello(nonce: bytes, version: int = VERSION) -> bytes:
    """Return a sender's greeting."""
    return HELLO.pack(MAGIC, version, nonce)


def read_hello(data: bytes) -> tuple[int, bytes]:
    """Return the other side's version and nonce. Raises `ProtocolError` if this is no greeting."""
    magic, version, nonce = HELLO.unpack(data)
    if magic != MAGIC:
        raise ProtocolError("it is no fan-out proxy")
    return version, nonce


def answer(secret: bytes, heard: bytes, nonce: bytes, told: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return a proxy's whole greeting, and the conversation's key; `heard` is the sender's greeting."""
    start, text = HELLO.pack(MAGIC, VERSION, nonce), json.dumps(told).encode()
    key = _derived(secret, heard, start, text)
    return start + ANSWER.pack(len(text), _proof(key)) + text, key


def read_answer(secret: bytes, said: bytes, start: bytes, proof: bytes, text: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the conversation's key and what the proxy says. Raises `ProtocolError` if it has another key."""
    key = _derived(secret, said, start, text)
    if not compare_digest(_proof(key), proof):
        raise ProtocolError("it has another deployment's key")
    return key, _mapping(text)


class Talk:
    """One conversation's frames, in both directions, with their numbers.

    Args:
        key: of this conversation.
        mine: the direction of the frames that are made here: ``b">"`` for a sender, ``b"<"`` for a proxy.
    """

    def __init__(self, key: bytes, mine: Direction) -> None:
        self._key = key
        self._mine: Direction = mine
        self._theirs: Direction = b"<" if mine == b">" else b">"
        self._sent = self._heard = 0

    def frame(self, header: Mapping[str, Any], body: Sequence[bytes] = ()) -> list[bytes]:
        """Return a frame as buffers to send one after the other."""
        text = json.dumps(header, separators=(",", ":")).encode()
        size = sum(map(len, body))
        digest = self._digest(self._mine, self._sent, text, size)
        for part in body:
            digest.update(part)
        self._sent += 1
        return [HEAD.pack(len(text), size, digest.digest()) + text, *body]

    def read(self, digest: bytes, text: bytes, body: bytes = b"") -> dict[str, Any]:
        """Return a frame's header. Raises `ProtocolError` if it is not the other side's next frame, unaltered."""
        expected = self._digest(self._theirs, self._heard, text, len(body))
        expected.update(body)
        if not compare_digest(expected.digest(), digest):
            raise ProtocolError("a frame is forged, altered, or out of order")
        self._heard += 1
        return _mapping(text)

    def _digest(self, direction: Direction, number: int, text: bytes, body_bytes: int) -> blake2b:
        digest = blake2b(_SIZES.pack(direction, number, len(text), body_bytes), key=self._key, digest_size=16)
        digest.update(text)
        return digest


def invoke(faas: Address, calls: Sequence[Call]) -> dict[str, Any]:
    """Return the header of a message that asks for these invocations."""
    target, options = faas
    sizes = [[label, len(payload)] for label, payload in calls]
    return {"type": "invoke", "faas": [target, dict(options)], "calls": sizes}


def read_invoke(header: Mapping[str, Any], body: bytes) -> tuple[Address, list[Call]]:
    """Return what a message asks for. Raises `ProtocolError` if it makes no sense."""
    try:
        target, options = header["faas"]
        sizes = [(label, size) for label, size in header["calls"]]
        good = isinstance(target, str) and isinstance(options, dict)
        good = good and all(isinstance(label, str) and type(size) is int and size >= 0 for label, size in sizes)
    except (KeyError, TypeError, ValueError):
        good = False
    if not good or sum(size for _, size in sizes) != len(body):
        raise ProtocolError("a message to invoke is malformed")
    calls, at = [], 0
    for label, size in sizes:
        calls.append((label, body[at : at + size]))
        at += size
    return (target, options), calls


def made(refusals: Sequence[str | None]) -> dict[str, Any]:
    """Return the header that answers a message: for each invocation None (accepted), or why it was refused."""
    numbers: dict[str, int] = {}
    refused = [(at, numbers.setdefault(why, len(numbers))) for at, why in enumerate(refusals) if why is not None]
    accepted = len(refusals) - len(refused)
    return {"type": "made", "accepted": accepted, "refused": refused, "reasons": list(numbers)}


def read_made(header: Mapping[str, Any], n_calls: int) -> list[str | None]:
    """Return what `made` was given for a message of `n_calls` calls. Raises `ProtocolError` if it makes no sense."""
    refusals: list[str | None] = [None] * n_calls
    try:
        for at, reason in header["refused"]:
            if at < 0 or reason < 0 or refusals[at] is not None:
                raise ValueError
            refusals[at] = str(header["reasons"][reason])
        if header["accepted"] != refusals.count(None):
            raise ValueError
    except (KeyError, IndexError, TypeError, ValueError):
        raise ProtocolError("an answer is malformed") from None
    return refusals


def _derived(secret: bytes, said: bytes, start: bytes, text: bytes) -> bytes:
    return blake2b(said + start + text, key=secret, digest_size=32, person=_PERSON).digest()


def _proof(key: bytes) -> bytes:
    return blake2b(b"proof", key=key, digest_size=16).digest()


def _mapping(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProtocolError("a header is not a JSON object")
    return found
