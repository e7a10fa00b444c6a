"""What an item of the table looks like: names, values, times to live. Pure.

    k        b"v" + key      a value             v: the bytes; no v: no bytes
             b"r" + key      a fan-in's record   see `record`
             b"q" + name     a part of a value that rides beside a record
    expires  when the item is missing, whole seconds of Unix time; none: never. DynamoDB deletes it some hours later.

A key longer than DynamoDB takes is hashed, under an upper-case letter.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, TypeAlias

from wukong.backends.storage import Blob, joined

__all__ = ["Item", "binary", "expires", "is_there", "item_of", "key_of", "name_of", "unbinary", "value_of"]

Item: TypeAlias = Mapping[str, Any]
"""An item, or a part of one, as DynamoDB's JSON has it: attributes, each with its type."""

_MOST_KEY_BYTES = 1_024  # of 2,048


def key_of(kind: bytes, key: bytes) -> dict[str, Any]:
    """Return the primary key of an item. `kind`: one of ``b"v"``, ``b"r"``, ``b"q"``."""
    return {"k": binary(name_of(kind, key))}


def name_of(kind: bytes, key: bytes) -> bytes:
    """Return the item's name."""
    return kind + key if len(key) <= _MOST_KEY_BYTES else kind.upper() + blake2b(key, digest_size=32).digest()


def item_of(kind: bytes, key: bytes, blob: Blob, expires_s: int | None) -> dict[str, Any]:
    """Return an item with a value."""
    item = key_of(kind, key)
    value = joined(blob)
    if memoryview(value).nbytes:
        item["v"] = binary(value)
    if expires_s is not None:
        item["expires"] = {"N": str(expires_s)}
    return item


def value_of(item: Item | None, now_s: float) -> bytes | None:
    """Return the value of an item; None if there is no item, or its time is over."""
    if item is None or not is_there(item, now_s):
        return None
    value = item.get("v")
    return b"" if value is None else unbinary(value)


def is_there(item: Item, now_s: float) -> bool:
    """Return whether an item's time to live is not over."""
    until = item.get("expires")
    return until is None or float(until["N"]) > now_s


def expires(now_s: float, ttl_s: float | None) -> int | None:
    """Return when a time to live that begins now ends, whole seconds of Unix time; None: never."""
    return None if ttl_s is None or not math.isfinite(ttl_s) else math.ceil(now_s + ttl_s)


def binary(value: Any) -> dict[str, str]:
    """Return bytes as an attribute."""
    return {"B": b64encode(value).decode("ascii")}


def unbinary(attribute: Mapping[str, Any]) -> bytes:
    """Return the bytes of an attribute; of a null, b""."""
    return b64decode(attribute["B"]) if "B" in attribute else b""
